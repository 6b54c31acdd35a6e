//! Datapoints as they pass: what a tap shows, that strangers cannot write on its terminal, and that nothing an onlooker
//! does or leaves undone changes the flow.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::world::*;

fn stats_address(daemon: &Daemon) -> String {
    let url = daemon.stats_url();
    url.trim_start_matches("http://").trim_end_matches("/stats").to_owned()
}

/// `blueflood-forward tap`, whose reader is the test.
struct Tap {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Tap {
    /// Waits until the daemon knows of it.
    fn open(daemon: &Daemon, more: &[&str]) -> Self {
        let before = daemon.stats()["taps"].as_u64().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"));
        command
            .args(["tap", "--stats", &stats_address(daemon)])
            .args(more)
            .env_clear()
            .env("HOME", "/nowhere");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        daemon.expect("one more tap", |stats| stats["taps"] == before + 1);
        Self { child, lines }
    }

    /// Its next line, without the time it begins with.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let (time, rest) = line.trim_end().split_once("  ").unwrap_or_else(|| panic!("{line:?}"));
        assert_eq!(time.len(), "12:34:56.789".len(), "{line}");
        rest.to_owned()
    }

    /// How it ended, what else it showed, and its words.
    fn ended(mut self) -> (ExitStatus, String, String) {
        // To its end, for whoever finds its output closed says nothing.
        let (mut rest, mut words) = (String::new(), String::new());
        self.lines.read_to_string(&mut rest).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        (self.child.wait().unwrap(), rest, words)
    }

    fn interrupt(self) -> (ExitStatus, String, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
        self.ended()
    }
}

#[test]
fn what_passes_is_shown_and_what_does_not_with_its_reason() {
    let world = World::new();
    let daemon = world.daemon(&["--metric_prefix", "site"]);
    let mut tap = Tap::open(&daemon, &[]);
    let tcp = format!("tcp:127.0.0.1:{}", daemon.port("tcp:"));

    let mut sender = daemon.connect();
    let peer = sender.local_addr().unwrap();
    sender.write_all(b"evil.\x1b[2J\xc2\x9b31m 1.5 -1\nb\xc3\xa9 2 1700000000\n").unwrap();
    assert_eq!(tap.line(), format!("{tcp} line  evil.\\u{{1b}}[2J\\u{{9b}}31m  1.5  -1 (now)"));
    let line = tap.line();
    assert!(
        line.starts_with(&format!("{tcp} line  bé  2  1700000000 (")) && line.ends_with(" days ago)"),
        "{line}"
    );

    sender.write_all(b"two fields\x1b]0;x\x07\nn.1 nan 7\nn.\x9b31m 1 7\n").unwrap();
    assert_eq!(
        tap.line(),
        format!("{tcp} line  MALFORMED line_fields from {peer}: two fields\\u{{1b}}]0;x\\u{{7}}")
    );
    assert_eq!(tap.line(), format!("{tcp} line  SKIPPED value_nan from {peer}: n.1 NaN 7"));
    assert_eq!(tap.line(), format!("{tcp} line  SKIPPED name_not_utf8 from {peer}: n.\\x9b31m 1 7"));

    // What ends a connection, or was no frame, comes by other ways than what is in one.
    daemon.send(framed(b"\x80\x02cos\nsystem\nq\x00."));
    assert!(tap.line().contains("pickle  MALFORMED pickle_call from 127.0.0.1:"));
    daemon.send(b"\0\0\0\0\0\xff\xff\xff");
    assert!(tap.line().contains("MALFORMED frame_empty from 127.0.0.1:"));
    assert!(tap.line().contains("MALFORMED frame_too_long from 127.0.0.1:"));
    daemon.send(frame(&[("p.1", 7.0)]));
    assert!(tap.line().starts_with(&format!("{tcp} pickle  p.1  7  ")));

    daemon.expect_settled(5);
    daemon.expect("no datapoint counted twice", |stats| stats["datapoints"]["skipped"] == 2);
    let (status, _, words) = tap.interrupt();
    assert!(status.success(), "{status}");
    assert!(words.contains("3 datapoints that passed, 6 of 6 malformed or skipped"), "{words}");
    daemon.expect("no tap", |stats| stats["taps"] == 0);
}

