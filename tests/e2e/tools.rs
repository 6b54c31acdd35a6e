//! The tools beside a running daemon: what is in the spool, what was refused, how it is.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use blueflood_forward::sink::Script;
use rusqlite::Connection;
use serde_json::Value;

use crate::shared::skip;
use crate::world::*;

/// Runs a command of the binary.
fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_blueflood-forward"))
        .args(arguments)
        .env_clear()
        .env("HOME", "/nowhere")
        .output()
        .unwrap()
}

/// What a command prints when all goes well.
fn says(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_spool_is_looked_into_beside_the_daemon() {
    let world = World::new();
    world.blueflood.pause();
    let daemon = world.daemon(&["--metric_prefix", "site"]);
    daemon.send_lines("kept", 25);
    daemon.expect_count("/datapoints/in_spool", 25);
    let spool = world.spool();
    let spool = spool.to_str().unwrap();

    let info = says(&["spool", "info", "--spool", spool]);
    assert!(info.contains("datapoints    25 in "), "{info}");
    assert!(info.contains("received 25 = skipped 0 + here 25 + delivered 0"), "{info}");
    let rows = json_lines(&says(&["spool", "export", "--spool", spool]));
    assert_eq!(rows.len(), 25);
    assert!(
        rows.iter().any(|row| row["metricName"] == "site.kept.24" && row["metricValue"] == 24.0),
        "{rows:?}"
    );
    assert!(says(&["spool", "verify", "--spool", spool]).contains("is whole"));

    world.blueflood.resume().unwrap();
    daemon.expect_delivered(25);
}

#[test]
fn what_was_refused_is_read_sent_again_and_thrown_away() {
    let world = World::new();
    world.blueflood.script(Script::parse("refuse(bad.)").unwrap());
    let daemon = world.daemon(&[]);
    daemon.send_lines("good", 5);
    daemon.send_lines("bad", 3);
    daemon.expect_count("/datapoints/refused", 3);
    let spool = world.spool();
    let spool = spool.to_str().unwrap();

    let list = says(&["dead-letters", "list", "--spool", spool]);
    assert!(list.starts_with("3 refused for "), "{list}");
    let letters = json_lines(&says(&["dead-letters", "export", "--spool", spool]));
    assert_eq!(letters.len(), 3);
    assert!(letters.iter().all(|letter| letter["row"]["metricName"].as_str().unwrap().starts_with("bad.")));
    assert!(letters.iter().all(|letter| !letter["message"].as_str().unwrap().is_empty()), "{letters:?}");

    // One of them is sent again while Blueflood still refuses it: it comes back.
    let id = letters[0]["id"].to_string();
    assert!(says(&["dead-letters", "replay", "--id", &id, "--spool", spool]).starts_with("1 datapoints"));
    let seen = world.blueflood.read(|state| state.requests_seen());
    assert!(world.blueflood.wait_for(|state| state.requests_seen() > seen, PATIENCE));
    daemon.expect_count("/datapoints/refused", 3);

    // What is misspelt is no dead letter.
    let misspelt = run(&["dead-letters", "replay", "--reason", "Metricname", "--spool", spool]);
    assert_eq!(misspelt.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&misspelt.stderr).contains("there are some for "), "{misspelt:?}");

    // Then it takes them.
    world.blueflood.script(Script::new());
    assert!(says(&["dead-letters", "replay", "--spool", spool]).starts_with("3 datapoints"));
    daemon.expect_count("/datapoints/refused", 0);
    daemon.expect_delivered(8);
    assert!(world.stored().contains_key("bad.2"));
    assert_eq!(says(&["dead-letters", "list", "--spool", spool]), "none\n");
}

#[test]
fn what_waits_to_be_sent_again_is_told() {
    let world = World::new();
    world.blueflood.script(Script::parse("refuse(bad.)").unwrap());
    let daemon = world.daemon(&[]);
    daemon.send_lines("bad", 3);
    daemon.expect_count("/datapoints/refused", 3);
    let spool = world.spool();
    let spool = spool.to_str().unwrap();
    assert!(!says(&["dead-letters", "list", "--spool", spool]).contains("wait to be sent again"));
    daemon.stop();
    let said = says(&["dead-letters", "replay", "--spool", spool]);
    assert!(said.contains("3 wait for that: no daemon runs on this spool"), "{said}");
    assert!(
        says(&["dead-letters", "replay", "--spool", spool])
            .starts_with("0 datapoints will be sent again\n3 wait")
    );
    assert!(says(&["dead-letters", "list", "--spool", spool]).contains("3 of all wait to be sent again"));
    world.blueflood.script(Script::new());
    world.daemon(&[]).expect_delivered(3);
    assert_eq!(says(&["dead-letters", "list", "--spool", spool]), "none\n");
}

