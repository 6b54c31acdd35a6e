//! A client that sends and reads bytes as they are. It never corrects anything.

use blueflood_forward::sink::{Options, Sink, SinkHandle};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// How long an answer may take before it counts as none; long, as the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long silence must last to count as such.
pub const SILENCE: Duration = Duration::from_millis(200);

/// A stand-in on a port of its own.
pub fn start_sink(options: Options) -> SinkHandle {
    Sink::start(TcpListener::bind("127.0.0.1:0").unwrap(), options).unwrap()
}

/// One connection to a stand-in.
pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

/// How a connection went on.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// A whole answer, head and body.
    Answer(String),
    /// Some bytes that are no whole answer, then the end of the connection.
    Part(String),
    /// The end of the connection.
    Closed,
    /// A reset.
    Reset,
    /// Nothing, for as long as was waited; what came is in the string.
    Silence(String),
}

impl Client {
    pub fn connect(sink: &SinkHandle) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", sink.port())).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, read: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// POSTs a body, and waits for what comes.
    pub fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> Seen {
        self.send(post(path, "", body));
        self.see()
    }

    /// GETs, and waits for what comes.
    pub fn get(&mut self, path: &str) -> Seen {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: sink\r\n\r\n"));
        self.see()
    }

    pub fn see(&mut self) -> Seen {
        self.see_within(PATIENCE)
    }

    /// Waits for one whole answer, or whatever else happens.
    pub fn see_within(&mut self, patience: Duration) -> Seen {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        let mut piece = [0; 65_536];
        loop {
            if let Some(end) = answer_end(&self.read) {
                let answer: Vec<u8> = self.read.drain(..end).collect();
                return Seen::Answer(String::from_utf8_lossy(&answer).into_owned());
            }
            let so_far = |read: &mut Vec<u8>| String::from_utf8_lossy(&std::mem::take(read)).into_owned();
            match self.stream.read(&mut piece) {
                Ok(0) if self.read.is_empty() => return Seen::Closed,
                Ok(0) => return Seen::Part(so_far(&mut self.read)),
                Ok(count) => self.read.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Seen::Reset,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Seen::Silence(so_far(&mut self.read));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Seen {
    /// The status, or the panic that there was none.
    pub fn status(&self) -> u16 {
        match self {
            Seen::Answer(answer) => answer[9..12].parse().unwrap(),
            other => panic!("no answer but {other:?}"),
        }
    }

    /// The body, or the panic that there was none.
    pub fn body(&self) -> &str {
        match self {
            Seen::Answer(answer) => answer.split_once("\r\n\r\n").unwrap().1,
            other => panic!("no answer but {other:?}"),
        }
    }
}

/// A POST with a length, and more header lines (each with its end).
pub fn post(path: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes =
        format!("POST {path} HTTP/1.1\r\nHost: sink\r\nContent-Length: {}\r\n{headers}\r\n", body.len())
            .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn answer_end(read: &[u8]) -> Option<usize> {
    let head_end = read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&read[..head_end]).into_owned();
    if head.starts_with("HTTP/1.1 100 ") {
        return Some(head_end);
    }
    let length: usize = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse().unwrap();
    (read.len() >= head_end + length).then_some(head_end + length)
}
