//! What real Graphite senders wrote, sent again: Blueflood has exactly what an independent decoder extracts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::world::*;

/// Blueflood's window: three days back, ten minutes ahead, in milliseconds.
const PAST_MS: i64 = 259_200_000;
const FUTURE_MS: i64 = 600_000;

/// Each point with its last value and how often it came.
type Points = BTreeMap<(String, i64), (f64, u64)>;

struct Capture {
    sender: String,
    stream: Vec<u8>,
    /// The lengths of the datagrams; none for TCP.
    datagrams: Vec<usize>,
    expected: Vec<(String, f64, Value)>,
}

fn captures() -> Vec<Capture> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
    let read = |folder: std::fs::DirEntry| {
        let sender = folder.file_name().into_string().unwrap();
        let lengths = std::fs::read_to_string(folder.path().join("datagram_lengths.txt")).unwrap_or_default();
        Capture {
            stream: data(&format!("captures/{sender}/stream.bin")),
            datagrams: lengths.lines().map(|length| length.parse().unwrap()).collect(),
            expected: serde_json::from_slice(&data(&format!("captures/{sender}/expected.json"))).unwrap(),
            sender,
        }
    };
    let mut captures: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|folder| read(folder.unwrap())).collect();
    captures.sort_by(|a, b| a.sender.cmp(&b.sender));
    captures
}

/// Sends every capture to a daemon whose Blueflood's clock stands at `now_ms`. What that Blueflood takes for too old
/// or too new is refused, and counted; the rest is there, exactly.
fn all_arrive_at(now_ms: i64) {
    let world = World::at(now_ms);
    let tcp = ["--endpoint", "tcp:port=0:interface=127.0.0.1:protocol=auto"];
    let udp = ["--endpoint", "udp:port=0:interface=127.0.0.1"];
    let daemon =
        world.daemon(&[&tcp[..], &udp[..], &["--interval", "0.02", "--seal_interval", "0.01"]].concat());
    let (mut received, mut skipped, mut delivered, mut refused) = (0, 0, 0, 0);
    for capture in captures() {
        let sender = &capture.sender;
        if capture.datagrams.is_empty() {
            daemon.send(&capture.stream);
        } else {
            let mut stream = &capture.stream[..];
            for length in capture.datagrams {
                let (datagram, rest) = stream.split_at(length);
                daemon.send_datagram(datagram);
                stream = rest;
            }
        }
        let mut expected = Points::new();
        for (name, timestamp, value) in capture.expected {
            received += 1;
            let ms = (timestamp * 1000.0).round() as i64;
            match value.as_f64() {
                None => skipped += 1,
                Some(_) if !(now_ms - PAST_MS..=now_ms + FUTURE_MS).contains(&ms) => refused += 1,
                Some(value) => {
                    delivered += 1;
                    let point = expected.entry((name, ms)).or_insert((value, 0));
                    *point = (value, point.1 + 1);
                }
            }
        }
        daemon.expect(&format!("all of {sender} settled"), |stats| {
            let datapoints = &stats["datapoints"];
            datapoints["received"] == received && datapoints["buffered"] == 0
        });
        let datapoints = daemon.stats()["datapoints"].clone();
        assert_eq!(datapoints["skipped"], skipped, "{sender}");
        assert_eq!(datapoints["refused"], refused, "{sender}");
        assert_eq!(datapoints["delivered"], delivered, "{sender}");
        let points = world.blueflood.points(TENANT).into_iter();
        let stored: Points = points.map(|p| ((p.name, p.ms), (p.value.as_f64(), p.times))).collect();
        assert!(stored == expected, "{sender}: {stored:#?}\ninstead of {expected:#?}");
        world.blueflood.clear();
    }
    assert_eq!(received, 5_769);
    assert_eq!(daemon.stats()["malformed"], serde_json::json!({}));
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn what_was_sent_by_the_senders_own_clocks() {
    all_arrive_at(1_795_547_700_000);
}

#[test]
fn what_was_sent_with_made_up_times() {
    all_arrive_at(1_448_390_400_000);
}
