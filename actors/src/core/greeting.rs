//! Owns how a sender that speaks something else is known by what it says first: HTTP, SSH, TLS, PROXY headers, pickles
//! where only lines are taken. It never takes a datapoint for one of them.
#![warn(clippy::arithmetic_side_effects)]

use super::datapoint::Reason;
use super::line::Lines;

/// What some editors and runtimes put before UTF-8 text.
pub const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// How what a TLS client says first begins: a handshake record of version 3.x.
const TLS_HELLO: [u8; 2] = [0x16, 3];

/// How a header of the PROXY protocol's second version begins; no text does.
const PROXY_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes of such a header before its addresses.
const PROXY_2_BYTES: usize = 16;

/// How a header of the first version begins, and the most bytes that it may have.
const PROXY_1: &[u8] = b"PROXY ";
const PROXY_1_BYTES_MAX: usize = 107;

/// How long a first line may be that is looked at whole, in bytes: the targets of HTTP requests are rarely longer.
const FIRST_LINE_BYTES_MAX: usize = 2048;

/// The longest method of an HTTP request, in bytes: `UPDATEREDIRECTREF` is the longest that is registered.
const METHOD_BYTES_MAX: usize = 17;

/// The most bytes that the first line of an SSH client may have.
const SSH_BYTES_MAX: usize = 255;

/// The bytes of a pickle's length, and the most that it may be.
const LENGTH_BYTES: usize = 4;
const PICKLE_BYTES_MAX: u32 = 1 << 20;

/// What a sender speaks that this endpoint does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// An HTTP request.
    Http,
    /// An SSH client.
    Ssh,
    /// A TLS client.
    Tls,
    /// A pickle with its length before it.
    Pickle,
    /// A pickle without it.
    PickleWithoutLength,
}

impl Foreign {
    /// The reason under which it is counted.
    pub fn reason(self) -> Reason {
        match self {
            Foreign::Http => Reason::Http,
            Foreign::Ssh => Reason::Ssh,
            Foreign::Tls => Reason::TlsHandshake,
            Foreign::Pickle => Reason::PickleOnLine,
            Foreign::PickleWithoutLength => Reason::PickleNoLength,
        }
    }

    /// What it is and what to change, in words for an operator.
    pub fn advice(self) -> &'static str {
        match self {
            Foreign::Http => {
                "the sender speaks HTTP, but this endpoint takes metrics only: let a scraper or a health check ask the \
                 address of --stats, and an HTTP sender go to Blueflood itself"
            }
            Foreign::Ssh => {
                "the sender speaks SSH, but this endpoint takes metrics only: it has the wrong port"
            }
            Foreign::Tls => {
                "the sender speaks TLS, but this endpoint does not: let it send plain text, or write tls: for tcp:"
            }
            Foreign::Pickle => {
                "the sender writes pickles, but this endpoint takes lines: set :protocol=auto or :protocol=pickle on it"
            }
            Foreign::PickleWithoutLength => {
                "the sender writes a pickle without its length before it: let it write the length first, in four \
                 bytes, big-endian, to an endpoint with :protocol=pickle or auto"
            }
        }
    }
}

/// What is said of a PROXY header, which is taken off.
pub const PROXY_ADVICE: &str = "a proxy puts the header of the PROXY protocol before what the sender writes: it is \
                                taken off unread, and what follows it is taken; allow= and the log see the proxy. \
                                Turn it off there (send-proxy, proxy_protocol)";

/// What is said of one where it is not taken off.
pub const PROXY_BEFORE_TLS: &str = "a proxy puts the header of the PROXY protocol before the sender's TLS: turn it off \
                                    there (send-proxy, proxy_protocol)";

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// Too few to tell.
    Unclear,
    /// A byte order mark: so many bytes to leave out.
    Mark(usize),
    /// A header of a proxy: so many bytes to leave out.
    Proxy(usize),
    /// Another protocol.
    Foreign(Foreign),
    /// Nothing that is known here: metrics, for all that can be told.
    Metrics,
}

