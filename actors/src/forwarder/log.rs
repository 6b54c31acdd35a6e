//! Owns the forwarder's lines of the log. It never decides what is worth one: that is the outbox.

use std::time::Duration;

use slog::{error, info, warn};

use super::Forwarder;
use crate::core::{
    outbox::{Notice, Who},
    verdict::remedy,
};

impl Forwarder {
    /// Says what the outbox has to say.
    pub(super) fn say(&self, notice: Notice) {
        let log = &self.log;
        // Rows that wait for another tenant than that of the settings may be what fails.
        let url = self.failed_url.clone().unwrap_or_else(|| self.options.target.ingest_url(""));
        match notice {
            Notice::Closed { who: Who::Blueflood, cause, wait } => {
                warn!(log, "Blueflood does not take metrics: it is tried again by itself";
                    "url" => &url, "cause" => cause, "next_try_s" => tenths(wait));
            }
            Notice::Closed { who: Who::Keystone, cause, wait } => {
                warn!(log, "Keystone gives no token: metrics are kept, and sent when it does";
                    "cause" => cause, "next_try_s" => tenths(wait));
            }
            Notice::Examining { cause } => {
                info!(log, "Blueflood works, but does not take one payload: it is sent in parts, to find the rows that cause it";
                    "cause" => cause);
            }
            Notice::Opened { after, failures } => {
                info!(log, "Blueflood takes metrics again";
                    "url" => &url, "after_s" => after.as_secs(), "failed_tries" => failures);
            }
            Notice::Misconfigured(text) => {
                let next = remedy(&text, self.options.auth.is_some());
                error!(log, "Blueflood refuses everything, which only a change can mend";
                    "url" => &url, "answer" => text, "next" => next);
            }
            Notice::Halving { rows, cause } => {
                info!(log, "a payload fails by itself: halving it to find the rows that cause it";
                    "rows" => rows, "cause" => cause);
            }
            Notice::LimitLearned { payload_bytes_max } => {
                warn!(log, "a payload was too large: payloads are smaller from now on; set --limit to make it last";
                    "bytes" => payload_bytes_max);
            }
        }
    }
}

/// Seconds for a reader: more digits say nothing.
fn tenths(wait: Duration) -> f64 {
    (wait.as_secs_f64() * 10.0).round() / 10.0
}
