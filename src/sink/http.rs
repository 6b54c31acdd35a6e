//! Reading HTTP/1.x requests from one connection, as the netty of Blueflood reads them.
//! It never answers, and holds at most one head and one piece of a body.
//!
//! Source, measured: `actors/contract/blueflood.md`, "Headers and encodings" and "Connections and timing".

use super::inflate::{BODY_BYTES_MAX, Body, Inflater};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The request line and the header lines, in bytes: netty's 4 KiB and 8 KiB.
const REQUEST_LINE_BYTES_MAX: usize = 4096;
const HEAD_BYTES_MAX: usize = 4096 + 8192;
/// Header lines; netty has no limit of its own, 8 KiB hold no more that matter.
const HEADERS_MAX: usize = 128;
/// What is read at once.
const READ_BYTES: usize = 64 << 10;
/// A line with the size of a chunk, or a trailer.
const CHUNK_LINE_BYTES_MAX: usize = 4096;

/// The head of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    pub method: String,
    /// As it was sent: path and query, still percent-encoded.
    pub target: String,
    /// In order; bytes that are not UTF-8 become U+FFFD.
    pub headers: Vec<(String, String)>,
    pub http_1_0: bool,
}

impl Head {
    /// The value of a header, trimmed; of several the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Whether the connection lives on after the answer.
    pub fn keep_alive(&self) -> bool {
        let says = |word| self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case(word));
        if self.http_1_0 { says("keep-alive") } else { !says("close") }
    }

    /// Whether the client waits to be told to send its body.
    pub fn expects_continue(&self) -> bool {
        self.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }

    /// The length that the head gives for the body, in bytes; 0 without one.
    pub fn content_length(&self) -> u64 {
        self.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    fn is_chunked(&self) -> bool {
        let value = self.header("transfer-encoding");
        value.is_some_and(|value| value.to_ascii_lowercase().contains("chunked"))
    }
}

/// What a connection has to say next.
#[derive(Debug)]
pub(super) enum Next {
    Request(Head),
    /// A request whose header lines go over the limit; they are left out.
    HeadTooLarge(Head),
    /// These bytes are no HTTP, or a request line over its limit.
    NotHttp,
    /// The client has closed, in the middle of something or not.
    End,
}

/// The reading half of one connection.
pub(super) struct Reader {
    pub stream: TcpStream,
    buffer: BytesMut,
}

/// How the end of a body is known.
enum Framing {
    Length(u64),
    Chunked(Chunk),
}

enum Chunk {
    Size,
    Data(u64),
    DataEnd,
    Trailer,
    Done,
}

impl Reader {
    pub fn new(stream: TcpStream) -> Self {
        Reader { stream, buffer: BytesMut::new() }
    }

    /// Waits for the next head.
    pub async fn next(&mut self) -> io::Result<Next> {
        let mut searched = 0usize;
        loop {
            let from = searched.saturating_sub(3);
            if let Some(end) = head_end(&self.buffer, from) {
                let head = self.buffer.split_to(end);
                return Ok(parse(&head));
            }
            let line_end = self.buffer.iter().position(|&byte| byte == b'\n');
            let line = self.buffer.get(..line_end.unwrap_or(self.buffer.len())).unwrap_or_default();
            if line.len() > REQUEST_LINE_BYTES_MAX || line_end.is_some() && !is_request_line(line) {
                return Ok(Next::NotHttp);
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Ok(parse_line_alone(line));
            }
            searched = self.buffer.len();
            if self.fill().await? == 0 {
                return Ok(Next::End);
            }
        }
    }

    /// Reads the body of `head` to its end, and says how many bytes it had on the wire.
    ///
    /// # Errors
    /// When the connection ends, or its chunks are broken, before the body does.
    pub async fn body(&mut self, head: &Head) -> io::Result<(Body, u64)> {
        let mut inflater = Inflater::new(head.header("content-encoding"));
        let mut framing = if head.is_chunked() {
            Framing::Chunked(Chunk::Size)
        } else {
            Framing::Length(head.content_length())
        };
        let mut raw = 0u64;
        while let Some(piece) = self.piece(&mut framing).await? {
            raw = raw.saturating_add(piece.len() as u64);
            inflater.push(&piece);
        }
        Ok((inflater.finish(), raw))
    }

