//! The verdict as an operator meets it: what was said to be well and was not is said as it is, by `status`, the log and the
//! probes alike.

use std::process::{Command, Output};

use blueflood_forward::sink::Script;

use crate::world::*;

/// `status` of a daemon, as a cron job runs it.
fn status(daemon: &Daemon) -> Output {
    let url = daemon.stats_url();
    Command::new(env!("CARGO_BIN_EXE_blueflood-forward"))
        .env_clear()
        .args(["status", "--stats", &url])
        .output()
        .unwrap()
}

#[track_caller]
fn expect_status(daemon: &Daemon, code: i32, words: &[&str]) {
    let output = status(daemon);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for words in words {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

/// 16,103 of 431,659 were refused in 40 minutes, without a line in the log, and all was said to be well.
#[test]
fn what_is_refused_beside_a_flow_is_a_loss_and_is_in_the_log() {
    let world = World::new();
    world.blueflood.script(Script::parse("refuse(bad.)").unwrap());
    let daemon = world.daemon(&[]);
    daemon.send_lines("good", 50);
    daemon.send_lines("bad", 3);
    daemon.expect_settled(53);
    expect_status(
        &daemon,
        3,
        &[
            "LOSING     delivering, with losses: 3 refused for metricName",
            "next       blueflood-forward dead-letters list",
            "letters    3 dead letters, ",
        ],
    );
    let said = daemon.expect_said("Blueflood refused datapoints: they lie in the dead letters");
    assert_eq!(
        (said["reason"].as_str(), said["datapoints"].as_u64()),
        (Some("metricName"), Some(3)),
        "{said}"
    );
    assert!(said["last"].as_str().unwrap().contains("\"bad."), "{said}");
    assert_eq!(daemon.get("/readyz").0, 200);
    assert_eq!(daemon.get("/delivering").0, 200, "the others are delivered");
    daemon.expect_log("a line of the verdict", |line| line["condition"] == "losing");
}

/// A newcomer's first metric at a port of pickles: the sender was told that all went well, and so was the operator.
#[test]
fn senders_that_are_all_turned_away_are_a_loss() {
    let world = World::new();
    let daemon = world.daemon(&["--endpoint", "tcp:port=0:interface=127.0.0.1:protocol=pickle"]);
    expect_status(&daemon, 0, &["WELL       all is well so far", "is not known"]);
    daemon.send("foo.bar 1 1795797960\n");
    daemon.expect("malformed", |stats| stats["malformed"] != serde_json::json!({}));
    expect_status(
        &daemon,
        3,
        &["LOSING     delivering, with losses: 1 malformed for frame_too_long", "does --protocol fit"],
    );
}

#[test]
fn the_first_echo_of_a_graphite_user_arrives_at_the_default_endpoint() {
    let world = World::new();
    let daemon = world.daemon(&["--endpoint", "tcp:port=0:interface=127.0.0.1"]);
    daemon.send_lines("echo", 1);
    daemon.send(frame(&[("relay", 1.0)]));
    world.expect_points(2);
}

#[test]
fn a_setting_that_is_wrong_says_which() {
    let world = World::new();
    world.answers("404x*");
    let daemon = world.daemon(&[]);
    daemon.send_lines("kept", 2);
    daemon.expect("wrong", |stats| stats["verdict"]["condition"] == "wrong");
    let path = format!("/v2.0/{TENANT}/ingest was posted to; 2 datapoints are kept");
    expect_status(
        &daemon,
        5,
        &["WRONG      Blueflood refuses everything", &path, "next       check --blueflood and --tenant"],
    );
    world.answers("");
    daemon.expect_delivered(2);
    expect_status(&daemon, 0, &["WELL       all is well\n", "last took metrics "]);
}

#[test]
fn settings_that_could_not_be_read_again_are_a_figure() {
    let world = World::new();
    let file = world.folder.path().join("x.toml");
    std::fs::write(&file, "ttl = 60\n").unwrap();
    let daemon = world.daemon(&["--config", file.to_str().unwrap()]);
    let figure = |value: u8| {
        let wanted = format!("blueflood_forward_config_last_reload_successful {value}\n");
        assert!(until(|| daemon.get("/metrics").1.contains(&wanted)), "{wanted}");
    };
    figure(1);
    for (text, value) in [("ttl = \"x\"\n", 0), ("ttl = 90\n", 1)] {
        std::fs::write(&file, text).unwrap();
        daemon.signal("HUP");
        figure(value);
    }
}
