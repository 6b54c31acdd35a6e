//! Owns where a frame, or a block of lines, begins and ends on a connection.
//! Never looks into one: the pickle decoder and the line parser do.
//!
//! It takes memory for what has arrived, never for what a header claims.
#![warn(clippy::arithmetic_side_effects)]

use std::fmt;
use std::io;
use std::ops::ControlFlow;

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::Decoder;

use super::datapoint::{Reason, SAMPLE_BYTES_MAX};
use super::greeting::{Foreign, Greeting, greeting};
use super::line::{Lines, lacks_fields};
use super::protocol::Protocol;

/// The longest pickle, in bytes without its length: what carbon and the original take.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// The longest line, in bytes without its newline: what the original takes.
pub const LINE_BYTES_MAX: usize = 16_384;

/// About the most that one block of lines holds, in bytes. A message carries a block, so small ones cost messages.
const BLOCK_BYTES_MAX: usize = 65_536;

/// The bytes of a pickle's length, big-endian.
const HEADER_BYTES: usize = 4;

/// The least that is made ready for the rest of a frame, in bytes.
const RESERVE_BYTES_MIN: usize = 8 * 1024;

/// What the bytes of a connection are cut into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A pickle, without its length.
    Pickle(Bytes),
    /// Complete lines, as many as were there, each at most [`LINE_BYTES_MAX`] long.
    Lines(Bytes),
    /// Bytes that were no frame. The connection goes on.
    Malformed {
        /// What was wrong with them.
        reason: Reason,
        /// Their beginning, at most [`SAMPLE_BYTES_MAX`] bytes.
        sample: Bytes,
    },
}

/// Why a connection can't go on.
#[derive(Debug)]
pub enum FramingError {
    /// A pickle over [`FRAME_BYTES_MAX`] was announced; the connection must end, as nothing says where the next begins.
    FrameTooLong {
        /// The four bytes that were read as a length.
        header: [u8; HEADER_BYTES],
    },
    /// The sender speaks something else.
    Foreign {
        /// What it speaks.
        foreign: Foreign,
        /// The reason under which that is counted here.
        reason: Reason,
    },
    /// The socket failed.
    Io(io::Error),
}

impl FramingError {
    /// The reason under which it is counted as malformed; `None` if what failed was the socket.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            FramingError::FrameTooLong { .. } => Some(Reason::FrameTooLong),
            FramingError::Foreign { reason, .. } => Some(*reason),
            FramingError::Io(_) => None,
        }
    }
}

impl From<io::Error> for FramingError {
    fn from(error: io::Error) -> Self {
        FramingError::Io(error)
    }
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FramingError::FrameTooLong { header } => {
                let length = u32::from_be_bytes(*header);
                write!(f, "a pickle of {length} bytes was announced, over the limit of {FRAME_BYTES_MAX}")?;
                if header.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n')) {
                    let text = header.escape_ascii();
                    write!(
                        f,
                        "; its length bytes are the text \"{text}\", which looks like the line protocol: "
                    )?;
                    f.write_str("set :protocol=auto on this endpoint to take both")?;
                }
                Ok(())
            }
            FramingError::Foreign { foreign, .. } => f.write_str(foreign.advice()),
            FramingError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FramingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FramingError::FrameTooLong { .. } | FramingError::Foreign { .. } => None,
            FramingError::Io(error) => Some(error),
        }
    }
}

/// Cuts the bytes of one connection into frames: one `Framing` a connection.
#[derive(Debug, Clone)]
pub struct Framing {
    protocol: Protocol,
    /// Whether nothing can follow: its end ends a last line, and TLS would be nonsense.
    is_datagram: bool,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Too little has come yet to tell what the sender speaks.
    Undecided,
    Pickle,
    Line,
    /// Within a line that was too long and has been counted.
    SkipLine,
}

impl Framing {
    /// The framing of a new connection.
    pub fn new(protocol: Protocol) -> Self {
        Framing { protocol, is_datagram: false, state: State::Undecided }
    }

    /// The framing of a datagram: lines ([`Protocol::chosen`]), and never TLS.
    pub fn of_datagram() -> Self {
        Framing { protocol: Protocol::Line, is_datagram: true, state: State::Undecided }
    }

    /// Takes the sender for one that speaks what is taken here.
    fn decide(&mut self, src: &[u8]) {
        self.state = match self.protocol {
            Protocol::Pickle => State::Pickle,
            Protocol::Auto if src.first() == Some(&0) => State::Pickle,
            Protocol::Line | Protocol::Auto => State::Line,
        };
    }

    /// Where only pickles are taken, whatever is none has been read as a length that is too large.
    fn foreign(&self, foreign: Foreign) -> FramingError {
        let reason = match foreign {
            Foreign::Tls => foreign.reason(),
            _ if self.protocol == Protocol::Pickle => Reason::FrameTooLong,
            _ => foreign.reason(),
        };
        FramingError::Foreign { foreign, reason }
    }

