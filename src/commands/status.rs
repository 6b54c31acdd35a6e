//! Owns `blueflood-forward status`: the verdict and the figures of a running daemon in a terminal, from its stats port.
//! It judges nothing: the verdict is the daemon's own. It changes nothing.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use actors::core::human::{bytes, clock, count, counted, rate, span};
use actors::core::printable::printable;
use actors::core::verdict::Condition;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use super::port;
use crate::settings::{self, Surroundings};
use crate::terminal::{complain, say};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How much of a sample is shown, in bytes.
const LAST_BYTES_MAX: usize = 200;

/// How much of any other text is shown, in bytes.
const WORDS_BYTES_MAX: usize = 2_000;

/// An error that is so much older than the last success is no news, in seconds.
const OLD_ERROR_S: u64 = 300;

/// As wide as the word before each line.
const INDENT: &str = "           ";

/// Moves the cursor home and clears what is below: less flicker than clearing first.
const REDRAW: &str = "\x1b[H\x1b[J";

/// The name, options and help of the command, for clap.
pub fn command() -> Command {
    Command::new("status")
        .about("Show how a running daemon is, from its stats port: the verdict first")
        .arg(
            Arg::new("watch")
                .long("watch")
                .short('w')
                .action(ArgAction::SetTrue)
                .help("Show it again every second"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print all figures as one line of JSON, as /stats has them"),
        )
        .args(settings::arguments_for(&["stats", "config"]))
        .after_help(
            "Exit status: 0 well, 3 losing, 4 keeping (not delivering, and everything is kept), 5 wrong (only a change \
             mends it), 1 no daemon answers, 2 wrong arguments.\n\n\
             Examples:\n  \
               blueflood-forward status --watch\n  \
               blueflood-forward status --json --stats metrics.example.com:8004",
        )
}

/// Prints it, once or until Ctrl-C.
pub fn run(given: &ArgMatches, around: &Surroundings<'_>) -> ExitCode {
    let address = match port::address(given, around) {
        Ok(address) => address,
        Err(code) => return code,
    };
    let (watches, is_terminal) = (given.get_flag("watch"), io::stdout().is_terminal());
    let mut failed = None;
    loop {
        let code = match port::stats(address) {
            Ok(stats) => {
                failed = None;
                if given.get_flag("json") {
                    say(&stats);
                } else {
                    let size = (watches && is_terminal).then(size).flatten();
                    if size.is_some() {
                        let _ = write!(io::stdout(), "{REDRAW}");
                    }
                    let wants_colour = is_terminal && std::env::var_os("NO_COLOR").is_none();
                    let colour = wants_colour.then(|| condition(&stats));
                    shown(verdict(&stats), figures(&stats), colour, size).iter().for_each(say);
                }
                ExitCode::from(condition(&stats).exit_code())
            }
            Err(error) => {
                let words = format!(
                    "error: no daemon answers at {address}: {error}; is it running, and is this its --stats?"
                );
                // While it is watched, the same is said once.
                if failed.as_ref() != Some(&words) {
                    complain(&words);
                }
                failed = Some(words);
                ExitCode::FAILURE
            }
        };
        if !watches {
            return code;
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

/// Rows and columns of the terminal.
fn size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 1 && size.ws_col > 0).then(|| (usize::from(size.ws_row), usize::from(size.ws_col)))
}

/// As much as a terminal has room for, the most wanted first: the verdict whole, and its first line in colour; of the
/// figures what fits.
fn shown(
    verdict: Vec<String>,
    figures: Vec<String>,
    colour: Option<Condition>,
    size: Option<(usize, usize)>,
) -> Vec<String> {
    let (rows, columns) = size.unwrap_or((usize::MAX, usize::MAX));
    let cut = |line: String| line.chars().take(columns).collect();
    let painted = |(at, line): (usize, String)| {
        let lines = wrapped(&line, columns).into_iter();
        let paint = |line: String| match colour {
            Some(condition) if at == 0 => coloured(&line, condition),
            _ => line,
        };
        lines.map(paint).collect::<Vec<_>>()
    };
    let verdict = verdict.into_iter().enumerate().flat_map(painted);
    verdict.chain(figures.into_iter().map(cut)).take(rows.saturating_sub(1)).collect()
}

/// A line in several, broken between words, those after the first indented as far as the words of the first are.
fn wrapped(line: &str, columns: usize) -> Vec<String> {
    if line.chars().count() <= columns {
        return vec![line.to_owned()];
    }
    let mut lines: Vec<String> = Vec::new();
    for word in line.split_inclusive(' ') {
        let room = |line: &String| line.chars().count().saturating_add(word.trim_end().chars().count());
        match lines.last_mut() {
            Some(line) if room(line) <= columns => line.push_str(word),
            Some(_) => lines.push(format!("{INDENT}{word}")),
            None => lines.push(word.to_owned()),
        }
    }
    lines.into_iter().map(|line| line.chars().take(columns).collect()).collect()
}

fn coloured(line: &str, condition: Condition) -> String {
    let colour = match condition {
        Condition::Well => 32,
        Condition::Losing | Condition::Keeping => 33,
        Condition::Wrong => 31,
    };
    format!("\x1b[1;{colour}m{line}\x1b[0m")
}

/// The daemon's own verdict. One that makes none is older than this command: then its other words have to do.
fn condition(stats: &Value) -> Condition {
    let named = at(stats, "/verdict/condition").as_str().and_then(Condition::of_name);
    named.unwrap_or_else(|| {
        if at(stats, "/wrong").as_array().is_some_and(|wrong| !wrong.is_empty()) {
            Condition::Wrong
        } else if at(stats, "/forwarder/gate/open").as_bool() == Some(true) {
            Condition::Well
        } else {
            Condition::Keeping
        }
    })
}

/// The figures as lines.
fn figures(stats: &Value) -> Vec<String> {
    let points = at(stats, "/datapoints");
    let forwarder = at(stats, "/forwarder");
    let now = at(stats, "/time_ms").as_u64().unwrap_or(0) / 1_000;
    let n = |value: &Value| value.as_u64().map_or("?".to_owned(), count);
    let some = |value: &Value, one: &str| value.as_u64().map_or(format!("? {one}s"), |n| counted(n, one));
    let ago = |time: &Value, never: &str| {
        time.as_u64().map_or(never.to_owned(), |time| format!("{} ago", span(now.saturating_sub(time))))
    };
    let mut lines = vec![format!(
        "daemon     {} on {}, up for {}",
        plain(at(stats, "/version")),
        plain(at(stats, "/host")),
        span(at(stats, "/uptime_s").as_u64().unwrap_or(0))
    )];
    lines.push(format!(
        "delivers   to {} (tenant {})",
        plain(at(forwarder, "/url")),
        plain(at(forwarder, "/tenant"))
    ));
    if let (Some(received), Some(delivered)) =
        (at(stats, "/rates/received").as_f64(), at(stats, "/rates/delivered").as_f64())
    {
        lines.push(format!(
            "rates      received {}, delivered {}, over the last {}",
            rate(received),
            rate(delivered),
            span(at(stats, "/rates/over_s").as_u64().unwrap_or(0))
        ));
    }
    lines.push(format!("received   last {}", ago(at(stats, "/last_received"), "not since the start")));
    let gate = at(forwarder, "/gate");
    lines.push(match at(gate, "/open").as_bool() {
        Some(true) => format!(
            "Blueflood  last took metrics {}",
            ago(at(forwarder, "/last_success"), "not since the start: not tried yet, or nothing passed")
        ),
        _ => format!(
            "Blueflood  not now: {}{}; last took metrics {}",
            plain(at(gate, "/cause")),
            at(gate, "/next_try_in_s")
                .as_f64()
                .filter(|&left| left > 0.0)
                .map_or(String::new(), |left| format!("; next try in {left:.1} s")),
            ago(at(forwarder, "/last_success"), "not since the start")
        ),
    });
    let size = |path: &str| at(stats, path).as_u64().filter(|&bytes| bytes > 0);
    // A full disk ends it before its own cap does.
    let cap = size("/spool/bytes_cap").or_else(|| size("/spool/bytes_max")).unwrap_or(0);
    let oldest = at(stats, "/spool/oldest_time").as_u64().map_or("nothing waits".to_owned(), |at| {
        format!("the oldest datapoint of {} ago", span(now.saturating_sub(at)))
    });
    lines.push(format!(
        "spool      {} of {}, {oldest}, {}",
        bytes(at(stats, "/spool/used_bytes").as_u64().unwrap_or(0)),
        bytes(cap),
        plain(at(stats, "/spool/path"))
    ));
    // Fields of a disk that is full, or of a spool that something is amiss with.
    for (field, words) in [
        ("/spool/blocked", "takes nothing"),
        ("/spool/disk_full", "the disk is full"),
        ("/spool/amiss", "amiss"),
    ] {
        match at(stats, field) {
            why @ Value::String(_) => lines.push(format!("spool      {words}: {}", plain(why))),
            Value::Bool(true) => lines.push(format!("spool      {words}")),
            _ => {}
        }
    }
    // A daemon of before tells their bytes only.
    if let Some(letters) = at(stats, "/spool/dead_letters").as_u64().filter(|&letters| letters > 0) {
        lines.push(format!(
            "letters    {}, {}: see blueflood-forward dead-letters list",
            counted(letters, "dead letter"),
            bytes(at(stats, "/spool/dead_letter_bytes").as_u64().unwrap_or(0))
        ));
    }
    for place in ["dropped", "refused", "malformed", "skipped"] {
        for (reason, value) in at(stats, &format!("/{place}")).as_object().into_iter().flatten() {
            let last =
                last(stats, place, reason).map(|last| format!(", the last {last}")).unwrap_or_default();
            lines.push(format!("{place:<10} {} for {reason}{last}", n(value)));
        }
    }
    lines.push(format!(
        "ledger     received {} = skipped {} + buffered {} + delivered {} + refused {} + dropped {} (unaccounted {})",
        n(at(points, "/received")),
        n(at(points, "/skipped")),
        n(at(points, "/buffered")),
        n(at(points, "/delivered")),
        n(at(points, "/refused")),
        n(at(points, "/dropped")),
        at(points, "/unaccounted")
    ));
    lines.push(match at(stats, "/confirm/mode").as_str() {
        // An older daemon says nothing of it, and reads nothing back.
        None | Some("off") => {
            "delivered  means acknowledged, not read back: see --query and --confirm".to_owned()
        }
        Some(mode) => format!(
            "delivered  means confirmed ({mode}): {} acknowledged and not read back yet, {} sent again",
            n(at(points, "/acknowledged")),
            n(at(stats, "/confirm/resent"))
        ),
    });
    for listener in at(stats, "/listeners").as_array().into_iter().flatten() {
        lines.push(format!(
            "listener   {} ({}): {}, {}, the last {}",
            plain(at(listener, "/endpoint")),
            plain(at(listener, "/protocol")),
            some(at(listener, "/connections"), "connection"),
            some(at(listener, "/datapoints"), "datapoint"),
            ago(at(listener, "/last_received"), "not since the start")
        ));
    }
    lines.push(format!(
        "forwarder  {} in flight of {}, {} set aside, {}, {} of them again",
        n(at(forwarder, "/in_flight")),
        n(at(forwarder, "/concurrency")),
        n(at(forwarder, "/set_aside")),
        some(at(forwarder, "/posts"), "request"),
        n(at(forwarder, "/retries"))
    ));
    let error_time = at(forwarder, "/last_error/time").as_u64().unwrap_or(0);
    let success_time = at(forwarder, "/last_success").as_u64().unwrap_or(0);
    let error = at(forwarder, "/last_error/text");
    if error.is_string() && success_time <= error_time.saturating_add(OLD_ERROR_S) {
        lines.push(format!(
            "last error {} ({})",
            plain(error),
            ago(at(forwarder, "/last_error/time"), "never")
        ));
    }
    lines
}

/// The verdict: what is so since when, until when, and what to do. Whoever answers in Blueflood's place has a part in the
/// words.
fn verdict(stats: &Value) -> Vec<String> {
    let now = at(stats, "/time_ms").as_u64().unwrap_or(0) / 1_000;
    let words = |path: &str| Some(at(stats, path)).filter(|words| words.is_string()).map(plain);
    let condition = condition(stats);
    let name = condition.name().to_uppercase();
    let since = at(stats, "/verdict/since").as_u64();
    let fallback = || {
        at(stats, "/wrong/0")
            .as_str()
            .unwrap_or(if condition == Condition::Well {
                "all is well"
            } else {
                "Blueflood does not take metrics"
            })
            .to_owned()
    };
    let mut first = format!("{name:<10} {}", words("/verdict/words").unwrap_or_else(fallback));
    if let Some(since) = since.filter(|_| condition != Condition::Well) {
        let ago = span(now.saturating_sub(since));
        first = format!(
            "{first}, since {} ({ago})",
            clock(since.saturating_mul(1_000), now.saturating_mul(1_000))
        );
    }
    let mut lines = vec![first];
    if let (Some(time), Some(by)) = (at(stats, "/verdict/until/time").as_u64(), words("/verdict/until/by")) {
        let at = clock(time.saturating_mul(1_000), now.saturating_mul(1_000));
        lines.push(format!("kept       until {at} (in {}), when {by}", span(time.saturating_sub(now))));
    }
    lines.extend(words("/verdict/next").map(|next| format!("next       {next}")));
    lines
}

/// The last of what was refused, skipped or malformed for a reason. All of it may be a stranger's.
fn last(stats: &Value, place: &str, reason: &str) -> Option<String> {
    let words = if place == "refused" {
        let last = stats.get("last_refused")?.get(reason)?;
        format!("{} ({})", plain(at(last, "/row")), plain(at(last, "/message")))
    } else {
        let of = |listener: &Value| Some(listener.get(place)?.get(reason)?.get("last")?.clone());
        let all = at(stats, "/listeners").as_array()?;
        let last = all.iter().filter_map(of).max_by_key(|last| at(last, "/time").as_u64())?;
        format!("from {}: {}", plain(at(&last, "/peer")), plain(at(&last, "/sample")))
    };
    Some(printable(words.as_bytes(), LAST_BYTES_MAX))
}

/// A part of the figures; null if it is not there.
fn at<'a>(stats: &'a Value, path: &str) -> &'a Value {
    stats.pointer(path).unwrap_or(&Value::Null)
}

