//! Owns the scenarios of metrics that Blueflood chokes on: they are found, and nothing good is harmed.

use std::time::Duration;

use crate::load::Plan;
use crate::names::{BAD, THE_ONE, one_at_all, one_of_500, one_of_twenty};
use crate::sink::{Answer, Request};
use crate::stage::{Expect, Stage, count};

/// What Blueflood does with a request that holds a bad row.
type Choke = fn() -> Answer;

fn choking(choke: Choke) -> impl Fn(&Request<'_>) -> Answer + Send + Sync {
    move |request| if request.has(BAD) { choke() } else { Answer::Ok }
}

/// Halving finds a row among 2,000 in 11 rounds of two requests.
const POSTS_A_ROW: usize = 22;

/// The numbers below `n` that are bad.
fn bad_of_500(n: usize) -> usize {
    (0..n).filter(|i| i % 500 == 7).count()
}

pub fn many_400_without_a_list(stage: &mut Stage) {
    let plan = stage.size(Plan::new(60_000, 6_000), Plan::new(12_000, 3_000)).named(one_of_500);
    stage.open(plan, &[], choking(|| Answer::Status(400)));
    let refused = bad_of_500(plan.n);
    // Each payload once, each bad row found by halving, and as much again for what is cut at a second.
    let posts_max = Some(plan.n / 1_000 + 2 * refused * POSTS_A_ROW);
    stage.settle(Expect { refused, posts_max, posts_agree: true, ..Expect::default() });
}

pub fn many_400_in_a_backlog(stage: &mut Stage) {
    let plan = Plan::new(60_000, 6_000).named(one_of_500);
    stage.open(plan, &[], |request| match request {
        early if early.elapsed.as_secs() < 12 => Answer::Status(503),
        poisoned if poisoned.has(BAD) => Answer::Status(400),
        _ => Answer::Ok,
    });
    let refused = bad_of_500(plan.n);
    let posts_max = Some(100 + plan.n / 1_000 + 2 * refused * POSTS_A_ROW);
    stage.settle(Expect { refused, posts_max, ..Expect::default() });
}

pub fn many_207_that_name_rows(stage: &mut Stage) {
    let plan = stage.size(Plan::new(100_000, 10_000), Plan::new(12_000, 3_000)).named(one_of_500);
    stage.open(plan, &[], |_| Answer::Refuse(BAD));
    let posts_max = Some(plan.n / 500);
    let refused = bad_of_500(plan.n);
    stage.settle(Expect { refused, posts_max, posts_agree: true, ..Expect::default() });
}

pub fn too_large_413(stage: &mut Stage) {
    let plan = Plan::new(60_000, 6_000);
    stage.open(plan, &[], |request| if request.rows.len() > 40 { Answer::Status(413) } else { Answer::Ok });
    stage.settle(Expect { posts_max: Some(plan.n / 10), ..Expect::default() });
}

/// One bad series among twenty, once a second, so that each payload holds it.
fn in_every_payload(stage: &mut Stage, choke: Choke, seconds: usize, first_within: u64, more: &[&str]) {
    let plan = Plan::new(20 * seconds, 20).named(one_of_twenty).frames(20);
    stage.open(plan, &[&["--backoff_max", "5"], more].concat(), choking(choke));
    let good = |n: usize| n - n / 20;
    let first = crate::daemon::until(Duration::from_secs(first_within), || stage.sink.arrived(plan.n).0 > 0);
    let took = stage.sink.elapsed().as_secs();
    stage.note("first_after_s", took);
    stage.check(first, || format!("nothing good was delivered within {first_within} s"));
    stage.expect_all_sent(Duration::from_secs(seconds as u64 + 30));
    let ended = stage.sink.elapsed();
    let all = crate::daemon::until(Duration::from_secs(30), || stage.sink.arrived(plan.n).0 >= good(plan.n));
    let arrived = stage.sink.arrived(plan.n).0;
    stage.check(all, || format!("{arrived} of {} good datapoints within 30 s of the last", good(plan.n)));
    // By the last third the series is known.
    let posts = stage.sink.posts(ended * 2 / 3, ended);
    let payloads = posts.iter().filter(|post| post.good_rows >= 10).count();
    stage.note("late_posts_of_payloads", format!("{}/{payloads}", posts.len()));
    let most = payloads * 12 / 10 + 10;
    stage.check(stage.full.then_some(posts.len()).is_none_or(|n| n <= most), || {
        format!("{} POSTs for {payloads} payloads, though the bad series is known by then", posts.len())
    });
    // All the bad are refused in the end, though nothing good comes any more.
    let posts_max = Some(seconds * 12 / 10 + 400);
    let drain = Duration::from_secs(stage.size(150, 90));
    stage.settle(Expect { refused: plan.n / 20, posts_max, drain, ..Expect::default() });
}

pub fn in_every_payload_500(stage: &mut Stage) {
    in_every_payload(stage, || Answer::Status(500), stage.size(150, 25), 60, &[]);
}

pub fn in_every_payload_reset(stage: &mut Stage) {
    in_every_payload(stage, || Answer::Reset, 150, 60, &[]);
}

pub fn in_every_payload_503(stage: &mut Stage) {
    in_every_payload(stage, || Answer::Status(503), 240, 180, &[]);
}

pub fn in_every_payload_silence(stage: &mut Stage) {
    in_every_payload(stage, || Answer::Silence, 240, 180, &["--timeout", "2"]);
}

/// One bad datapoint, among many payloads that pass.
fn among_others(stage: &mut Stage, choke: Choke, more: &[&str]) {
    // While it is looked for, others pass; then it is enough.
    let plan = Plan::new(125_000, 1_000).named(one_at_all);
    assert!(plan.n > THE_ONE, "the bad one is among them");
    stage.open(plan, &[&["--backoff_max", "5"], more].concat(), choking(choke));
    let found = |stats: &serde_json::Value| count(stats, "refused") == 1;
    stage.expect(Duration::from_secs(120), "the bad datapoint is found and refused", found);
    let seconds = stage.sink.elapsed().as_secs() as usize;
    stage.note("found_after_s", seconds);
    stage.load().stop();
    // Without it there is a payload a second, or two where one was cut.
    let posts_max = Some(200 + 2 * seconds + 10);
    stage.settle(Expect { refused: 1, posts_max, ..Expect::default() });
}

pub fn among_others_500(stage: &mut Stage) {
    among_others(stage, || Answer::Status(500), &[]);
}

pub fn among_others_503(stage: &mut Stage) {
    among_others(stage, || Answer::Status(503), &[]);
}

pub fn among_others_reset(stage: &mut Stage) {
    among_others(stage, || Answer::Reset, &[]);
}

pub fn among_others_silence(stage: &mut Stage) {
    among_others(stage, || Answer::Silence, &["--timeout", "2"]);
}