/// Looks at the first bytes of a connection or datagram, where lines are taken if `lines`, and pickles if not.
pub fn greeting(bytes: &[u8], lines: bool) -> Greeting {
    if let Some(whole) = begins(bytes, &BYTE_ORDER_MARK) {
        return if whole { Greeting::Mark(BYTE_ORDER_MARK.len()) } else { Greeting::Unclear };
    }
    if let Some(whole) = begins(bytes, &TLS_HELLO) {
        return if whole { Greeting::Foreign(Foreign::Tls) } else { Greeting::Unclear };
    }
    if let Some(whole) = begins(bytes, PROXY_2) {
        return if whole { proxy_2(bytes) } else { Greeting::Unclear };
    }
    match bytes.first() {
        None => Greeting::Unclear,
        Some(0) if lines => with_length(bytes),
        Some(0x80 | b'(' | b']') => without_length(bytes),
        Some(b'A'..=b'Z') => words(bytes),
        Some(_) => Greeting::Metrics,
    }
}

/// Whether `bytes` begin with `mark`, as far as they go; false as long as some of it is missing.
fn begins(bytes: &[u8], mark: &[u8]) -> Option<bool> {
    if bytes.starts_with(mark) {
        Some(true)
    } else {
        (!bytes.is_empty() && mark.starts_with(bytes)).then_some(false)
    }
}

/// Its last two bytes before the addresses say how many those have.
fn proxy_2(bytes: &[u8]) -> Greeting {
    let Some(&[.., high, low]) = bytes.first_chunk::<PROXY_2_BYTES>() else { return Greeting::Unclear };
    let length = PROXY_2_BYTES.saturating_add(usize::from(u16::from_be_bytes([high, low])));
    if bytes.len() < length { Greeting::Unclear } else { Greeting::Proxy(length) }
}

/// A pickle's length, and how a pickle begins. A name may begin with a zero byte too, if not like that.
fn with_length(bytes: &[u8]) -> Greeting {
    let Some((&length, pickle)) = bytes.split_first_chunk::<LENGTH_BYTES>() else { return Greeting::Unclear };
    if u32::from_be_bytes(length) > PICKLE_BYTES_MAX {
        return Greeting::Metrics;
    }
    match pickle.first() {
        None => Greeting::Unclear,
        Some(0x80 | b'(' | b')' | b']' | b'c') => Greeting::Foreign(Foreign::Pickle),
        Some(_) => Greeting::Metrics,
    }
}

/// How picklers begin a list: by their protocol's number, by the empty list, or in protocol 0 by a line `(lp0`.
fn without_length(bytes: &[u8]) -> Greeting {
    let is_pickle = match bytes {
        [0x80, protocol, ..] => *protocol <= 5,
        [b']', b'q', index, ..] => *index <= 1,
        [b'(', b'l', b'p', index, b'\n', ..] => index.is_ascii_digit(),
        [b'(', b'l', b'p', index] => return unclear_if(index.is_ascii_digit()),
        _ => return unclear_if([&[0x80][..], b"]q", b"(lp"].iter().any(|begin| begin.starts_with(bytes))),
    };
    if is_pickle { Greeting::Foreign(Foreign::PickleWithoutLength) } else { Greeting::Metrics }
}

fn unclear_if(unclear: bool) -> Greeting {
    if unclear { Greeting::Unclear } else { Greeting::Metrics }
}

/// Words in capitals: those of HTTP, SSH and proxies, or a name like any other.
fn words(bytes: &[u8]) -> Greeting {
    let end = memchr::memchr(b'\n', bytes);
    let line = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or(bytes);
    let is_whole = end.is_some();
    if is_whole && matches!(Lines::new(line).next(), Some(Ok(_))) {
        return Greeting::Metrics;
    }
    if is_whole && (line.starts_with(b"SSH-1.") || line.starts_with(b"SSH-2.")) {
        return Greeting::Foreign(Foreign::Ssh);
    }
    if line.starts_with(PROXY_1) && line.len() <= PROXY_1_BYTES_MAX && is_proxied(line, is_whole) {
        return match end {
            Some(end) => Greeting::Proxy(end.saturating_add(1)),
            None => Greeting::Unclear,
        };
    }
    let method = line.iter().take_while(|byte| matches!(byte, b'A'..=b'Z' | b'-')).count();
    match line.get(method..).unwrap_or_default() {
        _ if method > METHOD_BYTES_MAX => Greeting::Metrics,
        // What would be a value is a path, and in no case a number.
        [b' ', b'/', ..] => Greeting::Foreign(Foreign::Http),
        [b' ', ..] if is_whole && is_request(line) => Greeting::Foreign(Foreign::Http),
        [] | [b' ', ..] => unclear_if(!is_whole && line.len() < FIRST_LINE_BYTES_MAX),
        _ => unclear_if(!is_whole && is_ssh_so_far(line)),
    }
}

