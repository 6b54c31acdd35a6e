//! Owns what stands between the bytes of a connection and awc: the head of each answer, made one that awc understands.
//! It never touches a body, and never keeps more than one head.
//!
//! awc takes an interim answer (100, 102, 103) for the answer, a body without a length for none, and refuses a folded
//! header; all of them are allowed (RFC 9110, 15.2; RFC 9112, 5.2 and 6.3). So interim answers are skipped here, and the
//! head that goes on says nothing but the status, how long the body is, whether the connection may be used again, and
//! the headers that somebody here reads ([`KEPT`]).

use std::fmt;

use httparse::{Header, ParserConfig, Response, Status};

/// The most bytes of one head.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// The most interim answers to one request.
pub const INTERIM_MAX: u32 = 32;

/// The headers that go on as they are. A header that nobody reads can't do harm.
pub const KEPT: [&str; 4] = ["content-type", "location", "retry-after", "x-subject-token"];

/// What a request that wants no body begins with.
const HEAD_METHOD: &[u8] = b"HEAD ";

/// Why a connection can't be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faulty {
    /// The head is longer than [`HEAD_BYTES_MAX`].
    TooLong,
    /// More than [`INTERIM_MAX`] interim answers came, and no answer.
    TooManyInterim,
    /// It is no HTTP.
    NoHttp,
    /// It has a length, but that is no number, or there are several.
    Length,
    /// It speaks another protocol from now on, which nobody asked for.
    Switched,
    /// The connection ended within the head, or after interim answers.
    Cut,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Faulty::TooLong => write!(f, "its head is longer than {HEAD_BYTES_MAX} bytes"),
            Faulty::TooManyInterim => {
                write!(f, "more than {INTERIM_MAX} interim answers (HTTP 1xx) came before it")
            }
            Faulty::NoHttp => f.write_str("what came is no HTTP/1"),
            Faulty::Length => f.write_str("its Content-Length is not one number"),
            Faulty::Switched => f.write_str("HTTP 101: it speaks another protocol from now on"),
            Faulty::Cut => f.write_str("the answer ended within its head"),
        }
    }
}

impl std::error::Error for Faulty {}

/// One connection, as it is seen by who reads its answers. Requests are not sent ahead of answers.
#[derive(Debug, Default)]
pub struct AnswerHeads {
    turn: Turn,
    /// How the request begins, as far as it matters.
    method: Vec<u8>,
    /// The head so far.
    head: Vec<u8>,
    /// Bytes that came before a head and mean nothing.
    blanks: usize,
    interim: u32,
    requests: u64,
    heard: bool,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Turn {
    /// Nobody has asked yet.
    #[default]
    Idle,
    /// There is a request, and its answer's head is to come.
    Head,
    /// The head went on: what comes now is body. It ends when somebody asks again.
    Body,
}

impl AnswerHeads {
    /// Hears of bytes that were sent. The first of them after an answer begin a request.
    pub fn sent(&mut self, bytes: &[u8]) {
        if self.turn != Turn::Head && !bytes.is_empty() {
            self.turn = Turn::Head;
            self.method.clear();
            self.head.clear();
            self.blanks = 0;
            self.interim = 0;
            self.heard = false;
            self.requests = self.requests.saturating_add(1);
        }
        let wanted = HEAD_METHOD.len().saturating_sub(self.method.len());
        self.method.extend(bytes.iter().take(wanted));
    }

    /// Whether what comes now goes on as it is, without [`AnswerHeads::took`].
    pub fn is_body(&self) -> bool {
        self.turn != Turn::Head
    }

    /// Whether a byte of the answer to the last request has come.
    pub fn is_heard(&self) -> bool {
        self.heard
    }

