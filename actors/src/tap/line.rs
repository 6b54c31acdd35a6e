//! Owns what a tap says: one line of JSON for each thing it shows, and the counts that say how much it does not. It
//! never holds more of a stranger's bytes than a bound, and none that are not printable.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::core::{
    datapoint::{Datapoint, Reason},
    printable::printable,
    protocol::Protocol,
    row::Skipped,
};

/// How much of a name is shown, in bytes.
const NAME_BYTES_SHOWN: usize = 256;

/// How much of a peer's name is shown, in bytes.
const PEER_BYTES_SHOWN: usize = 64;

/// A line of a tap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Line {
    /// A datapoint that passes.
    Datapoint {
        /// Where it comes from.
        #[serde(flatten)]
        origin: Origin,
        /// Its name as it was sent: printable, and cut.
        name: String,
        /// Its value, which is finite.
        value: f64,
        /// Its time as it was sent, in seconds since 1970; -1 is now.
        timestamp: f64,
    },
    /// A datapoint is well-formed, but nothing that Blueflood can store.
    Skipped(Bad),
    /// Something never became a datapoint.
    Malformed(Bad),
    /// How much there was so far. It comes several times a second, and last.
    Counts(Counts),
}

/// Something that is not forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bad {
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: Origin,
    /// Why it is not forwarded.
    pub reason: String,
    /// How it begins; of a skipped datapoint name, value and timestamp, as text, for JSON has no NaN.
    pub sample: String,
}

/// Where something was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// The endpoint that it came by.
    pub endpoint: String,
    /// The protocol of the frame.
    pub protocol: String,
    /// Who sent it.
    pub peer: String,
}

/// How much a tap has seen since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Datapoints that passed.
    pub passed: u64,
    /// Of these, the ones that were not looked at: too many for the time that taps may take, or for this one's lines.
    pub unlooked: u64,
    /// Of those looked at, the ones that the glob means.
    pub matched: u64,
    /// Of these, the ones shown.
    pub shown: u64,
    /// Skipped or malformed, whatever they are called.
    pub bad: u64,
    /// Of these, the ones shown.
    pub bad_shown: u64,
}

/// Where a frame comes from, as it is known while the frame is decoded.
#[derive(Clone, Copy)]
pub(crate) struct Whence<'a> {
    /// When it came, in milliseconds since 1970.
    pub time_ms: i64,
    /// The endpoint that it came by.
    pub endpoint: &'a str,
    /// The protocol of the frame.
    pub protocol: Protocol,
    /// Who sent it.
    pub peer: &'a dyn Display,
}

impl Whence<'_> {
    fn origin(self) -> Origin {
        Origin {
            time_ms: self.time_ms,
            endpoint: printable(self.endpoint.as_bytes(), NAME_BYTES_SHOWN),
            protocol: self.protocol.to_string(),
            peer: printable(self.peer.to_string().as_bytes(), PEER_BYTES_SHOWN),
        }
    }
}

impl Line {
    /// A datapoint that passes. Its value and time are finite: any other is skipped.
    pub(super) fn datapoint(whence: Whence<'_>, datapoint: &Datapoint<'_>) -> Self {
        let &Datapoint { name, value, timestamp } = datapoint;
        Self::Datapoint { origin: whence.origin(), name: printable(name, NAME_BYTES_SHOWN), value, timestamp }
    }

    /// A datapoint that is skipped.
    pub(super) fn skipped(whence: Whence<'_>, reason: Skipped, datapoint: &Datapoint<'_>) -> Self {
        let (origin, reason) = (whence.origin(), reason.label().to_owned());
        Self::Skipped(Bad { origin, reason, sample: skipped_sample(datapoint) })
    }

    /// Something that never became a datapoint.
    pub(super) fn malformed(whence: Whence<'_>, reason: Reason, sample: &[u8]) -> Self {
        let (origin, reason) = (whence.origin(), reason.label().to_owned());
        Self::Malformed(Bad { origin, reason, sample: printable(sample, NAME_BYTES_SHOWN) })
    }
}

/// A skipped datapoint as text.
pub(crate) fn skipped_sample(datapoint: &Datapoint<'_>) -> String {
    let &Datapoint { name, value, timestamp } = datapoint;
    format!("{} {} {}", printable(name, NAME_BYTES_SHOWN), number(value), number(timestamp))
}

/// A number as a person reads it: never with hundreds of digits.
pub fn number(number: f64) -> String {
    let digits =
        |magnitude: f64| !magnitude.is_finite() || magnitude == 0.0 || (1e-6..1e15).contains(&magnitude);
    if digits(number.abs()) { number.to_string() } else { format!("{number:e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back_as_what_was_written() {
        let whence = Whence { time_ms: 1, endpoint: "tcp:1", protocol: Protocol::Line, peer: &"10.0.0.1:5" };
        let datapoint = Datapoint { name: b"a\x1b.\xff", value: 1.5, timestamp: -1.0 };
        for line in [
            Line::datapoint(whence, &datapoint),
            Line::skipped(whence, Skipped::ValueNan, &Datapoint { value: f64::NAN, ..datapoint }),
            Line::malformed(whence, Reason::LineFields, b"x\n\x1by"),
            Line::Counts(Counts { passed: 3, shown: 2, ..Counts::default() }),
        ] {
            let text = serde_json::to_string(&line).unwrap();
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(1.0, "1"), (0.0, "0"), (1.5e300, "1.5e300"), (5e-324, "5e-324"), (f64::NAN, "NaN")]
        {
            assert_eq!(number(value), text);
        }
    }
}