#[test]
fn a_glob_picks_names_and_a_limit_ends_it() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let mut tap = Tap::open(&daemon, &["--match", "{web,db}0?.*", "--limit", "4"]);
    let time = now();
    daemon.send(format!("a 1 {time}\nweb01.x 2 {time}\ndb02.y.z 3 {time}\nb x 1\n"));
    daemon.send(format!("web03.q x 1\nweb004.r 4 {time}\nweb05.s 5 {time}\nweb06.t 6 {time}\n"));
    let shown: Vec<_> = (0..4).map(|_| tap.line()).collect();
    for name in ["  web01.x  2  ", "  db02.y.z  3  ", ": web03.q x 1", "  web05.s  5  "] {
        assert!(shown.iter().any(|line| line.contains(name)), "{name} is not in {shown:#?}");
    }
    let (status, rest, words) = tap.ended();
    assert_eq!(rest, "");
    assert!(status.success() && words.contains("shown: 3 of "), "{words}");
}

#[test]
fn a_reader_that_goes_or_a_daemon_that_stops_ends_it_without_noise() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    // As `tap | head -2` does.
    let mut tap = Tap::open(&daemon, &[]);
    daemon.send_lines("a", 2);
    assert!(tap.line().contains("  a.0  0  ") && tap.line().contains("  a.1  1  "));
    let Tap { mut child, lines } = tap;
    drop(lines);
    assert!(until(|| {
        daemon.send_lines("b", 1);
        child.try_wait().unwrap().is_some()
    }));
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert!(child.wait().unwrap().success() && words.lines().count() == 1, "{words}");

    let tap = Tap::open(&daemon, &[]);
    assert_eq!(daemon.stop().code, Some(0));
    let (status, _, words) = tap.ended();
    assert_eq!(status.code(), Some(1));
    assert!(words.contains("error: the daemon at 127.0.0.1:"), "{words}");
    assert!(words.contains("is gone") || words.contains("ended the tap"), "{words}");
}

#[test]
fn a_daemon_that_is_not_there_is_said() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"))
        .args(["tap", "--stats", &nobody])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        words.contains(&format!("no daemon answers at {nobody}: ")) && words.contains("its --stats?"),
        "{words}"
    );
}

