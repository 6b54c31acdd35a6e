//! What senders do to their connections: none of it costs a datapoint that came whole.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use crate::shared::skip;
use crate::world::*;

/// A frame as statsd writes it, by hand and in protocol 0: values are strings.
fn statsd_frame(datapoints: &[(&str, &str)]) -> Vec<u8> {
    let now = now();
    let items: String =
        datapoints.iter().map(|(name, value)| format!("(S'{name}'\n(L{now}L\nS'{value}'\ntta")).collect();
    framed(format!("(l{items}.").as_bytes())
}

#[test]
fn a_frame_that_is_cut_costs_only_itself() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let cut = frame(&[("cut", 3.0)]);
    daemon.send([&frame(&[("whole.a", 1.0), ("whole.b", 2.0)]), &cut[..cut.len() / 2]].concat());
    daemon.expect_count("/malformed/truncated", 1);
    world.expect_points(2);
    daemon.expect_delivered(2);
}

#[test]
fn a_frame_may_come_byte_by_byte() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let (mut pickles, mut text) = (daemon.connect(), daemon.connect());
    for stream in [&pickles, &text] {
        stream.set_nodelay(true).unwrap();
    }
    for byte in frame(&[("drop.a", 1.0), ("drop.b", 2.0)]) {
        pickles.write_all(&[byte]).unwrap();
    }
    for byte in lines("drip", 3).bytes() {
        text.write_all(&[byte]).unwrap();
    }
    // Both are still open: a frame is taken when it is whole.
    world.expect_points(5);
    daemon.expect_delivered(5);
}

#[test]
fn a_hundred_senders_at_once() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let mut senders: Vec<TcpStream> = (0..100).map(|_| daemon.connect()).collect();
    daemon.expect("100 connections", |stats| stats["listeners"][0]["connections"] == 100);
    for round in 0..5 {
        for (i, sender) in senders.iter_mut().enumerate() {
            let bytes = if i % 2 == 0 {
                lines(&format!("line.{i}.{round}"), 4).into_bytes()
            } else {
                frame(&[(&format!("pickle.{i}.{round}.a"), 1.0), (&format!("pickle.{i}.{round}.b"), 2.0)])
            };
            sender.write_all(&bytes).unwrap();
        }
    }
    world.expect_points(5 * (50 * 4 + 50 * 2));
    daemon.expect_delivered(1500);
    drop(senders);
    daemon.expect("no connection", |stats| stats["listeners"][0]["connections"] == 0);
    assert_eq!(daemon.stats()["listeners"][0]["datapoints"], 1500);
}

#[test]
fn a_line_without_end_is_skipped_and_the_next_one_taken() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    daemon.send(format!("{}{} 1 1\n{}", lines("before", 1), "x".repeat(40_000), lines("after", 1)));
    world.expect_points(2);
    daemon.expect_count("/malformed/line_too_long", 1);
    assert_eq!(daemon.stats()["listeners"][0]["malformed"]["line_too_long"]["count"], 1);
    daemon.expect_delivered(2);
}

#[test]
fn a_frame_too_long_ends_its_connection_and_nothing_else() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let (mut bad, mut good) = (daemon.connect(), daemon.connect());
    good.write_all(&frame(&[("good.before", 1.0)])).unwrap();
    let header = ((1u32 << 20) + 1).to_be_bytes();
    bad.write_all(&[&frame(&[("bad.before", 1.0)]), &header[..]].concat()).unwrap();
    expect_closed(&mut bad);
    good.write_all(&frame(&[("good.after", 2.0)])).unwrap();
    world.expect_points(3);
    daemon.expect_count("/malformed/frame_too_long", 1);
    let said = daemon.expect_said("a sender is turned away");
    assert_eq!(said["peer"], bad.local_addr().unwrap().to_string());
}

#[test]
fn a_bad_datapoint_never_costs_its_neighbours() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    daemon.send(statsd_frame(&[("pickle.first", "1"), ("pickle.bad", "one"), ("pickle.last", "3.25")]));
    let now = now();
    daemon.send(format!("line.first 1 {now}\nline.bad one {now}\nline.bad\n\nline.last 3 {now}\n"));
    world.expect_points(4);
    daemon.expect_count("/malformed/item_number", 1);
    daemon.expect_count("/malformed/line_number", 1);
    daemon.expect_count("/malformed/line_fields", 1);
    daemon.expect_delivered(4);
    assert_eq!(world.stored()["pickle.last"], 3.25);
}

