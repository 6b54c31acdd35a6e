//! `blueflood-forward send`: datapoints from the command line or standard input to a Graphite receiver.
//! It never reads further than one batch ahead, and never hides a line that it could not send.

use crate::terminal::{EXIT_USAGE, complain, say};
use clap::builder::{EnumValueParser, PossibleValue};
use clap::{Arg, ArgMatches, Command, ValueEnum};
use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

const TO: &str = "127.0.0.1:2004";
/// Datapoints in one pickle, as carbon sends them.
const BATCH_POINTS_MAX: usize = 500;
/// Bytes in one batch, so that a frame stays well below the receivers' usual limit of 1 MiB.
const BATCH_BYTES_MAX: usize = 512 << 10;
/// Bytes in one datagram: what an Ethernet frame carries whole.
const DATAGRAM_BYTES_MAX: usize = 1400;
/// A longer line is refused; so is it by the receivers.
const LINE_BYTES_MAX: u64 = 16_384;
/// Bad lines that are shown; the rest is only counted.
const COMPLAINTS_MAX: u64 = 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A receiver may push back for that long before it counts as stuck.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
Examples:
  blueflood-forward send my.metric 1.5
  blueflood-forward send my.metric 1.5 1700000000
  echo 'my.metric 1.5' | blueflood-forward send
  blueflood-forward send --to udp:127.0.0.1:2003 < lines.txt

Without a timestamp the time is now. A line that is no datapoint is reported with its number, and the others are sent all \
the same.

Exit status: 0 if all was sent, 1 if not, 2 for wrong arguments.";

/// How datapoints are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `name value timestamp`, one a line.
    Line,
    /// Carbon's pickled lists.
    Pickle,
}

impl ValueEnum for Protocol {
    fn value_variants<'a>() -> &'a [Self] {
        &[Protocol::Line, Protocol::Pickle]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Protocol::Line => "line",
            Protocol::Pickle => "pickle",
        }))
    }
}

/// What `send` takes on the command line.
pub fn command() -> Command {
    Command::new("send")
        .about("Sends datapoints to a Graphite receiver, this daemon for one")
        .after_help(EXAMPLES)
        .arg(
            Arg::new("protocol")
                .long("protocol")
                .value_parser(EnumValueParser::<Protocol>::new())
                .help("How to write them [default: pickle; line, if it goes to udp:]"),
        )
        .arg(
            Arg::new("to")
                .long("to")
                .value_name("HOST:PORT")
                .default_value(TO)
                .help("Where to; also unix:/PATH, and udp:HOST:PORT for lines"),
        )
        .arg(
            Arg::new("name")
                .value_name("NAME")
                .requires("value")
                .help("Without it, lines are read from standard input"),
        )
        .arg(Arg::new("value").value_name("VALUE").allow_negative_numbers(true).help("A finite number"))
        .arg(
            Arg::new("timestamp")
                .value_name("TIMESTAMP")
                .allow_negative_numbers(true)
                .help("Seconds since 1970 [default: now]"),
        )
}