#[test]
fn a_purge_asks_to_be_said_twice() {
    let world = World::new();
    world.blueflood.script(Script::parse("refuse(bad.)").unwrap());
    let daemon = world.daemon(&[]);
    daemon.send_lines("bad", 2);
    daemon.expect_count("/datapoints/refused", 2);
    daemon.expect_count("/spool/dead_letters", 2);
    let spool = world.spool();
    let spool = spool.to_str().unwrap();
    assert!(says(&["dead-letters", "purge", "--spool", spool]).contains("2 dead letters would be gone"));
    assert!(says(&["dead-letters", "purge", "--yes", "--spool", spool]).contains("2 dead letters are gone"));
    assert_eq!(says(&["dead-letters", "list", "--spool", spool]), "none\n");
    assert_eq!(daemon.count("refused"), 2, "they were refused, and stay counted");
    daemon.expect_count("/spool/dead_letters", 0);
}

#[test]
fn the_status_says_by_its_exit_code_how_it_is() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    daemon.send_lines("a", 7);
    daemon.expect_delivered(7);
    daemon.send("\x1b[2J nan 1\n");
    daemon.expect_settled(8);
    let url = daemon.stats_url();
    let address = url.trim_start_matches("http://").trim_end_matches("/stats").to_owned();
    // As a cron job has it: without a home there is no usual place for a spool, but none is looked at.
    let homeless = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"))
        .env_clear()
        .args(["status", "--stats", &address])
        .output();
    assert!(homeless.unwrap().status.success());
    let status = says(&["status", "--stats", &address]);
    assert!(
        status.contains("delivered 7 + refused 0") && status.starts_with("WELL       all is well\n"),
        "{status}"
    );
    assert!(status.contains("skipped    1 for value_nan, the last from 127.0.0.1:"), "{status}");
    assert!(status.contains(": \\u{1b}[2J NaN 1\n"), "{status}");

    world.blueflood.pause();
    daemon.send_lines("b", 1);
    daemon.expect("a closed gate", |stats| stats["forwarder"]["gate"]["open"] == false);
    let status = run(&["status", "--stats", &address]);
    assert_eq!(status.status.code(), Some(4));
    let words = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        words.starts_with("KEEPING    Blueflood does not take metrics: ")
            && words.contains("1 datapoint is kept"),
        "{words}"
    );
    assert!(words.contains("\nnext       look after Blueflood"), "{words}");
    let json: Value = serde_json::from_slice(&run(&["status", "--json", "--stats", &url]).stdout).unwrap();
    assert_eq!(json["verdict"]["condition"], "keeping");

    drop(daemon.stop());
    let status = run(&["status", "--stats", &address]);
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stderr).contains("no daemon answers at"));
}

#[test]
fn a_spool_that_is_not_there_is_said() {
    let output = run(&["spool", "info", "--spool", "/nowhere/spool.db"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/spool.db: there is no spool"));
}

#[test]
fn a_trial_on_a_port_that_is_taken_says_what_to_type() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/try.sh");
    let mut trial = Command::new(script);
    trial
        .arg(env!("CARGO_BIN_EXE_blueflood-forward"))
        .envs([("SINK", "127.0.0.1:1"), ("STATS", "127.0.0.1:1")]);
    let output = trial.env("GRAPHITE", port.to_string()).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = format!("127.0.0.1:{port} is taken\nchoose another port: make run GRAPHITE=");
    assert!(words.starts_with(&expected) && words.contains(" SINK=127.0.0.1:1 STATS=127.0.0.1:1"), "{words}");
}

/// A check that needs no port which another may have.
const CHECK: [&str; 7] = ["check", "--connect", "--endpoint", "tcp:0", "--stats=", "--tenant", TENANT];

#[test]
fn a_check_beside_the_daemon_of_the_same_settings_is_no_error() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let url = daemon.stats_url();
    let stats = url.trim_start_matches("http://").trim_end_matches("/stats");
    let endpoint = format!("tcp:{}:interface=127.0.0.1", daemon.port("tcp"));
    let spool = world.spool();
    let check = ["check", "--endpoint", &endpoint, "--spool", spool.to_str().unwrap()];
    let said = says(&[&check[..], &["--stats", stats]].concat());
    assert!(said.contains("is in use, by the daemon that runs here"), "{said}");
    let said = says(&[&check[..], &["--stats="]].concat());
    assert!(said.contains("is in use, by a running daemon perhaps"), "{said}");
}

