//! Owns the plan of the daemon: what the settings come to, as options of every actor and of the spool. It is made once at
//! the start and once at each reload, and handed on: nowhere else does the daemon turn a setting into an option. It never
//! starts anything.

use std::sync::Arc;
use std::time::Duration;

use actors::confirmer::{self, Side};
use actors::core::backoff::Backoff;
use actors::core::chunk::Encoding;
use actors::core::confirm::Way;
use actors::core::outbox::Limits;
use actors::core::row::{Encoder, RowSettings};
use actors::core::verdict::Known;
use actors::forwarder::post::{self, Target};
use actors::listener::Live;
use actors::metrics::Place;
use actors::spool::open;
use actors::spool::store::Durability;
use actors::spool::{self, Policy, WhenFull};
use actors::tls::Outgoing;
use actors::{collector, forwarder, keystone_auth};
use rustls::ClientConfig;
use serde_json::{Value, json};
use slog::{Logger, warn};

use crate::settings::{CatchUp, Compress, Effective, Loaded, QuerySide, Settings};
use crate::settings::{SpoolFull, SpoolPlace, SpoolSync};

/// The longest first pause after a failure.
const BACKOFF_BASE: Duration = Duration::from_secs(1);

/// How long batches wait for room in the spool's memory while Blueflood owes answers: many times what an answer takes, and too
/// short for a sender to notice.
const ROOM_WAIT: Duration = Duration::from_millis(20);

/// The options of every actor and of the spool. Two plans are compared at a reload, and only the actors whose options
/// differ are told.
pub(super) struct Plan {
    /// Whom we trust on the way out.
    pub(super) trust: Outgoing,
    /// How tokens are asked for; `None` without credentials.
    pub(super) keystone: Option<keystone_auth::Options>,
    /// How Blueflood is sent to. Its `auth` is `None`: a link to Keystone's actor is there once that actor runs.
    pub(super) forwarder: forwarder::Options,
    /// How it is read back. Its `auth` likewise.
    pub(super) confirmer: confirmer::Options,
    /// What bounds a chunk.
    pub(super) collector: collector::Options,
    /// What may change while connections are open.
    pub(super) live: Live,
    /// How many senders may be connected at once.
    pub(super) connections: u32,
    /// Where the spool is, and how it is kept.
    pub(super) spool: spool::Options,
    /// The prefix of the daemon's own metrics; `None` if they are not sent.
    pub(super) own_metrics: Option<String>,
    /// Where the daemon is, and where it delivers to.
    pub(super) place: Place,
    /// What the verdict needs to know.
    pub(super) known: Known,
    /// Every setting as it may be shown to whoever reaches the stats port.
    pub(super) shown: Value,
    /// How long a stop may take to deliver.
    pub(super) shutdown_timeout: Duration,
}

impl Plan {
    /// The plan of a daemon that starts.
    ///
    /// # Errors
    /// What is wrong with a file of certificates.
    pub(super) fn new(loaded: &Loaded, log: &Logger) -> Result<Self, String> {
        let trust = trust(&loaded.settings, log)?;
        Ok(Self::with(loaded, trust, keystone_auth::SharedStatus::default(), log))
    }

    /// The plan after this one. What was made of the same certificates goes on, and so does what is shown of Keystone.
    ///
    /// # Errors
    /// What is wrong with a file of certificates.
    pub(super) fn next(&self, loaded: &Loaded, log: &Logger) -> Result<Self, String> {
        let trust = trust(&loaded.settings, log)?;
        let trust = if trust.fingerprint == self.trust.fingerprint { self.trust.clone() } else { trust };
        let status = self.keystone.as_ref().map(|keystone| keystone.status.clone()).unwrap_or_default();
        Ok(Self::with(loaded, trust, status, log))
    }

    fn with(loaded: &Loaded, trust: Outgoing, status: keystone_auth::SharedStatus, log: &Logger) -> Self {
        let settings = &loaded.settings;
        let tls = &trust.config;
        Self {
            keystone: keystone(settings, tls.clone(), status, log.clone()),
            forwarder: forwarder(settings, tls.clone()),
            confirmer: confirmer(settings, tls.clone()),
            collector: collector(settings),
            live: Live {
                encoder: Arc::new(Encoder::new(&rows(settings))),
                idle_timeout: settings.idle_timeout,
            },
            connections: settings.connections,
            spool: spool(settings),
            own_metrics: (!settings.self_metrics.is_empty()).then(|| settings.self_metrics.clone()),
            place: place(settings),
            known: known(settings),
            shown: shown(&loaded.effective),
            shutdown_timeout: settings.shutdown_timeout,
            trust,
        }
    }

