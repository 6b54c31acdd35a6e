//! Owns the encoding of one datapoint as a row, the JSON object that Blueflood stores.
//! It never decides about a frame or a connection, and allocates nothing for a datapoint.
//!
//! ```text
//! {"collectionTime":1700000000000,"ttlInSeconds":86400,"metricValue":1.5,"metricName":"a.b"}
//! ```
//!
//! What Blueflood would swallow in silence, or refuse together with its neighbours, never becomes a row: no
//! null, no NaN, no time beyond an integer of milliseconds, no name that JSON or Cassandra could not hold
//! (`actors/contract/blueflood.md`, "What is swallowed in silence" and "Whole-request errors").

use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;

use super::{datapoint::Datapoint, scan};

/// The longest key that Cassandra takes, in bytes; Blueflood's key is `tenant.name`.
pub const KEY_BYTES_MAX: usize = 65_535;

/// What every row but the first begins with. A name cannot contain it: a quote within a name is escaped, and
/// the quote that ends a name is followed by `}`.
const SEAM: &[u8] = b"\"},{\"collectionTime\":";

/// How much of [`SEAM`] belongs to the row before it.
const SEAM_TAIL: usize = b"\"}".len();

/// Milliseconds beyond which an integer is no longer exact in a JSON reader that uses doubles.
const TIME_MS_MAX: f64 = 9_007_199_254_740_992.0;

/// Below this, a whole number is written as an integer and `.0`.
const WHOLE_MAX: f64 = 1e15;

/// Why a well-formed datapoint is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skipped {
    /// The value is NaN: JSON has no such number, and Blueflood refuses the whole batch for it.
    ValueNan,
    /// The value is infinite: likewise.
    ValueInfinite,
    /// The timestamp is NaN, infinite, or too far for an integer of milliseconds.
    Timestamp,
    /// The name, with its prefix, is empty.
    NameEmpty,
    /// The name, with its prefix and tenant, is longer than [`KEY_BYTES_MAX`].
    NameTooLong,
    /// The name is no UTF-8, as JSON wants it: whatever stood for the other bytes would make one series of two names.
    NameNotUtf8,
    /// The row alone is longer than `--limit` allows a payload to be.
    OverLimit,
}

impl Skipped {
    /// Every reason, in the order in which they are shown.
    pub const ALL: [Skipped; 7] = [
        Skipped::ValueNan,
        Skipped::ValueInfinite,
        Skipped::Timestamp,
        Skipped::NameEmpty,
        Skipped::NameTooLong,
        Skipped::NameNotUtf8,
        Skipped::OverLimit,
    ];

    /// The name under which it is counted: `skipped{reason="..."}`.
    pub const fn label(self) -> &'static str {
        match self {
            Skipped::ValueNan => "value_nan",
            Skipped::ValueInfinite => "value_infinite",
            Skipped::Timestamp => "timestamp",
            Skipped::NameEmpty => "name_empty",
            Skipped::NameTooLong => "name_too_long",
            Skipped::NameNotUtf8 => "name_not_utf8",
            Skipped::OverLimit => "over_limit",
        }
    }
}

/// Rows joined by commas: what a payload holds between its brackets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// The text of the rows.
    pub text: Vec<u8>,
    /// How many rows it is.
    pub count: u32,
}

impl Rows {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends `more`, joined by a comma.
    pub fn append(&mut self, more: RowsRef<'_>) {
        if more.count == 0 {
            return;
        }
        if self.count > 0 {
            self.text.push(b',');
        }
        self.text.extend_from_slice(more.text);
        self.count = self.count.saturating_add(more.count);
    }

    /// The same rows, borrowed.
    pub fn as_ref(&self) -> RowsRef<'_> {
        RowsRef { text: &self.text, count: self.count }
    }
}

/// Rows that are still gathered, as the JSON array that they will be sent in.
#[derive(Debug, Clone)]
pub struct OpenArray {
    /// It has no end yet.
    json: Vec<u8>,
    count: u32,
}

impl OpenArray {
    /// No rows, with room for so many bytes of them.
    pub fn with_room(bytes: usize) -> Self {
        let mut json = Vec::with_capacity(bytes.saturating_add(b"[]".len()));
        json.push(b'[');
        Self { json, count: 0 }
    }

