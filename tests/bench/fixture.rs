//! Owns the inputs of the small benches: the load's own frames, and the stages that come before the one measured.
//! It never measures.
#![allow(dead_code, reason = "each bench uses its part")]

use actors::core::chunk::{Chunk, Encoding, Sealer};
use actors::core::datapoint::Datapoint;
use actors::core::line::Lines;
use actors::core::pickle::{Bounds, Decoder};
use actors::core::row::{Encoder, RowSettings, Rows};

use crate::load::{self, FRAME, Protocol};

/// Milliseconds since 1970, for what has no time of its own.
pub const NOW_MS: i64 = 1_700_000_000_000;

/// A frame of [`FRAME`] datapoints: a pickle without its length, or lines.
pub fn frame(protocol: Protocol) -> Vec<u8> {
    let mut bytes = load::frame(protocol, 0, 1_700_000_000);
    if protocol == Protocol::Pickle {
        bytes.drain(..4);
    }
    bytes
}

pub fn decoder() -> Decoder {
    Decoder::new(Bounds::default())
}

pub fn encoder() -> Encoder {
    Encoder::new(&RowSettings {
        prefix: String::new(),
        ttl_s: 86_400,
        tenant: "acme".to_owned(),
        payload_bytes_max: 1 << 20,
        overwrite_time: false,
    })
}

/// Decodes a pickle; how many datapoints it has.
pub fn decode(decoder: &mut Decoder, pickle: &[u8], mut each: impl FnMut(&Datapoint<'_>)) -> usize {
    let mut n = 0;
    let mut datapoints = decoder.decode(pickle).unwrap();
    while let Some(item) = datapoints.next() {
        if let Ok(datapoint) = item {
            each(&datapoint);
            n += 1;
        }
    }
    n
}

/// `frames` frames' rows, of different series.
pub fn rows(frames: usize) -> Rows {
    let (encoder, mut rows) = (encoder(), Rows::default());
    for k in 0..frames {
        let lines = load::frame(Protocol::Line, k * FRAME, 1_700_000_000);
        Lines::new(&lines).flatten().for_each(|datapoint| {
            encoder.encode(&datapoint, NOW_MS, &mut rows).unwrap();
        });
    }
    rows
}

/// A chunk as full as they get: 2,000 rows.
pub fn chunk(encoding: Encoding) -> Chunk {
    Sealer::new(encoding).seal(&rows(4).into())
}
