//! What an operator meets: figures, judgements, and clear words when the daemon cannot start.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;

use blueflood_forward::sink::{Script, Step};
use serde_json::Value;

use crate::world::*;

#[test]
fn the_figures_of_stats() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    daemon.send(format!("{}a nan {}\nbad\n", lines("line", 4), now()));
    daemon.expect_delivered(4);
    daemon.expect_count("/malformed/line_fields", 1);
    let stats = daemon.stats();
    let figures = [
        ("/datapoints/received", 5),
        ("/datapoints/skipped", 1),
        ("/datapoints/buffered", 0),
        ("/datapoints/delivered", 4),
        ("/datapoints/refused", 0),
        ("/datapoints/dropped", 0),
        ("/datapoints/unaccounted", 0),
        ("/malformed/line_fields", 1),
        ("/skipped/value_nan", 1),
        ("/listeners/0/datapoints", 4),
        ("/forwarder/in_flight", 0),
        ("/forwarder/retries", 0),
    ];
    for (pointer, n) in figures {
        assert_eq!(stats.pointer(pointer), Some(&Value::from(n)), "{pointer}: {stats:#}");
    }
    assert!(stats["uptime_s"].is_u64());
    assert_eq!(stats["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(stats["forwarder"]["last_error"], Value::Null);
    assert!(stats["forwarder"]["last_success"].as_u64() >= Some(now() - 60));
}

#[test]
fn the_last_of_what_was_skipped_and_refused_is_shown_and_of_the_refused_after_a_restart_too() {
    let world = World::new();
    world.answers("refuse(bad.)");
    let daemon = world.daemon(&[]);
    let mut sender = daemon.connect();
    let peer = sender.local_addr().unwrap().to_string();
    sender.write_all(b"a.1 nan 7\na.2 inf 7\n").unwrap();
    daemon.expect_count("/listeners/0/skipped/value_infinite/count", 1);
    let long = "x".repeat(1_000);
    sender.write_all(format!("a.\x1b[3 nan 8\nbad.1 1 -1\nbad.2.{long} 2 -1\n").as_bytes()).unwrap();
    daemon.expect_settled(5);
    let stats = daemon.stats();
    let last = &stats["listeners"][0]["skipped"]["value_nan"];
    assert_eq!((&last["count"], &last["last"]["peer"]), (&2.into(), &peer.clone().into()), "{last}");
    assert_eq!(last["last"]["sample"], "a.\\u{1b}[3 NaN 8", "{last}");
    assert!(last["last"]["time"].as_u64() >= Some(now() - 60), "{last}");
    let is_last = |stats: &Value| {
        let last = &stats["last_refused"]["metricName"];
        let (row, message) = (last["row"].as_str().unwrap(), last["message"].as_str().unwrap());
        assert!(row.contains("\"bad.2.xxx") && row.ends_with('…') && row.len() < 400, "{last}");
        assert!(
            message.contains("refused by the sink") && last["time"].as_u64() >= Some(now() - 60),
            "{last}"
        );
    };
    is_last(&stats);
    assert_eq!(daemon.stop().code, Some(0));
    is_last(&world.daemon(&[]).stats());
}

#[test]
fn who_sends_most_is_known_by_address() {
    let world = World::new();
    let path = world.folder.path().join("in.sock");
    let tcp = "tcp:port=0:interface=127.0.0.1:protocol=line";
    let unix = format!("unix:{}:protocol=line", path.display());
    let daemon =
        world.daemon(&["--endpoint", tcp, "--endpoint", "udp:port=0:interface=0.0.0.0", "--endpoint", &unix]);
    daemon.send_lines("a", 6);
    daemon.send_lines("b", 3);
    UnixStream::connect(path).unwrap().write_all(lines("c", 5).as_bytes()).unwrap();
    for (host, n) in [("127.0.0.1", 1), ("127.0.0.2", 2), ("127.0.0.1", 2), ("127.0.0.3", 1)] {
        let sender = UdpSocket::bind((host, 0)).unwrap();
        sender.send_to(lines("d", n).as_bytes(), ("127.0.0.1", daemon.port("udp"))).unwrap();
    }
    daemon.expect_count("/senders/datapoints", 20);
    let top = &daemon.stats()["senders"]["top"];
    let sent: Vec<_> =
        top.as_array().unwrap().iter().map(|one| (one["from"].as_str().unwrap(), &one["at_least"])).collect();
    let n = [12, 5, 2, 1].map(Value::from);
    assert_eq!(sent, [("127.0.0.1", &n[0]), ("unix", &n[1]), ("127.0.0.2", &n[2]), ("127.0.0.3", &n[3])]);
    assert!(!daemon.get("/metrics").1.contains("127.0.0.3"));
}

/// One sample of a Prometheus page.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads Prometheus text 0.0.4, and is strict about it: each family has its HELP and TYPE once, before its samples,
/// which stand together and differ in their labels.
fn parse_prometheus(page: &str) -> Vec<Sample> {
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || b"_:".contains(&first))
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte))
    };
    assert!(page.ends_with('\n'), "the last line has no end");
    let (mut families, mut family, mut helped) = (Vec::new(), String::new(), String::new());
    let mut samples: Vec<Sample> = Vec::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(is_name(name) && !text.is_empty(), "{line}");
            helped = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(name == helped, "{line}: HELP comes right before");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}: a counter is a total");
            assert!(!families.contains(&name.to_owned()), "{line}: twice");
            families.push(name.to_owned());
            family = name.to_owned();
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match key.split_once('{') {
                Some((name, rest)) => (name, parse_labels(rest.strip_suffix('}').unwrap())),
                None => (key, BTreeMap::new()),
            };
            let of_histogram =
                ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(&family));
            assert!(name == family || of_histogram, "{line}: within {family}");
            let twin = samples.iter().find(|sample| sample.name == name && sample.labels == labels);
            assert!(twin.is_none(), "{line}: twice");
            samples.push(Sample { name: name.to_owned(), labels, value: value.parse().unwrap() });
        }
    }
    samples
}

