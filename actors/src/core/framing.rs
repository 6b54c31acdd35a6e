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

    /// The framing of a datagram: lines, and never TLS.
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A connection that the test writes to, in pieces as it likes.
    struct Connection {
        framing: Framing,
        buffer: BytesMut,
    }

    impl Connection {
        fn new(protocol: Protocol) -> Self {
            Connection { framing: Framing::new(protocol), buffer: BytesMut::new() }
        }

        fn receives(&mut self, bytes: impl AsRef<[u8]>) -> Vec<Frame> {
            self.buffer.extend_from_slice(bytes.as_ref());
            std::iter::from_fn(|| self.framing.decode(&mut self.buffer).unwrap()).collect()
        }

        fn fails_at(&mut self, bytes: impl AsRef<[u8]>) -> FramingError {
            self.buffer.extend_from_slice(bytes.as_ref());
            self.framing.decode(&mut self.buffer).unwrap_err()
        }

        fn closes(mut self) -> Vec<Frame> {
            std::iter::from_fn(|| self.framing.decode_eof(&mut self.buffer).unwrap()).collect()
        }
    }

    fn pickle(bytes: &'static str) -> Frame {
        Frame::Pickle(Bytes::from(bytes))
    }

    fn lines(text: impl Into<Bytes>) -> Frame {
        Frame::Lines(text.into())
    }

    fn malformed(reason: Reason, sample: impl Into<Bytes>) -> Frame {
        Frame::Malformed { reason, sample: sample.into() }
    }

    #[test]
    fn pickles_are_cut_by_their_length() {
        let mut connection = Connection::new(Protocol::Pickle);
        assert_eq!(connection.receives(b"\0\0\0\x03abc\0\0\0\x02de\0"), [pickle("abc"), pickle("de")]);
        for byte in b"\0\0\x02f" {
            assert_eq!(connection.receives([*byte]), []);
        }
        assert_eq!(connection.receives(b"g"), [pickle("fg")]);
        assert_eq!(connection.closes(), []);
    }

    #[test]
    fn the_longest_pickle_passes_and_one_byte_more_ends_the_connection() {
        let mut connection = Connection::new(Protocol::Pickle);
        assert_eq!(connection.receives(b"\0\x10\0\0"), []);
        assert_eq!(connection.receives(vec![b'.'; FRAME_BYTES_MAX]).len(), 1);
        let error = connection.fails_at(b"\0\x10\0\x01");
        assert_eq!(error.reason(), Some(Reason::FrameTooLong));
        assert_eq!(error.to_string(), "a pickle of 1048577 bytes was announced, over the limit of 1048576");
    }

    #[test]
    fn text_on_a_pickle_port_is_told_what_to_set() {
        let error = Connection::new(Protocol::Pickle).fails_at("a.b 1 1448390000\n");
        assert!(error.to_string().contains("\"a.b \""), "{error}");
        assert!(error.to_string().contains(":protocol=auto"), "{error}");
    }

    #[test]
    fn tls_on_a_plain_port_is_told_at_its_second_byte() {
        for protocol in [Protocol::Pickle, Protocol::Line, Protocol::Auto] {
            let mut connection = Connection::new(protocol);
            assert_eq!(connection.receives(b"\x16"), []);
            let error = connection.fails_at(b"\x03");
            assert_eq!(error.reason(), Some(Reason::TlsHandshake));
            assert!(error.to_string().contains("write tls: for tcp:"), "{error}");
        }
        assert_eq!(Connection::new(Protocol::Line).receives("\x16a 1 2\n"), [lines("\x16a 1 2\n")]);
        let mut datagram = BytesMut::from(&b"\x16\x03 1 2\n"[..]);
        assert!(matches!(Framing::of_datagram().decode_eof(&mut datagram), Ok(Some(Frame::Lines(_)))));
    }

    #[test]
    fn a_header_takes_no_memory_for_what_it_claims() {
        let mut connection = Connection::new(Protocol::Pickle);
        connection.receives(b"\0\x10\0\0");
        assert!(connection.buffer.capacity() <= 2 * RESERVE_BYTES_MIN, "{}", connection.buffer.capacity());
    }

    #[test]
    fn an_empty_frame_is_malformed_and_the_connection_lives() {
        let mut connection = Connection::new(Protocol::Pickle);
        assert_eq!(
            connection.receives(b"\0\0\0\0\0\0\0\x01a"),
            [malformed(Reason::FrameEmpty, ""), pickle("a")]
        );
    }

    #[test]
    fn a_frame_cut_by_the_close_is_truncated() {
        for cut in ["\0\0", "\0\0\0\x03ab"] {
            let mut connection = Connection::new(Protocol::Pickle);
            assert_eq!(connection.receives(cut), []);
            assert_eq!(connection.closes(), [malformed(Reason::Truncated, cut)]);
        }
    }

    #[test]
    fn lines_come_in_blocks_of_complete_ones() {
        let mut connection = Connection::new(Protocol::Line);
        assert_eq!(connection.receives("a 1 2\nb 1 2\nc"), [lines("a 1 2\nb 1 2\n")]);
        assert_eq!(connection.receives(" 1 2"), []);
        assert_eq!(connection.receives("\n"), [lines("c 1 2\n")]);
        assert_eq!(connection.closes(), []);
    }

    #[test]
    fn blocks_are_bounded() {
        let text = "a.b.c 1 2\n".repeat(100_000);
        let blocks = Connection::new(Protocol::Line).receives(&text);
        let mut joined = Vec::new();
        for block in blocks {
            let Frame::Lines(block) = block else { panic!("{block:?}") };
            assert!(block.len() <= BLOCK_BYTES_MAX + LINE_BYTES_MAX && block.ends_with(b"\n"));
            joined.extend_from_slice(&block);
        }
        assert_eq!(joined, text.as_bytes());
    }

    #[test]
    fn the_longest_line_passes() {
        let line = format!("{}\n", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(Connection::new(Protocol::Line).receives(&line), [lines(line.clone())]);
    }

    #[test]
    fn a_line_too_long_is_counted_once_and_skipped_to_its_end() {
        let mut connection = Connection::new(Protocol::Line);
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        let counted = malformed(Reason::LineTooLong, "x".repeat(SAMPLE_BYTES_MAX));
        assert_eq!(connection.receives(format!("a 1 2\n{long}")), [lines("a 1 2\n"), counted.clone()]);
        for _ in 0..10 {
            assert_eq!(connection.receives(&long), []);
            assert!(connection.buffer.is_empty(), "what is skipped is not kept");
        }
        assert_eq!(connection.receives("x\nb 1 2\n"), [lines("b 1 2\n")]);
        assert_eq!(connection.receives(format!("{long}\nc 1 2\n")), [counted, lines("c 1 2\n")]);
        assert_eq!(connection.closes(), []);
    }

    #[test]
    fn a_last_line_counts_without_its_newline_at_a_clean_close() {
        for (rest, frames) in [
            ("a 1 2", vec![lines("a 1 2")]),
            ("a 1", vec![malformed(Reason::Truncated, "a 1")]),
            ("a", vec![malformed(Reason::Truncated, "a")]),
            ("a 2,5 -1", vec![lines("a 2,5 -1")]),
            ("a 1 N", vec![lines("a 1 N")]),
            ("a 1 2 3", vec![lines("a 1 2 3")]),
            ("a 1 2\rb 1 2\r", vec![lines("a 1 2\rb 1 2\r")]),
            ("GET", vec![malformed(Reason::Truncated, "GET")]),
            ("SSH-2.0 1 2", vec![lines("SSH-2.0 1 2")]),
            ("\r\n", vec![lines("\r\n")]),
            (" \r", vec![]),
            ("", vec![]),
        ] {
            let mut connection = Connection::new(Protocol::Line);
            assert_eq!(connection.receives(rest), []);
            assert_eq!(connection.closes(), frames, "{rest:?}");
        }
    }

    #[test]
    fn a_datagrams_last_line_has_its_own_reason() {
        for text in ["a 2,5 -1", "a 1", "a"] {
            let mut datagram = BytesMut::from(text);
            let mut framing = Framing::of_datagram();
            assert_eq!(framing.decode_eof(&mut datagram).unwrap(), Some(lines(text)));
            assert_eq!(framing.decode_eof(&mut datagram).unwrap(), None);
        }
    }

    #[test]
    fn a_stranger_is_told_by_name_and_counted_once() {
        let (http, ssh) = ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "SSH-2.0-OpenSSH_9.6\r\n");
        let (pickle, bare) = ("\0\0\0V(l(S'a'\n", "(lp0\n(S'a'\n");
        for (protocol, bytes, reason, named) in [
            (Protocol::Line, http, Reason::Http, "HTTP"),
            (Protocol::Auto, http, Reason::Http, "HTTP"),
            (Protocol::Pickle, http, Reason::FrameTooLong, "HTTP"),
            (Protocol::Line, ssh, Reason::Ssh, "SSH"),
            (Protocol::Auto, ssh, Reason::Ssh, "SSH"),
            (Protocol::Pickle, ssh, Reason::FrameTooLong, "SSH"),
            (Protocol::Line, pickle, Reason::PickleOnLine, "protocol=auto or :protocol=pickle"),
            (Protocol::Line, bare, Reason::PickleNoLength, "without its length"),
            (Protocol::Auto, bare, Reason::PickleNoLength, "without its length"),
            (Protocol::Pickle, bare, Reason::FrameTooLong, "without its length"),
        ] {
            let error = Connection::new(protocol).fails_at(bytes);
            assert_eq!(error.reason(), Some(reason), "{protocol}: {bytes:?}");
            assert!(error.to_string().contains(named), "{protocol}: {bytes:?}: {error}");
            let mut datagram = BytesMut::from(bytes);
            assert!(Framing::of_datagram().decode_eof(&mut datagram).is_err(), "{bytes:?}");
        }
        let pickles = Connection::new(Protocol::Auto).receives("\0\0\0\x01a");
        assert_eq!(pickles, [self::pickle("a")]);
    }

    #[test]
    fn a_proxys_header_and_a_byte_order_mark_are_no_part_of_a_name() {
        let (text, binary) =
            (&b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n"[..], &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02xy"[..]);
        let mark = &b"\xef\xbb\xbf"[..];
        let counted = |header: &[u8]| malformed(Reason::ProxyHeader, header.to_vec());
        for (headers, mut frames) in [
            (vec![mark], vec![]),
            (vec![text], vec![counted(text)]),
            (vec![binary], vec![counted(binary)]),
            (vec![text, mark], vec![counted(text)]),
            (vec![binary, text], vec![counted(binary), counted(text)]),
        ] {
            let bytes = [headers.concat(), b"a 1 2\n".to_vec()].concat();
            frames.push(lines("a 1 2\n"));
            for protocol in [Protocol::Line, Protocol::Auto] {
                let mut connection = Connection::new(protocol);
                let received: Vec<_> = bytes.iter().flat_map(|byte| connection.receives([*byte])).collect();
                assert_eq!(received, frames, "{}", bytes.escape_ascii());
            }
            let mut datagram = BytesMut::from(&bytes[..]);
            let mut framing = Framing::of_datagram();
            let received: Vec<_> =
                std::iter::from_fn(|| framing.decode_eof(&mut datagram).unwrap()).collect();
            assert_eq!(received, frames, "{}", bytes.escape_ascii());

            let bytes = [headers.concat(), b"\0\0\0\x01a".to_vec()].concat();
            frames.pop();
            frames.push(pickle("a"));
            for protocol in [Protocol::Pickle, Protocol::Auto] {
                assert_eq!(Connection::new(protocol).receives(&bytes), frames, "{}", bytes.escape_ascii());
            }
        }
    }

    /// What a connection comes to, its lines one by one, and how it failed. `cuts` are where a packet ends.
    fn outcome(protocol: Protocol, bytes: &[u8], cuts: &[usize]) -> (Vec<Frame>, Option<String>) {
        let (mut framing, mut buffer) = (Framing::new(protocol), BytesMut::new());
        let mut frames = Vec::new();
        let mut take = |frame| match frame {
            Frame::Lines(block) => {
                frames.extend(block.split_inclusive(|&byte| byte == b'\n').map(|line| lines(line.to_vec())));
            }
            frame => frames.push(frame),
        };
        let mut start = 0;
        for &end in cuts.iter().chain([&bytes.len()]) {
            buffer.extend_from_slice(&bytes[start..end]);
            start = end;
            loop {
                match framing.decode(&mut buffer) {
                    Ok(Some(frame)) => take(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error.to_string())),
                }
            }
        }
        loop {
            match framing.decode_eof(&mut buffer) {
                Ok(Some(frame)) => take(frame),
                Ok(None) => return (frames, None),
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
    }

    /// What the parts of a connection may be.
    const PARTS: &[&[u8]] = &[
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02xy",
        b"\xef\xbb\xbf",
        b"\x16\x03",
        b"GET / HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"SSH-2.0-x\r\n",
        b"\0\0\0\x03abc",
        b"\0\0\0\x03]q.",
        b"\0\0\0\0",
        b"(lp0\n",
        b"A 1 2\n",
        b"a 1 2\n",
        b"\n",
        b"PROXY",
        b"SSH",
    ];

    proptest! {
        #[test]
        fn it_does_not_matter_where_packets_end(
            parts in prop::collection::vec(prop::sample::select(PARTS), 0..6),
            end in 0..80usize,
            cuts in prop::collection::vec(0..80usize, 0..6),
            protocol in prop::sample::select(&[Protocol::Line, Protocol::Pickle, Protocol::Auto][..]),
        ) {
            let mut bytes = parts.concat();
            bytes.truncate(end);
            let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| cut <= bytes.len()).collect();
            cuts.sort_unstable();
            let at_once = outcome(protocol, &bytes, &[]);
            let one_by_one: Vec<_> = (0..bytes.len()).collect();
            prop_assert_eq!(&outcome(protocol, &bytes, &cuts), &at_once);
            prop_assert_eq!(&outcome(protocol, &bytes, &one_by_one), &at_once);
        }
    }

    #[test]
    fn auto_is_told_by_the_first_byte() {
        let mut connection = Connection::new(Protocol::Auto);
        assert_eq!(connection.receives(""), []);
        assert_eq!(connection.receives("\0"), []);
        assert_eq!(connection.receives("\0\0\x01a"), [pickle("a")]);
        assert_eq!(Connection::new(Protocol::Auto).receives("a 1 2\n\0"), [lines("a 1 2\n")]);
        assert_eq!(Connection::new(Protocol::Auto).closes(), []);
    }
}