#[test]
fn a_check_reaches_blueflood_and_sends_one_datapoint_only_when_told_to() {
    let world = World::new();
    let url = world.blueflood.url();
    let check = [&CHECK[..], &["--blueflood", &url, "--query", "off"]].concat();
    let said = says(&check);
    assert!(
        said.contains("Blueflood  answers") && said.contains("not proven: that it takes datapoints"),
        "{said}"
    );
    assert!(world.stored().is_empty());
    assert!(says(&[&check[..], &["--send", "-p", "site"]].concat()).contains("stored a datapoint"));
    assert_eq!(world.stored()["site.blueflood-forward.check"], 1.0);

    world.blueflood.pause();
    let output = run(&check);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("check --blueflood"), "{output:?}");
}

#[test]
fn a_check_reads_back_what_it_sends_where_there_is_a_query_side() {
    let world = World::new();
    let url = world.blueflood.url();
    let check = [&CHECK[..], &["--blueflood", &url, "--query", &url]].concat();
    assert!(says(&check).contains("Read back  works"));
    assert!(says(&[&check[..], &["--send"]].concat()).contains("and it was read back"));

    world.answers("liex*");
    let output = run(&[&check[..], &["--send"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be read back"), "{output:?}");

    world.blueflood.store_away();
    let output = run(&check);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Blueflood's Cassandra"), "{output:?}");
    assert!(says(&[&check[..], &["--confirm", "off"]].concat()).contains("not tried: confirm is off"));
    // Where nothing is read, a witness tells.
    let witness = [&check[..], &["--confirm", "witness", "--send"]].concat();
    assert_eq!(run(&witness).status.code(), Some(1));
    world.blueflood.store_back();
    assert!(says(&witness).contains("Blueflood stored a witness"));
}

#[test]
fn its_own_figures_come_as_metrics_by_its_own_way() {
    let world = World::new();
    let daemon = world.daemon(&["--self_metrics", "own.forward"]);
    daemon.send_lines("a", 3);
    let there = |name: &str| world.stored().contains_key(name);
    assert!(until(|| there("own.forward.datapoints.delivered") && there("a.2")), "{:?}", world.stored());
    assert!(there("own.forward.spool.used_bytes"));
    daemon.expect("an exact ledger", |stats| stats["datapoints"]["unaccounted"] == 0);
}

/// Every file in a folder, with its bytes.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// A spool that version 1 left: see `tests/data`.
fn version_1() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/spools/v1.db")
}

#[test]
fn a_spool_of_version_1_is_read_by_the_tools_and_delivered_by_the_daemon() {
    let world = World::new();
    std::fs::copy(version_1(), world.spool()).unwrap();
    let spool = world.spool();
    let spool = spool.to_str().unwrap();
    let before = content(world.folder.path());
    let info = says(&["spool", "info", "--spool", spool]);
    assert!(info.contains("version       1: ") && info.contains("datapoints    200 in 5 chunks"), "{info}");
    assert!(says(&["spool", "verify", "--spool", spool]).contains("is whole (version 1)"));
    assert_eq!(json_lines(&says(&["spool", "export", "--spool", spool])).len(), 200);
    assert!(says(&["dead-letters", "list", "--spool", spool]).starts_with("3 refused for metricName"));
    assert_eq!(content(world.folder.path()), before, "the tools only read");

    let daemon = world.daemon(&[]);
    daemon.expect_delivered(208);
    world.expect_points(200);
    assert_eq!(daemon.stop().code, Some(0));
    let info = says(&["spool", "info", "--spool", spool]);
    assert!(
        info.contains("version       2, named ") && info.contains("datapoints    0 in 0 chunks"),
        "{info}"
    );
    // The way back.
    let copy = format!("{spool}.version-1");
    assert_eq!(json_lines(&says(&["spool", "export", "--spool", &copy])).len(), 200);
}

#[test]
fn the_daemon_and_the_tools_refuse_what_is_not_ours_and_a_later_version() {
    let world = World::new();
    let text = world.folder.path().join("hostname");
    std::fs::write(&text, "myhost\n").unwrap();
    let theirs = world.folder.path().join("theirs.db");
    Connection::open(&theirs).unwrap().execute_batch("CREATE TABLE precious (x)").unwrap();
    let later = world.folder.path().join("later.db");
    std::fs::copy(version_1(), &later).unwrap();
    Connection::open(&later).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    let before = content(world.folder.path());
    for (path, words) in
        [(&text, "is no spool"), (&theirs, "is no spool"), (&later, "made by a later version")]
    {
        let path = path.to_str().unwrap();
        let Err(ended) = world.try_daemon(&["--spool", path]) else { panic!("{path}: it started") };
        assert_eq!(ended.code, Some(1));
        assert!(ended.says(words) && ended.says("--spool"), "{ended:#?}");
        for tool in [
            ["spool", "info"],
            ["spool", "export"],
            ["dead-letters", "list"],
            ["spool", "compact"],
            ["check", "--quiet"],
        ] {
            let output = run(&[&tool[..], &["--spool", path]].concat());
            assert_eq!(output.status.code(), Some(1), "{tool:?} {path}");
            assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{output:?}");
        }
        assert_eq!(content(world.folder.path()), before, "{path}");
    }
}

#[test]
fn a_spool_is_made_compact_where_no_daemon_has_it() {
    let world = World::new();
    world.answers("503x*");
    let daemon = world.daemon(&[]);
    for i in 0..5 {
        daemon.send_lines(&format!("kept{i}"), 2_000);
    }
    daemon.expect("all in the spool", |stats| stats["datapoints"]["in_spool"] == 10_000);
    let spool = world.spool();
    let spool = spool.to_str().unwrap();
    let output = run(&["spool", "compact", "--spool", spool]);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("the daemon has it (process ") && words.contains("stop it first"), "{words}");
    daemon.kill();
    assert!(says(&["spool", "compact", "--spool", spool]).contains(" bytes, and has "));
    assert!(says(&["spool", "verify", "--spool", spool]).contains("is whole"));
    world.answers("");
    world.daemon(&[]).expect_settled(10_000);
}

#[test]
fn a_user_who_may_not_read_a_spool_is_told_who_may() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    // The folder is open to all, so that it is the file that keeps them out.
    std::fs::set_permissions(world.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut nobody = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"));
    nobody.env_clear().env("HOME", "/nowhere").uid(65_534).gid(65_534);
    for tool in [["spool", "info"], ["dead-letters", "replay"]] {
        let Ok(output) = nobody.args(tool).arg("--spool").arg(world.spool()).output() else {
            skip("only root can run a program as another user, where that user may reach it");
            return;
        };
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1));
        assert!(words.contains("run this as root, or as the daemon's user (uid 0)"), "{words}");
        nobody = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"));
        nobody.env_clear().env("HOME", "/nowhere").uid(65_534).gid(65_534);
    }
    drop(daemon);
}

