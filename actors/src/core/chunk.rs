//! Owns chunks: rows sealed once, as they will lie in the spool and leave in a payload.
//! It never touches a disk or a socket, and never looks into a row.
//!
//! A sealed chunk is a run of raw-deflate blocks that ends on a byte boundary and refers to nothing before it,
//! so that [`super::payload`] can put chunks side by side without touching their bytes.

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::row::{Array, Rows};

/// How the rows of a chunk are kept and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As text.
    Plain,
    /// As raw-deflate blocks, to be sent as gzip.
    Deflate,
}

/// Rows that are sealed: compressed once, with what it takes to send and to check them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// How `body` is encoded.
    pub encoding: Encoding,
    /// The encoded rows; cheap to clone.
    pub body: Bytes,
    /// The rows as they were sealed, if they are text: a payload of this chunk alone. It is not stored.
    pub whole: Option<Array>,
    /// How many rows it holds.
    pub rows: u32,
    /// Bytes of the rows before encoding.
    pub raw_bytes: u32,
    /// CRC-32 (as in gzip) of the rows before encoding.
    pub crc: u32,
}

/// A chunk that does not read back as what was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the chunk does not read back as what was sealed")
    }
}

impl std::error::Error for Damaged {}

/// Seals rows into chunks, its compressor kept from one to the next.
pub struct Sealer {
    encoding: Encoding,
    compress: Compress,
}

impl Sealer {
    /// A sealer of chunks in `encoding`.
    pub fn new(encoding: Encoding) -> Self {
        // Level 1: the higher ones cost four to ten times the CPU for a quarter to half fewer bytes
        // (`tests/bench/PROFILE.md`, "Compressors").
        Self { encoding, compress: Compress::new(Compression::new(1), false) }
    }

    /// Seals `rows`. As text they are kept without a copy.
    pub fn seal(&mut self, rows: &Array) -> Chunk {
        let text = rows.text();
        let deflated = match self.encoding {
            Encoding::Deflate => self.deflate(&text),
            Encoding::Plain => None,
        };
        let raw_bytes = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let crc = crc32fast::hash(&text);
        let (encoding, body, whole) = match deflated {
            Some(body) => (Encoding::Deflate, body.into(), None),
            None => (Encoding::Plain, text, Some(rows.clone())),
        };
        Chunk { encoding, body, whole, rows: rows.count(), raw_bytes, crc }
    }

    /// A compressor that stops making progress gives `None`: the rows are then kept as text, never lost.
    fn deflate(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        self.compress.reset();
        let mut body = Vec::with_capacity((text.len() / 6).saturating_add(64));
        loop {
            let consumed = usize::try_from(self.compress.total_in()).ok()?;
            let rest = text.get(consumed..)?;
            let made = self.compress.total_out();
            self.compress.compress_vec(rest, &mut body, FlushCompress::Full).ok()?;
            let stuck = rest.is_empty() && self.compress.total_out() == made;
            // A flush is complete once the compressor has all its input and room left in its output.
            if self.compress.total_in() == text.len() as u64 && (body.len() < body.capacity() || stuck) {
                return Some(body);
            }
            body.reserve(body.capacity().max(64));
        }
    }
}

impl Chunk {
    /// The rows again.
    ///
    /// # Errors
    /// [`Damaged`] if they are not byte for byte what was sealed.
    pub fn open(&self) -> Result<Rows, Damaged> {
        let raw_bytes = usize::try_from(self.raw_bytes).map_err(|_| Damaged)?;
        let text = match self.encoding {
            Encoding::Plain => self.body.to_vec(),
            Encoding::Deflate => inflate(&self.body, raw_bytes)?,
        };
        let rows = Rows { text, count: self.rows };
        let intact = rows.text.len() == raw_bytes
            && crc32fast::hash(&rows.text) == self.crc
            && rows.as_ref().iter().count() == usize::try_from(self.rows).unwrap_or(usize::MAX);
        if intact { Ok(rows) } else { Err(Damaged) }
    }
}

/// Inflates a run of blocks that has no last one, to exactly `raw_bytes` and never more.
fn inflate(body: &[u8], raw_bytes: usize) -> Result<Vec<u8>, Damaged> {
    // A damaged length must not reserve more than deflate can make of the body (1,032 to 1).
    if raw_bytes > body.len().saturating_mul(1_032) {
        return Err(Damaged);
    }
    let mut text = Vec::with_capacity(raw_bytes);
    let mut decompress = Decompress::new(false);
    while text.len() < raw_bytes {
        let (read, made) = (decompress.total_in(), decompress.total_out());
        let rest = usize::try_from(read).ok().and_then(|read| body.get(read..)).ok_or(Damaged)?;
        let status =
            decompress.decompress_vec(rest, &mut text, FlushDecompress::Sync).map_err(|_| Damaged)?;
        let stuck = decompress.total_in() == read && decompress.total_out() == made;
        if stuck || status == Status::StreamEnd {
            break;
        }
    }
    if text.len() == raw_bytes { Ok(text) } else { Err(Damaged) }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::{
        datapoint::Datapoint,
        row::{Encoder, RowSettings},
    };

    /// `n` rows named `name.0`, `name.1` and so on.
    pub(crate) fn rows(name: &str, n: u32) -> Rows {
        let encoder = Encoder::new(&RowSettings {
            prefix: String::new(),
            ttl_s: 86_400,
            tenant: "tenant".into(),
            payload_bytes_max: 1 << 20,
            overwrite_time: false,
        });
        let mut rows = Rows::default();
        for i in 0..n {
            let name = format!("{name}.{i}");
            let value = f64::from(i) * 1.37;
            let datapoint = Datapoint { name: name.as_bytes(), timestamp: 1_700_000_000.0, value };
            encoder.encode(&datapoint, 0, &mut rows).unwrap();
        }
        rows
    }

    proptest! {
        #[test]
        fn a_sealed_chunk_opens_to_the_same_rows(n in 1u32..3000, deflate: bool) {
            let rows = rows("servers.web.cpu", n);
            let encoding = if deflate { Encoding::Deflate } else { Encoding::Plain };
            let mut sealer = Sealer::new(encoding);
            // Twice, for the compressor is used again: nothing of the first may be in the second.
            for _ in 0..2 {
                let chunk = sealer.seal(&rows.as_ref().into());
                prop_assert_eq!(chunk.encoding, encoding);
                prop_assert_eq!(chunk.open().unwrap(), rows.clone());
            }
        }

        #[test]
        fn a_flipped_bit_is_noticed_and_bounded(at: prop::sample::Index, bit in 0u8..8, raw_bytes: u32) {
            let rows = rows("a", 50);
            let mut chunk = Sealer::new(Encoding::Deflate).seal(&rows.as_ref().into());
            let mut body = chunk.body.to_vec();
            body[at.index(chunk.body.len())] ^= 1 << bit;
            chunk.body = body.into();
            // The bits that pad a block to its byte boundary mean nothing, so a flip there changes no row.
            if let Ok(opened) = chunk.open() {
                prop_assert_eq!(opened, rows);
            }
            chunk.raw_bytes = raw_bytes;
            let _ = chunk.open();
        }
    }
}
