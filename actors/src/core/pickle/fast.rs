//! Owns the shape in which nearly every frame comes: one list of `(name, (timestamp, value))` from a binary pickler.
//! Never has an opinion of its own: whatever differs in the least is left to the general machine, whose answer counts.
//!
//! It needs no stack, no memo and no arenas, and costs about half of what the machine does.

use super::opcode::*;
use super::reader::Reader;
use super::value::Span;
use super::{Bounds, Entry};

/// The fewest containers in containers that a datapoint needs: the list, the item, the point.
const DEPTH: u8 = 3;

/// What the machine puts into its arenas for a datapoint: an item of the list, two of the item, two of the point.
const ITEMS_A_DATAPOINT: usize = 5;

/// What the machine has on its stack at most besides the items of the list: the list itself and a half-read item.
const STACK_ITEMS_BESIDES: usize = 4;

/// Reads the whole frame into `entries`; `None` if it isn't of the usual shape, or near a bound.
pub fn read(frame: &[u8], bounds: &Bounds, entries: &mut Vec<Entry>) -> Option<()> {
    // What follows a STOP is the machine's to tell of: here it is the last byte, and the end of what is read.
    let body = frame.strip_suffix(&[STOP])?;
    let mut shape = Shape { reader: Reader::new(body), memo_entries: 0, frame_bytes: frame.len() };
    let mut names_bytes = 0usize;

    shape.header()?;
    while shape.more()? {
        while let Some(name) = shape.name()? {
            let timestamp = shape.number()?;
            let value = shape.number()?;
            shape.tuple()?;
            shape.tuple()?;
            names_bytes = names_bytes.saturating_add(name.length as usize);
            if name.length as usize > bounds.name_bytes_max || entries.len() >= bounds.datapoints_max {
                return None;
            }
            entries.push(Entry::Datapoint { name, timestamp, value });
        }
    }

    let datapoints = entries.len();
    let lists = 1;
    let within_bounds = names_bytes <= bounds.names_bytes_max
        && shape.memo_entries <= bounds.memo_entries_max
        && datapoints.saturating_mul(ITEMS_A_DATAPOINT).saturating_add(lists) <= bounds.items_max
        && datapoints.saturating_add(STACK_ITEMS_BESIDES) <= bounds.stack_items_max
        && DEPTH <= bounds.depth_max;
    within_bounds.then_some(())
}

struct Shape<'f> {
    reader: Reader<'f>,
    /// At least as many as the machine's memo would have.
    memo_entries: usize,
    frame_bytes: usize,
}

impl Shape<'_> {
    /// `PROTO n`, perhaps `FRAME`, and the empty list.
    fn header(&mut self) -> Option<()> {
        let [PROTO, 0..=PROTOCOL_MAX] = self.reader.array()? else { return None };
        let mut opcode = self.reader.byte()?;
        if opcode == FRAME {
            if self.reader.wide()? > self.reader.rest().len().saturating_add(1) {
                return None;
            }
            opcode = self.reader.byte()?;
        }
        if opcode != EMPTY_LIST {
            return None;
        }
        self.memo()
    }

    /// Whether another batch of items begins (CPython writes a thousand at a time) or the pickle stops.
    fn more(&mut self) -> Option<bool> {
        match self.reader.byte() {
            Some(MARK) => Some(true),
            None => Some(false),
            Some(_) => None,
        }
    }

    /// A name, or the end of the batch.
    #[inline(always)]
    fn name(&mut self) -> Option<Option<Span>> {
        let length = match self.reader.byte()? {
            BINUNICODE | BINSTRING | BINBYTES => self.reader.long()?,
            SHORT_BINUNICODE | SHORT_BINSTRING | SHORT_BINBYTES => self.reader.short()?,
            APPENDS => return Some(None),
            _ => return None,
        };
        let name = self.reader.span(length)?;
        self.memo()?;
        Some(Some(name))
    }

    #[inline(always)]
    fn number(&mut self) -> Option<f64> {
        let opcode = self.reader.byte()?;
        self.reader.number(opcode)
    }

    #[inline(always)]
    fn tuple(&mut self) -> Option<()> {
        if self.reader.byte()? != TUPLE2 {
            return None;
        }
        self.memo()
    }

    /// The memo is written and, in this shape, never read.
    #[inline(always)]
    fn memo(&mut self) -> Option<()> {
        let mut after = self.reader;
        let index = match after.byte()? {
            BINPUT => after.short()?,
            LONG_BINPUT => after.long()?,
            MEMOIZE => self.memo_entries,
            _ => return Some(()),
        };
        if index > self.frame_bytes {
            return None;
        }
        self.memo_entries = self.memo_entries.max(index).saturating_add(1);
        self.reader = after;
        Some(())
    }
}
