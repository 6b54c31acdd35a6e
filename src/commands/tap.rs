//! Owns `blueflood-forward tap`: datapoints as they pass through a running daemon, in a terminal. It only reads the
//! stats port, and whatever it does, the daemon does not wait for it.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use actix_rt::Runtime;
use actors::core::printable::printable;
use actors::tap::{Bad, Counts, Glob, Line, Origin, number};
use clap::{Arg, ArgMatches, Command, value_parser};
use futures_util::TryStreamExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use tokio::time::timeout;
use tokio_util::io::StreamReader;

use super::port;
use crate::settings::{self, Surroundings};
use crate::terminal::complain;

/// How long the daemon may take to answer, and how long it may then be silent: it says its counts all the time.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest line of the daemon, in bytes; its own are a tenth of that.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// How often it is said that not everything is shown.
const SAY_LEFT_OUT_EVERY: Duration = Duration::from_secs(10);

const AFTER_HELP: &str = "\
Each line has the time of its arrival (UTC), the endpoint and its protocol, then name, value and timestamp as they were \
sent. What cannot be forwarded is MALFORMED or SKIPPED, with the reason, who sent it, and how it begins. Characters that a \
terminal would obey are shown as \\n or \\u{1b}.

The tap never slows the flow: of more than 1,000 datapoints a second it shows a sample, and says so on standard error. With \
--match all names are looked at first, as many as 2% of a core can do.

A glob is for whole names as they were sent, without --metric_prefix: * is any characters (dots too), ? one byte, [a-c] one \
of these, {web,db} one of those. What is malformed is asked for by its first word.

Examples:
  The next ten datapoints:
    blueflood-forward tap --limit 10
  What two hosts send, whatever it is called:
    blueflood-forward tap --match '{web,db}01.*'
  What is wrong with what comes:
    blueflood-forward tap | grep -E 'MALFORMED|SKIPPED'

Exit status: 0 if it ended by --limit or Ctrl-C, 1 if the daemon does not answer or ended it.";

/// The name, options and help of the command, for clap.
pub fn command() -> Command {
    Command::new("tap")
        .about("Show datapoints as they pass through a running daemon, from its stats port")
        .arg(
            Arg::new("match")
                .long("match")
                .short('m')
                .value_name("GLOB")
                .value_parser(|text: &str| Glob::new(text).map(|_| text.to_owned()))
                .help("Show only names that match; quote it, or the shell reads it first"),
        )
        .arg(
            Arg::new("limit")
                .long("limit")
                .short('n')
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..))
                .help("End after so many lines"),
        )
        // Its own --limit is another than the daemon's.
        .args(settings::arguments_for(&["stats", "config"]).filter(|argument| argument.get_id() != "limit"))
        .after_long_help(AFTER_HELP)
}

/// How it came to an end.
enum End {
    /// As many lines as were wanted.
    Enough,
    /// The user ended it, by Ctrl-C.
    Told,
    /// Nobody reads us any more, or our words.
    Unread,
}

/// Prints what passes, until there is enough of it or nobody wants more.
pub fn run(given: &ArgMatches, around: &Surroundings<'_>) -> ExitCode {
    let address = match port::address(given, around) {
        Ok(address) => address,
        Err(code) => return code,
    };
    let glob = given.get_one::<String>("match").map(String::as_str);
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let mut seen = Seen { globbed: glob.is_some(), ..Seen::default() };
    let limit = given.get_one::<u64>("limit").copied();
    let code = match runtime.block_on(watch(address, glob, limit, &mut seen)) {
        Ok(End::Unread) => return ExitCode::SUCCESS,
        Ok(End::Enough | End::Told) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    };
    if seen.opened {
        complain(seen.words());
    }
    code
}

/// What has come so far.
#[derive(Default)]
struct Seen {
    opened: bool,
    globbed: bool,
    shown: u64,
    bad_shown: u64,
    counts: Counts,
    said: Option<(Instant, Counts)>,
}

