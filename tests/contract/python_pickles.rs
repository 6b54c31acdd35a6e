//! Python itself as the oracle: what it pickles, at each protocol, objects among it, and what its `float()` takes.

use std::process::Command;

use actors::core::datapoint::Reason;
use actors::core::number;
use serde_json::Value;

use crate::shared::skip;
use crate::support::{Point, Received, data, decode_pickle};

/// What the script prints; `None`, and a word about it, where there is no Python 3.
fn python(script: &str, what: &str) -> Option<Vec<Value>> {
    let script = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract/{}"), script);
    let probe = Command::new("python3").arg("--version").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skip("there is no python3 here, which is the oracle of pickles");
        return None;
    }
    let output = Command::new("python3").arg("-B").arg(script).arg(what).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(json_lines(&String::from_utf8(output.stdout).unwrap()))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
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
    for line in python("python_pickles.py", "pickles").into_iter().flatten() {
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

/// Between two good datapoints stands an item that holds an object: its name, its time, its value, or itself.
#[track_caller]
fn an_object_costs_only_its_item(line: &Value) {
    let received = decode_pickle(&bytes(&line["pickle"]));
    let [first, bad @ .., last] = received.as_deref().unwrap_or_default() else {
        panic!("{received:?}: {line}")
    };
    let good = |name: &str, value| Ok(Point::new(name, 1448390000.0, value));
    assert_eq!((first, last), (&good("g.1", 1.0), &good("g.2", 2.0)), "{line}");
    assert!(!bad.is_empty() && bad.iter().all(|bad| bad == &Err(Reason::ItemClass)), "{bad:?}: {line}");
}

#[test]
fn decimals_datetimes_and_numpys_numbers_cost_only_their_items() {
    let lines = json_lines(&std::fs::read_to_string(data("object-pickles.jsonl")).unwrap());
    assert!(lines.len() > 40, "{}", lines.len());
    lines.iter().for_each(an_object_costs_only_its_item);
}

#[test]
fn whatever_object_python_pickles_costs_only_its_item() {
    python("object_pickles.py", "many").iter().flatten().for_each(an_object_costs_only_its_item);
}

#[test]
fn the_numbers_that_python_takes_are_those_we_take() {
    for line in python("python_pickles.py", "texts").into_iter().flatten() {
        let text = bytes(&line["text"]);
        let number = number::parse(&text).map(|number| if number.is_nan() { f64::NAN } else { number });
        let expected = Some(&line["float"]).filter(|float| !float.is_null()).map(float);
        assert_eq!(format!("{number:?}"), format!("{expected:?}"), "{:?}", text.escape_ascii().to_string());
    }
}
