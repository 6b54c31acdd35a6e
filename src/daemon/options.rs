//! Owns what the settings come to for each actor and for the spool, and what is said of the spool. It never starts
//! anything.

use std::sync::Arc;
use std::time::Duration;

use actors::confirmer::Side;
use actors::core::backoff::Backoff;
use actors::core::chunk::Encoding;
use actors::core::confirm::Way;
use actors::core::outbox::Limits;
use actors::core::row::RowSettings;
use actors::core::verdict::Known;
use actors::forwarder::Auth;
use actors::forwarder::post::{self, Target};
use actors::metrics::Place;
use actors::spool::open::{self, OpenError};
use actors::spool::store::Sync;
use actors::spool::{Notice, Policy, WhenFull};
use rustls::ClientConfig;
use serde_json::{Value, json};
use slog::{Logger, debug, error, info, warn};

use crate::settings::{CatchUp, Compress, Effective, QuerySide, Settings, SpoolFull, SpoolPlace, SpoolSync};

/// The longest first pause after a failure.
const BACKOFF_BASE: Duration = Duration::from_secs(1);

/// How long batches wait for room in the spool's memory while Blueflood owes answers: many times what an answer takes, and too
/// short for a sender to notice.
const ROOM_WAIT: Duration = Duration::from_millis(20);

/// Every effective setting as it may be shown to whoever reaches the stats port.
pub(super) fn settings_shown(effective: &[Effective]) -> Value {
    let shown = |entry: &Effective| json!({ "key": entry.setting.key, "value": entry.setting.shown(&entry.text), "origin": entry.origin });
    effective.iter().map(shown).collect()
}

/// Whom to POST to, and how.
pub(crate) fn target(settings: &Settings, tls: Arc<ClientConfig>) -> Target {
    Target {
        tls,
        base: settings.blueflood.clone(),
        tenant: settings.tenant.clone(),
        timeout: settings.timeout,
        concurrency: settings.concurrency,
    }
}

/// Where this daemon is, and where it delivers to.
pub(super) fn place(settings: &Settings) -> Place {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Place {
        host: host.trim().to_owned(),
        url: post::ingest_url(&settings.blueflood, &settings.tenant),
        tenant: settings.tenant.clone(),
        spool: place_name(&settings.spool),
        interval: settings.interval,
    }
}

/// What of the settings the verdict needs.
pub(super) fn known(settings: &Settings) -> Known {
    Known {
        interval: settings.interval,
        max_age: settings.max_age,
        drops_oldest: settings.spool_full == SpoolFull::DropOldest,
        in_memory: settings.spool == SpoolPlace::Memory,
        authenticates: !settings.user.is_empty(),
    }
}

pub(super) fn payload_bytes_max(settings: &Settings) -> usize {
    usize::try_from(settings.limit).unwrap_or(usize::MAX)
}

pub(crate) fn encoding(settings: &Settings) -> Encoding {
    match settings.compress {
        Compress::Gzip => Encoding::Deflate,
        Compress::None => Encoding::Plain,
    }
}

pub(crate) fn rows(settings: &Settings) -> RowSettings {
    RowSettings {
        prefix: settings.metric_prefix.clone(),
        ttl_s: settings.ttl,
        tenant: settings.tenant.clone(),
        payload_bytes_max: payload_bytes_max(settings),
        overwrite_time: settings.overwrite_collection_timestamp,
    }
}

pub(super) fn collector(settings: &Settings) -> actors::collector::Options {
    actors::collector::Options {
        rows_max: settings.max_rows,
        payload_bytes_max: payload_bytes_max(settings),
        seal_interval: settings.seal_interval,
        send_interval: settings.interval,
    }
}

pub(super) fn forwarder(
    settings: &Settings,
    auth: Option<Auth>,
    tls: Arc<ClientConfig>,
) -> actors::forwarder::Options {
    actors::forwarder::Options {
        limits: Limits {
            payload_bytes_max: payload_bytes_max(settings),
            payload_rows_max: settings.max_rows,
            in_flight_max: settings.concurrency,
            backoff: Backoff { base: BACKOFF_BASE.min(settings.backoff_max), max: settings.backoff_max },
            authenticates: auth.is_some(),
        },
        auth,
        target: target(settings, tls),
        encoding: encoding(settings),
        keeps: settings.spool != SpoolPlace::Memory,
    }
}

/// How what Blueflood acknowledged is read back.
pub(super) fn confirmer(
    settings: &Settings,
    auth: Option<Auth>,
    tls: Arc<ClientConfig>,
) -> actors::confirmer::Options {
    actors::confirmer::Options {
        way: settings.confirm,
        side: match &settings.query {
            QuerySide::Auto => Side::Auto(settings.query_usual()),
            QuerySide::Off => Side::Off,
            QuerySide::At(url) => Side::At(url.clone()),
        },
        delay: settings.confirm_delay,
        target: target(settings, tls),
        encoding: encoding(settings),
        auth,
        rows: rows(settings),
        witness: format!("blueflood-forward.witness.{}", host()),
    }
}

/// The name of this host as a part of a metric's name: two daemons must not use one witness.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let letters = name.trim().chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' });
    let name: String = letters.take(64).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// How long a sealed chunk waits in memory: for the answer, and where that is read back for the look too.
fn hold(settings: &Settings) -> Duration {
    let reads_back = settings.confirm != Some(Way::Off) && settings.query != QuerySide::Off;
    let look = if reads_back { settings.confirm_delay } else { Duration::ZERO };
    if settings.spool_hold.is_zero() { Duration::ZERO } else { settings.spool_hold.saturating_add(look) }
}

/// What of the spool's settings may change while it is open.
pub(super) fn spool_policy(settings: &Settings) -> Policy {
    Policy {
        bytes_max: settings.spool_max,
        when_full: match settings.spool_full {
            SpoolFull::DropOldest => WhenFull::DropOldest,
            SpoolFull::Block => WhenFull::Block,
        },
        age_max: settings.max_age,
        dead_letter_bytes_max: settings.dead_letters_max,
        hold: hold(settings),
        room_wait: ROOM_WAIT,
        unwritten_max: settings.seal_interval,
    }
}

pub(super) fn spool(settings: &Settings) -> actors::spool::Options {
    actors::spool::Options {
        place: match &settings.spool {
            SpoolPlace::Memory => open::Place::Memory,
            SpoolPlace::File(path) => open::Place::File(path.clone()),
        },
        sync: match settings.spool_sync {
            SpoolSync::Normal => Sync::Normal,
            SpoolSync::Full => Sync::Full,
        },
        encoding: encoding(settings),
        policy: spool_policy(settings),
        newest_first: settings.catch_up == CatchUp::NewestFirst,
        tenant: settings.tenant.clone(),
    }
}

/// Why the daemon would not start on the spool that the settings name.
pub(crate) fn refused_spool(settings: &Settings) -> Option<OpenError> {
    open::would_refuse(&spool(settings).place)
}

/// What is not wrong with the place of the spool, and will be regretted.
pub(super) fn warn_of_spool(spool: &actors::spool::Options, log: &Logger) {
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

pub(super) fn place_name(place: &SpoolPlace) -> String {
    match place {
        SpoolPlace::Memory => ":memory:".to_owned(),
        SpoolPlace::File(path) => path.display().to_string(),
    }
}

/// One line for each thing of the spool that an operator should know.
pub(super) fn say_of_spool(log: Logger) -> impl Fn(Notice) + Send + 'static {
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