/// `key="value",key="value"`, where a value escapes backslash, quote and newline.
fn parse_labels(mut text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (key, rest) = text.split_once("=\"").unwrap();
        let (mut value, mut rest) = (String::new(), rest.chars());
        loop {
            match rest.next().expect("a label's value has an end") {
                '"' => break,
                '\\' => value.push(match rest.next() {
                    Some('n') => '\n',
                    Some(escaped @ ('"' | '\\')) => escaped,
                    other => panic!("{other:?} is escaped in {text}"),
                }),
                plain => value.push(plain),
            }
        }
        assert!(labels.insert(key.to_owned(), value).is_none(), "{key} twice in {text}");
        text = rest.as_str();
        text = text.strip_prefix(',').unwrap_or(text);
    }
    labels
}

#[test]
fn the_figures_for_prometheus() {
    let world = World::new();
    let unix = format!("unix:{}", world.folder.path().join("od\"d.sock").display());
    let tcp = "tcp:port=0:interface=127.0.0.1:protocol=auto";
    let daemon = world.daemon(&["--endpoint", tcp, "--endpoint", &unix]);
    daemon.send(format!("{}a nan {}\nbad\n", lines("line", 4), now()));
    daemon.expect_delivered(4);
    let (status, page) = daemon.get("/metrics");
    assert_eq!(status, 200);
    let samples = parse_prometheus(&page);
    let value = |name: &str, label: Option<(&str, &str)>| {
        let name = format!("blueflood_forward_{name}");
        let labels = label.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
        samples
            .iter()
            .find(|sample| sample.name == name && sample.labels == labels)
            .map(|sample| sample.value)
    };
    assert_eq!(value("datapoints_received_total", None), Some(5.0), "{page}");
    assert_eq!(value("datapoints_delivered_total", None), Some(4.0), "{page}");
    assert_eq!(value("datapoints_unaccounted", None), Some(0.0), "{page}");
    assert_eq!(value("datapoints_skipped_total", Some(("reason", "value_nan"))), Some(1.0), "{page}");
    assert_eq!(value("malformed_total", Some(("reason", "line_fields"))), Some(1.0), "{page}");
    assert_eq!(value("listener_datapoints_total", Some(("endpoint", &unix))), Some(0.0), "{page}");
    assert_eq!(value("build_info", Some(("version", env!("CARGO_PKG_VERSION")))), Some(1.0), "{page}");
}

#[test]
fn alive_and_ready() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    for path in ["/healthz", "/readyz", "/delivering"] {
        let (status, body) = daemon.get(path);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &body["ok"], &body["wrong"]),
            (200, &true.into(), &serde_json::json!([])),
            "{path}"
        );
    }
    assert_eq!(daemon.get("/nothing").0, 404);
}

