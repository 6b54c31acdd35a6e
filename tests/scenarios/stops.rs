//! Owns the scenarios of a stop: what was received is kept, a stop ends soon, and who comes too late is told so.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::daemon::until;
use crate::load::Plan;
use crate::names::fat;
use crate::queue::{down_for, down_until};
use crate::sink::{Answer, Request};
use crate::stage::{Expect, Stage, count};

/// Stops and starts the daemon at moments that nobody chose, while senders go on.
fn stop_again_and_again(
    stage: &mut Stage,
    options: &[&str],
    again_max: usize,
    behaviour: impl Fn(&Request<'_>) -> Answer + Send + Sync + 'static,
) {
    let rounds = stage.size(8, 3);
    let plan = Plan::new(stage.size(5_000, 2_000) * rounds * 3, stage.size(5_000, 2_000)).connections(3);
    stage.open(plan, options, behaviour);
    for _ in 0..rounds {
        let moment = Duration::from_millis(stage.rng.u64(50..2_500));
        stage.pass(moment);
        stage.restart();
    }
    stage.settle(Expect { again_max, ..Expect::default() });
}

pub fn at_any_moment(stage: &mut Stage) {
    stop_again_and_again(stage, &[], 0, |_| Answer::Ok);
}

pub fn at_any_moment_of_an_outage(stage: &mut Stage) {
    let fault = stage.seconds(14.0, 6.0);
    stop_again_and_again(stage, &["--shutdown_timeout", "1"], 0, down_for(fault));
}

pub fn at_any_moment_of_slow_answers(stage: &mut Stage) {
    // A stop has the time that an answer takes.
    stop_again_and_again(stage, &[], 0, |_| Answer::late(0.5, Answer::Ok));
}

pub fn at_any_moment_of_resets(stage: &mut Stage) {
    stop_again_and_again(stage, &["--shutdown_timeout", "3"], 0, |request| {
        if request.index % 2 == 1 { Answer::Reset } else { Answer::Ok }
    });
}

/// A POST is under way, so the stop takes its time; who connects meanwhile is refused, and knows.
pub fn a_connect_after_it_is_refused(stage: &mut Stage) {
    let answers = Arc::new(AtomicBool::new(false));
    let may = answers.clone();
    stage.open(Plan::new(2_000, 1_000), &["-i", "0.2"], move |_| {
        until(Duration::from_secs(60), || may.load(Ordering::SeqCst));
        Answer::Ok
    });
    stage.expect_all_sent(Duration::from_secs(30));
    let under_way = |stats: &serde_json::Value| stats["forwarder"]["in_flight"].as_u64() >= Some(1);
    stage.expect(Duration::from_secs(30), "a request is under way", under_way);
    stage.terminate();
    let port = stage.daemon().port;
    let refused = until(Duration::from_secs(8), || TcpStream::connect(("127.0.0.1", port)).is_err());
    let lives = !stage.daemon().has_ended();
    stage.check(lives, || "it ended while a request was under way".to_owned());
    stage.check(refused, || "its port takes connections for 8 s after SIGTERM".to_owned());
    answers.store(true, Ordering::SeqCst);
    stage.expect_end(Duration::from_secs(60));
    stage.start();
    stage.settle(Expect::default());
}

/// With the gate closed nothing can be delivered: the stop does not wait for that.
pub fn it_is_soon_over_in_an_outage(stage: &mut Stage) {
    let (up, answer) = down_until();
    let plan = stage.size(Plan::new(60_000, 10_000), Plan::new(9_000, 3_000)).connections(2);
    stage.open(plan, &["--shutdown_timeout", "600"], answer);
    let closed = |stats: &serde_json::Value| stats["forwarder"]["gate"]["open"] == false;
    stage.expect(Duration::from_secs(30), "the gate is closed", closed);
    // More comes in while it is closed.
    stage.pass(Duration::from_secs(1));
    stage.terminate();
    // Far below the time-out, and far above what it takes.
    let ended = stage.expect_end(Duration::from_secs(30));
    stage.check(ended.is_some(), || "the stop waits, though nothing can be delivered".to_owned());
    up.store(true, Ordering::SeqCst);
    stage.with(&["--shutdown_timeout", "20"]);
    stage.start();
    stage.settle(Expect::default());
}

/// The spool is full and its senders wait: what was received goes into the spool all the same.
pub fn with_a_full_spool(stage: &mut Stage) {
    let (up, answer) = down_until();
    let plan = stage.size(Plan::new(150_000, 20_000), Plan::new(60_000, 12_000)).named(fat).connections(2);
    stage.open(plan, &["--spool_max", "1MiB", "--spool_full", "block", "--shutdown_timeout", "5"], answer);
    let full = |stats: &serde_json::Value| !stats["spool"]["blocked"].is_null();
    stage.expect(Duration::from_secs(60), "the spool is full", full);
    // It stays so for a while, and the kernel fills.
    stage.pass(Duration::from_secs(1));
    stage.kernel_may_hold();
    let in_hand = stage.count("in_hand");
    stage.note("in_hand", in_hand);
    stage.restart();
    up.store(true, Ordering::SeqCst);
    stage.settle(Expect::default());
}

/// The same with a Blueflood that never answers.
pub fn with_a_full_spool_and_silence(stage: &mut Stage) {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = up.clone();
    let plan = Plan::new(150_000, 20_000).named(fat).connections(2);
    let options = "--spool_max 1MiB --spool_full block --shutdown_timeout 5 --timeout 5";
    let options: Vec<_> = options.split(' ').collect();
    stage.open(
        plan,
        &options,
        move |_| {
            if is_up.load(Ordering::SeqCst) { Answer::Ok } else { Answer::Silence }
        },
    );
    let full = |stats: &serde_json::Value| !stats["spool"]["blocked"].is_null();
    stage.expect(Duration::from_secs(60), "the spool is full", full);
    // It stays so for a while, and the kernel fills.
    stage.pass(Duration::from_secs(1));
    stage.kernel_may_hold();
    let received = stage.count("received");
    stage.note("received_then", received);
    stage.restart();
    let kept = count(&stage.stats(), "received");
    stage.check(kept >= received, || {
        format!("{received} were received before the stop, {kept} are known after")
    });
    up.store(true, Ordering::SeqCst);
    stage.settle(Expect::default());
}