#[test]
fn what_json_cannot_say_is_skipped_by_reason() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let now = now();
    daemon.send(format!("a nan {now}\nb inf {now}\ngood 1 {now}\nc -Infinity {now}\n"));
    daemon.send(frame(&[("d", f64::NAN), ("also.good", 2.0), ("e", f64::NEG_INFINITY)]));
    daemon.send("f 1 inf\ng 1 1e300\n");
    world.expect_points(2);
    daemon.expect_count("/datapoints/received", 9);
    daemon.expect_delivered(2);
    let stats = daemon.stats();
    assert_eq!(stats["skipped"], serde_json::json!({ "value_nan": 2, "value_infinite": 3, "timestamp": 2 }));
    assert_eq!(stats["datapoints"]["skipped"], 7);
}

#[test]
fn names_in_latin_1_are_refused_and_shown_and_never_become_one_series() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let now = now();
    let end = format!(" 1 {now}\n");
    let names = [&b"h.gr\xf6\xdfe"[..], b"h.gr\xfc\xdfe", "h.größe".as_bytes()];
    daemon.send(names.map(|name| [name, end.as_bytes()].concat()).concat());
    daemon.send(framed(b"\x80\x02](U\x03a\xe9bJ\xff\xff\xff\xffK\x01\x86\x86e."));
    world.expect_points(1);
    daemon.expect_count("/skipped/name_not_utf8", 3);
    assert_eq!(world.stored().into_keys().collect::<Vec<_>>(), ["h.größe"]);
    let stats = daemon.stats();
    assert_eq!(
        (&stats["datapoints"]["received"], &stats["datapoints"]["unaccounted"]),
        (&4.into(), &0.into())
    );
    let shown = stats["listeners"][0]["skipped"]["name_not_utf8"].to_string();
    assert!(shown.contains("\\xe9b"), "{shown}");
    let said = daemon.expect_said("datapoints cannot be forwarded, and are skipped");
    assert_eq!(said["reason"], "name_not_utf8");
    assert!(said["last"].as_str().unwrap().contains("\\x"), "{said}");
}

/// Each point that Blueflood has is of a time since then.
fn expect_times_since(world: &World, before: u64) {
    for point in world.blueflood.points(TENANT) {
        assert!((before..=now()).contains(&(point.ms as u64 / 1000)), "{point:?}");
    }
}

#[test]
fn minus_one_means_now() {
    let world = World::new();
    let before = now();
    let daemon = world.daemon(&[]);
    daemon.send("line 1 -1\n");
    let minus_one = serde_pickle::to_vec(&[("pickle", (-1, 1))], serde_pickle::SerOptions::new().proto_v2());
    daemon.send(framed(&minus_one.unwrap()));
    world.expect_points(2);
    expect_times_since(&world, before);
}

#[test]
fn the_time_of_this_host_replaces_the_senders() {
    let world = World::new();
    let before = now();
    let daemon = world.daemon(&["--overwrite_collection_timestamp", "true"]);
    daemon.send("from.1970 1 12345\nfrom.2100 2 4102444800\n");
    world.expect_points(2);
    expect_times_since(&world, before);
}

