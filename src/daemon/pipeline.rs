//! Owns the pipeline: the actors that datapoints pass through, from the listeners to Blueflood, and what outlives them.
//! How it starts, goes on with another plan and stops is told in [`super::start`], [`super::reload`] and [`super::stop`].

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use actors::collector::{Collector, Hand};
use actors::confirmer::{self, Confirmer};
use actors::forwarder::{self, Forwarder};
use actors::keystone_auth::KeystoneAuth;
use actors::listener::{self, ListenerStats, Live};
use actors::metrics::{History, OwnMetrics, Sources};
use actors::spool::{Spool, SpoolThread};
use actors::supervisor::{Storms, Supervised, Vitals};
use slog::Logger;
use tokio::sync::watch;

use super::endpoints::RunningListener;
use super::plan::Plan;

/// What outlives every actor.
pub(super) struct Resources {
    pub(super) spool: Spool,
    pub(super) spool_thread: SpoolThread,
    /// The socket of the stats port, if there is one.
    pub(super) stats: Option<Arc<TcpListener>>,
    pub(super) log: Logger,
    pub(super) log_records_lost: Arc<AtomicU64>,
    /// What the forwarder, the confirmer and the collector leave to their next incarnations.
    pub(super) forwarder_status: forwarder::SharedStatus,
    pub(super) confirming: confirmer::Shared,
    pub(super) collected: Hand,
    pub(super) history: History,
    pub(super) started: Instant,
}

impl Resources {
    pub(super) fn new(
        (spool, spool_thread): (Spool, SpoolThread),
        stats: Option<TcpListener>,
        log: Logger,
        log_records_lost: Arc<AtomicU64>,
    ) -> Self {
        Self {
            spool,
            spool_thread,
            stats: stats.map(Arc::new),
            log,
            log_records_lost,
            forwarder_status: forwarder::SharedStatus::default(),
            confirming: confirmer::Shared::default(),
            collected: Hand::default(),
            history: History::default(),
            started: Instant::now(),
        }
    }
}

/// The actors that datapoints pass through.
pub(super) struct Pipeline {
    pub(super) plan: Plan,
    pub(super) resources: Resources,
    pub(super) storms: Storms,
    pub(super) listeners: Vec<RunningListener>,
    pub(super) collector: Supervised<Collector>,
    pub(super) forwarder: Supervised<Forwarder>,
    pub(super) confirmer: Supervised<Confirmer>,
    pub(super) keystone: Option<Supervised<KeystoneAuth>>,
    /// What all listeners share.
    pub(super) common: listener::Common,
    pub(super) live: watch::Sender<Live>,
    /// Whether the daemon is stopping.
    pub(super) stop: watch::Sender<bool>,
}

impl Pipeline {
    /// What each endpoint looks like from outside.
    pub(super) fn listener_stats(&self) -> Vec<Arc<ListenerStats>> {
        self.listeners.iter().map(|listener| listener.endpoint.stats.clone()).collect()
    }

    /// All that is shown of it.
    pub(super) fn sources(&self) -> Sources {
        let plan = &self.plan;
        Sources {
            spool: self.resources.spool.clone(),
            forwarder: self.resources.forwarder_status.clone(),
            confirming: self.resources.confirming.clone(),
            keystone: plan.keystone.as_ref().map(|keystone| keystone.status.clone()),
            listeners: self.listener_stats(),
            taps: self.common.taps.clone(),
            senders: self.common.senders.clone(),
            expiries: plan.trust.expiries.clone(),
            vitals: self.vitals(),
            log_records_lost: self.resources.log_records_lost.clone(),
            started: self.resources.started,
            stop: self.stop.subscribe(),
            spool_bytes_max: plan.spool.policy.bytes_max,
            settings: plan.shown.clone(),
            place: plan.place.clone(),
            known: plan.known.clone(),
            history: self.resources.history.clone(),
            // Sent as often as all metrics.
            own: plan.own_metrics.clone().map(|prefix| (self.own_metrics(prefix), plan.place.interval)),
        }
    }

    fn vitals(&self) -> Vec<Arc<Vitals>> {
        let mut vitals = vec![self.collector.vitals(), self.forwarder.vitals(), self.confirmer.vitals()];
        vitals.extend(self.keystone.iter().map(Supervised::vitals));
        vitals.extend(self.listeners.iter().map(|listener| listener.actor.vitals()));
        vitals
    }

    fn own_metrics(&self, prefix: String) -> OwnMetrics {
        OwnMetrics {
            prefix,
            encoder: self.plan.live.encoder.clone(),
            collector: self.common.collector.clone(),
            ledger: self.common.ledger.clone(),
        }
    }
}