/// `SSH-2.0-OpenSSH_9.6`, of which the end is missing.
fn is_ssh_so_far(line: &[u8]) -> bool {
    [b"SSH-1.", b"SSH-2."].iter().any(|ssh| line.starts_with(*ssh)) && line.len() < SSH_BYTES_MAX
        || [b"SSH-1.", b"SSH-2."].iter().any(|ssh| ssh.starts_with(line))
}

/// `PROXY TCP4 1.2.3.4 5.6.7.8 56324 2003` and the like: no datapoint, for its second word is no number.
fn is_proxied(line: &[u8], is_whole: bool) -> bool {
    let kind = line.get(PROXY_1.len()..).unwrap_or_default();
    [&b"TCP4 "[..], b"TCP6 ", b"UNKNOWN"]
        .iter()
        .any(|known| kind.starts_with(known) || (!is_whole && known.starts_with(kind)))
}

/// `OPTIONS * HTTP/1.1`: it ends with the version.
fn is_request(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    version.starts_with(b"HTTP/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Foreign::{Http, Pickle, PickleWithoutLength, Ssh, Tls};
    use super::*;
    use crate::core::line::Lines;

    /// Whatever is known: where lines are taken, where pickles are, and how much of it is needed.
    const KNOWN: &[(&[u8], Greeting, Greeting)] = &[
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Greeting::Foreign(Http), Greeting::Foreign(Http)),
        (b"GET /metrics", Greeting::Foreign(Http), Greeting::Foreign(Http)),
        (b"HEAD /x HTTP/1.0\n", Greeting::Foreign(Http), Greeting::Foreign(Http)),
        (b"PUT http://a/b HTTP/1.1\r\n", Greeting::Foreign(Http), Greeting::Foreign(Http)),
        (b"POST /api/put HTTP/1.1\r\n", Greeting::Foreign(Http), Greeting::Foreign(Http)),
        (b"OPTIONS * HTTP/1.1\r\n", Greeting::Foreign(Http), Greeting::Foreign(Http)),
        (b"CONNECT a:443 HTTP/1.1\r\n", Greeting::Foreign(Http), Greeting::Foreign(Http)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Greeting::Foreign(Http), Greeting::Foreign(Http)),
        (b"M-SEARCH * HTTP/1.1\r\n", Greeting::Foreign(Http), Greeting::Foreign(Http)),
        (b"SSH-2.0-OpenSSH_9.6 Ubuntu-3\r\n", Greeting::Foreign(Ssh), Greeting::Foreign(Ssh)),
        (b"SSH-1.99-x\n", Greeting::Foreign(Ssh), Greeting::Foreign(Ssh)),
        (b"\x16\x03\x01\x02\x00", Greeting::Foreign(Tls), Greeting::Foreign(Tls)),
        (b"\0\0\0\x1e\x80\x02]q", Greeting::Foreign(Pickle), Greeting::Metrics),
        (b"\0\0\0V(l(S'a'\n", Greeting::Foreign(Pickle), Greeting::Metrics),
        (b"\0\x10\0\0]q\0", Greeting::Foreign(Pickle), Greeting::Metrics),
        (b"\x80\x04\x95", Greeting::Foreign(PickleWithoutLength), Greeting::Foreign(PickleWithoutLength)),
        (b"(lp0\n", Greeting::Foreign(PickleWithoutLength), Greeting::Foreign(PickleWithoutLength)),
        (b"]q\0(U", Greeting::Foreign(PickleWithoutLength), Greeting::Foreign(PickleWithoutLength)),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 56324 2003\r\na 1 2\n", Greeting::Proxy(41), Greeting::Proxy(41)),
        (b"PROXY TCP6 ::1 ::1 1 2\r\n", Greeting::Proxy(24), Greeting::Proxy(24)),
        (b"PROXY UNKNOWN\r\n", Greeting::Proxy(15), Greeting::Proxy(15)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x01xa 1 2\n", Greeting::Proxy(17), Greeting::Proxy(17)),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0", Greeting::Proxy(16), Greeting::Proxy(16)),
        (b"\xef\xbb\xbfa 1 2\n", Greeting::Mark(3), Greeting::Mark(3)),
    ];

    #[test]
    fn what_is_no_metric_is_known_by_its_first_bytes() {
        for (bytes, on_lines, on_pickles) in KNOWN {
            assert_eq!(greeting(bytes, true), *on_lines, "{}", bytes.escape_ascii());
            assert_eq!(greeting(bytes, false), *on_pickles, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn it_may_come_byte_by_byte() {
        for (bytes, on_lines, _) in KNOWN {
            let mut verdicts = (0..=bytes.len()).map(|length| greeting(&bytes[..length], true));
            let first = verdicts.find(|verdict| *verdict != Greeting::Unclear);
            assert_eq!(first, Some(*on_lines), "{}", bytes.escape_ascii());
            assert!(verdicts.all(|verdict| verdict == *on_lines), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_metric_may_have_any_name() {
        for line in [
            &b"GET 1 1448390000\n"[..],
            b"POST.count 1 1448390000\n",
            b"HTTP 1 2\n",
            b"PROXY 1 2\n",
            b"PROXY TCP5 1 2\n",
            b"SSH-2 1 2\n",
            b"SSH 1 2\n",
            b"CPU\t1 2\n",
            b"A 1 2 HTTP\n",
            b"(load) 1 2\n",
            b"(l) 1 2\n",
            b"]q 1 2\n",
            b"\0a 1 2\n",
            b"\0w\0.\0a\0 \x001\0\n",
            b"\x16a 1 2\n",
            b"\n\na 1 2\n",
            b"\r\na 1 2\n",
            b"\xef\xbca 1 2\n",
            b"\x80a 1 2\n",
        ] {
            assert_eq!(greeting(line, true), Greeting::Metrics, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn nothing_is_waited_for_without_an_end() {
        let long = [&b"NOTIFY "[..], &[b'x'; FIRST_LINE_BYTES_MAX]].concat();
        assert_eq!(greeting(&long, true), Greeting::Metrics);
        assert_eq!(greeting(&[b'X'; METHOD_BYTES_MAX + 1], true), Greeting::Metrics);
        assert_eq!(greeting(&[b"PROXY TCP4 ", &[b'1'; 200][..], b"\n"].concat(), true), Greeting::Metrics);
    }

    proptest! {
        /// Whoever writes a good line first is no stranger, however little of it has come.
        #[test]
        fn a_good_first_line_is_never_taken_for_anything_else(line in "[A-Z(\\]\\-/. *1lpq]{0,12} [0-9]{1,3} [0-9]{1,3}\n") {
            if matches!(Lines::new(line.as_bytes()).next(), Some(Ok(_))) {
                for length in 0..=line.len() {
                    let verdict = greeting(&line.as_bytes()[..length], true);
                    prop_assert!(matches!(verdict, Greeting::Metrics | Greeting::Unclear), "{line}");
                }
            }
        }

        #[test]
        fn what_is_left_out_is_there(bytes in prop::collection::vec(any::<u8>(), 0..40), lines: bool) {
            for bytes in [bytes.clone(), [PROXY_2, &bytes].concat(), [PROXY_1, b"TCP4 ", &bytes].concat()] {
                if let Greeting::Mark(length) | Greeting::Proxy(length) = greeting(&bytes, lines) {
                    prop_assert!((1..=bytes.len()).contains(&length));
                }
            }
        }
    }
}
