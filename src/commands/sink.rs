//! `blueflood-forward sink`: the stand-in for Blueflood as a command.
//! It never keeps anything, and says so.

use crate::sink::{Options, Script, Sink, SinkHandle};
use crate::terminal::{complain, say};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::io;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const LISTEN: &str = "127.0.0.1:19000";
/// How often it says what came.
const PERIOD: Duration = Duration::from_secs(1);
/// How much of a name is shown.
const NAME_CHARS_MAX: usize = 80;

const EXAMPLES: &str = "\
It answers POST /v2.0/TENANT/ingest as a real Blueflood does, refusals, silences and all, and keeps the last 1,000,000 \
datapoints in memory, so that you can read them back:

  all='from=0&to=9999999999999&resolution=FULL'
  curl \"http://127.0.0.1:19000/v2.0/tenant/views/my.metric?$all\"
  curl -d '[\"a\",\"b\"]' \"http://127.0.0.1:19000/v2.0/tenant/views?$all\"

With --answers it misbehaves, step by step; after the last step it is normal again:

  503x5,timeout,ok       five times 503, then no answer at all, then a normal one
  429?Retry-After=2      a status with a header
  500/stored             stored, though the answer denies it
  lie                    200, and nothing is stored
  if(poison)400          every request with \"poison\" in it, for ever
  refuse(bad.)           every row with \"bad.\" in its name, by itself (207)
  late:500x*             every answer half a second late

Other steps: half, garbage, close, reset, reset-unread, early:413, endless, stall.

A real Blueflood whose Cassandra fails answers 200 all the same; these steps do so too. --reads makes queries fail:

  --answers awayx* --reads awayx*
                         all of Cassandra is away: 200 and lost, and reads are empty or a 500
  --answers part:50x*    one node of two is away: the rows of half of all names are lost
  --answers miss:2x*     two rows of each payload are lost
  --reads 500x3,empty,short:70,late:500

For trials and tests only: it keeps nothing, checks nobody's identity, and is gone with Ctrl-C.";

/// What `sink` takes on the command line.
pub fn command() -> Command {
    Command::new("sink")
        .about("A stand-in for Blueflood, in memory: see what the daemon sends, and try it against faults")
        .after_long_help(EXAMPLES)
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("HOST:PORT")
                .default_value(LISTEN)
                .help("Where to listen; port 0 takes any free one"),
        )
        .arg(
            Arg::new("answers")
                .long("answers")
                .value_name("SCRIPT")
                .value_parser(Script::parse)
                .help("What to answer instead, for example 503x5,timeout,ok"),
        )
        .arg(
            Arg::new("reads")
                .long("reads")
                .value_name("SCRIPT")
                .value_parser(Script::parse)
                .help("What requests that read back meet instead, for example 500x3,short:70"),
        )
        .arg(
            Arg::new("quiet")
                .long("quiet")
                .short('q')
                .action(ArgAction::SetTrue)
                .help("Say nothing while datapoints come"),
        )
}

/// Runs until Ctrl-C or SIGTERM. Fails when the address cannot be had.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let listen = matches.get_one::<String>("listen").map_or(LISTEN, String::as_str);
    let sink = match start(listen) {
        Ok(sink) => sink,
        Err(error) => {
            complain(format_args!(
                "cannot listen on {listen}: {error}. --listen HOST:PORT names another address; with port 0 any free \
                 port is taken"
            ));
            return ExitCode::FAILURE;
        }
    };
    if let Some(script) = matches.get_one::<Script>("answers") {
        sink.script(script.clone());
    }
    if let Some(script) = matches.get_one::<Script>("reads") {
        sink.reads(script.clone());
    }
    let url = sink.url();
    say(format_args!("A stand-in for Blueflood at {url}"));
    say("It keeps nothing: all is in memory, and gone when it ends. Never use it in production.");
    say(format_args!(
        "Read back with: curl '{url}/v2.0/TENANT/views/NAME?from=0&to=9999999999999&resolution=FULL'"
    ));
    if let Err(error) = watch(&sink, matches.get_flag("quiet")) {
        complain(format_args!("cannot wait for Ctrl-C: {error}"));
        return ExitCode::FAILURE;
    }
    let (rows, requests) = sink.read(|state| (state.rows_stored(), state.requests_seen()));
    say(format_args!("Took {rows} datapoints in {requests} requests; they are forgotten now."));
    ExitCode::SUCCESS
}

fn start(listen: &str) -> io::Result<SinkHandle> {
    // Nobody asks this command for what it received: only points are kept.
    Sink::start(TcpListener::bind(listen)?, Options { received_bytes_max: 0, ..Options::default() })
}

/// Says what comes, until a signal does.
fn watch(sink: &SinkHandle, quiet: bool) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut tick = tokio::time::interval(PERIOD);
        let mut said = 0;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = tick.tick() => {
                    let (rows, name) = sink.read(|state| (state.rows_stored(), printable(state.last_name())));
                    if rows > said && !quiet {
                        say(format_args!("{rows} datapoints (+{}), the last one {name}", rows.saturating_sub(said)));
                    }
                    said = rows;
                }
            }
        }
    })
}

/// A name as a terminal can bear it.
fn printable(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_a_wrong_script_is_explained() {
        command().debug_assert();
        let error = command().try_get_matches_from(["sink", "--answers", "503,sometimes"]).unwrap_err();
        assert!(error.to_string().contains("\"sometimes\" is no step of a script"), "{error}");
    }

    #[test]
    fn names_cannot_write_on_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\nb"), "a\\u{1b}[2J\\nb");
    }
}