impl Seen {
    /// How much of what passed was shown.
    fn words(&self) -> String {
        // The last counts may be older than the last lines.
        let matched = self.counts.matched.max(self.shown);
        let passed = self.counts.passed.max(matched);
        let (shown, bad) = (self.shown, self.counts.bad.max(self.bad_shown));
        let mut words = if self.globbed {
            format!("shown: {shown} of {matched} datapoints that match, of {passed} that passed")
        } else {
            format!("shown: {shown} of {passed} datapoints that passed")
        };
        if self.globbed && self.counts.unlooked > 0 {
            let more = format!(" ({} of them not looked at: they came too fast)", self.counts.unlooked);
            words.push_str(&more);
        }
        if bad > 0 {
            words.push_str(&format!(", {} of {bad} malformed or skipped", self.bad_shown));
        }
        words
    }

    /// How much was not shown, though it was not the glob that left it out.
    fn left_out(&self, counts: &Counts) -> u64 {
        let bad = if self.globbed { 0 } else { counts.bad.saturating_sub(counts.bad_shown) };
        counts.unlooked.saturating_add(counts.matched.saturating_sub(counts.shown)).saturating_add(bad)
    }

    /// Says now and then that not everything is shown.
    fn say_if_left_out(&mut self) {
        let now = Instant::now();
        let &mut (at, before) = self.said.get_or_insert((now, Counts::default()));
        if now.duration_since(at) < SAY_LEFT_OUT_EVERY {
            return;
        }
        if self.left_out(&self.counts) > self.left_out(&before) {
            complain(self.words());
        }
        self.said = Some((now, self.counts));
    }
}

async fn watch(
    address: SocketAddr,
    glob: Option<&str>,
    limit: Option<u64>,
    seen: &mut Seen,
) -> Result<End, String> {
    let told = tokio::signal::ctrl_c();
    tokio::select! {
        told = told => told.map(|()| End::Told).map_err(|error| format!("cannot wait for Ctrl-C: {error}")),
        end = follow(address, glob, limit, seen) => end,
    }
}

/// Opens a tap, and prints each of its lines.
async fn follow(
    address: SocketAddr,
    glob: Option<&str>,
    limit: Option<u64>,
    seen: &mut Seen,
) -> Result<End, String> {
    let answer = port::ask(address, &query(glob, limit), TIMEOUT).await.map_err(|error| {
        format!("no daemon answers at {address}: {error}; is it running, and is this its --stats?")
    })?;
    let status = answer.status();
    let mut lines = Lines(StreamReader::new(answer.map_err(io::Error::other)));
    if !status.is_success() {
        let why = lines.next().await.ok().flatten().unwrap_or_default();
        let why = if why.is_empty() { status.to_string() } else { why };
        return Err(format!("the daemon at {address} opens no tap: {}", printable(why.as_bytes(), 400)));
    }
    seen.opened = true;
    complain(format_args!("what passes through the daemon at {address}; Ctrl-C ends it"));
    let mut wanted = limit.unwrap_or(u64::MAX);
    loop {
        let line = lines.next().await.map_err(|error| format!("the daemon at {address} is gone: {error}"))?;
        let Some(line) = line else {
            return if wanted == 0 {
                Ok(End::Enough)
            } else {
                Err(format!(
                    "the daemon at {address} ended the tap: it has stopped, or its stats port was started again"
                ))
            };
        };
        // Of a later version perhaps: what is not understood is left out.
        let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
        match &line {
            Line::Counts(counts) => {
                seen.counts = *counts;
                seen.say_if_left_out();
                continue;
            }
            Line::Datapoint { .. } => seen.shown = seen.shown.saturating_add(1),
            Line::Skipped(_) | Line::Malformed(_) => {
                seen.bad_shown = seen.bad_shown.saturating_add(1);
            }
        }
        if let Err(error) = writeln!(io::stdout(), "{}", text(&line)) {
            return match error.kind() {
                io::ErrorKind::BrokenPipe => Ok(End::Unread),
                _ => Err(format!("cannot write to standard output: {error}")),
            };
        }
        wanted = wanted.saturating_sub(1);
    }
}

/// The lines of an answer.
struct Lines<T>(T);

