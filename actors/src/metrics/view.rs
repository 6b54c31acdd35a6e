//! Owns all figures at one instant, as plain data. It collects none ([`super::sources`] does), and does not say how they are
//! shown.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    confirmer,
    core::{datapoint::Reason, ledger::Ledger, row::Skipped, senders::Senders, verdict::Health},
    expiry::Expiry,
    forwarder, keystone_auth, listener, spool,
    supervisor::Vitals,
};

/// All figures at one instant.
#[derive(Debug, Clone)]
pub struct View {
    pub(super) ledger: Ledger,
    pub(super) spool: spool::Status,
    pub(super) forwarder: forwarder::Status,
    pub(super) confirming: confirmer::Status,
    pub(super) keystone: Option<keystone_auth::Status>,
    pub(super) listeners: Vec<Listener>,
    pub(super) actors: Vec<ActorState>,
    pub(super) log_records_lost: u64,
    pub(super) uptime: Duration,
    pub(super) stopping: bool,
    pub(super) spool_bytes_max: u64,
    pub(super) taps: usize,
    pub(super) senders: Senders,
    pub(super) expiries: Vec<Expiry>,
    /// The instant of these figures, in milliseconds since 1970.
    pub(super) now_ms: u64,
    pub(super) place: Place,
    pub(super) health: Health,
    pub(super) rates: Option<Rates>,
    /// Whether the settings could be read when they were read last.
    pub(super) reload_succeeded: bool,
}

/// Datapoints a second, averaged.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// The span that they are averaged over.
    pub over: Duration,
    /// Datapoints received a second.
    pub received: f64,
    /// Datapoints delivered a second.
    pub delivered: f64,
}

/// Where this daemon is, and where it delivers to.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The name of this host.
    pub host: String,
    /// Where it POSTs to.
    pub url: String,
    /// The tenant that owns the metrics.
    pub tenant: String,
    /// The file of the spool.
    pub spool: String,
    /// How often metrics are sent.
    pub interval: Duration,
}

/// The figures of one endpoint.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    pub(super) endpoint: String,
    pub(super) protocol: String,
    pub(super) connections: usize,
    pub(super) accepted: u64,
    pub(super) datapoints: u64,
    pub(super) last_received_ms: Option<u64>,
    pub(super) kernel_drops: u64,
    pub(super) malformed: BTreeMap<Reason, listener::Noted>,
    pub(super) skipped: BTreeMap<Skipped, listener::Noted>,
}

impl Listener {
    pub(super) fn of(stats: &listener::ListenerStats) -> Self {
        Self {
            endpoint: stats.endpoint.clone(),
            protocol: stats.protocol.to_string(),
            connections: stats.connections.load(Ordering::Relaxed),
            accepted: stats.accepted.load(Ordering::Relaxed),
            datapoints: stats.datapoints.load(Ordering::Relaxed),
            last_received_ms: Some(stats.last_received_ms.load(Ordering::Relaxed)).filter(|&at| at > 0),
            kernel_drops: stats.kernel_drops.load(Ordering::Relaxed),
            malformed: stats.malformed(),
            skipped: stats.skipped(),
        }
    }
}

/// The state of one actor.
#[derive(Debug, Clone)]
pub(super) struct ActorState {
    pub(super) name: String,
    pub(super) restarts: u64,
    pub(super) stuck_for: Option<Duration>,
}

impl ActorState {
    pub(super) fn of(vitals: &Vitals) -> Self {
        Self { name: vitals.name.clone(), restarts: vitals.restarts(), stuck_for: vitals.stuck_for() }
    }
}

impl View {
    /// Whether every actor answers.
    pub fn is_alive(&self) -> bool {
        self.actors.iter().all(|actor| actor.stuck_for.is_none())
    }

    /// The ledger: where every datapoint is.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The verdict on these figures.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Whether the disk of the spool is full.
    pub(super) fn disk_full(&self) -> bool {
        self.spool.disk_full.is_some()
    }

    /// The verdict on one line.
    pub fn line(&self) -> String {
        self.health.line(self.now_ms)
    }

    /// When the last datapoint came in this process, in milliseconds since 1970.
    pub(super) fn last_received_ms(&self) -> Option<u64> {
        self.listeners.iter().filter_map(|listener| listener.last_received_ms).max()
    }
}

/// Seconds since 1970.
pub(super) fn time(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Milliseconds since 1970.
pub(super) fn time_ms(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
