//! The figures as Prometheus takes them: its own `promtool` judges names and rules, and what the rules and the
//! dashboard ask for is there.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use actors::core::blueflood::Verdict;
use actors::core::datapoint::Reason;
use actors::core::reason::{Dropped, Refused};
use actors::core::row::Skipped;

use crate::shared::skip;
use crate::world::*;

/// Gives `input` to promtool; nothing if there is none on this machine.
fn promtool(arguments: &[&str], input: &str) -> Option<Output> {
    // Where `make test` puts it if the machine has none.
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/prometheus/usr/bin/promtool");
    let program = if own.exists() { own } else { "promtool".into() };
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

fn config(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

/// Every metric of ours that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("blueflood_forward_")).map(str::to_owned).collect()
}

/// A daemon with something under each reason, so that every metric shows.
fn metrics() -> String {
    let world = World::new();
    let daemon = world.daemon(&["--user", "bob", "--key", "secret", "--auth_url", &world.blueflood.url()]);
    daemon.send("a 1 1\na nan 1\nbad\n");
    daemon.expect_count("/datapoints/received", 2);
    let (status, page) = daemon.get("/metrics");
    assert_eq!(status, 200);
    page
}

#[test]
fn promtool_likes_the_metrics_and_the_rules() {
    let page = metrics();
    let Some(checked) = promtool(&["check", "metrics"], &page) else {
        skip("promtool (Debian's package prometheus) is not here");
        return;
    };
    assert!(checked.status.success(), "{}\n{page}", String::from_utf8_lossy(&checked.stdout));
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/alerts.yml");
    let checked = promtool(&["check", "rules", rules.to_str().unwrap()], "").unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

/// As they were, two could not: a series that began with its first event hid it from `increase()`.
#[test]
fn each_alert_fires_on_its_first_burst_and_none_in_peace() {
    let played = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/prometheus/alerts.yml"),
    )
    .unwrap();
    for alert in config("alerts.yml").lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(played.contains(&format!("alertname=\"{alert}\"")), "{alert} is never played");
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/prometheus/alerts.yml");
    let Some(played) = promtool(&["test", "rules", tests.to_str().unwrap()], "") else {
        skip("promtool (Debian's package prometheus) is not here");
        return;
    };
    let said = [played.stdout, played.stderr].concat();
    assert!(played.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// What `increase()` needs: a reason is there before it has happened.
#[test]
fn every_known_reason_is_there_from_the_start() {
    let page = World::new().daemon(&[]).get("/metrics").1;
    let zero =
        |sample: &str| assert!(page.contains(&format!("blueflood_forward_{sample} 0\n")), "{sample}: {page}");
    Refused::ALL
        .iter()
        .for_each(|reason| zero(&format!("datapoints_refused{{reason=\"{}\"}}", reason.label())));
    Dropped::ALL
        .iter()
        .for_each(|reason| zero(&format!("datapoints_dropped_total{{reason=\"{}\"}}", reason.label())));
    Skipped::ALL
        .iter()
        .for_each(|reason| zero(&format!("datapoints_skipped_total{{reason=\"{}\"}}", reason.label())));
    Reason::ALL.iter().for_each(|reason| zero(&format!("malformed_total{{reason=\"{}\"}}", reason.label())));
    Verdict::CLASSES.iter().for_each(|class| zero(&format!("posts_total{{class=\"{class}\"}}")));
    for own in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"] {
        assert!(page.contains(&format!("\nprocess_{own} ")), "{own}: {page}");
    }
}

#[test]
fn rules_and_dashboard_ask_for_metrics_that_are_there() {
    let there = named(&metrics());
    for file in ["alerts.yml", "grafana-dashboard.json"] {
        for name in named(&config(file)) {
            assert!(there.contains(&name), "{file} asks for {name}");
        }
    }
    let dashboard: serde_json::Value = serde_json::from_str(&config("grafana-dashboard.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 5);
}
