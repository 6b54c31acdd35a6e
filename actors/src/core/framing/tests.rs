//! Frames of every kind, cut anywhere.

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
    assert_eq!(connection.receives(b"\0\0\0\0\0\0\0\x01a"), [malformed(Reason::FrameEmpty, ""), pickle("a")]);
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
        let received: Vec<_> = std::iter::from_fn(|| framing.decode_eof(&mut datagram).unwrap()).collect();
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