#[test]
fn a_unix_socket_with_its_mode() {
    let world = World::new();
    let path = world.folder.path().join("graphite.sock");
    let daemon = world.daemon(&["--endpoint", &format!("unix:{}:mode=600:protocol=auto", path.display())]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    UnixStream::connect(&path).unwrap().write_all(lines("unix", 2).as_bytes()).unwrap();
    UnixStream::connect(&path).unwrap().write_all(&frame(&[("pickle", 1.0)])).unwrap();
    world.expect_points(3);
    daemon.expect_delivered(3);
    assert_eq!(daemon.stop().code, Some(0));
    assert!(!path.exists(), "the socket's file is left behind");
}

/// A cleaner of /tmp or /run takes it: senders were refused for ever, and nothing told.
#[test]
fn a_unix_sockets_file_that_vanishes_is_made_anew() {
    let world = World::new();
    let path = world.folder.path().join("graphite.sock");
    let daemon = world.daemon(&["--endpoint", &format!("unix:{}:mode=600:protocol=line", path.display())]);
    let mut open = UnixStream::connect(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    daemon.expect_said("the socket's file was taken away: it is made anew");
    UnixStream::connect(&path).unwrap().write_all(lines("anew", 2).as_bytes()).unwrap();
    open.write_all(lines("open", 1).as_bytes()).unwrap();
    drop(open);
    world.expect_points(3);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // Somebody else's is left alone, also at the end.
    std::fs::rename(&path, world.folder.path().join("aside.sock")).unwrap();
    std::fs::write(&path, "somebody else's").unwrap();
    daemon.expect_times_said("the socket's file is another one now", 1);
    assert_eq!(daemon.stop().code, Some(0));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody else's");
}

/// At the usual limit of 1,024 open files as many idle senders stopped the deliveries, the stats port and the log.
#[test]
fn idle_senders_leave_descriptors_for_the_deliveries_and_the_stats() {
    let world = World::new();
    let daemon = world.daemon_limited("-n 300", &[]);
    daemon.expect_times_said("does not fit the limit of 300 open files", 1);
    let mut live = daemon.connect();
    live.write_all(lines("live.0", 1).as_bytes()).unwrap();
    world.expect_points(1);
    let idle: Vec<TcpStream> = (0..400).map(|_| daemon.connect()).collect();
    daemon.expect_said("as many connections as --connections allows: more senders have to wait");
    for i in 1..=5 {
        live.write_all(lines(&format!("live.{i}"), 1).as_bytes()).unwrap();
        world.expect_points(i + 1);
        assert_eq!((daemon.get("/healthz").0, daemon.get("/readyz").0), (200, 200));
    }
    drop(idle);
    daemon.send_lines("later", 2);
    daemon.expect_delivered(8);
    assert_eq!(daemon.times_said("accept"), 0, "{:#?}", daemon.log());
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_may_be() {
    let world = World::new();
    let daemon = world.daemon_limited("-Sn 200", &[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let files: Vec<_> =
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(files[3], files[4], "{files:?}");
    assert_ne!(files[3], "200");
}

#[test]
fn a_datagram_stands_alone() {
    let world = World::new();
    let daemon = world.daemon(&["--endpoint", "udp:port=0:interface=127.0.0.1"]);
    let now = now();
    daemon.send_datagram(format!("udp.a 1 {now}\nudp.b 2 {now}"));
    // Nothing says that it was cut, as the end of a connection would.
    daemon.send_datagram("udp.no.time 3");
    daemon.send_datagram("udp.comma 2,5 -1");
    daemon.send_datagram(format!("udp.c 3 {now}\n"));
    world.expect_points(3);
    daemon.expect_delivered(3);
    daemon.expect("each with its reason", |stats| {
        stats["malformed"] == serde_json::json!({ "line_fields": 1, "line_number": 1 })
    });
}

#[test]
fn an_ipv6_endpoint() {
    if let Err(error) = TcpListener::bind("[::1]:0") {
        skip(format_args!("this host has no ::1: {error}"));
        return;
    }
    let world = World::new();
    let daemon = world.daemon(&["--endpoint", r"tcp6:port=0:interface=\:\:1:protocol=line"]);
    daemon.connect_to("tcp:[").write_all(lines("v6", 2).as_bytes()).unwrap();
    world.expect_points(2);
}

#[test]
fn a_silent_sender_is_let_go() {
    let world = World::new();
    let daemon = world.daemon(&["--idle_timeout", "0.3"]);
    let mut silent = daemon.connect();
    silent.write_all(lines("before.silence", 2).as_bytes()).unwrap();
    expect_closed(&mut silent);
    world.expect_points(2);
    // What is left of a line is no line: only a clean close says that it was all of it.
    let mut silent = daemon.connect();
    silent.write_all(b"half.a.line 1 17").unwrap();
    expect_closed(&mut silent);
    daemon.expect_count("/malformed/truncated", 1);
    daemon.expect_delivered(2);
}

#[test]
fn a_last_line_without_its_end_counts_at_a_clean_close() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    daemon.send(lines("last", 1).trim_end());
    world.expect_points(1);
}

#[test]
fn a_bad_last_line_has_the_reason_of_what_is_wrong_with_it() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    for last in ["comma 2,5 -1", "too many fields 1 -1", "carriage 1 -1\rreturns 2 -1\r", "cut 1", "cut"] {
        daemon.send(last);
    }
    daemon.expect("each with its reason", |stats| {
        stats["malformed"] == serde_json::json!({ "line_fields": 2, "line_number": 1, "truncated": 2 })
    });
}

/// What to send to a port of lines, the reason under which it is counted, and a word of what the log advises.
const STRANGERS: &[(&[u8], &str, &str)] = &[
    (b"GET /metrics HTTP/1.1\r\nHost: x:2003\r\nUser-Agent: Prometheus/2.2.1\r\n\r\n", "http", "HTTP"),
    (b"SSH-2.0-OpenSSH_9.6\r\n\0\0\x05\xdc", "ssh", "SSH"),
    (b"\x16\x03\x01\0\x50\x01\x01", "tls_handshake", "write tls: for tcp:"),
    (b"\0\0\0V(l(S'a.b'\n(L1700000000L\nS'0.0'\ntta.", "pickle_on_line", "set :protocol=auto"),
    (b"\x80\x02](U\x01aJ\xff\xff\xff\xffK\x01\x86\x86e.", "pickle_no_length", "write the length first"),
];

#[test]
fn a_stranger_is_named_with_what_to_change_counted_once_and_stores_nothing() {
    let world = World::new();
    let daemon = world.daemon(&[
        "--endpoint",
        "tcp:port=0:interface=127.0.0.1:protocol=line",
        "--endpoint",
        "udp:port=0:interface=127.0.0.1",
    ]);
    for (bytes, reason, advice) in STRANGERS {
        // Whoever is turned away may be so before all of it is written.
        let _ = daemon.connect().write_all(bytes);
        daemon.expect_count(&format!("/malformed/{reason}"), 1);
        let turned_away = &daemon.expect_log(reason, |line| line["reason"] == *reason)[0];
        assert!(turned_away["cause"].as_str().unwrap().contains(advice), "{turned_away}");
    }
    daemon.send_datagram(STRANGERS[0].0);
    daemon.expect_count("/malformed/http", 2);
    daemon.send_lines("known", 2);
    world.expect_points(2);
    let stats = daemon.stats();
    assert_eq!(stats["malformed"].as_object().unwrap().len(), STRANGERS.len(), "{}", stats["malformed"]);
}

#[test]
fn a_proxys_header_stores_no_series_and_what_follows_it_is_taken() {
    let world = World::new();
    let daemon = world.daemon(&["--endpoint", "tcp:port=0:interface=127.0.0.1:protocol=auto"]);
    let text = b"PROXY TCP4 10.0.0.1 10.0.0.2 56324 2003\r\n";
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\xdc\x04\x07\xd3";
    daemon.send([&text[..], lines("text", 2).as_bytes()].concat());
    daemon.send([&binary[..], lines("binary", 2).as_bytes()].concat());
    daemon.send([&binary[..], &frame(&[("pickle", 1.0)])].concat());
    world.expect_points(5);
    assert_eq!(
        world.stored().into_keys().collect::<Vec<_>>(),
        ["binary.0", "binary.1", "pickle", "text.0", "text.1"]
    );
    daemon.expect("headers only", |stats| stats["malformed"] == serde_json::json!({ "proxy_header": 3 }));
    let said = daemon.expect_said("malformed input is not forwarded");
    assert!(said["cause"].as_str().unwrap().contains("send-proxy"), "{said}");
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_name() {
    let world = World::new();
    let daemon = world.daemon(&[
        "--endpoint",
        "tcp:port=0:interface=127.0.0.1:protocol=line",
        "--endpoint",
        "udp:port=0:interface=127.0.0.1",
    ]);
    let marked = |text: String| [b"\xef\xbb\xbf", text.as_bytes()].concat();
    daemon.send(marked(lines("tcp", 1)));
    daemon.send_datagram(marked(lines("udp", 1)));
    world.expect_points(2);
    assert_eq!(world.stored().into_keys().collect::<Vec<_>>(), ["tcp.0", "udp.0"]);
}

#[test]
fn more_senders_than_connections_wait_and_lose_nothing() {
    let world = World::new();
    let daemon = world.daemon(&["--connections", "2"]);
    let mut first = daemon.connect();
    let second = daemon.connect();
    let connected = |stats: &serde_json::Value| stats["listeners"][0]["connections"] == 2;
    daemon.expect("2 connections", connected);
    for i in 0..5 {
        daemon.send_lines(&format!("waiting.{i}"), 2);
    }
    daemon.expect_said("as many connections as --connections allows: more senders have to wait");
    first.write_all(lines("first", 3).as_bytes()).unwrap();
    world.expect_points(3);
    assert!(connected(&daemon.stats()));
    drop(second);
    world.expect_points(13);
    daemon.expect_delivered(13);
}

#[test]
fn each_endpoint_speaks_its_own_protocol() {
    let world = World::new();
    let daemon = world.daemon(&[
        "--protocol",
        "pickle",
        "--endpoint",
        "tcp:port=0:interface=127.0.0.1",
        "--endpoint",
        "tcp:port=0:interface=127.0.0.2:protocol=line",
        "--endpoint",
        "udp:port=0:interface=127.0.0.1",
    ]);
    daemon.send(frame(&[("pickle", 1.0)]));
    let line_port = daemon.port("tcp:127.0.0.2");
    TcpStream::connect(("127.0.0.2", line_port)).unwrap().write_all(lines("line", 2).as_bytes()).unwrap();
    daemon.send_datagram(lines("udp", 3));
    world.expect_points(6);
    let stats = daemon.stats();
    let seen =
        |i: usize| (stats["listeners"][i]["protocol"].clone(), stats["listeners"][i]["datapoints"].clone());
    assert_eq!(seen(0), ("pickle".into(), 1.into()));
    assert_eq!(seen(1), ("line".into(), 2.into()));
    assert_eq!(stats["listeners"][2]["datapoints"], 3);
    // Whoever mixes them up is told what to set.
    let mut wrong = daemon.connect();
    wrong.write_all(lines("wrong", 1).as_bytes()).unwrap();
    expect_closed(&mut wrong);
    let said = daemon.expect_said("a sender is turned away");
    assert!(said["cause"].as_str().unwrap().contains("set :protocol=auto"), "{said}");
}