/// Checks of all kinds look at this port, with the least of a request that does: each saw a daemon that was dead.
#[test]
fn the_port_answers_every_kind_of_check_and_no_foreign_page() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let local = "Host: localhost\r\n";
    for (request, host, status) in [
        ("GET /healthz HTTP/1.1", local, 200),
        ("HEAD /healthz HTTP/1.1", local, 200),
        ("HEAD / HTTP/1.1", local, 200),
        ("HEAD /nothing HTTP/1.1", local, 404),
        ("GET /healthz HTTP/1.0", "", 200),
        ("HEAD /readyz HTTP/1.0", "", 200),
        ("GET /stats HTTP/1.1", "Host: 127.0.0.1:8004\r\n", 200),
        ("GET /stats HTTP/1.1", "Host: [::1]\r\n", 200),
        ("OPTIONS /healthz HTTP/1.1", local, 405),
        ("POST /stats HTTP/1.1", local, 405),
        ("DELETE /metrics HTTP/1.1", local, 405),
        ("GET /stats HTTP/1.1", "Host: evil.example\r\n", 403),
        ("GET /stats HTTP/1.0", "Host: evil.example\r\n", 403),
        ("GET /stats HTTP/1.1", "Host: [::1].evil.example\r\n", 403),
        ("HEAD /stats HTTP/1.1", "Host: 127.0.0.1:80@evil\r\n", 403),
        ("GET /stats HTTP/1.1", "Host:\r\n", 403),
        ("GET /stats HTTP/1.1", "Host: localhost\u{e4}\r\n", 403),
    ] {
        let answer = daemon.asks_raw(&format!("{request}\r\n{host}Connection: close\r\n\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request}: {answer}"));
        assert!(head.split(' ').nth(1) == Some(&status.to_string()), "{request} {host}: {head}");
        let allows = head.to_ascii_lowercase().contains("allow: get, head");
        assert_eq!(allows, status == 405, "{request}: {head}");
        assert_eq!(
            body.is_empty(),
            request.starts_with("HEAD") || matches!(status, 404 | 405),
            "{request}: {body}"
        );
    }
}

#[test]
fn ready_but_not_delivering_while_a_setting_is_wrong() {
    let world = World::new();
    world.blueflood.script(Script::new().then(Step::status(404).for_ever()));
    let daemon = world.daemon(&[]);
    daemon.send_lines("kept", 5);
    daemon.expect("misconfigured", |stats| !stats["forwarder"]["misconfigured"].is_null());
    assert_eq!(daemon.get("/readyz").0, 200, "a sender that is turned away would lose what it has");
    let (status, body) = daemon.get("/delivering");
    assert_eq!(status, 503);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["ok"], false);
    let why = body["wrong"][0].as_str().unwrap();
    assert!(why.contains("a setting must be wrong") && why.contains("404"), "{why}");
    assert_eq!(daemon.get("/healthz").0, 200, "starting it again would not mend a setting");
    assert_eq!(daemon.count("buffered"), 5);
    let said = daemon.expect_said("Blueflood refuses everything, which only a change can mend");
    assert_eq!(said["next"], "check --blueflood and --tenant");
    daemon.expect_times_said("Blueflood refuses everything", 1);
}

#[test]
fn a_page_from_elsewhere_cannot_read_the_figures() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    for path in ["/stats", "/metrics", "/healthz", "/readyz", "/delivering", "/tap?limit=0"] {
        let (status, body) = daemon.request("GET", path, "rebound.example:8004").unwrap();
        assert_eq!(status, 403, "{path}");
        assert!(!body.contains("received"), "{body}");
        assert_eq!(daemon.request("GET", path, "127.0.0.1:8004").unwrap().0, 200, "{path}");
    }
}

#[test]
fn without_figures_it_forwards_all_the_same() {
    let world = World::new();
    let daemon = world.daemon(&["--stats", ""]);
    assert_eq!(daemon.said("showing its figures"), None);
    daemon.send_lines("line", 3);
    world.expect_points(3);
    assert_eq!(daemon.stop().last_line()["delivered"], 3);
}

#[test]
fn a_port_in_use_ends_it_with_clear_words() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let world = World::new();
    let ended =
        world.try_daemon(&["--endpoint", &format!("tcp:port={port}:interface=127.0.0.1")]).unwrap_err();
    assert_eq!(ended.code, Some(1));
    let words = ended.log.last().unwrap()["msg"].as_str().unwrap().to_owned();
    assert!(words.contains(&port.to_string()) && words.contains("set another --endpoint"), "{words}");

    let ended = world.try_daemon(&["--stats", &format!("127.0.0.1:{port}")]).unwrap_err();
    assert_eq!(ended.code, Some(1));
    let words = ended.log.last().unwrap()["msg"].as_str().unwrap().to_owned();
    assert!(words.contains(&port.to_string()) && words.contains("set another --stats"), "{words}");
}
