//! Blueflood goes and comes back, the daemon stops and starts: what was taken is delivered, and the ledger is whole.

use std::io::Write;

use blueflood_forward::sink::{Act, Script, Step};
use serde_json::Value;

use crate::world::*;

const DOWN: &str = "Blueflood does not take metrics: it is tried again by itself";

/// The closing line accounts for everything that was received.
fn expect_whole(ended: &Ended, received: u64) {
    let line = ended.last_line();
    let count = |place: &str| line[place].as_u64().unwrap();
    assert_eq!(count("received"), received, "{ended:#?}");
    let places = ["skipped", "buffered", "delivered", "refused", "dropped"];
    assert_eq!(places.into_iter().map(count).sum::<u64>(), received, "{line}");
    assert_eq!(line["unaccounted"], 0);
}

#[test]
fn an_outage_costs_nothing_and_is_said_once() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    daemon.send_lines("before", 50);
    daemon.expect_delivered(50);

    world.blueflood.pause();
    let mut sender = daemon.connect();
    for i in 0..5 {
        sender.write_all(lines(&format!("during.{i}"), 20).as_bytes()).unwrap();
        daemon.send(frame(&[(&format!("during.{i}.pickle"), 1.0)]));
    }
    daemon.expect_said(DOWN);
    daemon.expect("3 tries", |stats| stats["forwarder"]["retries"].as_u64() >= Some(3));
    daemon.expect_count("/datapoints/buffered", 105);
    let stats = daemon.stats();
    assert_eq!(stats["datapoints"]["delivered"], 50);
    assert!(stats["forwarder"]["last_error"]["text"].is_string(), "{stats:#}");
    assert_eq!(daemon.get("/healthz").0, 200, "an outage is no reason to be started again");

    world.blueflood.resume().unwrap();
    world.expect_points(155);
    daemon.expect_delivered(155);
    daemon.expect_said("Blueflood takes metrics again");
    let ended = daemon.stop();
    assert_eq!(ended.log.iter().filter(|line| line["msg"] == DOWN).count(), 1, "{ended:#?}");
    expect_whole(&ended, 155);
}

#[test]
fn answers_of_all_kinds_cost_nothing() {
    let world = World::new();
    let daemon = world.daemon(&["--timeout", "0.5"]);
    let script = "503,500/stored,408,429?Retry-After=1,half,close,reset,late:20,timeout,502";
    world.blueflood.script(Script::parse(script).unwrap());
    for i in 0..12 {
        daemon.send_lines(&format!("tried.{i}"), 10);
    }
    world.expect_points(120);
    daemon.expect_delivered(120);
    expect_whole(&daemon.stop(), 120);
}

#[test]
fn one_refused_row_is_set_aside_with_bluefloods_words() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    world.blueflood.script(Script::new().then(Step::refuse("bad")));
    daemon.send(frame(&[("good.a", 1.0), ("bad", 2.0), ("good.b", 3.0)]));
    world.expect_points(2);
    daemon.expect_count("/datapoints/refused", 1);
    daemon.expect_delivered(2);
    let ended = daemon.stop();
    assert_eq!((ended.code, &ended.last_line()["refused"]), (Some(0), &Value::from(1)));
}

#[test]
fn a_stop_delivers_what_is_in_hand() {
    let world = World::new();
    // So long that nothing is stored or sent by itself.
    let daemon = world.daemon(&["--interval", "60", "--seal_interval", "60"]);
    daemon.send_lines("in.hand", 30);
    let mut open = daemon.connect();
    open.write_all(&frame(&[("in.hand.pickle", 1.0)])).unwrap();
    daemon.expect_count("/datapoints/buffered", 31);
    assert_eq!(daemon.count("delivered"), 0);
    let ended = daemon.stop();
    world.expect_points(31);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.last_line()["delivered"], 31);
    expect_whole(&ended, 31);
}

#[test]
fn a_stop_reads_what_the_sockets_hold() {
    let world = World::new();
    let daemon = world.daemon(&["--connections", "1"]);
    let first = daemon.connect();
    daemon.expect("1 connection", |stats| stats["listeners"][0]["connections"] == 1);
    // These were never accepted: the kernel has them, and their senders think that all is well.
    for i in 0..5 {
        daemon.send_lines(&format!("backlog.{i}"), 100);
    }
    let mut first_again = &first;
    first_again.write_all(lines("open", 1000).as_bytes()).unwrap();
    let ended = daemon.stop();
    world.expect_points(1500);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    expect_whole(&ended, 1500);
}

#[test]
fn a_stop_during_an_outage_leaves_everything_to_the_next_start() {
    let world = World::new();
    let daemon = world.daemon(&["--shutdown_timeout", "0.3"]);
    world.blueflood.pause();
    daemon.send_lines("kept", 40);
    daemon.expect_said(DOWN);
    daemon.expect_count("/datapoints/buffered", 40);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.last_line()["buffered"], 40);
    expect_whole(&ended, 40);

    world.blueflood.resume().unwrap();
    let daemon = world.daemon(&[]);
    assert_eq!(daemon.said("forwarding").unwrap()["buffered"], 40);
    world.expect_points(40);
    daemon.expect_delivered(40);
    expect_whole(&daemon.stop(), 40);
}

#[test]
fn a_second_signal_ends_it_at_once_and_the_spool_keeps() {
    let world = World::new();
    // It never answers, and the stop would wait for long.
    world.blueflood.script(Script::new().then(Step::from(Act::Silence).for_ever()));
    let daemon = world.daemon(&["--shutdown_timeout", "600"]);
    daemon.send_lines("kept", 10);
    daemon.expect("a request in flight", |stats| stats["forwarder"]["in_flight"] == 1);
    daemon.signal("INT");
    daemon.expect_said("stopping");
    daemon.signal("TERM");
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.says("stopping at once"), "{ended:#?}");

    world.blueflood.script(Script::new());
    let daemon = world.daemon(&[]);
    world.expect_points(10);
    daemon.expect_delivered(10);
}

#[test]
fn ctrl_c_is_a_clean_stop_too() {
    let world = World::new();
    let daemon = world.daemon(&["--interval", "60"]);
    daemon.send_lines("in.hand", 3);
    daemon.expect_count("/datapoints/received", 3);
    daemon.signal("INT");
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    world.expect_points(3);
}