/// A tap of which the test reads what it likes: the answer's first line is read.
fn raw_tap(daemon: &Daemon, query: &str) -> (String, BufReader<TcpStream>) {
    let stream = TcpStream::connect(stats_address(daemon)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(&stream, "GET /tap{query} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status).unwrap();
    (status, reader)
}

#[test]
fn taps_that_are_never_read_slow_nothing_and_lose_nothing() {
    const BLOCKS: usize = 60;
    const LINES: usize = 5_000;
    let world = World::new();
    let daemon = world.daemon(&["--interval", "0.5"]);
    // Once without any, so that what the flow itself takes is taken.
    let load =
        |name: &str| (0..BLOCKS).for_each(|block| daemon.send_lines(&format!("{name}.{block}"), LINES));
    let all = (BLOCKS * LINES) as u64;
    load("before");
    daemon.expect_delivered(all);
    let before = daemon.peak_memory_mib();

    let stopped: Vec<_> =
        ["", "?match=*", "?match=*a???????????", ""].map(|query| raw_tap(&daemon, query)).into();
    assert!(stopped.iter().all(|(status, _)| status.contains(" 200 ")), "{stopped:?}");
    let (status, mut why) = raw_tap(&daemon, "");
    assert!(status.contains(" 503 "), "{status}");
    let mut words = String::new();
    why.read_to_string(&mut words).unwrap();
    assert!(words.contains("4 taps are open already"), "{words}");

    load("after");
    daemon.send("bad\n".repeat(10_000));
    daemon.expect_delivered(2 * all);
    daemon.expect_count("/malformed/line_fields", 10_000);
    assert_eq!(world.blueflood.points(TENANT).len() as u64, 2 * all);
    assert_eq!(daemon.stats()["taps"], 4, "they are all still there");
    let more = daemon.peak_memory_mib() - before;
    assert!(more < 24, "taps took {more} MiB");

    // Whoever reads on is not told a tale: what was not shown is counted.
    let (_, mut tap) = stopped.into_iter().next().unwrap();
    let mut counts = Value::Null;
    let mut line = String::new();
    while counts["passed"] != all {
        line.clear();
        assert_ne!(tap.read_line(&mut line).unwrap(), 0, "it ended: {counts}");
        match serde_json::from_str::<Value>(&line) {
            Ok(said) if said["what"] == "counts" => counts = said,
            _ => {}
        }
    }
    assert!(counts["shown"].as_u64().unwrap() < 10_000 && counts["bad"] == 10_000, "{counts}");
    drop(tap);
    daemon.expect("no tap", |stats| stats["taps"] == 0);
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn a_rare_name_is_found_behind_a_flood_and_what_was_not_shown_is_counted() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let mut tap = Tap::open(&daemon, &["--match", "*rare", "--limit", "1"]);
    daemon.send_lines("flood", 50_000);
    daemon.expect_received(50_000);
    // One that comes while the flood has taken all looks of this second is not seen: the next second's is.
    let seen = std::thread::scope(|scope| {
        let line = scope.spawn(|| tap.line());
        assert!(until(|| {
            daemon.send(format!("a.rare 1 {}\n", now()));
            line.is_finished()
        }));
        line.join().unwrap()
    });
    assert!(seen.contains("  a.rare  1  "), "{seen}");
    let (status, _, words) = tap.ended();
    assert!(status.success() && words.contains("shown: 1 of 1 datapoints that match, of 500"), "{words}");
}

#[test]
fn neither_a_reload_nor_a_listener_that_dies_ends_it() {
    let world = World::new();
    let file = world.folder.path().join("forward.toml");
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (one, two) = (free(), free());
    let write = |ports: &[u16]| {
        let endpoint = |port| format!("\"tcp:port={port}:interface=127.0.0.1:protocol=line\"");
        let endpoints: Vec<_> = ports.iter().map(endpoint).collect();
        std::fs::write(&file, format!("endpoint = [{}]\n", endpoints.join(", "))).unwrap();
    };
    let send = |port: u16, line: &str| {
        TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(line.as_bytes()).unwrap()
    };
    write(&[one]);
    let daemon = world.daemon(&[ENDPOINT_IN_FILE, "--config", file.to_str().unwrap()]);
    let mut tap = Tap::open(&daemon, &[]);
    send(one, "before 1 -1\n");
    assert!(tap.line().contains("  before  1  "));

    write(&[two]);
    daemon.signal("HUP");
    daemon.expect_said("no longer listening");
    assert!(until(|| TcpStream::connect(("127.0.0.1", two)).is_ok()));
    send(two, "after 2 -1\n");
    assert!(tap.line().contains("  after  2  "));

    #[cfg(feature = "faults")]
    for how in ["stop", "panic"] {
        let path = format!("/end/listener tcp:127.0.0.1:{two}/{how}").replace(' ', "%20");
        let restarts =
            |stats: &Value| stats["actors"][format!("listener tcp:127.0.0.1:{two}")]["restarts"].as_u64();
        let before = restarts(&daemon.stats());
        assert_eq!(daemon.request("POST", &path, "localhost").map(|(status, _)| status), Some(204));
        daemon.expect("a restart", |stats| restarts(stats) > before);
        send(two, "again 3 -1\n");
        assert!(tap.line().contains("  again  3  "));
    }
    assert!(tap.interrupt().0.success());

    // The stats port's own actor does end it, and leaves nothing behind.
    #[cfg(feature = "faults")]
    {
        let tap = Tap::open(&daemon, &[]);
        assert_eq!(
            daemon.request("POST", "/end/metrics/panic", "localhost").map(|(status, _)| status),
            Some(204)
        );
        let (status, _, words) = tap.ended();
        assert!(status.code() == Some(1) && words.contains("error: the daemon at"), "{words}");
        assert!(until(|| daemon
            .request("GET", "/stats", "localhost")
            .is_some_and(|(status, _)| status == 200)));
        daemon.expect("no tap, and a restart", |stats| {
            stats["taps"] == 0 && stats["actors"]["metrics"]["restarts"] == 1
        });
    }
}
