//! Owns the scenarios of the spool and the queue: nothing strands, whatever falls between two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::load::Plan;
use crate::names::{BAD, fat, one_of_50};
use crate::sink::{Answer, Request};
use crate::stage::{Expect, Stage, count};

/// How long a spool of 1 MiB may take to become full.
const FULL_WITHIN: Duration = Duration::from_secs(60);

/// A Blueflood that answers 503 until it is up, for good.
pub fn down_until() -> (Arc<AtomicBool>, impl Fn(&Request<'_>) -> Answer + Send + Sync) {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = up.clone();
    let answer = move |_: &Request<'_>| {
        if is_up.load(Ordering::SeqCst) { Answer::Ok } else { Answer::Status(503) }
    };
    (up, answer)
}

/// A Blueflood that answers 503 for so long.
pub fn down_for(time: Duration) -> impl Fn(&Request<'_>) -> Answer + Send + Sync {
    move |request| if request.elapsed < time { Answer::Status(503) } else { Answer::Ok }
}

/// Waits until the spool is full and its senders wait.
fn expect_full(stage: &mut Stage) {
    stage.expect(FULL_WITHIN, "the spool is full", |stats| !stats["spool"]["blocked"].is_null());
    // It stays so for a while, and the kernel fills.
    stage.pass(Duration::from_secs(1));
}

fn fat_plan(stage: &Stage) -> Plan {
    stage.size(Plan::new(200_000, 20_000), Plan::new(60_000, 12_000)).named(fat)
}

const BLOCK: [&str; 4] = ["--spool_max", "1MiB", "--spool_full", "block"];

fn block(stage: &mut Stage, more: &[&str], while_full: fn(&mut Stage)) {
    let (up, answer) = down_until();
    let plan = fat_plan(stage);
    stage.open(plan, &[&BLOCK, more].concat(), answer);
    expect_full(stage);
    while_full(stage);
    up.store(true, Ordering::SeqCst);
    stage.settle(Expect::default());
}

pub fn block_full_then_up(stage: &mut Stage) {
    block(stage, &[], |_| ());
}

pub fn block_holding_nothing_back(stage: &mut Stage) {
    block(stage, &["--spool_hold", "0"], |_| ());
}

pub fn block_and_one_reload(stage: &mut Stage) {
    block(stage, &[], Stage::reload);
}

pub fn block_and_ten_reloads(stage: &mut Stage) {
    block(stage, &["--seal_interval", "0.05"], |stage| (0..10).for_each(|_| stage.reload()));
}

/// Up for one second of four, so that the spool is full and has room again by turns.
pub fn block_flapping(stage: &mut Stage) {
    let fault = Duration::from_secs(32);
    let plan = Plan::new(400_000, 20_000).named(fat);
    stage.open(plan, &[&BLOCK[..], &["--seal_interval", "0.05"]].concat(), move |request| {
        let bad = request.elapsed < fault && request.elapsed.as_secs() % 4 < 3;
        if bad { Answer::Status(503) } else { Answer::Ok }
    });
    expect_full(stage);
    stage.settle(Expect::default());
}

pub fn drop_oldest_in_a_tiny_spool(stage: &mut Stage) {
    let (up, answer) = down_until();
    let plan = fat_plan(stage);
    stage.open(plan, &["--spool_max", "1MiB"], answer);
    stage.expect(FULL_WITHIN, "something is dropped", |stats| count(stats, "dropped") > 10_000);
    up.store(true, Ordering::SeqCst);
    stage.settle(Expect { may_drop: true, ..Expect::default() });
}

pub fn concurrency_1(stage: &mut Stage) {
    let plan = stage.size(Plan::new(200_000, 10_000), Plan::new(20_000, 4_000));
    let options = ["--concurrency", "1", "--seal_interval", "0.01", "-i", "0.1"];
    stage.open(plan, &options, |_| Answer::late(0.05, Answer::Ok));
    stage.settle(Expect { posts_agree: true, ..Expect::default() });
}

