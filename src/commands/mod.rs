//! The commands beside the daemon itself, each a file with `command()` for clap and `run()`.
//! None of them ever starts an actor.

pub mod send;
pub mod sink;

use std::fmt::Display;
use std::io::Write;

/// A line for the user. Whoever closed our output does not want it, so a failure is no error.
fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line about something that went wrong, likewise.
fn complain(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