#[test]
fn a_disk_smaller_than_the_spool_may_grow_is_said_at_the_start() {
    let world = World::new();
    let daemon = world.daemon(&["--spool_max", "500TiB"]);
    daemon.expect_times_said("the disk of the spool is smaller than the spool may grow", 1);
}

#[test]
fn what_waits_for_each_tenant_is_told_and_can_be_taken_out_by_itself() {
    let world = World::new();
    world.blueflood.pause();
    for (tenant, n, received) in [("acme", 20, 20), ("other", 7, 27)] {
        let daemon = world.daemon(&["--tenant", tenant, "--shutdown_timeout", "0.1"]);
        daemon.send_lines(tenant, n);
        daemon.expect_received(received);
        daemon.stop();
    }
    let spool = world.spool();
    let spool = spool.to_str().unwrap();
    let info = says(&["spool", "info", "--spool", spool]);
    assert!(info.contains(" 20 of them for acme\n") && info.contains(" 7 of them for other\n"), "{info}");
    let names = |of: &[&str]| {
        let rows = json_lines(&says(&[&["spool", "export", "--spool", spool], of].concat()));
        rows.iter()
            .map(|row| row["metricName"].as_str().unwrap().split('.').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&["--of", "other"]), vec!["other"; 7]);
    assert_eq!(names(&["--of", "acme"]), vec!["acme"; 20]);
    assert_eq!(names(&["--of", "nobody"]).len(), 0);
    assert_eq!(names(&[]).len(), 27);
}
