//! Owns what a frame must mean: a list of `(name, (timestamp, value), ...)`, be they lists or tuples.
//! Never follows containers deeper than that: a list that holds itself is merely an item that is no datapoint.

use super::machine::Memory;
use super::value::{Span, Value, resolve};
use super::{Bounds, Entry};
use crate::core::datapoint::Reason;
use crate::core::number;

/// Reads every datapoint of `list` into `entries`, and behind them what stands in the frame after its STOP.
///
/// The error is a frame that is no list at all, or that would become more than its bounds allow.
pub fn read(
    (list, tail): (Value, Span),
    frame: &[u8],
    memory: &Memory,
    bounds: &Bounds,
    entries: &mut Vec<Entry>,
) -> Result<(), Reason> {
    let items = memory.arenas.items(list).ok_or(match list {
        Value::Object(_) => Reason::PickleCall,
        _ => Reason::PickleNoList,
    })?;
    let mut reader = Items { frame, memory, bounds, entries, names_bytes: 0, numbers_bytes: 0 };
    for item in items {
        reader.item(item)?;
    }
    if tail.length > 0 {
        reader.malformed(Reason::PickleTail, Value::Text(tail))?;
    }
    Ok(())
}

struct Items<'a> {
    frame: &'a [u8],
    memory: &'a Memory,
    bounds: &'a Bounds,
    entries: &'a mut Vec<Entry>,
    names_bytes: usize,
    numbers_bytes: usize,
}

impl Items<'_> {
    /// Reads an item: as many datapoints as it has points behind its name.
    fn item(&mut self, item: Value) -> Result<(), Reason> {
        let Some(mut fields) = self.memory.arenas.items(item) else {
            return self.malformed(unless_object(item, Reason::ItemShape), item);
        };
        let name = match fields.next() {
            Some(Value::Text(name)) if name.length as usize <= self.bounds.name_bytes_max => name,
            Some(name @ Value::Text(_)) => return self.malformed(Reason::NameTooLong, name),
            Some(other) => return self.malformed(unless_object(other, Reason::ItemName), other),
            None => return self.malformed(Reason::ItemShape, item),
        };
        let mut points = fields.peekable();
        if points.peek().is_none() {
            return self.malformed(Reason::ItemShape, Value::Text(name));
        }
        for point in points {
            charge(&mut self.names_bytes, name, self.bounds.names_bytes_max)?;
            match self.point(point)? {
                Ok((timestamp, value)) => self.push(Entry::Datapoint { name, timestamp, value })?,
                Err(reason) => self.malformed(reason, Value::Text(name))?,
            }
        }
        Ok(())
    }

    /// Reads `(timestamp, value)`; like the original it doesn't mind what else is in there.
    fn point(&mut self, point: Value) -> Result<Result<(f64, f64), Reason>, Reason> {
        let Some(mut numbers) = self.memory.arenas.items(point) else {
            return Ok(Err(unless_object(point, Reason::ItemShape)));
        };
        let (Some(timestamp), Some(value)) = (numbers.next(), numbers.next()) else {
            return Ok(Err(Reason::ItemShape));
        };
        Ok(match (self.number(timestamp)?, self.number(value)?) {
            (Some(timestamp), Some(value)) => Ok((timestamp, value)),
            (None, _) => Err(unless_object(timestamp, unless_object(value, Reason::ItemNumber))),
            (_, None) => Err(unless_object(value, Reason::ItemNumber)),
        })
    }

    fn number(&mut self, value: Value) -> Result<Option<f64>, Reason> {
        match value {
            Value::Number(number) => Ok(Some(number)),
            Value::Text(text) if text.length as usize <= number::NUMBER_BYTES_MAX => {
                charge(&mut self.numbers_bytes, text, self.bounds.numbers_bytes_max)?;
                Ok(number::parse(resolve(text, self.frame, &self.memory.text)))
            }
            Value::Text(_)
            | Value::Tuple(_)
            | Value::List(_)
            | Value::Encode
            | Value::Opaque
            | Value::Object(_) => Ok(None),
        }
    }

    fn malformed(&mut self, reason: Reason, sample: Value) -> Result<(), Reason> {
        let sample = match sample {
            Value::Text(text) | Value::Object(text) => text,
            Value::Number(_) | Value::Tuple(_) | Value::List(_) | Value::Encode | Value::Opaque => {
                Span::new(0, 0)
            }
        };
        self.push(Entry::Malformed { reason, sample })
    }

    fn push(&mut self, entry: Entry) -> Result<(), Reason> {
        if self.entries.len() >= self.bounds.datapoints_max {
            return Err(Reason::PickleTooLarge);
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// An object where anything else should be is told as what it is: its sender has only to make a number of it.
fn unless_object(value: Value, reason: Reason) -> Reason {
    if matches!(value, Value::Object(_)) { Reason::ItemClass } else { reason }
}

/// Counts text once for each time that it is read or handed out.
fn charge(bytes: &mut usize, text: Span, max: usize) -> Result<(), Reason> {
    *bytes = bytes.saturating_add(text.length as usize);
    if *bytes > max { Err(Reason::PickleTooLarge) } else { Ok(()) }
}