    /// Reads and forgets until the client closes.
    pub async fn swallow(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            if self.fill().await? == 0 {
                return Ok(());
            }
        }
    }

    /// Writes last bytes and closes, in such a way that they arrive: a close over unread bytes would be a reset,
    /// and a reset overtakes them.
    pub async fn close_after(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes).await?;
        self.stream.shutdown().await?;
        self.swallow().await
    }

    /// Writes bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ_BYTES);
        self.stream.read_buf(&mut (&mut self.buffer).limit(READ_BYTES)).await
    }

    /// The next bytes of a body, or none at its end.
    async fn piece(&mut self, framing: &mut Framing) -> io::Result<Option<Bytes>> {
        loop {
            let left = match framing {
                Framing::Length(left) => left,
                Framing::Chunked(Chunk::Data(left)) => left,
                Framing::Chunked(state) => {
                    if let Chunk::Done = state {
                        return Ok(None);
                    }
                    *state = self.chunk_line(state).await?;
                    continue;
                }
            };
            if *left == 0 {
                match framing {
                    Framing::Length(_) => return Ok(None),
                    Framing::Chunked(state) => *state = Chunk::DataEnd,
                }
                continue;
            }
            if self.buffer.is_empty() && self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
            *left = left.saturating_sub(taken as u64);
            return Ok(Some(self.buffer.split_to(taken).freeze()));
        }
    }

    /// Reads one line between chunks, and says what comes after it.
    async fn chunk_line(&mut self, state: &Chunk) -> io::Result<Chunk> {
        let end = loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                break end;
            }
            if self.buffer.len() > CHUNK_LINE_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let line = self.buffer.split_to(end);
        self.buffer.advance(1);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim();
        match state {
            Chunk::Size => {
                let size = line.split(';').next().unwrap_or_default();
                match u64::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)? {
                    0 => Ok(Chunk::Trailer),
                    size => Ok(Chunk::Data(size)),
                }
            }
            Chunk::DataEnd => Ok(Chunk::Size),
            _ if line.is_empty() => Ok(Chunk::Done),
            _ => Ok(Chunk::Trailer),
        }
    }
}

/// Whether a body of this announced length is refused before it is sent.
pub(super) fn is_announced_too_large(head: &Head) -> bool {
    head.content_length() > BODY_BYTES_MAX as u64
}

/// Where the empty line after the header lines ends.
fn head_end(buffer: &[u8], from: usize) -> Option<usize> {
    let tail = buffer.get(from..)?;
    tail.iter().enumerate().filter(|(_, byte)| **byte == b'\n').find_map(|(at, _)| {
        let length = match tail.get(at.saturating_add(1)..)? {
            [b'\n', ..] => 2usize,
            [b'\r', b'\n', ..] => 3,
            _ => return None,
        };
        Some(from.saturating_add(at).saturating_add(length))
    })
}

fn is_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let version = words.nth(2);
    // An empty line before a request is skipped, as HTTP allows.
    line.is_empty() || version.is_some_and(|version| version.starts_with(b"HTTP/1."))
}

fn parse(bytes: &[u8]) -> Next {
    let line = bytes.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    if line.is_none_or(|line| line.len() > REQUEST_LINE_BYTES_MAX) {
        return Next::NotHttp;
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return parse_line_alone(line.unwrap_or_default()),
        _ => return Next::NotHttp,
    }
    let head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        headers: request
            .headers
            .iter()
            .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
            .collect(),
        http_1_0: request.version == Some(0),
    };
    if bytes.len() > HEAD_BYTES_MAX || head.headers.iter().any(|(_, value)| value.len() > 8192) {
        return Next::HeadTooLarge(Head { headers: Vec::new(), ..head });
    }
    Next::Request(head)
}

fn parse_line_alone(line: &[u8]) -> Next {
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace().map(str::to_owned);
    match (words.next(), words.next()) {
        (Some(method), Some(target)) => Next::HeadTooLarge(Head { method, target, ..Head::default() }),
        _ => Next::NotHttp,
    }
}
