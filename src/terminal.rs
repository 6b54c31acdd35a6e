//! Owns what a person at a terminal is told: results on standard output, what went wrong on standard error, and the exit
//! code of a wrong usage. Nobody is left to tell where a line can't be written, so that is no error.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::settings::Refused;

/// The exit code for a usage or a setting that is wrong.
pub const EXIT_USAGE: u8 = 2;

/// Writes a line of the result.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line about something that went wrong.
pub fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes each of `complaints` on a line of its own, behind what `kind` of complaint it is.
pub fn complain_of(kind: &str, complaints: impl IntoIterator<Item = impl Display>) {
    complaints.into_iter().for_each(|complaint| complain(format_args!("{kind}: {complaint}")));
}

/// Writes all that is wrong with the settings. No log can be trusted to be open yet.
pub fn refuse(refused: Refused) -> ExitCode {
    complain_of("warning", &refused.warnings);
    complain_of("error", &refused.problems);
    ExitCode::from(EXIT_USAGE)
}