/// Sends what the command line names, or what standard input brings. Fails when anything could not be sent.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let to = text("to").unwrap_or(TO);
    // A datagram carries lines, whatever is usual.
    let usual = if to.starts_with("udp:") { Protocol::Line } else { Protocol::Pickle };
    let protocol = matches.get_one::<Protocol>("protocol").copied().unwrap_or(usual);
    let outcome = match (text("name"), text("value")) {
        (Some(name), Some(value)) => send_one(to, protocol, name, value, text("timestamp")),
        _ => send_input(to, protocol),
    };
    match outcome {
        Ok(Sent { points, bad_lines }) => {
            let plural = if points == 1 { "" } else { "s" };
            say(format_args!("sent {points} datapoint{plural} to {to}"));
            if bad_lines == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            complain(format_args!("error: {error}"));
            match error {
                SendError::Wrong(_) => ExitCode::from(EXIT_USAGE),
                SendError::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// Why nothing, or not all, was sent: a sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// What was typed cannot be sent at all.
    Wrong(String),
    /// It went wrong on the way.
    Failed(String),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Wrong(why) | SendError::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for SendError {}

/// How much was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Datapoints that were written to the receiver.
    pub points: u64,
    /// Lines that were no datapoints.
    pub bad_lines: u64,
}

fn send_one(
    to: &str,
    protocol: Protocol,
    name: &str,
    value: &str,
    time: Option<&str>,
) -> Result<Sent, SendError> {
    let point = Datapoint::new(name, value, time).map_err(SendError::Wrong)?;
    let mut sender = Sender::connect(to, protocol)?;
    sender.check(&point).map_err(SendError::Wrong)?;
    sender.push(&point)?;
    sender.flush()?;
    Ok(Sent { points: sender.sent, bad_lines: 0 })
}

fn send_input(to: &str, protocol: Protocol) -> Result<Sent, SendError> {
    let stdin = io::stdin();
    let mut sender = Sender::connect(to, protocol)?;
    if stdin.is_terminal() {
        complain("reading `name value [timestamp]` lines from the terminal; Ctrl-D ends");
    }
    send_lines(&mut sender, BufReader::with_capacity(64 << 10, stdin.lock()), |line| complain(line))
}

/// Sends each line of `input`. A batch goes when it is full and when no more input is at hand, so that what comes
/// slowly goes at once. `complain` is told of the first bad lines, and in the end how many there were.
///
/// # Errors
/// When the receiver goes away or the input cannot be read. What is no datapoint is no error.
pub fn send_lines<R: Read>(
    sender: &mut Sender,
    mut input: BufReader<R>,
    mut complain: impl FnMut(&str),
) -> Result<Sent, SendError> {
    let (mut number, mut bad_lines) = (0u64, 0u64);
    let mut line = Vec::new();
    loop {
        if input.buffer().is_empty() {
            sender.flush()?;
        }
        let whole = read_line(&mut input, &mut line)
            .map_err(|error| SendError::Failed(format!("cannot read standard input: {error}")))?;
        if line.is_empty() {
            break;
        }
        number = number.saturating_add(1);
        let parsed =
            if whole { parse_line(&line) } else { Err(format!("it is over {LINE_BYTES_MAX} bytes long")) };
        let problem = match parsed {
            Ok(Some(point)) => match sender.check(&point) {
                Ok(()) => {
                    sender.push(&point)?;
                    continue;
                }
                Err(problem) => problem,
            },
            Ok(None) => continue,
            Err(problem) => problem,
        };
        bad_lines = bad_lines.saturating_add(1);
        if bad_lines <= COMPLAINTS_MAX {
            complain(&format!("line {number} is not sent: {problem}"));
        }
    }
    if bad_lines > COMPLAINTS_MAX {
        complain(&format!("{bad_lines} lines in all were not sent"));
    }
    Ok(Sent { points: sender.sent, bad_lines })
}

/// Reads one line with its end; empty at the end of the input. False: it was too long, and only its start is there.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', line)?;
    if (line.len() as u64) < LINE_BYTES_MAX || line.ends_with(b"\n") {
        return Ok(true);
    }
    input.skip_until(b'\n')?;
    Ok(false)
}

/// None for a line with nothing on it.
fn parse_line(line: &[u8]) -> Result<Option<Datapoint<'_>>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let mut words = line.split_ascii_whitespace();
    match (words.next(), words.next(), words.next(), words.next()) {
        (None, ..) => Ok(None),
        (Some(name), Some(value), time, None) => Datapoint::new(name, value, time).map(Some),
        (Some(_), None, ..) => Err("there is a name but no value: write `name value [timestamp]`".to_owned()),
        _ => Err("there are more than three words: write `name value [timestamp]`".to_owned()),
    }
}