pub fn concurrency_32(stage: &mut Stage) {
    let plan = Plan::new(200_000, 10_000);
    let options = ["--concurrency", "32", "--seal_interval", "0.01", "-i", "0.05"];
    stage.open(plan, &options, |request| {
        // Later or sooner, in no order.
        Answer::late((request.index * 7 % 11) as f64 / 20.0, Answer::Ok)
    });
    stage.settle(Expect { posts_agree: true, ..Expect::default() });
}

pub fn newest_first(stage: &mut Stage) {
    let plan = stage.size(Plan::new(400_000, 20_000), Plan::new(20_000, 4_000)).connections(4);
    let fault = stage.seconds(12.0, 3.0);
    stage.open(plan, &["--catch_up", "newest-first", "--seal_interval", "0.02"], down_for(fault));
    stage.settle(Expect::default());
}

pub fn oldest_first_small_chunks(stage: &mut Stage) {
    let plan = Plan::new(400_000, 20_000).connections(8);
    stage.open(plan, &["--seal_interval", "0.02"], down_for(Duration::from_secs(12)));
    stage.settle(Expect::default());
}

pub fn small_chunks_and_a_slow_sink(stage: &mut Stage) {
    let plan = Plan::new(stage.size(64_000, 40_000), 0).connections(8).frames(50);
    stage.open(plan, &["--max_rows", "20"], |_| Answer::late(0.02, Answer::Ok));
    stage.settle(Expect { posts_agree: true, ..Expect::default() });
}

pub fn max_rows_20_at_full_speed(stage: &mut Stage) {
    stage.open(Plan::new(200_000, 20_000), &["--max_rows", "20"], |_| Answer::Ok);
    stage.settle(Expect { posts_agree: true, ..Expect::default() });
}

/// The sink takes somewhat fewer than come, so that many single rows wait.
pub fn max_rows_1(stage: &mut Stage) {
    let plan = Plan::new(stage.size(30_000, 8_000), 2_000);
    stage.open(plan, &["--max_rows", "1"], |_| Answer::late(0.003, Answer::Ok));
    stage.settle(Expect { posts_agree: true, ..Expect::default() });
}

pub fn tiny_limit(stage: &mut Stage) {
    let plan = Plan::new(stage.size(60_000, 8_000), stage.size(6_000, 2_000));
    stage.open(plan, &["--limit", "1024"], |_| Answer::Ok);
    stage.settle(Expect { posts_agree: true, ..Expect::default() });
}

pub fn tiny_limit_in_an_outage(stage: &mut Stage) {
    let options = ["--limit", "1KiB", "--concurrency", "8"];
    stage.open(Plan::new(30_000, 2_000), &options, down_for(Duration::from_secs(10)));
    stage.settle(Expect::default());
}

pub fn nothing_held_back(stage: &mut Stage) {
    let plan = stage.size(Plan::new(300_000, 20_000), Plan::new(20_000, 4_000));
    let fault = stage.seconds(8.0, 3.0);
    stage.open(plan, &["--spool_hold", "0"], down_for(fault));
    stage.settle(Expect::default());
}

pub fn reload_in_an_outage(stage: &mut Stage) {
    let (up, answer) = down_until();
    let plan = stage.size(Plan::new(300_000, 15_000), Plan::new(20_000, 4_000));
    stage.open(plan, &["--seal_interval", "0.05"], answer);
    for _ in 0..stage.size(12, 4) {
        stage.pass(Duration::from_secs(1));
        stage.reload();
    }
    up.store(true, Ordering::SeqCst);
    stage.settle(Expect::default());
}

/// Each reload changes a setting that is no concern of the way out: POSTs under way go on, and none is sent twice.
pub fn reload_each_second(stage: &mut Stage) {
    let plan = stage.size(Plan::new(200_000, 10_000), Plan::new(16_000, 2_000));
    stage.open(plan, &[], |_| Answer::late(0.4, Answer::Ok));
    for _ in 0..stage.size(20, 7) {
        stage.pass(Duration::from_secs(1));
        stage.reload();
    }
    stage.settle(Expect { posts_agree: true, ..Expect::default() });
}

