//! Owns payloads: the one body of a POST, composed of chunks whose bytes it never touches.
//! It never compresses.
//!
//! With [`Encoding::Deflate`] a payload is one gzip member: its header, the block `[`, the chunks with the
//! block `,` between, the block `]`, an empty last block, the CRC-32 by combination, the length. The real
//! Blueflood was seen to take and to store such a body (`actors/DESIGN.md`, "From bytes to a payload").

use std::collections::BTreeSet;

use bytes::Bytes;
use crc32fast::Hasher;

use super::{
    chunk::{Chunk, Damaged, Encoding, Sealer},
    row::{Rows, RowsRef},
};

/// What stands around the rows of a payload of `chunks` chunks, in bytes before compression.
pub const fn punctuation_bytes(chunks: usize) -> usize {
    b"[]".len() + chunks.saturating_sub(1)
}

/// Magic, method 8, no flags, no time, "fastest", unknown system: RFC 1952, 2.3.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];

/// An empty last block with fixed codes: RFC 1951, 3.2.6.
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

/// The longest stored block: RFC 1951, 3.2.4.
const STORED_BYTES_MAX: usize = 0xffff;

/// Composes the body of a POST.
///
/// # Errors
/// [`Damaged`] if a chunk has to be opened and does not read back.
pub fn compose(chunks: &[Chunk], encoding: Encoding) -> Result<Bytes, Damaged> {
    match encoding {
        Encoding::Deflate => Ok(compose_gzip(chunks)),
        Encoding::Plain => compose_plain(chunks),
    }
}

/// A few rows at random out of the chunks of a payload, at most `rows` of them. `pick` draws a number below its argument.
///
/// # Errors
/// [`Damaged`] if a chunk does not read back.
pub fn sample(chunks: &[Chunk], rows: u32, mut pick: impl FnMut(u32) -> u32) -> Result<Rows, Damaged> {
    let all: u32 = chunks.iter().fold(0, |all, chunk| all.saturating_add(chunk.rows));
    let mut picked: BTreeSet<u32> = BTreeSet::new();
    // Twice the same row is one row less, which matters to nobody.
    picked.extend((0..rows.min(all)).map(|_| pick(all)));
    let mut sample = Rows::default();
    let mut first: u32 = 0;
    for chunk in chunks {
        let next = first.saturating_add(chunk.rows);
        if picked.range(first..next).next().is_some() {
            let opened = chunk.open()?;
            for (row, text) in (first..next).zip(opened.as_ref().iter()) {
                if picked.contains(&row) {
                    sample.append(RowsRef { text, count: 1 });
                }
            }
        }
        first = next;
    }
    Ok(sample)
}

/// The body of a POST of these rows alone.
///
/// # Errors
/// Those of [`compose`].
pub fn of_rows(rows: Rows, encoding: Encoding) -> Result<Bytes, Damaged> {
    compose(&[Sealer::new(encoding).seal(&rows.into())], encoding)
}

fn compose_plain(chunks: &[Chunk]) -> Result<Bytes, Damaged> {
    // The usual case under load, and then nothing is copied.
    if let [Chunk { whole: Some(whole), .. }] = chunks {
        return Ok(whole.json().clone());
    }
    let raw_bytes: usize = chunks.iter().map(|chunk| chunk.raw_bytes as usize).sum();
    let mut body = Vec::with_capacity(raw_bytes.saturating_add(punctuation_bytes(chunks.len())));
    body.push(b'[');
    for (i, chunk) in chunks.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        match chunk.encoding {
            Encoding::Plain => body.extend_from_slice(&chunk.body),
            // Sealed before `--compress` was turned off.
            Encoding::Deflate => body.extend_from_slice(&chunk.open()?.text),
        }
    }
    body.push(b']');
    Ok(body.into())
}

fn compose_gzip(chunks: &[Chunk]) -> Bytes {
    let chunk_bytes: usize = chunks.iter().map(|chunk| chunk.body.len()).sum();
    let mut gzip = Gzip::new(chunk_bytes.saturating_add(chunks.len().saturating_mul(16)).saturating_add(64));
    gzip.store(b"[");
    for (i, chunk) in chunks.iter().enumerate() {
        if i > 0 {
            gzip.store(b",");
        }
        match chunk.encoding {
            Encoding::Deflate => gzip.put(chunk),
            Encoding::Plain => gzip.store(&chunk.body),
        }
    }
    gzip.store(b"]");
    gzip.finish()
}