    /// Whether tokens are asked for as by `other`.
    pub(super) fn has_same_keystone(&self, other: &Self) -> bool {
        match (&self.keystone, &other.keystone) {
            (Some(this), Some(other)) => this.is_same(other),
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether the forwarder does as by `other`.
    pub(super) fn has_same_forwarder(&self, other: &Self) -> bool {
        let forwarder::Options { auth: _, limits, target, encoding, keeps } = &self.forwarder;
        let other = &other.forwarder;
        (limits, encoding, keeps) == (&other.limits, &other.encoding, &other.keeps)
            && is_same_target(target, &other.target)
    }

    /// Whether the confirmer does as by `other`.
    pub(super) fn has_same_confirmer(&self, other: &Self) -> bool {
        let confirmer::Options { way, side, delay, target, encoding, auth: _, rows, witness } =
            &self.confirmer;
        let other = &other.confirmer;
        (way, side, delay, encoding) == (&other.way, &other.side, &other.delay, &other.encoding)
            && (rows, witness) == (&other.rows, &other.witness)
            && is_same_target(target, &other.target)
    }

    /// Whether open connections go on as by `other`.
    pub(super) fn has_same_live(&self, other: &Self) -> bool {
        (&self.confirmer.rows, self.live.idle_timeout) == (&other.confirmer.rows, other.live.idle_timeout)
    }
}

/// Whom we trust on the way out. The files of certificates are read here.
fn trust(settings: &Settings, log: &Logger) -> Result<Outgoing, String> {
    let trust = Outgoing::new(&settings.tls())?;
    if let Some(warning) = &trust.warning {
        warn!(log, "{warning}");
    }
    Ok(trust)
}

fn is_same_target(this: &Target, other: &Target) -> bool {
    let Target { tls, base, tenant, timeout, concurrency } = this;
    Arc::ptr_eq(tls, &other.tls)
        && (base, tenant, timeout, concurrency)
            == (&other.base, &other.tenant, &other.timeout, &other.concurrency)
}

fn shown(effective: &[Effective]) -> Value {
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

fn place(settings: &Settings) -> Place {
    Place {
        host: host_name(),
        url: post::ingest_url(&settings.blueflood, &settings.tenant),
        tenant: settings.tenant.clone(),
        spool: match &settings.spool {
            SpoolPlace::Memory => ":memory:".to_owned(),
            SpoolPlace::File(path) => path.display().to_string(),
        },
        interval: settings.interval,
    }
}

fn known(settings: &Settings) -> Known {
    Known {
        interval: settings.interval,
        max_age: settings.max_age,
        drops_oldest: settings.spool_full == SpoolFull::DropOldest,
        in_memory: settings.spool == SpoolPlace::Memory,
        authenticates: authenticates(settings),
    }
}

fn authenticates(settings: &Settings) -> bool {
    !settings.user.is_empty()
}

fn payload_bytes_max(settings: &Settings) -> usize {
    usize::try_from(settings.limit).unwrap_or(usize::MAX)
}

/// How payloads are encoded.
pub(crate) fn encoding(settings: &Settings) -> Encoding {
    match settings.compress {
        Compress::Gzip => Encoding::Deflate,
        Compress::None => Encoding::Plain,
    }
}

/// What shapes rows.
pub(crate) fn rows(settings: &Settings) -> RowSettings {
    RowSettings {
        prefix: settings.metric_prefix.clone(),
        ttl_s: settings.ttl,
        tenant: settings.tenant.clone(),
        payload_bytes_max: payload_bytes_max(settings),
        overwrite_time: settings.overwrite_collection_timestamp,
    }
}

fn keystone(
    settings: &Settings,
    tls: Arc<ClientConfig>,
    status: keystone_auth::SharedStatus,
    log: Logger,
) -> Option<keystone_auth::Options> {
    let (account, key) = settings.credentials()?;
    Some(keystone_auth::Options { account, key, auth_url: settings.auth_url.clone(), tls, status, log })
}

fn collector(settings: &Settings) -> collector::Options {
    collector::Options {
        rows_max: settings.max_rows,
        payload_bytes_max: payload_bytes_max(settings),
        seal_interval: settings.seal_interval,
        send_interval: settings.interval,
    }
}

fn forwarder(settings: &Settings, tls: Arc<ClientConfig>) -> forwarder::Options {
    forwarder::Options {
        limits: Limits {
            payload_bytes_max: payload_bytes_max(settings),
            payload_rows_max: settings.max_rows,
            in_flight_max: settings.concurrency,
            backoff: Backoff { base: BACKOFF_BASE.min(settings.backoff_max), max: settings.backoff_max },
            authenticates: authenticates(settings),
        },
        auth: None,
        target: target(settings, tls),
        encoding: encoding(settings),
        keeps: settings.spool != SpoolPlace::Memory,
    }
}

fn confirmer(settings: &Settings, tls: Arc<ClientConfig>) -> confirmer::Options {
    confirmer::Options {
        way: settings.confirm,
        side: match &settings.query {
            QuerySide::Auto => Side::Auto(settings.query_usual()),
            QuerySide::Off => Side::Off,
            QuerySide::At(url) => Side::At(url.clone()),
        },
        delay: settings.confirm_delay,
        target: target(settings, tls),
        encoding: encoding(settings),
        auth: None,
        rows: rows(settings),
        witness: format!("blueflood-forward.witness.{}", host_in_a_name()),
    }
}

/// The name of this host; empty if nobody knows it.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// The name of this host as a part of a metric's name: two daemons must not use one witness.
fn host_in_a_name() -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    let name: String = host_name().chars().map(letter).take(64).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// How long a sealed chunk waits in memory: for the answer, and where that is read back for the look too.
fn hold(settings: &Settings) -> Duration {
    let reads_back = settings.confirm != Some(Way::Off) && settings.query != QuerySide::Off;
    let look = if reads_back { settings.confirm_delay } else { Duration::ZERO };
    if settings.spool_hold.is_zero() { Duration::ZERO } else { settings.spool_hold.saturating_add(look) }
}

/// How the spool is opened and kept.
pub(super) fn spool(settings: &Settings) -> spool::Options {
    spool::Options {
        place: match &settings.spool {
            SpoolPlace::Memory => open::Place::Memory,
            SpoolPlace::File(path) => open::Place::File(path.clone()),
        },
        sync: match settings.spool_sync {
            SpoolSync::Normal => Durability::Normal,
            SpoolSync::Full => Durability::Full,
        },
        encoding: encoding(settings),
        policy: Policy {
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
        },
        newest_first: settings.catch_up == CatchUp::NewestFirst,
        tenant: settings.tenant.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;
    use std::time::SystemTime;

    use slog::{Discard, o};

    use super::*;
    use crate::settings::{Surroundings, arguments};

    fn loaded(line: &str) -> Loaded {
        let command = clap::Command::new("test").no_binary_name(true).args(arguments());
        // Of several the last counts, as on the daemon's own command line.
        let given = command.args_override_self(true).get_matches_from(line.split_whitespace());
        let around = Surroundings {
            environment: BTreeMap::from([("HOME".into(), "/h".into())]),
            read_file: &|_| Err(io::Error::from(io::ErrorKind::NotFound)),
            others_can_read: &|_| false,
            now: SystemTime::UNIX_EPOCH,
        };
        Settings::load(&given, &around).expect(line)
    }

    #[test]
    fn a_setting_that_changes_is_told_to_whom_it_concerns_and_to_nobody_else() {
        let (log, base) = (Logger::root(Discard, o!()), "--user a --key k --auth_url http://k:1");
        for (change, told) in [
            ("", ""),
            ("--log_level debug --spool_max 2GiB --self_metrics x --shutdown_timeout 1", ""),
            ("--idle_timeout 5", "live"),
            ("--interval 5", "collector"),
            ("--backoff_max 5", "forwarder"),
            ("--confirm all", "confirmer"),
            ("--timeout 5", "forwarder confirmer"),
            ("--ttl 60", "confirmer live"),
            ("--limit 2000", "forwarder confirmer collector live"),
            ("--key other", "keystone"),
        ] {
            let old = Plan::new(&loaded(base), &log).expect("no files");
            let new = old.next(&loaded(&format!("{base} {change}")), &log).expect("no files");
            let differs = [
                ("keystone", !new.has_same_keystone(&old)),
                ("forwarder", !new.has_same_forwarder(&old)),
                ("confirmer", !new.has_same_confirmer(&old)),
                ("collector", new.collector != old.collector),
                ("live", !new.has_same_live(&old)),
            ];
            let differs: Vec<_> =
                differs.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
            assert_eq!(differs.join(" "), told, "{change}");
        }
    }
}
