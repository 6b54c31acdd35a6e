//! The commands beside the daemon itself, one file each: `command()` describes it to clap, `run()` does it.
//! None of them ever starts the daemon.

pub mod check;
pub mod connect;
pub mod dead_letters;
pub mod generate;
pub mod help;
mod host;
mod man;
pub mod port;
pub mod send;
pub mod sink;
pub mod spool;
pub mod status;
pub mod tap;

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
