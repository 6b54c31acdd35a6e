//! serde-pickle as encoder and as oracle: what it writes we read, and whatever both read means the same to both.
//!
//! It only ever sees frames of a few hundred bytes that it encoded itself, with at most one byte changed: frames from
//! elsewhere can overflow its stack or take all memory.

use std::collections::BTreeMap;

use actors::core::datapoint::Reason;
use proptest::prelude::*;
use serde_pickle::{DeOptions, HashableValue, SerOptions, Value};

use crate::support::{Point, Received, decode_pickle};

/// Anything that could stand where a number should.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        5 => any::<i32>().prop_map(|number| Value::I64(number.into())),
        5 => any::<i64>().prop_map(Value::I64),
        5 => any::<f64>().prop_map(Value::F64),
        2 => any::<i128>().prop_map(|number| Value::Int(number.into())),
        2 => any::<bool>().prop_map(Value::Bool),
        2 => any::<f32>().prop_map(|number| Value::String(number.to_string())),
        1 => "[0-9.e ]{0,4}".prop_map(Value::String),
        1 => Just(Value::Bytes(b" 1e3\n".to_vec())),
        1 => Just(Value::None),
        1 => Just(Value::List(vec![Value::I64(1)])),
        1 => Just(Value::Dict(BTreeMap::from([(HashableValue::I64(1), Value::None)]))),
    ]
}

fn name() -> impl Strategy<Value = Value> {
    prop_oneof![
        9 => ".{0,12}".prop_map(Value::String),
        3 => prop::collection::vec(any::<u8>(), 0..12).prop_map(Value::Bytes),
        1 => number(),
    ]
}

fn sequence(items: impl Strategy<Value = Vec<Value>>) -> impl Strategy<Value = Value> {
    (items, any::<bool>())
        .prop_map(|(items, list)| if list { Value::List(items) } else { Value::Tuple(items) })
}

/// A list of items, most of them datapoints.
fn frame_value() -> impl Strategy<Value = Value> {
    let pair = || sequence((number(), number()).prop_map(|(timestamp, value)| vec![timestamp, value]));
    let point = prop_oneof![
        9 => pair(),
        1 => sequence(prop::collection::vec(number(), 0..4)),
        1 => number(),
    ];
    let points = prop::collection::vec(point, 0..3);
    let item = prop_oneof![
        9 => sequence((name(), pair()).prop_map(|(name, point)| vec![name, point])),
        3 => sequence((name(), points).prop_map(|(name, points)| [vec![name], points].concat())),
        1 => number(),
    ];
    sequence(prop::collection::vec(item, 0..4))
}

/// Opcodes that it reads in a way of its own: DUP, and those of objects.
const DIFFERENT: &[u8] = b"2bcioPQR\x81\x82\x83\x84\x92\x93\x97\x98";

fn options() -> impl Strategy<Value = SerOptions> {
    prop_oneof![Just(SerOptions::new()), Just(SerOptions::new().proto_v2())]
}

// === what a value means, said as plainly as can be ===

fn items_of(value: &Value) -> Option<&[Value]> {
    match value {
        Value::List(items) | Value::Tuple(items) => Some(items),
        _ => None,
    }
}

fn text_of(value: &Value) -> Option<&[u8]> {
    match value {
        Value::String(text) => Some(text.as_bytes()),
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::I64(number) => Some(*number as f64),
        Value::F64(number) => Some(*number),
        Value::Bool(number) => Some((*number).into()),
        Value::Int(number) => number.to_string().parse().ok().filter(|number: &f64| number.is_finite()),
        // As Python's float() does it: the vertical tab is a blank too.
        _ => {
            let is_blank = |c: char| matches!(c, ' ' | '\t'..='\r');
            std::str::from_utf8(text_of(value)?).ok()?.trim_matches(is_blank).parse().ok()
        }
    }
}

fn meaning(value: &Value) -> Result<Received, Reason> {
    let mut received = Received::new();
    for item in items_of(value).ok_or(Reason::PickleNoList)? {
        let Some([name, points @ ..]) = items_of(item) else {
            received.push(Err(Reason::ItemShape));
            continue;
        };
        let Some(name) = text_of(name) else {
            received.push(Err(Reason::ItemName));
            continue;
        };
        if points.is_empty() {
            received.push(Err(Reason::ItemShape));
        }
        received.extend(points.iter().map(|point| match items_of(point) {
            Some([timestamp, value, ..]) => match (number_of(timestamp), number_of(value)) {
                (Some(timestamp), Some(value)) => Ok(Point::new(name, timestamp, value)),
                _ => Err(Reason::ItemNumber),
            },
            _ => Err(Reason::ItemShape),
        }));
    }
    Ok(received)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_serde_pickle_writes_is_what_we_read(value in frame_value(), options in options()) {
        let frame = serde_pickle::value_to_vec(&value, options).unwrap();
        prop_assert_eq!(decode_pickle(&frame), meaning(&value));
    }

    #[test]
    fn what_both_still_read_in_a_damaged_frame_means_the_same_to_both(
        value in frame_value(),
        options in options(),
        index: prop::sample::Index,
        byte: u8,
    ) {
        let mut frame = serde_pickle::value_to_vec(&value, options).unwrap();
        *index.get_mut(&mut frame) = byte;
        // It bends whatever `_codecs.encode` is given into Latin-1; DUP makes a second list, where Python's is the same; and
        // of objects it makes what it likes.
        if frame.windows(7).any(|word| word == b"_codecs") || DIFFERENT.contains(&byte) {
            return Ok(());
        }
        if let (Ok(ours), Ok(value)) =
            (decode_pickle(&frame), serde_pickle::value_from_slice(&frame, DeOptions::new()))
        {
            // An opcode that came to light where a length was damaged.
            if ours.contains(&Err(Reason::ItemClass)) {
                return Ok(());
            }
            prop_assert_eq!(Ok(ours), meaning(&value), "{}", frame.escape_ascii());
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_refused_as_a_whole(value in frame_value(), index: prop::sample::Index) {
        let mut frame = serde_pickle::value_to_vec(&value, SerOptions::new()).unwrap();
        frame.truncate(index.index(frame.len()));
        prop_assert_eq!(decode_pickle(&frame), Err(Reason::PickleUnfinished));
    }
}