    /// How many rows it is.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the rows.
    pub fn bytes(&self) -> usize {
        self.json.len().saturating_sub(b"[".len())
    }

    /// Appends `more`, joined by a comma.
    pub fn append(&mut self, more: RowsRef<'_>) {
        let mut rows = Rows { text: std::mem::take(&mut self.json), count: self.count };
        rows.append(more);
        (self.json, self.count) = (rows.text, rows.count);
    }

    /// Gathers no more.
    pub fn close(mut self) -> Array {
        self.json.push(b']');
        Array { json: self.json.into(), count: self.count }
    }
}

impl Default for OpenArray {
    fn default() -> Self {
        Self::with_room(0)
    }
}

/// Rows as the JSON array that they are sent in; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    json: Bytes,
    count: u32,
}

impl Array {
    /// All of it: a payload as it is.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The rows between the brackets.
    pub fn text(&self) -> Bytes {
        // It is made here only, and never without brackets.
        self.json.slice(b"[".len()..self.json.len().saturating_sub(b"]".len()).max(b"[".len()))
    }

    /// How many rows it is.
    pub fn count(&self) -> u32 {
        self.count
    }
}

impl From<RowsRef<'_>> for Array {
    fn from(rows: RowsRef<'_>) -> Self {
        let mut array = OpenArray::with_room(rows.text.len());
        array.append(rows);
        array.close()
    }
}

impl From<Rows> for Array {
    fn from(rows: Rows) -> Self {
        rows.as_ref().into()
    }
}

/// Borrowed [`Rows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsRef<'a> {
    /// The text of the rows.
    pub text: &'a [u8],
    /// How many rows it is.
    pub count: u32,
}

impl<'a> RowsRef<'a> {
    /// Cuts off as many rows as fit into `rows_max` and `bytes_max`; the rest is the second half.
    pub fn split(self, rows_max: u32, bytes_max: usize) -> (RowsRef<'a>, RowsRef<'a>) {
        if self.count <= rows_max && self.text.len() <= bytes_max {
            return (self, RowsRef { text: &[], count: 0 });
        }
        let mut head = (0, 0);
        for (ended, end) in self.ends().enumerate() {
            let ended = u32::try_from(ended).unwrap_or(u32::MAX).saturating_add(1);
            if ended > rows_max || end > bytes_max {
                break;
            }
            head = (ended, end);
        }
        let (count, end) = head;
        let (text, rest) = self.text.split_at_checked(end).unwrap_or((self.text, &[]));
        let rest = rest.strip_prefix(b",").unwrap_or(rest);
        (RowsRef { text, count }, RowsRef { text: rest, count: self.count.saturating_sub(count) })
    }

    /// Each row by itself.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut start = 0;
        self.ends().map(move |end| {
            let row = self.text.get(start..end).unwrap_or_default();
            start = end.saturating_add(1);
            row
        })
    }

    /// Where each row ends, in bytes.
    fn ends(self) -> impl Iterator<Item = usize> + use<'a> {
        let last = (self.count > 0).then_some(self.text.len());
        memmem::find_iter(self.text, SEAM).map(|at| at.saturating_add(SEAM_TAIL)).chain(last)
    }
}

/// The name in a row, as it stands there: with its prefix, and escaped.
pub fn name(row: &[u8]) -> Option<&[u8]> {
    // A name cannot contain it, for a quote within a name is escaped.
    const BEFORE: &[u8] = b",\"metricName\":\"";
    let start = memmem::find(row, BEFORE)?.saturating_add(BEFORE.len());
    row.get(start..)?.strip_suffix(b"\"}")
}

/// What every row of a daemon has in common.
#[derive(Debug, Clone)]
pub struct Encoder {
    tenant: Arc<str>,
    /// `,"ttlInSeconds":86400,"metricValue":`
    after_time: Vec<u8>,
    /// `,"metricName":"prefix.`
    after_value: Vec<u8>,
    prefix_bytes: usize,
    name_bytes_max: usize,
    row_bytes_max: usize,
    overwrite_time: bool,
}

