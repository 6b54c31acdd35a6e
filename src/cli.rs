//! Owns the command line: what can be typed, which command that runs, and the exit codes (0 all went well, 1 it failed
//! while running, 2 it was told something it can't do). Never reads a setting's value.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::settings::{Settings, Surroundings};
use crate::terminal::{EXIT_USAGE, complain_of, refuse};
use crate::{commands, daemon, settings};

const ABOUT: &str = "Takes Graphite metrics in and delivers them to Blueflood, counting every loss.";

const AFTER_HELP: &str = "\
These are the options that nearly everybody sets: --help shows all of them, and examples. `blueflood-forward COMMAND -h` \
shows those of a command, `blueflood-forward help TOPIC` a text about one of these: ";

/// A line of an example is no longer than a terminal of 80 columns: it would be broken, and could not be pasted.
const AFTER_LONG_HELP: &str = "\
Every option is a key in the file too, and an environment variable: --log_level is BLUEFLOOD_FORWARD_LOG_LEVEL. If it is \
given more than once, the first of these counts: the command line, the environment, the file, the default.

Options may be written with dashes or underscores, and shortened as long as they stay unique. They may stand before a \
command. A time is seconds (0.5) or 500ms, 10min, 2d; a size is bytes or 64KiB, 10MiB, 1GiB.

Examples:
  Take what Graphite's senders send, deliver it to a Blueflood on this host:
    blueflood-forward --tenant acme
  Listen over TCP and UDP, and put a prefix before all names:
    blueflood-forward -t acme -e tcp:2003 -e tcp:2004 -e udp:2003 -p site1
  Run with the original's configuration file, and see first what it comes to:
    blueflood-forward check --config example.conf
    blueflood-forward --config example.conf";

