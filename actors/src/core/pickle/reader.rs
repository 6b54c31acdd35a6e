//! Owns the cursor over a frame's bytes: opcodes and their arguments, one after the other.
//! Never copies them, and never reads past the frame's end.

use super::opcode::{BINFLOAT, BININT, BININT1, BININT2};
use super::value::{Span, resolve};

/// What is left of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'f> {
    frame: &'f [u8],
    rest: &'f [u8],
}

impl<'f> Reader<'f> {
    pub fn new(frame: &'f [u8]) -> Self {
        Reader { frame, rest: frame }
    }

    /// What has not been read yet.
    #[inline]
    pub fn rest(&self) -> &'f [u8] {
        self.rest
    }

    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (&array, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(array)
    }

    #[inline]
    pub fn bytes(&mut self, length: usize) -> Option<&'f [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    /// The place of the next bytes, which are read.
    #[inline]
    pub fn span(&mut self, length: usize) -> Option<Span> {
        let start = self.frame.len().saturating_sub(self.rest.len());
        self.bytes(length).map(|_| Span::new(start, length))
    }

    /// The place of the text up to the end of its line, which is read with its newline.
    pub fn line(&mut self) -> Option<Span> {
        let line = self.span(memchr::memchr(b'\n', self.rest)?)?;
        self.byte()?;
        Some(line)
    }

    /// The number behind one of the opcodes that have it in a fixed number of bytes.
    #[inline(always)]
    pub fn number(&mut self, opcode: u8) -> Option<f64> {
        Some(match opcode {
            BINFLOAT => f64::from_be_bytes(self.array()?),
            BININT => i32::from_le_bytes(self.array()?).into(),
            BININT1 => self.byte()?.into(),
            BININT2 => u16::from_le_bytes(self.array()?).into(),
            _ => return None,
        })
    }

    /// A length or an index of one byte.
    #[inline]
    pub fn short(&mut self) -> Option<usize> {
        self.byte().map(usize::from)
    }

    /// A length or an index of four bytes.
    #[inline]
    pub fn long(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }

    /// A length of eight bytes; more than memory could hold is more than any frame has.
    pub fn wide(&mut self) -> Option<usize> {
        Some(usize::try_from(u64::from_le_bytes(self.array()?)).unwrap_or(usize::MAX))
    }

    /// An index as protocol 0 writes it: a line of digits. Nothing has the index of what is no number.
    pub fn digits(&mut self) -> Option<usize> {
        let line = self.line()?;
        let digits = std::str::from_utf8(resolve(line, self.frame, &[]));
        Some(digits.ok().and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX))
    }
}