impl<T: AsyncBufRead + Unpin> Lines<T> {
    /// The next line without its end; `None` at the end of all.
    async fn next(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.0).take(LINE_BYTES_MAX);
        let read = timeout(TIMEOUT, bounded.read_until(b'\n', &mut line)).await;
        let read = read.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it says nothing"))??;
        if read == 0 {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&line);
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// What is asked of the stats port.
fn query(glob: Option<&str>, limit: Option<u64>) -> String {
    let mut query: Vec<String> = Vec::new();
    query.extend(glob.map(|glob| format!("match={}", utf8_percent_encode(glob, NON_ALPHANUMERIC))));
    query.extend(limit.map(|limit| format!("limit={limit}")));
    format!("/tap?{}", query.join("&"))
}

/// A line for a person. All of it may come from strangers, and so none of it is written as it is.
fn text(line: &Line) -> String {
    let text = match line {
        Line::Datapoint { origin, name, value, timestamp } => {
            let time = time(*timestamp, origin.time_ms);
            format!("{}  {name}  {}  {time}", head(origin), number(*value))
        }
        Line::Skipped(Bad { origin, reason, sample }) => {
            format!("{}  SKIPPED {reason} from {}: {sample}", head(origin), origin.peer)
        }
        Line::Malformed(Bad { origin, reason, sample }) => {
            format!("{}  MALFORMED {reason} from {}: {sample}", head(origin), origin.peer)
        }
        Line::Counts(_) => String::new(),
    };
    printable(text.as_bytes(), usize::MAX)
}

fn head(origin: &Origin) -> String {
    let ms = origin.time_ms.rem_euclid(86_400_000);
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}  {} {}", ms % 1_000, origin.endpoint, origin.protocol)
}

/// A timestamp, and how old it was when it came.
fn time(timestamp: f64, now_ms: i64) -> String {
    let age = now_ms as f64 / 1000.0 - timestamp;
    // As the encoder reads it.
    let is_now = timestamp > -2.0 && timestamp <= -1.0;
    let when = match age {
        _ if is_now || age.abs() < 1.0 => "now".to_owned(),
        _ if age < 0.0 => format!("in {}", span(-age)),
        _ => format!("{} ago", span(age)),
    };
    format!("{} ({when})", number(timestamp))
}

fn span(seconds: f64) -> String {
    match seconds {
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds < 172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_a_wrong_glob_is_explained() {
        command().debug_assert();
        let error = command().try_get_matches_from(["tap", "--match", "a["]).unwrap_err();
        assert!(error.to_string().contains("unclosed character class"), "{error}");
        assert!(command().try_get_matches_from(["tap", "--limit", "0"]).is_err());
    }

    #[test]
    fn a_line_says_what_came_and_how_old_it_was() {
        let origin = Origin {
            time_ms: 1_700_000_002_500,
            endpoint: "tcp:127.0.0.1:2003".to_owned(),
            protocol: "line".to_owned(),
            peer: "10.0.0.1:5".to_owned(),
        };
        let at = |timestamp| Line::Datapoint {
            origin: origin.clone(),
            name: "a.\u{1b}[2Jb".to_owned(),
            value: 1.5,
            timestamp,
        };
        let said = "22:13:22.500  tcp:127.0.0.1:2003 line  a.\\u{1b}[2Jb  1.5  1700000000 (2 s ago)";
        assert_eq!(text(&at(1_700_000_000.0)), said);
        for (timestamp, said) in [
            (-1.0, "-1 (now)"),
            (1_700_000_002.0, "1700000002 (now)"),
            (1_700_007_400.0, "1700007400 (in 2 h)"),
            (0.0, "0 (19676 days ago)"),
        ] {
            assert!(text(&at(timestamp)).ends_with(said), "{}", text(&at(timestamp)));
        }
        let (reason, sample) = ("line_fields".to_owned(), "x".to_owned());
        let bad = Line::Malformed(Bad { origin, reason, sample });
        assert!(text(&bad).ends_with("line  MALFORMED line_fields from 10.0.0.1:5: x"));
    }
}
