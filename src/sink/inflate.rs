//! A request body on its way in: inflated piece by piece, under Blueflood's limit.
//! It never holds more than the limit, however much is sent and however well it was compressed.
//!
//! Source, measured: `actors/contract/blueflood.md`, "The body and its limit" and "Headers and encodings": the limit counts
//! inflated bytes, and unknown encodings are ignored.

use flate2::write::{DeflateDecoder, GzDecoder, ZlibDecoder};
use std::io::{self, Write};

/// Blueflood's limit on a body, in bytes after inflation.
pub const BODY_BYTES_MAX: usize = 1_048_576;

/// What became of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// All of it, inflated.
    Whole(Vec<u8>),
    /// It went over the limit: Blueflood swallows it and never answers.
    TooLarge,
    /// It is not what its `Content-Encoding` says: Blueflood's connection is dead from then on.
    Undecodable,
}

/// Takes a body in pieces.
pub(super) struct Inflater {
    decoder: Decoder,
    failed: bool,
}

enum Decoder {
    Plain(Capped),
    Gzip(GzDecoder<Capped>),
    /// `deflate` before its first two bytes, which say whether it has a zlib header.
    Undecided(Vec<u8>),
    Zlib(ZlibDecoder<Capped>),
    Raw(DeflateDecoder<Capped>),
}

impl Inflater {
    /// For the value of a `Content-Encoding` header, if there is one.
    pub fn new(encoding: Option<&str>) -> Self {
        let is = |name| encoding.is_some_and(|encoding| encoding.trim().eq_ignore_ascii_case(name));
        let decoder = if is("gzip") || is("x-gzip") {
            Decoder::Gzip(GzDecoder::new(Capped::default()))
        } else if is("deflate") || is("x-deflate") {
            Decoder::Undecided(Vec::new())
        } else {
            Decoder::Plain(Capped::default())
        };
        Inflater { decoder, failed: false }
    }

    /// Takes the next piece. Once the body has failed or is too large, pieces are only swallowed.
    pub fn push(&mut self, piece: &[u8]) {
        if self.failed || self.is_over() {
            return;
        }
        let written = match &mut self.decoder {
            Decoder::Plain(body) => body.write_all(piece),
            Decoder::Gzip(decoder) => decoder.write_all(piece),
            Decoder::Zlib(decoder) => decoder.write_all(piece),
            Decoder::Raw(decoder) => decoder.write_all(piece),
            Decoder::Undecided(start) => {
                start.extend_from_slice(piece);
                if let [first, second, ..] = **start {
                    let start = std::mem::take(start);
                    // RFC 1950: method 8, and the two bytes are a multiple of 31.
                    let zlib = first & 0x0f == 8 && u16::from_be_bytes([first, second]) % 31 == 0;
                    self.decoder = if zlib {
                        Decoder::Zlib(ZlibDecoder::new(Capped::default()))
                    } else {
                        Decoder::Raw(DeflateDecoder::new(Capped::default()))
                    };
                    return self.push(&start);
                }
                Ok(())
            }
        };
        // A decoder that takes no more has seen the end of its stream: what follows is ignored.
        self.failed = written.is_err_and(|error| error.kind() != io::ErrorKind::WriteZero);
    }

    /// The whole body. One that was cut short is what it inflates to so far, as in Blueflood.
    pub fn finish(mut self) -> Body {
        if !self.failed && !self.is_over() {
            let flushed = match &mut self.decoder {
                Decoder::Gzip(decoder) => decoder.flush(),
                Decoder::Zlib(decoder) => decoder.flush(),
                Decoder::Raw(decoder) => decoder.flush(),
                Decoder::Plain(_) | Decoder::Undecided(_) => Ok(()),
            };
            self.failed = flushed.is_err();
        }
        if self.failed {
            return Body::Undecodable;
        }
        match self.body_mut().map(std::mem::take) {
            Some(Capped { over: true, .. }) => Body::TooLarge,
            Some(Capped { bytes, .. }) => Body::Whole(bytes),
            None => Body::Whole(Vec::new()),
        }
    }

    fn is_over(&mut self) -> bool {
        self.body_mut().is_some_and(|body| body.over)
    }

    fn body_mut(&mut self) -> Option<&mut Capped> {
        match &mut self.decoder {
            Decoder::Plain(body) => Some(body),
            Decoder::Gzip(decoder) => Some(decoder.get_mut()),
            Decoder::Zlib(decoder) => Some(decoder.get_mut()),
            Decoder::Raw(decoder) => Some(decoder.get_mut()),
            Decoder::Undecided(_) => None,
        }
    }
}

/// Up to [`BODY_BYTES_MAX`] bytes; more are dropped, and with them what came before.
#[derive(Default)]
struct Capped {
    bytes: Vec<u8>,
    over: bool,
}

impl Write for Capped {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.over |= self.bytes.len().saturating_add(piece.len()) > BODY_BYTES_MAX;
        if self.over {
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(piece);
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    fn inflated(encoding: Option<&str>, bytes: &[u8], piece: usize) -> Body {
        let mut inflater = Inflater::new(encoding);
        bytes.chunks(piece).for_each(|piece| inflater.push(piece));
        inflater.finish()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_encoding_inflates_in_pieces_of_any_size() {
        let text = b"[{\"metricName\":\"a\"}]".repeat(50);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(&text).unwrap();
        raw.write_all(&text).unwrap();
        let (zlib, raw) = (zlib.finish().unwrap(), raw.finish().unwrap());
        for piece in [1, 7, 10_000] {
            assert_eq!(inflated(Some("gzip"), &gzip(&text), piece), Body::Whole(text.clone()));
            assert_eq!(inflated(Some("deflate"), &zlib, piece), Body::Whole(text.clone()));
            assert_eq!(inflated(Some("deflate"), &raw, piece), Body::Whole(text.clone()));
            assert_eq!(inflated(Some("zstd"), &text, piece), Body::Whole(text.clone()));
        }
    }

    #[test]
    fn the_limit_counts_inflated_bytes() {
        let most = vec![b' '; BODY_BYTES_MAX];
        assert_eq!(inflated(Some("gzip"), &gzip(&most), 1000), Body::Whole(most.clone()));
        let more = vec![b' '; BODY_BYTES_MAX + 1];
        assert_eq!(inflated(Some("gzip"), &gzip(&more), 1000), Body::TooLarge);
        assert_eq!(inflated(None, &more, 1000), Body::TooLarge);
    }

    #[test]
    fn a_plain_body_called_gzip_is_undecodable_and_a_cut_one_is_cut() {
        assert_eq!(inflated(Some("gzip"), b"[{\"metricName\":\"a\"}]", 5), Body::Undecodable);
        let whole = gzip(&b"abcdefgh".repeat(1000));
        let Body::Whole(part) = inflated(Some("gzip"), &whole[..whole.len() - 9], 5) else {
            panic!("a cut body is still a body");
        };
        assert!(part.len() <= 8000);
    }
}
