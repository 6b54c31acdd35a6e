//! The seeds of the fuzz targets, replayed as tests: they can't rot, and what once broke stays mended.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use actors::core::answer_head::AnswerHeads;
use actors::core::blueflood::{Answer, Verdict, classify};

use crate::support::{Received, decode_pickle, listing, parse_lines};

/// The seeds of a target by name: `sender-` from a captured stream, `case-` from the original's cases, `hostile-`.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus")).join(target);
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    listing(folder).iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

fn is_all_datapoints(received: &Received) -> bool {
    !received.is_empty() && received.iter().all(Result::is_ok)
}

#[test]
fn every_pickle_is_answered() {
    for (name, frame) in seeds("pickle") {
        let received = decode_pickle(&frame);
        if name.starts_with("sender-") {
            assert!(received.is_ok_and(|received| is_all_datapoints(&received)), "{name}");
        } else if name.starts_with("hostile-") {
            assert!(received.is_err(), "{name}");
        }
    }
}

#[test]
fn every_answer_is_a_verdict() {
    for (name, seed) in seeds("answer") {
        let (status, body) = seed.split_first_chunk::<2>().unwrap();
        let status = u16::from_be_bytes(*status);
        let verdict = classify(&Answer { status, retry_after: None, body, now: SystemTime::UNIX_EPOCH });
        assert_eq!(matches!(verdict, Verdict::Stored), status == 200, "{name}: {verdict:?}");
        assert_eq!(
            matches!(verdict, Verdict::Refused(_) | Verdict::StoredExcept { .. }),
            String::from_utf8_lossy(body).contains("\"source\":\"") || name.starts_with("named-"),
            "{name}: {verdict:?}"
        );
    }
}

#[test]
fn every_head_goes_on_or_is_told_with_its_reason() {
    for (name, seed) in seeds("head") {
        let (piece, answer) = seed.split_first().unwrap();
        let mut heads = AnswerHeads::default();
        heads.sent(b"POST");
        let mut on = Vec::new();
        let took = answer.chunks(usize::from(*piece)).try_for_each(|piece| heads.took(piece, &mut on));
        let took = took.and_then(|()| heads.ended());
        assert_eq!(took.is_ok(), name.starts_with("plain-"), "{name}: {took:?}");
        assert_eq!(took.is_ok(), !on.is_empty(), "{name}: {}", on.escape_ascii());
    }
}

#[test]
fn every_line_is_answered() {
    for (name, block) in seeds("line") {
        let received = parse_lines(&block);
        assert!(!name.starts_with("sender-") || is_all_datapoints(&received), "{name}");
    }
}
