//! What the original made of odd inputs: the same here, save where it was at fault, and each such case says how.

use std::fs;
use std::ops::Range;

use actors::core::protocol::Protocol;
use serde_json::Value;

use crate::support::{data, receive};

/// The cases in which we differ, with the original's fault. A case that no longer differs must leave this table.
const FAULTS: &[(&str, &str)] = &[
    ("pickle proto0 py2 unicode non-ascii name", NON_ASCII),
    ("pickle proto1 py2 unicode non-ascii name", NON_ASCII),
    ("name non-BMP", NON_ASCII),
    ("pickle proto3 py3", PYTHON_3),
    ("pickle proto4 py3", PYTHON_3),
    ("pickle proto5 py3", PYTHON_3),
    ("py2 str name with high byte \\xff", NOT_UTF8),
    ("line: non-utf8 name", NOT_UTF8),
    ("value None", ONE_BAD_ITEM),
    ("value list", ONE_BAD_ITEM),
    ("ts NaN", ONE_BAD_TIMESTAMP),
    ("ts inf", ONE_BAD_TIMESTAMP),
    ("line: ts nan", ONE_BAD_TIMESTAMP),
    ("line: ts inf", ONE_BAD_TIMESTAMP),
    ("item of 3", ONE_BAD_ITEM),
    ("item of 1", ONE_BAD_ITEM),
    ("datapoint empty", ONE_BAD_ITEM),
    ("datapoint is int", ONE_BAD_ITEM),
    ("datapoint is string '12'", "it took the characters of a text for a timestamp and a value"),
    ("name int", "it sent a name that is a number, which Blueflood does not take"),
    ("opt prefix, name int", "one name that was a number cost the whole batch"),
    ("malicious pickle builtins.eval in value", "it ran the code in the pickle"),
    ("set via __builtin__.set global", "it imported and called what the pickle named; no sender writes sets"),
    (
        "decimal value (py2)",
        "it imported and called what the pickle named; no sender was seen to write Decimals",
    ),
    (
        "line: pickle frame sent to line port",
        "it read a pickle as lines, for as long as they came; its sender is turned away here, and told what to change",
    ),
    ("line: no trailing newline then close", "it dropped a whole last line at a clean close"),
];

const NON_ASCII: &str = "a unicode name that isn't ASCII raised an error in its log call: the rest was lost";
const PYTHON_3: &str = "Python 2 knows no protocol over 2: the frame was lost, the connection closed";
const NOT_UTF8: &str = "one name that isn't UTF-8 cost the whole batch";
const ONE_BAD_ITEM: &str = "one bad item cost the rest of the frame, and the connection";
const ONE_BAD_TIMESTAMP: &str =
    "one timestamp that is no time cost what followed it; ours is skipped later, by reason";

/// When the original was run, in milliseconds of its clock: a time in there stands for "now".
const RUN_MS: Range<f64> = 1_795_000_000_000.0..1_796_000_000_000.0;

/// A row of a body, without its ttl: name, collection time in milliseconds (`None` for now), value.
type Row = (Value, Option<f64>, f64);

struct Case(Value);

impl Case {
    fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap()
    }

    fn input(&self) -> Vec<u8> {
        self.text("input_latin1").chars().map(|character| u8::try_from(character).unwrap()).collect()
    }

    /// The argument of an option that it was run with.
    fn option(&self, name: &str) -> &str {
        let arguments = self.0["args"].as_array().unwrap();
        let position = arguments.iter().position(|argument| argument == name);
        position.map_or("", |position| arguments[position + 1].as_str().unwrap())
    }

    /// What the original POSTed.
    fn theirs(&self) -> Vec<Row> {
        let bodies = self.0["bodies"].as_array().unwrap();
        let rows = bodies.iter().flat_map(|body| {
            // Infinity is Python's word; JSON has none.
            let body = body.as_str().unwrap().replace("-Infinity", "\"-inf\"").replace("Infinity", "\"inf\"");
            serde_json::from_str::<Vec<Value>>(&body).unwrap()
        });
        rows.map(|row| {
            let time = row["collectionTime"].as_f64().unwrap();
            let value = match &row["metricValue"] {
                Value::String(infinity) => infinity.parse().unwrap(),
                number => number.as_f64().unwrap(),
            };
            (row["metricName"].clone(), (!RUN_MS.contains(&time)).then_some(time), value)
        })
        .collect()
    }

    /// What our decoders make of it, under the options and rules that lie beyond a decoder: NaN isn't forwarded, -1 is
    /// now, and the prefix stands before the name.
    fn ours(&self) -> Vec<Row> {
        let protocol: Protocol = self.text("protocol").parse().unwrap();
        let input = self.input();
        let prefix = Some(self.option("-p")).filter(|prefix| !prefix.is_empty());
        let overwrite = !self.option("--overwrite_collection_timestamp").is_empty();
        let datapoints = receive(protocol, [&input[..]]).into_iter().flatten();
        datapoints
            .filter(|point| !point.value.is_nan())
            .map(|point| {
                let name = String::from_utf8_lossy(&point.name);
                let name = prefix.map_or(name.to_string(), |prefix| format!("{prefix}.{name}"));
                let now = overwrite || point.timestamp.trunc() == -1.0;
                (name.into(), (!now).then_some(point.timestamp * 1000.0), point.value)
            })
            .collect()
    }
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(data("original-cases.jsonl")).unwrap();
    text.lines().map(|line| Case(serde_json::from_str(line).unwrap())).collect()
}

#[test]
fn each_case_gives_what_the_original_gave_save_for_its_faults() {
    let cases = cases();
    assert_eq!(cases.len(), 98);
    for (name, _) in FAULTS {
        assert!(cases.iter().any(|case| case.text("name") == *name), "no such case: {name}");
    }
    let mut wrong = Vec::new();
    for case in &cases {
        let listed = FAULTS.iter().any(|(name, _)| *name == case.text("name"));
        let (ours, theirs) = (case.ours(), case.theirs());
        // Compared as text: NaN, as a timestamp, equals nothing.
        if listed == (format!("{ours:?}") == format!("{theirs:?}")) {
            wrong.push(format!(
                "{} (listed: {listed})\n  theirs {theirs:?}\n  ours   {ours:?}",
                case.text("name")
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
