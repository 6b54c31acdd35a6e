//! Owns how a sink of the scenarios and of the bench reads requests: what they need of HTTP, byte by byte, and at little cost.
//! It never answers, and never looks at what is in a body.

// Both sinks have it; each needs but some of what a request says.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;

use flate2::read::GzDecoder;

/// The requests of a connection, one after the other.
pub struct Requests {
    from: BufReader<TcpStream>,
    head: Vec<u8>,
    body: Vec<u8>,
    text: Vec<u8>,
}

/// What a request says of itself.
pub struct Request {
    gzip: bool,
    /// Its connection ends with it.
    pub close: bool,
    /// Head and body, as they came.
    pub wire_bytes: usize,
}

impl Requests {
    pub fn of(stream: TcpStream) -> Self {
        let from = BufReader::with_capacity(256 << 10, stream);
        Self { from, head: Vec::new(), body: Vec::new(), text: Vec::new() }
    }

    /// Reads a request that says its length; `None` at the end of the connection.
    pub fn read(&mut self) -> Option<Request> {
        self.head.clear();
        while !self.head.ends_with(b"\r\n\r\n") {
            if self.from.read_until(b'\n', &mut self.head).ok()? == 0 {
                return None;
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        request.parse(&self.head).ok()?;
        let header = |name: &str| {
            let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            header.and_then(|header| std::str::from_utf8(header.value).ok())
        };
        let length = header("content-length")?.parse().ok()?;
        let gzip = header("content-encoding") == Some("gzip");
        let close = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.body.resize(length, 0);
        self.from.read_exact(&mut self.body).ok()?;
        Some(Request { gzip, close, wire_bytes: self.head.len() + length })
    }

    /// The body of the request that was read last, unpacked.
    pub fn body(&mut self, request: &Request) -> &[u8] {
        if !request.gzip {
            return &self.body;
        }
        self.text.clear();
        let unpacked = GzDecoder::new(&self.body[..]).read_to_end(&mut self.text);
        assert!(unpacked.is_ok(), "a body that is no gzip: {unpacked:?}");
        &self.text
    }
}
