//! Senders that mean harm: the daemon lives, its memory is bounded, and its other senders do not notice.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use flate2::read::GzDecoder;

use crate::world::*;

/// The most that a debug build may have needed, in MiB.
const MEMORY_MIB_MAX: u64 = 96;

/// A sender that goes on sending, and whose datapoints all arrive.
struct Neighbour {
    stream: TcpStream,
    sent: usize,
}

impl Neighbour {
    fn of(daemon: &Daemon) -> Self {
        Self { stream: daemon.connect(), sent: 0 }
    }

    fn sends(&mut self) {
        self.stream.write_all(&frame(&[(&format!("neighbour.{}", self.sent), 1.0)])).unwrap();
        self.sent += 1;
    }
}

/// Writes until all is written or the other side has had enough.
fn write_what_is_taken(stream: &mut TcpStream, bytes: &[u8]) {
    if let Err(error) = stream.write_all(bytes) {
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    }
}

#[test]
fn no_pickle_does_harm() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let mut neighbour = Neighbour::of(&daemon);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hostile-frames");
    let mut sent = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let mut pickle = Vec::new();
        GzDecoder::new(std::fs::File::open(file.unwrap().path()).unwrap()).read_to_end(&mut pickle).unwrap();
        let mut stream = daemon.connect();
        write_what_is_taken(&mut stream, &framed(&pickle));
        sent += 1;
        neighbour.sends();
    }
    assert_eq!(sent, 21);
    world.expect_points(sent);
    // All of them have been judged when no connection but the neighbour's is left.
    daemon.expect("1 connection", |stats| stats["listeners"][0]["connections"] == 1);
    daemon.expect_delivered(sent as u64);
    let stats = daemon.stats();
    let reasons = stats["malformed"].as_object().unwrap();
    let frames =
        reasons.iter().filter(|(reason, _)| !reason.starts_with("item_") && *reason != "name_too_long");
    assert_eq!(frames.map(|(_, n)| n.as_u64().unwrap()).sum::<u64>(), 18, "{reasons:?}");
    assert_eq!(daemon.get("/healthz").0, 200);
    let peak = daemon.peak_memory_mib();
    assert!(peak < MEMORY_MIB_MAX, "{peak} MiB");
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn hundreds_that_stop_in_the_middle_of_a_frame() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let mut neighbour = Neighbour::of(&daemon);
    let mut half = (1u32 << 20).to_be_bytes().to_vec();
    half.resize(32 << 10, b'(');
    let slow: Vec<_> = (0..400)
        .map(|i| {
            let mut stream = daemon.connect();
            stream.write_all(if i % 2 == 0 { &half } else { b"half.a.line 1" }).unwrap();
            stream
        })
        .collect();
    daemon.expect("401 connections", |stats| stats["listeners"][0]["connections"] == 401);
    (0..20).for_each(|_| neighbour.sends());
    world.expect_points(20);
    daemon.expect_delivered(20);
    let peak = daemon.peak_memory_mib();
    assert!(peak < MEMORY_MIB_MAX, "{peak} MiB");
    drop(slow);
    daemon.expect_count("/malformed/truncated", 400);
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn more_unfinished_frames_than_there_is_room_for() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let mut neighbour = Neighbour::of(&daemon);
    let mut most = (1u32 << 20).to_be_bytes().to_vec();
    most.resize(1000 << 10, b'(');
    let _greedy: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = daemon.connect();
            write_what_is_taken(&mut stream, &most);
            stream
        })
        .collect();
    let said = "closing a connection in the middle of a frame: all senders together have sent more unfinished \
                frames than there is room for";
    daemon.expect_said(said);
    neighbour.sends();
    world.expect_points(1);
    daemon.expect_delivered(1);
    let peak = daemon.peak_memory_mib();
    assert!(peak < 64 + MEMORY_MIB_MAX, "{peak} MiB");
}

#[test]
fn a_reader_of_the_figures_that_never_reads() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let url = daemon.stats_url();
    let address = url.trim_start_matches("http://").trim_end_matches("/stats").to_owned();
    let mut deaf = TcpStream::connect(address).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let mut written = 0;
    while written < (16 << 20) {
        match deaf.write(&b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000)) {
            Ok(n) => written += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Its buffers are full, or the daemon has not come to read yet; either way others are served.
                assert_eq!(daemon.get("/healthz").0, 200);
                written += 1 << 20;
            }
            Err(_) => break,
        }
    }
    daemon.send_lines("line", 2);
    world.expect_points(2);
    let peak = daemon.peak_memory_mib();
    assert!(peak < MEMORY_MIB_MAX, "{peak} MiB");
}