/// One datapoint, its numbers as they were written and as they are.
#[derive(Debug, Clone)]
struct Datapoint<'a> {
    name: &'a str,
    value: (&'a str, f64),
    time: (Cow<'a, str>, f64),
}

impl<'a> Datapoint<'a> {
    fn new(name: &'a str, value: &'a str, time: Option<&'a str>) -> Result<Self, String> {
        let number = |what: &str, text: &str| match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            Ok(_) => Err(format!("the {what} {text:?} is not finite, and could not be stored")),
            Err(_) => Err(format!("the {what} {text:?} is no number")),
        };
        if name.is_empty() {
            return Err("the name is empty".to_owned());
        }
        let time = time.map_or_else(|| Cow::Owned(now_s().to_string()), Cow::Borrowed);
        let seconds = number("timestamp", &time)?;
        Ok(Datapoint { name, value: (value, number("value", value)?), time: (time, seconds) })
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A connection to a receiver, with at most one batch that it has not been given yet.
pub struct Sender {
    to: String,
    protocol: Protocol,
    output: Output,
    /// The batch as lines.
    text: String,
    /// The batch as a pickle's content; one of the two is always empty.
    points: Vec<(String, (f64, f64))>,
    batch_bytes: usize,
    /// Datapoints in the batch.
    waiting: u64,
    sent: u64,
}

enum Output {
    Stream(Box<dyn Write>),
    Datagrams(UdpSocket),
}

impl Sender {
    /// Connects to `HOST:PORT`, `unix:/PATH` or `udp:HOST:PORT`.
    ///
    /// # Errors
    /// When nobody answers there within 5 s, or the address or the combination makes no sense; the text says what
    /// to do about it.
    pub fn connect(to: &str, protocol: Protocol) -> Result<Self, SendError> {
        let output = if let Some(path) = to.strip_prefix("unix:") {
            unix(path)
        } else if let Some(address) = to.strip_prefix("udp:") {
            if protocol != Protocol::Line {
                return Err(SendError::Wrong("datagrams carry lines only: add --protocol line".to_owned()));
            }
            udp(address)
        } else {
            tcp(to.strip_prefix("tcp:").unwrap_or(to))
        };
        let output =
            output.map_err(|error| SendError::Failed(format!("cannot reach {to}: {}", hint(&error))))?;
        Ok(Sender {
            to: to.to_owned(),
            protocol,
            output,
            text: String::new(),
            points: Vec::new(),
            batch_bytes: 0,
            waiting: 0,
            sent: 0,
        })
    }

    /// Whether the protocol can carry it.
    fn check(&self, point: &Datapoint<'_>) -> Result<(), String> {
        if self.protocol == Protocol::Line && point.name.contains(|letter: char| letter.is_ascii_whitespace())
        {
            return Err(format!(
                "the name {:?} has white space in it: --protocol pickle can carry it",
                point.name
            ));
        }
        Ok(())
    }

    /// Takes a datapoint that was checked into the batch, which is written when it is full.
    fn push(&mut self, point: &Datapoint<'_>) -> Result<(), SendError> {
        let bytes = point.name.len().saturating_add(point.value.0.len()).saturating_add(point.time.0.len());
        let bytes = bytes.saturating_add(3);
        let most = match self.output {
            Output::Datagrams(_) => DATAGRAM_BYTES_MAX,
            Output::Stream(_) => BATCH_BYTES_MAX,
        };
        if self.batch_bytes.saturating_add(bytes) > most {
            self.flush()?;
        }
        match self.protocol {
            Protocol::Line => self.text.extend([point.name, " ", point.value.0, " ", &point.time.0, "\n"]),
            Protocol::Pickle => self.points.push((point.name.to_owned(), (point.time.1, point.value.1))),
        }
        self.batch_bytes = self.batch_bytes.saturating_add(bytes);
        self.waiting = self.waiting.saturating_add(1);
        if self.points.len() >= BATCH_POINTS_MAX { self.flush() } else { Ok(()) }
    }

    /// Writes the batch, if there is one.
    fn flush(&mut self) -> Result<(), SendError> {
        if self.waiting == 0 {
            return Ok(());
        }
        let written = match self.protocol {
            Protocol::Line => self.output.write(self.text.as_bytes()),
            Protocol::Pickle => pickled(&self.points).and_then(|frame| self.output.write(&frame)),
        };
        written.map_err(|error| {
            SendError::Failed(format!(
                "{} took {} datapoints, then it failed: {}",
                self.to,
                self.sent,
                hint(&error)
            ))
        })?;
        self.sent = self.sent.saturating_add(self.waiting);
        self.waiting = 0;
        self.batch_bytes = 0;
        self.text.clear();
        self.points.clear();
        Ok(())
    }
}

impl Output {
    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        match self {
            Output::Stream(stream) => stream.write_all(batch),
            Output::Datagrams(socket) => socket.send(batch).map(drop),
        }
    }
}

/// A frame as carbon's relays write it: the length in four bytes, big end first, and a pickle of protocol 2.
fn pickled(points: &[(String, (f64, f64))]) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_pickle::to_writer(&mut frame, &points, serde_pickle::SerOptions::new().proto_v2())
        .map_err(io::Error::other)?;
    let length = u32::try_from(frame.len().saturating_sub(4)).map_err(io::Error::other)?;
    if let Some((head, _)) = frame.split_first_chunk_mut::<4>() {
        *head = length.to_be_bytes();
    }
    Ok(frame)
}

fn tcp(address: &str) -> io::Result<Output> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                return Ok(Output::Stream(Box::new(stream)));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn unix(path: &str) -> io::Result<Output> {
    let stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    Ok(Output::Stream(Box::new(stream)))
}

fn udp(address: &str) -> io::Result<Output> {
    let to = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(Output::Datagrams(socket))
}

/// An error with what can be done about it.
fn hint(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "; nothing listens there. Start blueflood-forward, or name another place with --to"
        }
        io::ErrorKind::InvalidInput => "; write --to HOST:PORT, unix:/PATH or udp:HOST:PORT",
        io::ErrorKind::NotFound => "; no such socket. Name another place with --to",
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            "; it does not answer. Is the address right, and the host up?"
        }
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            "; the receiver has hung up. Does it take this --protocol? Its log may say more"
        }
        _ => "",
    };
    format!("{error}{advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
        let matches = command().try_get_matches_from(["send", "a", "-1.5", "-1"]).unwrap();
        assert_eq!(matches.get_one::<String>("value").unwrap(), "-1.5");
        assert!(command().try_get_matches_from(["send", "a"]).is_err());
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        for (line, problem) in [
            ("a", "no value"),
            ("a b", "the value \"b\" is no number"),
            ("a nan", "not finite"),
            ("a 1 yesterday", "the timestamp \"yesterday\" is no number"),
            ("a 1 2 3", "more than three words"),
        ] {
            let error = parse_line(line.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{line}: {error}");
        }
        assert!(parse_line(b" \n").unwrap().is_none());
    }
}
