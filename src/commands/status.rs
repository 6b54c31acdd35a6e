//! Owns `blueflood-forward status`: the figures of a running daemon in a terminal, from its stats port. It changes
//! nothing.

use std::io::{self, IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use actors::core::printable::printable;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use super::{complain, say};
use crate::cli;
use crate::settings::{self, Settings, Surroundings};

/// How long the daemon may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The most of an answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// How much of a sample is shown, in bytes.
const LAST_BYTES_MAX: usize = 400;

/// Moves the cursor home and clears what is below: less flicker than clearing first.
const REDRAW: &str = "\x1b[H\x1b[J";

/// How clap knows it.
pub fn command() -> Command {
    Command::new("status")
        .about("Show how a running daemon is, from its stats port")
        .arg(
            Arg::new("watch")
                .long("watch")
                .short('w')
                .action(ArgAction::SetTrue)
                .help("Show it again every second"),
        )
        .args(
            settings::arguments()
                .filter(|argument| ["stats", "config"].contains(&argument.get_id().as_str())),
        )
        .after_help("Exit status: 0 if all is well, 1 if something is wrong, Blueflood takes nothing, or the daemon does not answer.")
}

/// Prints it, once or until Ctrl-C.
pub fn run(given: &ArgMatches, around: &Surroundings<'_>) -> ExitCode {
    // Without a home, as in a cron job, there would be no place for a spool; but none is looked at here.
    let environment = around.environment.clone().into_iter().chain([("STATE_DIRECTORY".into(), "/".into())]);
    let around = Surroundings { environment: environment.collect(), ..*around };
    let address = match Settings::load(given, &around) {
        Ok(loaded) => loaded.settings.stats,
        Err(refused) => return cli::refuse(*refused),
    };
    let Some(address) = address else {
        complain("error: the stats port is turned off: name the daemon's with --stats or --config");
        return ExitCode::FAILURE;
    };
    loop {
        let look = look(address);
        let watched = given.get_flag("watch") && io::stdout().is_terminal();
        if watched {
            let _ = write!(io::stdout(), "{REDRAW}");
        }
        let code = match look {
            Ok(stats) => {
                text(&stats).iter().for_each(say);
                if wrong(&stats).is_empty() && delivers(&stats) {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                }
            }
            Err(error) => {
                complain(format_args!(
                    "error: no daemon answers at {address}: {error}; is it running, and is this its --stats?"
                ));
                ExitCode::FAILURE
            }
        };
        if !given.get_flag("watch") {
            return code;
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

/// What `/stats` says.
fn look(address: SocketAddr) -> Result<Value, Box<dyn std::error::Error>> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /stats HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("it does not speak HTTP")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(head.lines().next().unwrap_or_default().to_owned().into());
    }
    Ok(serde_json::from_str(body)?)
}

/// What is wrong, in the daemon's own words.
fn wrong(stats: &Value) -> Vec<&str> {
    at(stats, "/wrong").as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether Blueflood takes what is sent.
fn delivers(stats: &Value) -> bool {
    at(stats, "/forwarder/gate/open").as_bool() == Some(true)
}

/// The figures as lines.
fn text(stats: &Value) -> Vec<String> {
    let points = at(stats, "/datapoints");
    let forwarder = at(stats, "/forwarder");
    let now = at(stats, "/time_ms").as_u64().unwrap_or(0) / 1000;
    let ago = |time: &Value| {
        time.as_u64().map_or("never".to_owned(), |time| format!("{} s ago", now.saturating_sub(time)))
    };
    let mut lines = vec![
        format!("blueflood-forward {}, up for {} s", plain(at(stats, "/version")), at(stats, "/uptime_s")),
        format!(
            "ledger     received {} = skipped {} + buffered {} + delivered {} + refused {} + dropped {} (unaccounted {})",
            at(points, "/received"),
            at(points, "/skipped"),
            at(points, "/buffered"),
            at(points, "/delivered"),
            at(points, "/refused"),
            at(points, "/dropped"),
            at(points, "/unaccounted")
        ),
    ];
    lines.push(match at(stats, "/confirm/mode").as_str() {
        // An older daemon says nothing of it, and reads nothing back.
        None | Some("off") => {
            "delivered  means acknowledged, not read back: see --query and --confirm".to_owned()
        }
        Some(mode) => format!(
            "delivered  means confirmed ({mode}): {} acknowledged and not read back yet, {} sent again",
            at(points, "/acknowledged"),
            at(stats, "/confirm/resent")
        ),
    });
    for listener in at(stats, "/listeners").as_array().into_iter().flatten() {
        lines.push(format!(
            "listener   {} ({}): {} connections, {} datapoints",
            plain(at(listener, "/endpoint")),
            plain(at(listener, "/protocol")),
            at(listener, "/connections"),
            at(listener, "/datapoints")
        ));
    }
    let gate = at(forwarder, "/gate");
    lines.push(match at(gate, "/open").as_bool() {
        Some(true) => format!("Blueflood  takes metrics, last {}", ago(at(forwarder, "/last_success"))),
        _ => format!(
            "Blueflood  does not take metrics ({}), next try in {:.1} s",
            plain(at(gate, "/cause")),
            at(gate, "/next_try_in_s").as_f64().unwrap_or(0.0)
        ),
    });
    lines.push(format!(
        "forwarder  {} in flight of {}, {} set aside, {} requests, {} of them again",
        at(forwarder, "/in_flight"),
        at(forwarder, "/concurrency"),
        at(forwarder, "/set_aside"),
        at(forwarder, "/posts"),
        at(forwarder, "/retries")
    ));
    if let Some(error) = at(forwarder, "/last_error/text").as_str() {
        lines.push(format!(
            "last error {} ({})",
            error.escape_debug(),
            ago(at(forwarder, "/last_error/time"))
        ));
    }
    lines.push(format!(
        "spool      {} of {} bytes, the oldest datapoint came {}",
        at(stats, "/spool/used_bytes"),
        at(stats, "/spool/bytes_max"),
        ago(at(stats, "/spool/oldest_time"))
    ));
    for place in ["refused", "skipped", "dropped", "malformed"] {
        for (reason, n) in at(stats, &format!("/{place}")).as_object().into_iter().flatten() {
            let last =
                last(stats, place, reason).map(|last| format!(", the last {last}")).unwrap_or_default();
            lines.push(format!("{place:<10} {n} for {reason}{last}"));
        }
    }
    match wrong(stats).as_slice() {
        [] if delivers(stats) => lines.push("all is well".to_owned()),
        [] => lines.push("metrics are kept until Blueflood takes them".to_owned()),
        wrong => lines.extend(wrong.iter().map(|words| format!("WRONG      {}", words.escape_debug()))),
    }
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

/// A text without its quotes.
fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