    /// How many requests have begun.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Takes bytes that came, and adds to `on` what goes on to awc: nothing until a head is whole, then that and what
    /// came of the body.
    ///
    /// # Errors
    /// Why no answer can come of it: then the connection is to be closed.
    pub fn took(&mut self, mut bytes: &[u8], on: &mut Vec<u8>) -> Result<(), Faulty> {
        self.heard |= !bytes.is_empty();
        while self.turn == Turn::Head && !bytes.is_empty() {
            bytes = self.took_of_head(bytes, on)?;
        }
        on.extend_from_slice(bytes);
        Ok(())
    }

    /// Whether the connection may end here, as far as heads go.
    ///
    /// # Errors
    /// [`Faulty::Cut`] if it ends within an answer's head.
    pub fn ended(&self) -> Result<(), Faulty> {
        if self.turn == Turn::Head && self.heard { Err(Faulty::Cut) } else { Ok(()) }
    }

    /// Takes one head, or a part of one; what is left of the bytes.
    fn took_of_head<'a>(&mut self, bytes: &'a [u8], on: &mut Vec<u8>) -> Result<&'a [u8], Faulty> {
        let mut bytes = bytes;
        if self.head.is_empty() {
            let blanks = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.blanks = self.blanks.saturating_add(blanks);
            bytes = bytes.get(blanks..).unwrap_or_default();
        }
        let room = HEAD_BYTES_MAX.saturating_sub(self.head.len().saturating_add(self.blanks));
        let known = self.head.len();
        self.head.extend(bytes.iter().take(room));
        let Some(end) = end_of_head(&self.head, known) else {
            return if bytes.len() > room || room == 0 { Err(Faulty::TooLong) } else { Ok(&[]) };
        };
        let rest = bytes.get(end.saturating_sub(known)..).unwrap_or_default();
        self.head.truncate(end);
        match self.understood(on)? {
            Heard::Interim => {
                self.interim = self.interim.saturating_add(1);
                if self.interim > INTERIM_MAX {
                    return Err(Faulty::TooManyInterim);
                }
            }
            Heard::Answer => self.turn = Turn::Body,
        }
        // Large heads are rare: what they took is not kept.
        self.head = Vec::new();
        self.blanks = 0;
        Ok(rest)
    }

    /// Reads the head that is whole now, and writes awc's.
    fn understood(&self, on: &mut Vec<u8>) -> Result<Heard, Faulty> {
        let lines = self.head.iter().filter(|&&byte| byte == b'\n').count();
        let mut headers = vec![httparse::EMPTY_HEADER; lines];
        let mut answer = Response::new(&mut headers);
        let mut rules = ParserConfig::default();
        rules
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true);
        match rules.parse_response(&mut answer, &self.head) {
            Ok(Status::Complete(_)) => {}
            Ok(Status::Partial) | Err(_) => return Err(Faulty::NoHttp),
        }
        let (Some(status), Some(minor)) = (answer.code, answer.version) else { return Err(Faulty::NoHttp) };
        match status {
            101 => return Err(Faulty::Switched),
            100..=199 => return Ok(Heard::Interim),
            _ => {}
        }
        let framing = Framing::of(answer.headers)?;
        let asked_for_none = self.method == HEAD_METHOD;
        let has_body = !matches!(status, 204 | 304) && !asked_for_none;
        let until_close = has_body && framing == Framing::UntilClose;
        // The only way to tell awc of a body that ends with the connection.
        let version = if until_close { "1.0" } else { "1.1" };
        on.extend_from_slice(format!("HTTP/{version} {status:03} \r\n").as_bytes());
        match framing {
            Framing::Chunked if has_body => on.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::Length(length) if has_body || asked_for_none => {
                on.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
            }
            _ => {}
        }
        if until_close || !is_kept_alive(answer.headers, minor, framing) {
            on.extend_from_slice(b"connection: close\r\n");
        }
        for header in answer.headers.iter().filter(|header| is_any_of(header, &KEPT)) {
            on.extend_from_slice(header.name.as_bytes());
            on.extend_from_slice(b": ");
            unfolded(header.value, on);
            on.extend_from_slice(b"\r\n");
        }
        on.extend_from_slice(b"\r\n");
        Ok(Heard::Answer)
    }
}