    /// Takes a step: a frame or the need for more bytes is a `Break`, a change of state a `Continue`.
    fn step(&mut self, src: &mut BytesMut) -> Result<ControlFlow<Option<Frame>>, FramingError> {
        match self.state {
            State::Undecided => match greeting(src, self.protocol == Protocol::Line) {
                Greeting::Unclear => return Ok(ControlFlow::Break(None)),
                Greeting::Mark(length) => src.advance(length),
                Greeting::Proxy(length) => {
                    let header = src.split_to(length);
                    return Ok(ControlFlow::Break(Some(malformed(Reason::ProxyHeader, &header))));
                }
                Greeting::Foreign(foreign) if !(self.is_datagram && foreign == Foreign::Tls) => {
                    return Err(self.foreign(foreign));
                }
                Greeting::Foreign(_) | Greeting::Metrics => self.decide(src),
            },
            State::Pickle => return pickle(src).map(ControlFlow::Break),
            State::Line => {
                if let Some(lines) = lines(src) {
                    return Ok(ControlFlow::Break(Some(Frame::Lines(lines))));
                }
                if src.len() <= LINE_BYTES_MAX {
                    return Ok(ControlFlow::Break(None));
                }
                self.state = State::SkipLine;
                return Ok(ControlFlow::Break(Some(malformed(Reason::LineTooLong, src))));
            }
            State::SkipLine => match memchr::memchr(b'\n', src) {
                None => {
                    src.clear();
                    return Ok(ControlFlow::Break(None));
                }
                Some(end) => {
                    src.advance(end.saturating_add(1));
                    self.state = State::Line;
                }
            },
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Decoder for Framing {
    type Item = Frame;
    type Error = FramingError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, FramingError> {
        loop {
            if let ControlFlow::Break(frame) = self.step(src)? {
                return Ok(frame);
            }
        }
    }

    /// At a clean close a last line counts without its newline, and if it is bad, for what is wrong with it. It was
    /// cut off only if fields are missing, and so was anything else that is left.
    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, FramingError> {
        let mut frame = self.decode(src)?;
        if let (None, State::Undecided, false) = (&frame, self.state, src.is_empty()) {
            // No more will come that could tell.
            self.decide(src);
            frame = self.decode(src)?;
        }
        if frame.is_some() || src.is_empty() {
            return Ok(frame);
        }
        let rest = src.split().freeze();
        match self.state {
            State::Line if Lines::new(&rest).next().is_none() => Ok(None),
            State::Line if self.is_datagram || !lacks_fields(&rest) => Ok(Some(Frame::Lines(rest))),
            _ => Ok(Some(malformed(Reason::Truncated, &rest))),
        }
    }
}

/// The next pickle, if all of it has come.
fn pickle(src: &mut BytesMut) -> Result<Option<Frame>, FramingError> {
    let Some((&header, arrived)) = src.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = match usize::try_from(u32::from_be_bytes(header)) {
        Ok(length) if length <= FRAME_BYTES_MAX => length,
        _ => return Err(FramingError::FrameTooLong { header }),
    };
    let missing = length.saturating_sub(arrived.len());
    if missing > 0 {
        // At most doubles what has come: a thousand headers that claim a megabyte must not cost a gigabyte.
        src.reserve(missing.min(src.len().max(RESERVE_BYTES_MIN)));
        return Ok(None);
    }
    src.advance(HEADER_BYTES);
    if length == 0 {
        return Ok(Some(malformed(Reason::FrameEmpty, &[])));
    }
    Ok(Some(Frame::Pickle(src.split_to(length).freeze())))
}

/// The complete lines at the front, up to about [`BLOCK_BYTES_MAX`]; `None` if there is none, or the first is too long.
fn lines(src: &mut BytesMut) -> Option<Bytes> {
    // From the end of a line, the last newline within a longest line's reach: no line before it can be too long.
    let mut end = 0usize;
    while end < BLOCK_BYTES_MAX {
        let reach = src.len().min(end.saturating_add(LINE_BYTES_MAX).saturating_add(1));
        match src.get(end..reach).and_then(|reached| memchr::memrchr(b'\n', reached)) {
            Some(newline) => end = end.saturating_add(newline).saturating_add(1),
            None => break,
        }
    }
    (end > 0).then(|| src.split_to(end).freeze())
}

fn malformed(reason: Reason, bytes: &[u8]) -> Frame {
    let sample = bytes.get(..SAMPLE_BYTES_MAX).unwrap_or(bytes);
    Frame::Malformed { reason, sample: Bytes::copy_from_slice(sample) }
}

#[cfg(test)]
mod tests;