struct Gzip {
    body: Vec<u8>,
    crc: Hasher,
    raw_bytes: u32,
}

impl Gzip {
    fn new(capacity: usize) -> Self {
        let mut body = Vec::with_capacity(capacity);
        body.extend_from_slice(&GZIP_HEADER);
        Self { body, crc: Hasher::new(), raw_bytes: 0 }
    }

    /// Appends text uncompressed, in blocks that end on a byte boundary.
    fn store(&mut self, text: &[u8]) {
        self.crc.update(text);
        self.raw_bytes = self.raw_bytes.wrapping_add(text.len() as u32);
        for block in text.chunks(STORED_BYTES_MAX) {
            let length = block.len() as u16;
            self.body.push(0);
            self.body.extend_from_slice(&length.to_le_bytes());
            self.body.extend_from_slice(&(!length).to_le_bytes());
            self.body.extend_from_slice(block);
        }
    }

    /// Appends the blocks of a sealed chunk as they are.
    fn put(&mut self, chunk: &Chunk) {
        self.crc.combine(&Hasher::new_with_initial_len(chunk.crc, u64::from(chunk.raw_bytes)));
        self.raw_bytes = self.raw_bytes.wrapping_add(chunk.raw_bytes);
        self.body.extend_from_slice(&chunk.body);
    }

    fn finish(mut self) -> Bytes {
        self.body.extend_from_slice(&LAST_BLOCK);
        self.body.extend_from_slice(&self.crc.finalize().to_le_bytes());
        // The length is modulo 2^32: RFC 1952, 2.3.1.
        self.body.extend_from_slice(&self.raw_bytes.to_le_bytes());
        self.body.into()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::core::chunk::tests::rows;

    #[test]
    fn a_sample_is_a_few_of_the_rows_each_whole() {
        let chunks: Vec<_> = ["a", "b", "c"]
            .map(|name| Sealer::new(Encoding::Deflate).seal(&rows(name, 10).into()))
            .into_iter()
            .collect();
        let mut numbers = [3, 25, 25, 29].into_iter();
        let sample = sample(&chunks, 4, |all| numbers.next().unwrap() % all).unwrap();
        let names: Vec<_> = sample
            .as_ref()
            .iter()
            .filter_map(|row| crate::core::row::name(row).map(<[u8]>::to_vec))
            .collect();
        assert_eq!(names, [b"a.3".to_vec(), b"c.5".to_vec(), b"c.9".to_vec()]);
        assert_eq!(sample.count, 3);
    }

    proptest! {
        #[test]
        fn a_payload_inflates_to_the_array_of_all_rows(
            sizes in prop::collection::vec((1u32..400, any::<bool>()), 1..6),
            deflate: bool,
        ) {
            let mut all = Rows::default();
            let chunks: Vec<_> = sizes.iter().enumerate().map(|(i, &(n, deflate))| {
                let rows = rows(&format!("servers.{i}"), n);
                all.append(rows.as_ref());
                Sealer::new(if deflate { Encoding::Deflate } else { Encoding::Plain }).seal(&rows.into())
            }).collect();
            let expected = [b"[", all.text.as_slice(), b"]"].concat();

            let mut body = Vec::new();
            if deflate {
                let sent = compose(&chunks, Encoding::Deflate).unwrap();
                // This decoder checks the CRC and the length at the end.
                flate2::read::GzDecoder::new(&sent[..]).read_to_end(&mut body).unwrap();
            } else {
                body.extend_from_slice(&compose(&chunks, Encoding::Plain).unwrap());
            }
            prop_assert_eq!(&body, &expected);
            let raw: usize = chunks.iter().map(|chunk| chunk.raw_bytes as usize).sum();
            prop_assert_eq!(body.len(), raw + punctuation_bytes(chunks.len()));
        }
    }
}
