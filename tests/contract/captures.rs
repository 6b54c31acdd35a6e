//! Streams of real Graphite senders: each must give exactly what an independent decoder extracts, however it is cut.

use std::fs;
use std::path::{Path, PathBuf};

use actors::core::protocol::Protocol;
use proptest::prelude::*;

use crate::support::{Point, Received, data, listing, parse_lines, receive};

#[derive(Debug)]
struct Capture {
    sender: String,
    stream: Vec<u8>,
    /// For UDP; empty for TCP.
    datagrams: Vec<usize>,
    expected: Received,
}

fn captures() -> Vec<Capture> {
    listing(data("captures")).iter().map(|folder| capture(folder)).collect()
}

fn capture(folder: &Path) -> Capture {
    let read = |file: &str| fs::read(PathBuf::from(folder).join(file));
    let rows: Vec<(String, serde_json::Value, serde_json::Value)> =
        serde_json::from_slice(&read("expected.json").unwrap()).unwrap();
    let number = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text.parse().unwrap(),
        number => number.as_f64().unwrap(),
    };
    Capture {
        sender: folder.file_name().unwrap().to_string_lossy().into_owned(),
        stream: read("stream.bin").unwrap(),
        datagrams: String::from_utf8(read("datagram_lengths.txt").unwrap_or_default())
            .unwrap()
            .lines()
            .map(|length| length.parse().unwrap())
            .collect(),
        expected: rows
            .into_iter()
            .map(|(name, timestamp, value)| Ok(Point::new(name, number(timestamp), number(value))))
            .collect(),
    }
}

#[test]
fn all_of_them_are_here() {
    let captures = captures();
    assert_eq!(captures.len(), 24);
    assert_eq!(captures.iter().filter(|capture| !capture.datagrams.is_empty()).count(), 3);
}

#[test]
fn each_stream_gives_what_was_sent() {
    for capture in captures() {
        for protocol in
            [Protocol::Auto, if capture.stream[0] == 0 { Protocol::Pickle } else { Protocol::Line }]
        {
            let received = receive(protocol, [&capture.stream[..]]);
            assert!(received == capture.expected, "{} as {protocol}", capture.sender);
        }
    }
}

#[test]
fn each_stream_may_come_byte_by_byte() {
    for capture in captures() {
        let received = receive(Protocol::Auto, capture.stream.chunks(1));
        assert!(received == capture.expected, "{}", capture.sender);
    }
}

#[test]
fn each_datagram_stands_alone() {
    for capture in captures().into_iter().filter(|capture| !capture.datagrams.is_empty()) {
        let mut stream = &capture.stream[..];
        let mut received = Received::new();
        for length in capture.datagrams {
            let (datagram, rest) = stream.split_at(length);
            received.extend(parse_lines(datagram));
            stream = rest;
        }
        assert!(stream.is_empty() && received == capture.expected, "{}", capture.sender);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn each_stream_may_be_cut_anywhere(lengths in prop::collection::vec(1..3_000usize, 1..40)) {
        for capture in captures() {
            let mut rest = &capture.stream[..];
            let pieces = lengths.iter().cycle().map_while(|&length| {
                let (piece, after) = rest.split_at(length.min(rest.len()));
                rest = after;
                (!piece.is_empty()).then_some(piece)
            });
            let received = receive(Protocol::Auto, pieces);
            prop_assert!(received == capture.expected, "{}", capture.sender);
        }
    }
}
