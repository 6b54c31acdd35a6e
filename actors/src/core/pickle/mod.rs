//! Owns pickles: the bytes of a frame become datapoints, or the reason why not.
//! Never calls, imports or builds what a pickle asks for, and never takes more memory or time than [`Bounds`] allows.
//!
//! ```text
//!            usual shape
//!   frame ──▶ fast ─────────────────────────────▶ entries ──▶ Datapoints, one at a time
//!              │ anything else                        ▲
//!              └─▶ machine ──▶ stack, memo, arenas ──▶ items
//! ```
//! A frame is understood as a whole before its first datapoint is handed out, so one that is broken, or over a bound,
//! gives nothing. An item that is no datapoint costs only itself.
#![warn(clippy::arithmetic_side_effects)]

mod fast;
mod items;
mod machine;
mod opcode;
mod reader;
mod text;
mod value;

use super::datapoint::{Datapoint, Malformed, Pull, Reason, SAMPLE_BYTES_MAX};
use value::{Span, reset, resolve};

/// How much of each vector is kept between frames, in elements: enough for ten usual frames of 500 datapoints.
const KEPT_ELEMENTS: usize = 32_768;

/// The most bytes that a frame can have whatever its bound says: places in it and in its text are counted in 32 bits.
const FRAME_BYTES_LIMIT: usize = 1 << 28;

/// What a frame may cost. The defaults take every frame of 1 MiB that a sender would honestly write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a frame: 1,048,576, as carbon and the original.
    pub frame_bytes_max: usize,
    /// Containers in containers, and marks in marks: 8. A datapoint needs three; a bad item may be a little deeper.
    pub depth_max: u8,
    /// Entries of the memo: 262,144. Picklers make three for a datapoint, which has at least fifteen bytes then.
    pub memo_entries_max: usize,
    /// Values on the stack at once: 131,136, a list of `datapoints_max` whose items are all there before it is made.
    pub stack_items_max: usize,
    /// Values in containers, and lists, together: 524,288, one for each two bytes of the longest frame.
    pub items_max: usize,
    /// Datapoints and bad items together: 131,072. The shortest point of our time (an int of five bytes, one of two,
    /// and the tuple's opcode) has eight bytes, and the longest frame has room for so many.
    pub datapoints_max: usize,
    /// Bytes of one name: 65,535, the most that Blueflood's store can hold. A longer one costs only its item.
    pub name_bytes_max: usize,
    /// Bytes of all names, counting each reference through the memo: 8,388,608, or 64 for each of `datapoints_max`.
    /// Without references it can't be more than the frame.
    pub names_bytes_max: usize,
    /// Bytes of all numbers written as text, counting each reference through the memo: 1,048,576, what a frame could
    /// hold without references. The worst text takes ten microseconds to round correctly, so this bounds time.
    pub numbers_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            frame_bytes_max: 1 << 20,
            depth_max: 8,
            memo_entries_max: 1 << 18,
            stack_items_max: (1 << 17) + 64,
            items_max: 1 << 19,
            datapoints_max: 1 << 17,
            name_bytes_max: 65_535,
            names_bytes_max: 1 << 23,
            numbers_bytes_max: 1 << 20,
        }
    }
}

/// What a frame holds, in the order in which it holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Entry {
    Datapoint { name: Span, timestamp: f64, value: f64 },
    Malformed { reason: Reason, sample: Span },
}

/// Decodes one frame after the other, in memory that is kept between them.
#[derive(Debug)]
pub struct Decoder {
    bounds: Bounds,
    machine: machine::Memory,
    entries: Vec<Entry>,
}

impl Decoder {
    /// A decoder that has taken no memory yet.
    pub fn new(bounds: Bounds) -> Self {
        let frame_bytes_max = bounds.frame_bytes_max.min(FRAME_BYTES_LIMIT);
        Decoder {
            bounds: Bounds { frame_bytes_max, ..bounds },
            machine: machine::Memory::default(),
            entries: Vec::new(),
        }
    }

    /// Understands a frame (a pickle without the length before it).
    ///
    /// # Errors
    /// A frame that is no pickle of a list or tuple, or over a bound: nothing is taken from it. The sample is the place
    /// from which on it can't be understood.
    pub fn decode<'d>(&'d mut self, frame: &'d [u8]) -> Result<Datapoints<'d>, Malformed<'d>> {
        self.forget();
        match self.read(frame) {
            Ok(()) => Ok(Datapoints { frame, decoder: self, next: 0 }),
            Err((reason, place)) => {
                self.forget();
                Err(Malformed { reason, sample: cut(place) })
            }
        }
    }

    fn read<'f>(&mut self, frame: &'f [u8]) -> Result<(), (Reason, &'f [u8])> {
        if frame.len() > self.bounds.frame_bytes_max {
            return Err((Reason::FrameTooLong, frame));
        }
        if fast::read(frame, &self.bounds, &mut self.entries).is_some() {
            return Ok(());
        }
        self.entries.clear();
        self.read_any(frame)
    }

    /// Reads a frame without trying the fast path.
    fn read_any<'f>(&mut self, frame: &'f [u8]) -> Result<(), (Reason, &'f [u8])> {
        let list = machine::run(frame, &self.bounds, &mut self.machine)?;
        items::read(list, frame, &self.machine, &self.bounds, &mut self.entries)
            .map_err(|reason| (reason, frame))
    }

    fn forget(&mut self) {
        self.machine.reset(KEPT_ELEMENTS);
        reset(&mut self.entries, KEPT_ELEMENTS);
    }
}

/// The datapoints of a frame, in order, and what in it was none.
///
/// When it is dropped the decoder gives back the memory that an unusually large frame made it take.
#[derive(Debug)]
pub struct Datapoints<'d> {
    frame: &'d [u8],
    decoder: &'d mut Decoder,
    next: usize,
}

impl Datapoints<'_> {
    /// The next one, which lives until the one after it is asked for; `None` at the end.
    ///
    /// A malformed item's sample is its name, if it has one: that tells an operator more than its bytes.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "an Iterator can't lend")]
    pub fn next(&mut self) -> Option<Result<Datapoint<'_>, Malformed<'_>>> {
        let entry = self.decoder.entries.get(self.next)?;
        self.next = self.next.saturating_add(1);
        let text = &self.decoder.machine.text;
        Some(match *entry {
            Entry::Datapoint { name, timestamp, value } => {
                Ok(Datapoint { name: resolve(name, self.frame, text), timestamp, value })
            }
            Entry::Malformed { reason, sample } => {
                Err(Malformed { reason, sample: cut(resolve(sample, self.frame, text)) })
            }
        })
    }
}

impl Pull for Datapoints<'_> {
    #[inline]
    fn pull(&mut self) -> Option<Result<Datapoint<'_>, Malformed<'_>>> {
        self.next()
    }
}

impl Drop for Datapoints<'_> {
    fn drop(&mut self) {
        self.decoder.forget();
    }
}

fn cut(sample: &[u8]) -> &[u8] {
    sample.get(..SAMPLE_BYTES_MAX).unwrap_or(sample)
}

#[cfg(test)]
mod tests;