/// What a head was of.
enum Heard {
    Interim,
    Answer,
}

/// How the length of a body is known (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Chunked,
    Length(u64),
    UntilClose,
}

impl Framing {
    fn of(headers: &[Header<'_>]) -> Result<Self, Faulty> {
        let codings =
            values(headers, "transfer-encoding").filter(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        if let Some(last) = codings.last() {
            // Whatever else the body is coded in: where it ends is what counts here.
            return Ok(if last.eq_ignore_ascii_case(b"chunked") {
                Framing::Chunked
            } else {
                Framing::UntilClose
            });
        }
        let mut length = None;
        for text in values(headers, "content-length") {
            // Said twice and the same, it is one.
            let number = number(text).filter(|number| length.is_none_or(|length| length == *number));
            length = Some(number.ok_or(Faulty::Length)?);
        }
        // An empty one says nothing.
        let is_named = headers.iter().any(|header| is_any_of(header, &["content-length"]));
        match length {
            Some(length) => Ok(Framing::Length(length)),
            None if is_named => Err(Faulty::Length),
            None => Ok(Framing::UntilClose),
        }
    }
}

/// Whether a server that answers so goes on listening (RFC 9112, 9.3).
fn is_kept_alive(headers: &[Header<'_>], minor: u8, framing: Framing) -> bool {
    let says = |word: &[u8]| values(headers, "connection").any(|option| option.eq_ignore_ascii_case(word));
    // A server that says two things of one length is not to be trusted with where the next answer begins.
    let ambiguous =
        framing == Framing::Chunked && headers.iter().any(|header| is_any_of(header, &["content-length"]));
    let by_version = minor >= 1 || says(b"keep-alive");
    by_version && !says(b"close") && !ambiguous
}

fn is_any_of(header: &Header<'_>, names: &[&str]) -> bool {
    names.iter().any(|name| header.name.eq_ignore_ascii_case(name))
}

/// The items of a header that is a list, over all its lines, without empty ones.
fn values<'h>(headers: &'h [Header<'h>], name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    headers
        .iter()
        .filter(move |header| is_any_of(header, &[name]))
        .flat_map(|header| header.value.split(|&byte| byte == b','))
        .map(|item| item.trim_ascii())
        .filter(|item| !item.is_empty())
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A header's value with each fold a blank.
fn unfolded(value: &[u8], on: &mut Vec<u8>) {
    let lines = value.split(|byte| matches!(byte, b'\r' | b'\n')).map(<[u8]>::trim_ascii);
    for (index, line) in lines.filter(|line| !line.is_empty()).enumerate() {
        if index > 0 {
            on.push(b' ');
        }
        on.extend_from_slice(line);
    }
}

/// Where the head ends that begins with the buffer: behind its first empty line. What is before `known` was looked at.
fn end_of_head(head: &[u8], known: usize) -> Option<usize> {
    // An empty line may have begun there.
    let from = known.saturating_sub(3);
    memchr::memchr_iter(b'\n', head.get(from..)?).find_map(|at| {
        let next = from.checked_add(at)?.checked_add(1)?;
        match head.get(next..)? {
            [b'\n', ..] => next.checked_add(1),
            [b'\r', b'\n', ..] => next.checked_add(2),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POST: &[u8] = b"POST /v2.0/acme/ingest HTTP/1.1\r\n\r\n[]";

    /// What goes on of an answer that comes in pieces of this many bytes.
    fn heard(request: &[u8], answer: &[u8], piece: usize) -> Result<String, Faulty> {
        let mut heads = AnswerHeads::default();
        heads.sent(request);
        let mut on = Vec::new();
        for piece in answer.chunks(piece.max(1)) {
            heads.took(piece, &mut on)?;
        }
        heads.ended()?;
        Ok(String::from_utf8_lossy(&on).into_owned())
    }

    #[test]
    fn each_head_becomes_one_that_awc_understands() {
        let until_close = "HTTP/1.0 200 \r\nconnection: close\r\n\r\n";
        let folded = "HTTP/1.1 503 \r\ncontent-length: 0\r\nRetry-After: 1 20\r\n\r\n";
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"),
            ("HTTP/1.1 200\nContent-Length : 2\n\nok", "HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok"),
            ("\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 \r\n\r\n"),
            ("HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 304 \r\n\r\n"),
            // Interim answers, with headers and without.
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 x\r\n\r\n", "HTTP/1.1 204 \r\n\r\n"),
            (
                "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 7\r\n\r\n\
                 HTTP/1.0 100 Continue\n\n\r\nHTTP/1.1 199 x\r\n\r\nHTTP/1.1 204 x\r\n\r\n",
                "HTTP/1.1 204 \r\n\r\n",
            ),
            // Bodies that end with the connection.
            ("HTTP/1.1 200 OK\r\n\r\n", until_close),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", until_close),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", until_close),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", until_close),
            ("HTTP/1.1 207 x\r\nConnection: close\r\n\r\n{}", "HTTP/1.0 207 \r\nconnection: close\r\n\r\n{}"),
            // Bodies that end before it.
            (
                "HTTP/1.1 207 x\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
                "HTTP/1.1 207 \r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 x\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
                "HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 x\r\nContent-Length: 2\r\nContent-Length: 2, 2\r\nUpgrade: websocket\r\n\r\nok",
                "HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok",
            ),
            // Who goes on listening.
            (
                "HTTP/1.1 200 x\r\nConnection: Keep-Alive, Close\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 200 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            ),
            (
                "HTTP/1.0 200 x\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 200 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            ),
            (
                "HTTP/1.0 200 x\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n",
            ),
            // Folds.
            ("HTTP/1.1 503 x\r\nRetry-After: 1\r\n\t 20\r\nContent-Length: 0\r\n\r\n", folded),
            ("HTTP/1.1 503 x\nRetry-After:\n  1\n 20 \nX: y\n z\nContent-Length: 0\n\n", folded),
        ] {
            for piece in [1, 2, 7, answer.len()] {
                assert_eq!(
                    heard(POST, answer.as_bytes(), piece).as_deref(),
                    Ok(expected),
                    "{answer:?} by {piece}"
                );
            }
        }
    }

    #[test]
    fn what_no_answer_can_come_of_is_told_with_its_reason() {
        let many = "HTTP/1.1 100 x\r\n\r\n".repeat(INTERIM_MAX as usize + 1);
        let long = format!("HTTP/1.1 200 x\r\nA: {}", "a".repeat(HEAD_BYTES_MAX));
        let blanks = "\r\n".repeat(HEAD_BYTES_MAX);
        for (answer, expected) in [
            ("HTTP/1.1 200 x\r\nContent-Length: +0\r\n\r\n", Faulty::Length),
            ("HTTP/1.1 200 x\r\nContent-Length:\r\n\r\n", Faulty::Length),
            ("HTTP/1.1 200 x\r\nContent-Length: 99999999999999999999\r\n\r\n", Faulty::Length),
            ("HTTP/1.1 200 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Faulty::Length),
            ("HTTP/1.1 101 x\r\nUpgrade: h2c\r\n\r\n", Faulty::Switched),
            ("SSH-2.0-OpenSSH\r\n\r\n", Faulty::NoHttp),
            ("HTTP/2 200\r\n\r\n", Faulty::NoHttp),
            ("HTTP/1.1 200 x\r\nno colon\r\n\r\n", Faulty::NoHttp),
            ("HTTP/1.1 200 OK\r\nContent-Le", Faulty::Cut),
            ("HTTP/1.1 100 Continue\r\n\r\n", Faulty::Cut),
            (&many, Faulty::TooManyInterim),
            (&long, Faulty::TooLong),
            (&blanks, Faulty::TooLong),
        ] {
            for piece in [1, 1000, usize::MAX] {
                let shown: String = answer.chars().take(60).collect();
                assert_eq!(heard(POST, answer.as_bytes(), piece), Err(expected), "{shown:?} by {piece}");
            }
        }
    }

    #[test]
    fn the_answer_to_a_head_has_no_body_whatever_length_it_names() {
        let answer = b"HTTP/1.1 200 x\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(
            heard(b"HEAD / HTTP/1.1\r\n\r\n", answer, 9).unwrap(),
            "HTTP/1.1 200 \r\ncontent-length: 5\r\n\r\n"
        );
        assert_eq!(
            heard(b"HEAD / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 x\r\n\r\n", 9).unwrap(),
            "HTTP/1.1 200 \r\n\r\n"
        );
    }

    #[test]
    fn a_body_goes_on_untouched_until_somebody_asks_again() {
        let mut heads = AnswerHeads::default();
        assert!(heads.is_body() && !heads.is_heard());
        for requests in 1..=3 {
            // In two pieces, as a socket may take it.
            heads.sent(b"PO");
            heads.sent(b"ST / HTTP/1.1\r\n\r\n");
            assert_eq!((heads.requests(), heads.is_heard(), heads.is_body()), (requests, false, false));
            let mut on = Vec::new();
            heads.took(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\nHTTP/1.1 100 ", &mut on).unwrap();
            heads.took(b"Continue\r\n\r\n", &mut on).unwrap();
            assert!(on.ends_with(b"\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"), "{}", on.escape_ascii());
            assert!(heads.is_body() && heads.is_heard());
        }
    }

    fn answers() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            Just("HTTP/1.1 100 Continue\r\n"),
            Just("HTTP/1.1 103 x\n"),
            Just("HTTP/1.1 200 OK\r\n"),
            Just("HTTP/1.0 207 x\r\n"),
            Just("HTTP/1.1 204\r\n"),
            Just("Content-Length: 3\r\n"),
            Just("Transfer-Encoding: chunked\r\n"),
            Just("Connection: close\r\n"),
            Just("Retry-After: 1\r\n"),
            Just("  folded\r\n"),
            Just("\r\n"),
            Just("\n"),
            Just("abc"),
        ];
        let words = prop::collection::vec(line, 0..12).prop_map(|lines| lines.concat().into_bytes());
        prop_oneof![4 => words, 1 => prop::collection::vec(any::<u8>(), 0..200)]
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same(answer in answers(), cuts in prop::collection::vec(0..400_usize, 0..8)) {
            let whole = heard(POST, &answer, usize::MAX);
            let mut heads = AnswerHeads::default();
            heads.sent(POST);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(answer.len())).collect();
            cuts.sort_unstable();
            cuts.push(answer.len());
            let (mut on, mut from, mut result) = (Vec::new(), 0, Ok(()));
            for to in cuts {
                result = result.and_then(|()| heads.took(&answer[from..to], &mut on));
                from = to;
            }
            let pieces = result.and_then(|()| heads.ended()).map(|()| String::from_utf8_lossy(&on).into_owned());
            prop_assert_eq!(pieces, whole);
        }

        /// What goes on is a head that a strict reader takes, with nothing in it that was not known.
        #[test]
        fn what_goes_on_is_plain(answer in answers()) {
            let Ok(on) = heard(POST, &answer, 5) else { return Ok(()) };
            if on.is_empty() { return Ok(()) }
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut plain = Response::new(&mut headers);
            prop_assert!(matches!(plain.parse(on.as_bytes()), Ok(Status::Complete(_))), "{on:?}");
            prop_assert!(plain.code.is_some_and(|code| !(100..200).contains(&code)));
        }
    }
}