pub fn reload_storm(stage: &mut Stage) {
    stage.open(Plan::new(300_000, 20_000), &[], |_| Answer::late(0.1, Answer::Ok));
    for _ in 0..60 {
        stage.pass(Duration::from_millis(200));
        stage.reload();
    }
    stage.settle(Expect { posts_agree: true, ..Expect::default() });
}

/// Dead letters are made, then sent again beside a flow that never pauses.
fn replay(stage: &mut Stage, plan: Plan, options: &[&str], bad: usize, refuse: fn(&Request<'_>) -> Answer) {
    let good = Arc::new(AtomicBool::new(false));
    let is_good = good.clone();
    let slowly = |stage: &Stage| stage.size(0.2, 0.05);
    let pause = slowly(stage);
    stage.open(plan, options, move |request| {
        if is_good.load(Ordering::SeqCst) { Answer::late(pause, Answer::Ok) } else { refuse(request) }
    });
    let made = move |stats: &serde_json::Value| count(stats, "refused") >= bad;
    stage.expect(Duration::from_secs(60), "there are dead letters", made);
    good.store(true, Ordering::SeqCst);
    for _ in 0..stage.size(5, 2) {
        stage.command(&["dead-letters", "replay"]);
        stage.pass(Duration::from_secs(2));
    }
    stage.expect_all_sent(Duration::from_secs(120));
    // What was refused between the first replay and the new answers, if anything.
    stage.command(&["dead-letters", "replay"]);
    let none = |stats: &serde_json::Value| count(stats, "refused") == 0;
    stage.expect(Duration::from_secs(20), "all dead letters are on their way", none);
    stage.settle(Expect::default());
}

/// Any request with a bad row is refused whole: such rows are found by halving.
fn refuse_whole(request: &Request<'_>) -> Answer {
    if request.has(BAD) { Answer::Status(400) } else { Answer::Ok }
}

fn refuse_by_name(_: &Request<'_>) -> Answer {
    Answer::Refuse(BAD)
}

pub fn replay_beside_a_flow(stage: &mut Stage) {
    let plan = Plan::new(stage.size(3_000, 1_000), 50).named(one_of_50);
    replay(stage, plan, &["-i", "2"], stage.size(25, 10), refuse_whole);
}

pub fn replay_beside_a_fast_flow(stage: &mut Stage) {
    let plan = Plan::new(160_000, 8_000).named(one_of_50);
    replay(stage, plan, &["--seal_interval", "0.05"], 500, refuse_by_name);
}

/// What was sealed in chunks of 10,000 goes out in payloads of 500, when that is what the daemon is told by then.
pub fn max_rows_of_what_lies_in_the_spool(stage: &mut Stage) {
    let (up, answer) = down_until();
    let plan = stage.size(Plan::new(50_000, 25_000), Plan::new(30_000, 15_000));
    stage.prepare(plan.n, &["--max_rows", "10000"], answer);
    stage.start();
    stage.send(plan);
    stage.expect_all_sent(Duration::from_secs(60));
    let n = plan.n;
    let all = move |stats: &serde_json::Value| count(stats, "in_spool") == n && count(stats, "in_hand") == 0;
    stage.expect(Duration::from_secs(30), "all is in the spool", all);
    stage.with(&["--max_rows", "500"]);
    stage.restart();
    let again = stage.sink.elapsed();
    up.store(true, Ordering::SeqCst);
    stage.settle(Expect::default());
    let posts = stage.sink.posts(again, Duration::MAX);
    let most = posts.iter().map(|post| post.rows).max().unwrap_or(0);
    stage.check(most <= 500, || format!("a POST of {most} rows, though --max_rows is 500"));
}

pub fn refused_connections(stage: &mut Stage) {
    let plan = stage.size(Plan::new(200_000, 15_000), Plan::new(20_000, 4_000));
    stage.open(plan, &[], |_| Answer::Ok);
    stage.expect(Duration::from_secs(30), "it delivers", |stats| count(stats, "delivered") > 0);
    stage.sink.go_down();
    stage.pass(stage.seconds(12.0, 3.0));
    stage.sink.come_back();
    // What was under way when it went may have been stored, and its answer lost.
    stage.settle(Expect { again_max: 4 * 2_000, ..Expect::default() });
}
