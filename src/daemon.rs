//! Owns the life of the daemon, from settings to exit code. Never decides what is done with a metric.

use std::process::ExitCode;

use crate::cli;
use crate::settings::Loaded;

/// Runs until it is told to stop.
pub fn run(loaded: Loaded) -> ExitCode {
    cli::complain("warning", loaded.warnings);
    cli::complain("error", ["the daemon itself is not there yet"]);
    ExitCode::FAILURE
}
