//! Owns what an operator hears of the spool: why the daemon would not start on it, what will be regretted, and what
//! happens to it. It never opens one.

use actors::spool::open::{self, OpenError};
use actors::spool::{Notice, Options};
use slog::{Logger, debug, error, info, warn};

use super::plan;
use crate::settings::Settings;

/// Why the daemon would not start on the spool that the settings name.
pub(crate) fn refused(settings: &Settings) -> Option<OpenError> {
    open::would_refuse(&plan::spool(settings).place)
}

/// What is not wrong with the place of the spool, and will be regretted.
pub(super) fn warn_of(spool: &Options, log: &Logger) {
    let bytes_max = spool.policy.bytes_max;
    if let Some(bytes) = open::small_disk(&spool.place, bytes_max) {
        warn!(log, "the disk of the spool is smaller than the spool may grow: it will be full before that";
            "disk_bytes" => bytes, "spool_max" => bytes_max, "write" => format!("--spool_max {}", bytes / 10 * 8));
    }
    if let Some(folder) = open::open_to_all(&spool.place) {
        warn!(log, "every user of this host may put files into the folder of the spool: give it one of its own";
            "folder" => folder.display().to_string());
    }
}

/// One line for each thing of the spool that an operator should know.
pub(super) fn say(log: Logger) -> impl Fn(Notice) + Send + 'static {
    move |notice| match notice {
        Notice::Salvaged(salvage) => {
            error!(log, "the spool was damaged: it is set aside, and what can be read of it goes on";
                "cause" => salvage.cause, "set_aside" => salvage.set_aside.display().to_string(),
                "rows" => salvage.rows, "dead_letters" => salvage.dead_letters,
                "rows_lost" => salvage.lost.map_or("unknown".to_owned(), |lost| lost.to_string()));
        }
        Notice::Migrated(migrated) => {
            let copy = migrated.copy.map_or("none".to_owned(), |copy| copy.display().to_string());
            info!(log, "the spool was of an older version, and is brought up to date";
                "from_version" => migrated.from, "copy" => copy);
        }
        Notice::Amiss(what) => {
            error!(log, "something is amiss with the spool, and is tried to be mended"; "what" => what)
        }
        Notice::NotAmiss => info!(log, "nothing is amiss with the spool any more"),
        Notice::Rescued { what, set_aside } => {
            let set_aside = set_aside.map_or("nothing".to_owned(), |aside| aside.display().to_string());
            error!(log, "the spool lost its file, and all that was in it was written to a new one";
                "what" => what, "set_aside" => set_aside);
        }
        Notice::Locked => warn!(log, "the lock of the spool was removed, and is taken again"),
        Notice::Blocked(cause) => {
            warn!(log, "the spool takes nothing for now: senders have to wait"; "cause" => cause)
        }
        Notice::Unblocked => info!(log, "the spool takes metrics again"),
        Notice::Dropped { reason, rows } => {
            warn!(log, "datapoints are dropped by policy"; "reason" => reason.label(), "datapoints" => rows);
        }
        Notice::OfAnotherTenant { tenant, rows, now } => {
            warn!(log, "datapoints wait for another tenant than --tenant, and go there: they were taken for it";
                "waits_for" => &*tenant, "datapoints" => rows, "tenant" => &*now,
                "to_send_them_elsewhere" => format!("print them with `blueflood-forward spool export --of {tenant}`"));
        }
        Notice::DiskFull => {
            error!(
                log,
                "the disk of the spool is full: it grows no more, and is treated as a spool at its cap"
            );
        }
        Notice::DiskFree => info!(log, "the disk of the spool has room again"),
        Notice::Unattributed { errors } => {
            warn!(log, "Blueflood refused rows that were not in the payload"; "errors" => errors);
        }
        Notice::AuditFailed(what) => {
            error!(log, "the queue is not what the spool holds, which is a bug: it is made anew out of the spool"; "seen" => what);
        }
        Notice::Replayed { rows } => debug!(log, "dead letters are sent again"; "datapoints" => rows),
    }
}
