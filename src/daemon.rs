//! Owns the life of the daemon, from settings to exit code. Never decides what is done with a metric.

use std::process::ExitCode;

use slog::{error, warn};

use crate::logging::{self, LogSettings};
use crate::{cli, settings::Loaded};

/// Runs until it is told to stop.
pub fn run(loaded: Loaded) -> ExitCode {
    let log = match logging::start(&LogSettings::from(&loaded.settings)) {
        Ok(log) => log,
        Err(error) => {
            cli::complain("error", [error]);
            return ExitCode::FAILURE;
        }
    };
    for warning in loaded.warnings {
        warn!(log.logger, "{warning}");
    }
    error!(log.logger, "the daemon itself is not there yet");
    ExitCode::FAILURE
}