/// All that an operator can type.
pub fn command() -> Command {
    Command::new("blueflood-forward")
        .about(ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .long_version(concat!(env!("CARGO_PKG_VERSION"), env!("MADE_OF")))
        .after_help(format!("{AFTER_HELP}{}.", commands::help::names()))
        .after_long_help(format!("{AFTER_LONG_HELP}\n\n{}", commands::help::topics()))
        .args(settings::arguments())
        .subcommand(commands::check::command())
        .subcommand(commands::status::command())
        .subcommand(commands::tap::command())
        .subcommand(commands::spool::command())
        .subcommand(commands::dead_letters::command())
        .subcommand(commands::send::command())
        .subcommand(commands::sink::command())
        // Every long option may be cut short, as the original's could; the last of several wins.
        .infer_long_args(true)
        .args_override_self(true)
        .args_conflicts_with_subcommands(true)
}

/// Does what `arguments` ask for; the first of them is the program's own name.
pub fn run(arguments: impl IntoIterator<Item = OsString>, around: &Surroundings<'_>) -> ExitCode {
    let arguments = command_first(arguments.into_iter().collect());
    let typed: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(code) = commands::help::run(&typed) {
        return code;
    }
    let matches = match command().subcommand(commands::generate::command()).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(answer) => {
            if let Some(advice) = twistd(&typed).filter(|_| answer.use_stderr()) {
                complain_of("error", [advice]);
                return ExitCode::from(EXIT_USAGE);
            }
            // --help and --version come this way too. Nobody is left to tell if it can't be printed.
            let _ = answer.print();
            return if answer.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match matches.subcommand() {
        Some(("check", given)) => commands::check::run(given, around),
        Some(("status", given)) => commands::status::run(given, around),
        Some(("tap", given)) => commands::tap::run(given, around),
        Some(("spool", given)) => commands::spool::run(given, around),
        Some(("dead-letters", given)) => commands::dead_letters::run(given, around),
        Some(("send", given)) => commands::send::run(given),
        Some(("sink", given)) => commands::sink::run(given),
        Some(("generate", given)) => commands::generate::run(given, command()),
        _ => run_daemon(&matches, around),
    }
}

/// The same arguments with the command before the options: `$BF spool info` works, though `BF` has options in it. The daemon
/// takes nothing but options, each with a value.
fn command_first(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let mut at = 1;
    while let Some(text) = arguments.get(at).and_then(|argument| argument.to_str()) {
        if let Some(known) = command().find_subcommand(text) {
            let second = arguments.get(at.saturating_add(1)).and_then(|argument| argument.to_str());
            let words = if second.is_some_and(|text| known.find_subcommand(text).is_some()) { 2 } else { 1 };
            if let Some(moved) = arguments.get_mut(1..at.saturating_add(words)) {
                moved.rotate_right(words);
            }
            break;
        }
        if !text.starts_with('-') || text == "--" {
            break;
        }
        let is_whole = match text.strip_prefix("--") {
            Some(long) => long.contains('=') || ["help", "version"].contains(&long),
            None => text.len() > 2 || ["-h", "-V"].contains(&text),
        };
        at = at.saturating_add(if is_whole { 1 } else { 2 });
    }
    arguments
}

/// Options that the original's command line had before its own: they were those of twistd, which ran it.
const OF_TWISTD: [&str; 8] =
    ["twistd", "-n", "--nodaemon", "--pidfile", "--logger", "--no_save", "--rundir", "--umask"];

/// What to leave out of a command line of the original.
fn twistd(typed: &[String]) -> Option<String> {
    let first = typed.get(1)?;
    if command().find_subcommand(first).is_some() {
        return None;
    }
    let name =
        |word: &str| word.rsplit('/').next().unwrap_or(word).split('=').next().unwrap_or_default().to_owned();
    let is_of_twistd = |word: &String| OF_TWISTD.contains(&name(word).as_str());
    let own = typed.iter().skip(1).position(|word| name(word) == "blueflood-forward");
    // A key may stand before another word than theirs: it is not repeated.
    if let Some(end) = own.filter(|&own| own == 0 || is_of_twistd(first)) {
        let before: Vec<&str> =
            typed.iter().skip(1).take(end.saturating_add(1)).map(String::as_str).collect();
        return Some(format!(
            "what stands before the options of blueflood-forward was twistd's: leave out `{}`",
            before.join(" ")
        ));
    }
    let theirs: Vec<String> =
        typed.iter().skip(1).filter(|word| is_of_twistd(word)).map(|word| name(word)).collect();
    (!theirs.is_empty()).then(|| {
        format!(
            "what twistd was told is none of our options: leave out {}, with what belongs to them",
            theirs.join(", ")
        )
    })
}

fn run_daemon(given: &ArgMatches, around: &Surroundings<'_>) -> ExitCode {
    match daemon::run(&|| Settings::load(given, around)) {
        Ok(code) => code,
        Err(refused) => {
            let code = refuse(*refused);
            complain_of(
                "hint",
                ["`blueflood-forward check` with the same options shows where each setting comes from"],
            );
            code
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_may_stand_behind_the_options() {
        let ordered = |line: &str| {
            let words = line.split(' ').map(OsString::from).collect();
            command_first(words).join(std::ffi::OsStr::new(" ")).into_string().unwrap_or_default()
        };
        for (line, same) in [
            ("bf -t acme check --quiet", "bf check -t acme --quiet"),
            ("bf --tenant=acme -tacme status", "bf status --tenant=acme -tacme"),
            ("bf spool info -t acme", "bf spool info -t acme"),
            ("bf --spool x -t acme spool info --config y", "bf spool info --spool x -t acme --config y"),
            ("bf --spool x spool", "bf spool --spool x"),
            // What is a value is no command.
            ("bf -t check", "bf -t check"),
            ("bf -t check check", "bf check -t check"),
            ("bf nonsense check", "bf nonsense check"),
            ("bf", "bf"),
        ] {
            assert_eq!(ordered(line), same);
        }
    }
}