/// The settings that shape rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSettings {
    /// Put before each name with a dot between; empty: none.
    pub prefix: String,
    /// Seconds for which Blueflood keeps a datapoint.
    pub ttl_s: u32,
    /// The tenant, whose name shares Cassandra's key with the metric's.
    pub tenant: String,
    /// The largest payload, in bytes before compression.
    pub payload_bytes_max: usize,
    /// Whether the time of receipt replaces the sender's timestamp.
    pub overwrite_time: bool,
}

impl Encoder {
    /// Prepares what all rows share.
    pub fn new(settings: &RowSettings) -> Self {
        let prefix = if settings.prefix.is_empty() { String::new() } else { format!("{}.", settings.prefix) };
        let mut after_value = b",\"metricName\":\"".to_vec();
        push_escaped(&mut after_value, &prefix);
        Self {
            tenant: settings.tenant.as_str().into(),
            after_time: format!(",\"ttlInSeconds\":{},\"metricValue\":", settings.ttl_s).into_bytes(),
            after_value,
            prefix_bytes: prefix.len(),
            name_bytes_max: KEY_BYTES_MAX.saturating_sub(settings.tenant.len()).saturating_sub(1),
            row_bytes_max: settings.payload_bytes_max.saturating_sub(b"[]".len()),
            overwrite_time: settings.overwrite_time,
        }
    }

    /// Whose rows it makes.
    pub fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    /// Appends the row of `datapoint` to `rows`. After an error `rows` is as it was.
    pub fn encode(&self, datapoint: &Datapoint<'_>, now_ms: i64, rows: &mut Rows) -> Result<(), Skipped> {
        let &Datapoint { name, value, .. } = datapoint;
        if !value.is_finite() {
            return Err(if value.is_nan() { Skipped::ValueNan } else { Skipped::ValueInfinite });
        }
        let time_ms = self.time_ms(datapoint.timestamp, now_ms)?;
        let name_bytes = name.len().saturating_add(self.prefix_bytes);
        if name_bytes == 0 {
            return Err(Skipped::NameEmpty);
        }
        if name_bytes > self.name_bytes_max {
            return Err(Skipped::NameTooLong);
        }

        let out = &mut rows.text;
        let before = out.len();
        if rows.count > 0 {
            out.push(b',');
        }
        let start = out.len();
        out.extend_from_slice(b"{\"collectionTime\":");
        out.extend_from_slice(itoa::Buffer::new().format(time_ms).as_bytes());
        out.extend_from_slice(&self.after_time);
        push_float(out, value);
        out.extend_from_slice(&self.after_value);
        let is_utf8 = push_name(out, name);
        out.extend_from_slice(b"\"}");

        let skipped = if !is_utf8 {
            Some(Skipped::NameNotUtf8)
        } else if out.len().saturating_sub(start) > self.row_bytes_max {
            Some(Skipped::OverLimit)
        } else {
            None
        };
        if let Some(skipped) = skipped {
            out.truncate(before);
            return Err(skipped);
        }
        rows.count = rows.count.saturating_add(1);
        Ok(())
    }

    /// The sender's seconds as milliseconds. Like the original's, a timestamp whose whole part is -1 is "now".
    /// Rounded, for Blueflood cuts: 1448390000.001 s times 1000 is a hair below ...001 in floating point.
    fn time_ms(&self, timestamp: f64, now_ms: i64) -> Result<i64, Skipped> {
        if !timestamp.is_finite() {
            return Err(Skipped::Timestamp);
        }
        if self.overwrite_time || (timestamp > -2.0 && timestamp <= -1.0) {
            return Ok(now_ms);
        }
        let ms = timestamp * 1000.0;
        if ms.abs() > TIME_MS_MAX {
            return Err(Skipped::Timestamp);
        }
        // As `round` would, which is a call into libm unless the processor is known to have SSE 4.1.
        let whole = ms as i64;
        let rest = ms - whole as f64;
        Ok(whole.saturating_add(i64::from(rest >= 0.5)).saturating_sub(i64::from(rest <= -0.5)))
    }
}

/// Appends a finite float as JSON: always with a point or an exponent, since Blueflood keeps integers and
/// floats apart and what is stored so far is floats; the shortest text that reads back the same.
fn push_float(out: &mut Vec<u8>, value: f64) {
    // Whole numbers are most of what Graphite senders send, and an integer is written in half the time.
    let whole = value as i64;
    if value.abs() < WHOLE_MAX && whole as f64 == value && (whole != 0 || value.is_sign_positive()) {
        out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
        out.extend_from_slice(b".0");
    } else {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    }
}

