//! Python itself as the oracle: what it pickles, at each protocol, and what its `float()` takes.

use std::process::Command;

use actors::core::number;
use serde_json::Value;

use crate::support::{Point, Received, decode_pickle};

/// What the script prints; `None`, and a word about it, where there is no Python 3.
fn python(what: &str) -> Option<Vec<Value>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract/python_pickles.py");
    let probe = Command::new("python3").arg("--version").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no python3 here");
        return None;
    }
    let output = Command::new("python3").arg("-B").arg(script).arg(what).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    Some(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Python's and Rust's texts of floats are each other's.
fn float(text: &Value) -> f64 {
    text.as_str().unwrap().parse().unwrap()
}

#[test]
fn what_python_pickles_is_what_we_read() {
    for line in python("pickles").into_iter().flatten() {
        let frame = bytes(&line["pickle"]);
        let expected: Received = line["expected"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| Ok(Point::new(bytes(&point[0]), float(&point[1]), float(&point[2]))))
            .collect();
        let received = decode_pickle(&frame);
        assert!(
            received.as_ref() == Ok(&expected),
            "protocol {}: {}\nread     {received:?}\nexpected {expected:?}",
            line["protocol"],
            frame.escape_ascii()
        );
    }
}

#[test]
fn the_numbers_that_python_takes_are_those_we_take() {
    for line in python("texts").into_iter().flatten() {
        let text = bytes(&line["text"]);
        let number = number::parse(&text).map(|number| if number.is_nan() { f64::NAN } else { number });
        let expected = Some(&line["float"]).filter(|float| !float.is_null()).map(float);
        assert_eq!(format!("{number:?}"), format!("{expected:?}"), "{:?}", text.escape_ascii().to_string());
    }
}
