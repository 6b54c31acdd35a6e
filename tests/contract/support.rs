//! Owns the way from bytes to datapoints as a listener goes it, and where the test data lies.
//! Never decides what is right; the modules beside it do.

use std::path::PathBuf;

use actors::core::datapoint::{Datapoint, Malformed, Reason};
use actors::core::framing::{Frame, Framing};
use actors::core::line::Lines;
use actors::core::pickle::{Bounds, Decoder};
use actors::core::protocol::Protocol;
use bytes::BytesMut;
use tokio_util::codec::Decoder as _;

/// A datapoint that outlives its frame. Equal if it is the same bit for bit, save that any NaN is like another.
#[derive(Debug, Clone)]
pub struct Point {
    pub name: Vec<u8>,
    pub timestamp: f64,
    pub value: f64,
}

impl Point {
    pub fn new(name: impl Into<Vec<u8>>, timestamp: f64, value: f64) -> Self {
        Point { name: name.into(), timestamp, value }
    }
}

impl PartialEq for Point {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        self.name == other.name && same(self.timestamp, other.timestamp) && same(self.value, other.value)
    }
}

impl From<Datapoint<'_>> for Point {
    fn from(datapoint: Datapoint<'_>) -> Self {
        Point::new(datapoint.name, datapoint.timestamp, datapoint.value)
    }
}

/// What was received, in order: datapoints and what was malformed.
pub type Received = Vec<Result<Point, Reason>>;

/// Decodes one pickle; the error is the frame's.
pub fn decode_pickle(frame: &[u8]) -> Result<Received, Reason> {
    decode_with(&mut Decoder::new(Bounds::default()), frame)
}

pub fn decode_with(decoder: &mut Decoder, frame: &[u8]) -> Result<Received, Reason> {
    let mut datapoints = decoder.decode(frame).map_err(|malformed| malformed.reason)?;
    let mut received = Received::new();
    while let Some(item) = datapoints.next() {
        received.push(own(item));
    }
    Ok(received)
}

pub fn parse_lines(block: &[u8]) -> Received {
    Lines::new(block).map(own).collect()
}

fn own(item: Result<Datapoint<'_>, Malformed<'_>>) -> Result<Point, Reason> {
    item.map(Point::from).map_err(|malformed| malformed.reason)
}

/// Receives a whole connection whose bytes come in the given pieces, up to its clean close or its fatal error.
pub fn receive<'a>(protocol: Protocol, pieces: impl IntoIterator<Item = &'a [u8]>) -> Received {
    let mut framing = Framing::new(protocol);
    let mut decoder = Decoder::new(Bounds::default());
    let mut buffer = BytesMut::new();
    let mut received = Received::new();
    let mut take = |frame: Frame| match frame {
        Frame::Pickle(frame) => match decode_with(&mut decoder, &frame) {
            Ok(items) => received.extend(items),
            Err(reason) => received.push(Err(reason)),
        },
        Frame::Lines(block) => received.extend(parse_lines(&block)),
        Frame::Malformed { reason, .. } => received.push(Err(reason)),
    };

    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match framing.decode(&mut buffer) {
                Ok(Some(frame)) => take(frame),
                Ok(None) => break,
                Err(error) => {
                    received.push(Err(error.reason().unwrap()));
                    return received;
                }
            }
        }
    }
    while let Some(frame) = framing.decode_eof(&mut buffer).unwrap() {
        take(frame);
    }
    received
}

/// A file or folder under `tests/data`.
pub fn data(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data")).join(path)
}

/// What lies in a folder, by name.
pub fn listing(folder: PathBuf) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}