/// Whether a name is printable ASCII that JSON takes as it is.
#[inline]
fn is_plain(name: &[u8]) -> bool {
    let past_tilde = b'~' - b' ' + 1;
    !scan::any(name, |byte| (byte.wrapping_sub(b' ') >= past_tilde) | (byte == b'"') | (byte == b'\\'))
}

/// Appends a name within its quotes; false, and nothing appended, if it is no UTF-8.
fn push_name(out: &mut Vec<u8>, name: &[u8]) -> bool {
    if is_plain(name) {
        out.extend_from_slice(name);
        return true;
    }
    let text = std::str::from_utf8(name);
    if let Ok(text) = text {
        push_escaped(out, text);
    }
    text.is_ok()
}

/// Appends text within its quotes, every control character escaped.
fn push_escaped(out: &mut Vec<u8>, text: &str) {
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            control if control.is_control() => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(control)).as_bytes());
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_123;

    fn settings() -> RowSettings {
        RowSettings {
            prefix: String::new(),
            ttl_s: 86_400,
            tenant: "tenant".into(),
            payload_bytes_max: 1_048_576,
            overwrite_time: false,
        }
    }

    fn encode(settings: &RowSettings, name: &[u8], timestamp: f64, value: f64) -> Result<String, Skipped> {
        let mut rows = Rows::default();
        Encoder::new(settings).encode(&Datapoint { name, timestamp, value }, NOW_MS, &mut rows)?;
        Ok(String::from_utf8(rows.text).unwrap())
    }

    #[test]
    fn a_row_is_what_blueflood_stores() {
        assert_eq!(
            encode(&settings(), b"a.b", 1_700_000_000.0, 7.0).unwrap(),
            r#"{"collectionTime":1700000000000,"ttlInSeconds":86400,"metricValue":7.0,"metricName":"a.b"}"#
        );
    }

    #[test]
    fn a_prefix_and_a_dot_come_before_the_name() {
        let row = encode(&RowSettings { prefix: "pre.\"".into(), ..settings() }, b"a", 1.0, 1.0).unwrap();
        assert!(row.ends_with(r#""metricName":"pre.\".a"}"#), "{row}");
    }

    #[test]
    fn values_are_floats_in_their_shortest_form() {
        for (value, text) in [
            (7.0, "7.0"),
            (-0.0, "-0.0"),
            (0.0, "0.0"),
            (-12.0, "-12.0"),
            (0.1, "0.1"),
            (1e300, "1e300"),
            (5e-324, "5e-324"),
            (123_456_789.123_456_79, "123456789.12345679"),
        ] {
            let row = encode(&settings(), b"a", 1.0, value).unwrap();
            let written = row.split("\"metricValue\":").nth(1).unwrap().split(',').next().unwrap();
            assert_eq!(written.parse::<f64>().unwrap().to_bits(), value.to_bits());
            assert_eq!(written.replace("e+", "e"), text);
        }
    }

    #[test]
    fn minus_one_is_now_and_fractions_are_kept_to_the_millisecond() {
        let time = |timestamp| {
            let row = encode(&settings(), b"a", timestamp, 1.0).unwrap();
            row.split([':', ',']).nth(1).unwrap().parse::<i64>().unwrap()
        };
        assert_eq!(time(-1.0), NOW_MS);
        assert_eq!(time(-1.5), NOW_MS);
        assert_eq!(time(-2.0), -2000);
        assert_eq!(time(1_448_390_000.001), 1_448_390_000_001);
        assert_eq!(time(0.0), 0);
    }

    #[test]
    fn what_blueflood_would_swallow_or_choke_on_is_skipped_with_its_reason() {
        let skipped =
            |name: &[u8], timestamp, value| encode(&settings(), name, timestamp, value).unwrap_err();
        assert_eq!(skipped(b"a", 1.0, f64::NAN), Skipped::ValueNan);
        assert_eq!(skipped(b"a", 1.0, f64::NEG_INFINITY), Skipped::ValueInfinite);
        assert_eq!(skipped(b"a", f64::NAN, 1.0), Skipped::Timestamp);
        assert_eq!(skipped(b"a", 1e300, 1.0), Skipped::Timestamp);
        assert_eq!(skipped(b"", 1.0, 1.0), Skipped::NameEmpty);
        assert_eq!(skipped(&vec![b'x'; 65_535 - 6], 1.0, 1.0), Skipped::NameTooLong);
        assert_eq!(skipped(b"caf\xe9", 1.0, 1.0), Skipped::NameNotUtf8);
        let small = RowSettings { payload_bytes_max: 80, ..settings() };
        assert_eq!(encode(&small, b"a", 1.0, 1.0).unwrap_err(), Skipped::OverLimit);
    }

    /// The two were one series: `gr\u{FFFD}\u{FFFD}e`.
    #[test]
    fn names_that_differ_only_in_bytes_of_no_utf8_never_become_one() {
        for name in [
            &b"gr\xf6\xdfe"[..],
            b"gr\xfc\xdfe",
            b"a\xff",
            b"\xc0\x80",
            b"half a pair \xed\xa0\xbd",
            b"cut \xe2\x82",
            b"\xff\xfea\0",
        ] {
            let refused = encode(&settings(), name, 1.0, 1.0);
            assert_eq!(refused, Err(Skipped::NameNotUtf8), "{}", name.escape_ascii());
        }
        assert!(encode(&settings(), "größe.数.\u{FFFD}".as_bytes(), 1.0, 1.0).is_ok());
    }

    #[test]
    fn a_skipped_row_leaves_its_neighbours_whole() {
        let encoder = Encoder::new(&RowSettings { payload_bytes_max: 100, ..settings() });
        let mut rows = Rows::default();
        let good = Datapoint { name: b"a", timestamp: 1.0, value: 1.0 };
        encoder.encode(&good, NOW_MS, &mut rows).unwrap();
        let before = rows.clone();
        for name in [&[b'x'; 100][..], b"caf\xe9"] {
            encoder.encode(&Datapoint { name, ..good }, NOW_MS, &mut rows).unwrap_err();
            assert_eq!(rows, before);
        }
    }

    proptest! {
        #[test]
        fn rows_read_back_as_what_was_sent(
            points in prop::collection::vec((".*", -4e9..4e9f64, prop::num::f64::NORMAL | prop::num::f64::ZERO), 1..20),
            rows_max in 1u32..8,
        ) {
            let encoder = Encoder::new(&settings());
            let mut rows = Rows::default();
            let mut sent = Vec::new();
            for (name, timestamp, value) in &points {
                let datapoint = Datapoint { name: name.as_bytes(), timestamp: *timestamp, value: *value };
                if encoder.encode(&datapoint, NOW_MS, &mut rows).is_ok() {
                    sent.push((name.clone(), *value));
                }
            }
            let read = |text: &[u8]| -> Vec<(String, f64)> {
                let body = [b"[", text, b"]"].concat();
                let parsed: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
                parsed.iter().map(|row| (row["metricName"].as_str().unwrap().into(), row["metricValue"].as_f64().unwrap())).collect()
            };
            prop_assert_eq!(read(&rows.text), sent.clone());
            prop_assert_eq!(rows.as_ref().iter().count(), sent.len());

            // Cut anywhere, each piece is valid rows, and together they are all of them.
            let mut pieces = Vec::new();
            let mut rest = rows.as_ref();
            while rest.count > 0 {
                let (head, tail) = rest.split(rows_max, usize::MAX);
                prop_assert!(head.count > 0 && head.count <= rows_max);
                pieces.extend(read(head.text));
                rest = tail;
            }
            prop_assert_eq!(pieces, sent);
        }

        #[test]
        fn names_full_of_seams_are_cut_where_rows_end(name in r#"["},\{:\[\]a]{0,12}"#, n in 1usize..5) {
            let encoder = Encoder::new(&settings());
            let mut rows = Rows::default();
            for _ in 0..n {
                let name = format!("x{name}\"}},{{\"collectionTime\":");
                encoder.encode(&Datapoint { name: name.as_bytes(), timestamp: 1.0, value: 1.0 }, 0, &mut rows).unwrap();
            }
            prop_assert_eq!(rows.as_ref().iter().count(), n);
        }
    }
}
