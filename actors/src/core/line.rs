//! Owns the line protocol: `name value timestamp\n` becomes a datapoint.
//! Never decides where a block of lines ends; that is the framing's job.
#![warn(clippy::arithmetic_side_effects)]

use super::datapoint::{Datapoint, Malformed, Pull, Reason, SAMPLE_BYTES_MAX};
use super::number::{self, is_space, trim};
use super::scan;

/// A datapoint's name, value and timestamp.
const FIELDS: usize = 3;

/// The datapoints of a block of lines, in order; blank lines are nothing.
///
/// The last line counts even without its newline: a datagram need not end with one.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    /// Reads the lines of `block`, without looking at any of them yet.
    pub fn new(block: &'a [u8]) -> Self {
        Lines { rest: block }
    }

    fn next_line(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', self.rest).unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.get(1..).unwrap_or_default();
        Some(line)
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Datapoint<'a>, Malformed<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = trim(self.next_line()?);
            if !line.is_empty() {
                return Some(datapoint(line).map_err(|reason| Malformed {
                    reason,
                    sample: line.get(..SAMPLE_BYTES_MAX).unwrap_or(line),
                }));
            }
        }
    }
}

impl Pull for Lines<'_> {
    #[inline]
    fn pull(&mut self) -> Option<Result<Datapoint<'_>, Malformed<'_>>> {
        self.next()
    }
}

#[inline]
fn datapoint(line: &[u8]) -> Result<Datapoint<'_>, Reason> {
    match usual(line) {
        Some(datapoint) => Ok(datapoint),
        None => general(line),
    }
}

/// Reads a line whose name ends at a space, with nothing odd in it: nearly every one. `None` leaves it to [`general`],
/// whose answer counts.
#[inline]
fn usual(line: &[u8]) -> Option<Datapoint<'_>> {
    let (line, timestamp) = line.split_at_checked(memchr::memrchr(b' ', line)?)?;
    let (name, value) = line.split_at_checked(memchr::memrchr(b' ', line)?)?;
    if scan::any(name, is_space) {
        return None;
    }
    Some(Datapoint {
        name,
        timestamp: number::parse(timestamp.get(1..)?)?,
        value: number::parse(value.get(1..)?)?,
    })
}

/// Reads a line from its end: the two numbers are short, and what is left must be a name in one piece.
#[cold]
fn general(line: &[u8]) -> Result<Datapoint<'_>, Reason> {
    let (line, timestamp) = split_last_field(line).ok_or(Reason::LineFields)?;
    let (name, value) = split_last_field(line).ok_or(Reason::LineFields)?;
    if scan::any(name, is_space) {
        return Err(Reason::LineFields);
    }
    let timestamp = number::parse(timestamp).ok_or(Reason::LineNumber)?;
    let value = number::parse(value).ok_or(Reason::LineNumber)?;
    Ok(Datapoint { name, timestamp, value })
}

/// Whether a line has fewer fields than a datapoint.
pub fn lacks_fields(line: &[u8]) -> bool {
    line.split(|&byte| is_space(byte)).filter(|field| !field.is_empty()).take(FIELDS).count() < FIELDS
}

/// Splits the last field from a line that neither starts nor ends with white space.
fn split_last_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = line.iter().rposition(|&byte| is_space(byte))?;
    let (line, field) = line.split_at_checked(space)?;
    Some((trim(line), field.get(1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(block: &str) -> Vec<Result<(&str, f64, f64), &'static str>> {
        Lines::new(block.as_bytes())
            .map(|item| {
                item.map(|d| (std::str::from_utf8(d.name).unwrap(), d.timestamp, d.value))
                    .map_err(|m| m.reason.label())
            })
            .collect()
    }

    #[test]
    fn a_line_is_a_name_a_value_and_a_timestamp() {
        assert_eq!(read("a.b 1.5 1448390000\n"), [Ok(("a.b", 1448390000.0, 1.5))]);
        assert_eq!(read("a;tag=v;t2=é 7 -1\r\n"), [Ok(("a;tag=v;t2=é", -1.0, 7.0))]);
    }

    #[test]
    fn any_ascii_white_space_separates_and_surrounds() {
        assert_eq!(read(" \t a\x0b\x0c1 \r 2 \r\n"), [Ok(("a", 2.0, 1.0))]);
        assert_eq!(
            read("a\u{a0}b 1 2\n"),
            [Ok(("a\u{a0}b", 2.0, 1.0))],
            "a no-break space is part of a name"
        );
    }

    #[test]
    fn blank_lines_are_nothing() {
        assert_eq!(read("\n\n \r\n\t\na 1 2\n\n"), [Ok(("a", 2.0, 1.0))]);
        assert_eq!(read(""), []);
    }

    #[test]
    fn the_last_line_needs_no_newline() {
        assert_eq!(read("a 1 2\nb 3 4"), [Ok(("a", 2.0, 1.0)), Ok(("b", 4.0, 3.0))]);
    }

    #[test]
    fn a_bad_line_costs_only_itself() {
        assert_eq!(
            read("a\nb 1\nc 1 2 3\nd x 2\ne 1 0x2\nf 1 2\n"),
            [
                Err("line_fields"),
                Err("line_fields"),
                Err("line_fields"),
                Err("line_number"),
                Err("line_number"),
                Ok(("f", 2.0, 1.0))
            ]
        );
    }

    #[test]
    fn a_sample_is_the_beginning_of_the_line() {
        let line = "x".repeat(100);
        let item = Lines::new(line.as_bytes()).next().unwrap();
        assert_eq!(item.unwrap_err().sample, &line.as_bytes()[..SAMPLE_BYTES_MAX]);
    }

    proptest::proptest! {
        /// The plain way, as the original did it: split, count, convert.
        #[test]
        fn it_reads_what_splitting_would(line in "[a-c1-3.e \t\x0b\x0c\r\\-+]{0,40}") {
            let fields: Vec<_> = line.as_bytes().split(|&b| is_space(b)).filter(|f| !f.is_empty()).collect();
            let plain = match fields[..] {
                [] => None,
                [name, value, timestamp] => Some(match (number::parse(value), number::parse(timestamp)) {
                    (Some(value), Some(timestamp)) => Ok(Datapoint { name, timestamp, value }),
                    _ => Err(Reason::LineNumber),
                }),
                _ => Some(Err(Reason::LineFields)),
            };
            let ours = Lines::new(line.as_bytes()).next().map(|item| item.map_err(|m| m.reason));
            assert_eq!(ours, plain);
        }
    }
}