/// A text without its quotes. It may be a stranger's.
fn plain(value: &Value) -> String {
    printable(value.as_str().unwrap_or("?").as_bytes(), WORDS_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_small_terminal_shows_the_whole_verdict_and_what_fits_of_the_figures() {
        let verdict = || vec!["WELL       one two three four".to_owned(), "next       five".to_owned()];
        let figures = |n: usize| (0..n).map(|i| format!("figure {i} of many words")).collect::<Vec<_>>();
        assert_eq!(
            shown(verdict(), figures(30), None, Some((6, 19))),
            [
                "WELL       one two ",
                "           three ",
                "           four",
                "next       five",
                "figure 0 of many wo"
            ]
        );
        let coloured = shown(verdict(), figures(30), Some(Condition::Well), Some((6, 19)));
        assert_eq!(coloured.iter().filter(|line| line.contains("\x1b[1;32m")).count(), 3);
        assert_eq!(shown(verdict(), figures(30), None, None).len(), 32);
        assert!(
            shown(verdict(), figures(3), None, Some((50, 1))).iter().all(|line| line.chars().count() <= 1)
        );
    }

    #[test]
    fn a_daemon_of_before_has_a_verdict_too() {
        let open = json!({ "wrong": [], "forwarder": { "gate": { "open": true } } });
        let closed = json!({ "wrong": [], "forwarder": { "gate": { "open": false } } });
        let wrong = json!({ "wrong": ["a setting"], "forwarder": { "gate": { "open": false } } });
        assert_eq!(condition(&open), Condition::Well);
        assert_eq!(condition(&closed), Condition::Keeping);
        assert_eq!(condition(&wrong), Condition::Wrong);
        assert_eq!(verdict(&wrong), ["WRONG      a setting"]);
    }
}
