//! Owns `blueflood-forward generate`: the man pages, completions and the systemd unit, for whoever packages it. They
//! derive from the command line itself; none is ever kept in the repository.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, ValueHint};
use clap_complete::Shell;

use super::man;
use crate::settings::{self, Kind};
use crate::terminal::complain;

/// The name of the program and of its completions.
const PROGRAM: &str = "blueflood-forward";

/// The unit goes with the program, whichever way that was installed.
const UNIT: &str = include_str!("../../config/blueflood-forward.service");

/// The name, options and help of the command, for clap: hidden, for no operator needs it.
pub fn command() -> Command {
    Command::new("generate")
        .about("Print the man page, completions for a shell, or the systemd unit")
        .hide(true)
        .arg(Arg::new("what").required(true).value_parser(["man", "bash", "zsh", "fish", "unit"]))
        .arg(
            Arg::new("into")
                .long("into")
                .value_name("FOLDER")
                .help("Write the man pages, one a command, into this folder"),
        )
}

/// Prints what is asked for of `program`, the whole command line, to standard output.
pub fn run(given: &ArgMatches, program: Command) -> ExitCode {
    let what = given.get_one::<String>("what").map_or("", String::as_str);
    let into = given.get_one::<String>("into").map(Path::new);
    match write(program, what, into, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format!("error: {what} can't be written: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn write(command: Command, what: &str, into: Option<&Path>, to: &mut dyn Write) -> io::Result<()> {
    match (what, into) {
        // A page about `help` would help nobody.
        ("man", Some(folder)) => {
            return man::write_all(command.disable_help_subcommand(true), folder);
        }
        ("man", None) => return man::write(command.disable_help_subcommand(true), to),
        ("unit", _) => return to.write_all(UNIT.as_bytes()),
        _ => {}
    }
    if let Ok(shell) = what.parse::<Shell>() {
        // clap's own help command knows of no topics.
        let help = super::help::command(&command);
        let mut command = with_hints(command.disable_help_subcommand(true).subcommand(help));
        // It panics where it cannot write, so it writes to memory first.
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, PROGRAM, &mut text);
        // Nothing behind a command would be completed, for the dash in our name is written in two ways
        // (clap-rs/clap#6421, open as of clap_complete 4.6.11).
        let text = String::from_utf8_lossy(&text).replace("blueflood__subcmd__forward", "blueflood__forward");
        // fish would offer files for the value of an option that stands before any command: a line that is not
        // finished cannot be parsed, and that must not mean that it has a command (clap_complete 4.6.11).
        let text = text.replace("2>/dev/null\n    or return\n", "2>/dev/null\n    or return 0\n");
        to.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// What a shell offers behind an option: what it can be, or files if it is one. Only here, for the daemon takes more than
/// need be offered (the original's names), and says better than clap what is wrong.
fn with_hints(command: Command) -> Command {
    command.mut_args(hint).mut_subcommands(with_hints)
}

fn hint(argument: Arg) -> Arg {
    let kind = settings::setting(argument.get_id().as_str()).map(|setting| setting.kind);
    match kind {
        _ if !argument.get_possible_values().is_empty() => argument,
        Some(Kind::File) => argument.value_hint(ValueHint::FilePath),
        Some(kind) if !kind.words().is_empty() => {
            argument.value_parser(PossibleValuesParser::new(kind.words()))
        }
        _ if argument.get_action().takes_values() => argument.value_hint(ValueHint::Other),
        _ => argument,
    }
}
