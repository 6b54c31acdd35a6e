//! Owns where the figures are read: what each actor shares, and how all of it becomes a [`View`]. It never waits for
//! an actor.

use std::{
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

use super::{
    health,
    history::History,
    own::OwnMetrics,
    view::{self, Place, View},
};
use crate::{
    confirmer,
    core::verdict::{Condition, Health, Known},
    expiry::Expiry,
    forwarder, keystone_auth,
    listener::{ListenerStats, SharedSenders},
    spool::Spool,
    supervisor::Vitals,
    tap::Taps,
};

/// Rates are averaged over so long at least, and over two send intervals.
const RATES_OVER_MIN: Duration = Duration::from_secs(60);

/// What the actors share with whoever shows their figures.
#[derive(Clone)]
pub struct Sources {
    /// The spool, and with it the ledger.
    pub spool: Spool,
    /// The status of the forwarder.
    pub forwarder: forwarder::SharedStatus,
    /// The status of the confirmer.
    pub confirming: confirmer::Shared,
    /// The status of Keystone's actor, if there is one.
    pub keystone: Option<keystone_auth::SharedStatus>,
    /// The stats of each listener.
    pub listeners: Vec<Arc<ListenerStats>>,
    /// The open taps.
    pub taps: Taps,
    /// The senders that send most.
    pub senders: SharedSenders,
    /// When the certificates end that are used on the way out.
    pub expiries: Vec<Expiry>,
    /// The restarts of each actor, and whether it answers.
    pub vitals: Vec<Arc<Vitals>>,
    /// Log records that were lost.
    pub log_records_lost: Arc<AtomicU64>,
    /// When the daemon started.
    pub started: Instant,
    /// Whether it is stopping.
    pub stop: watch::Receiver<bool>,
    /// The spool's cap, in bytes.
    pub spool_bytes_max: u64,
    /// Every effective setting as `{key, value, origin}`, secrets masked.
    pub settings: serde_json::Value,
    /// Where this daemon is, and where it delivers to.
    pub place: Place,
    /// The settings that the verdict needs.
    pub known: Known,
    /// The figures of the last minutes. They outlive the incarnations of the actor.
    pub history: History,
    /// Its own figures as metrics, and how often, if they are wanted.
    pub own: Option<(OwnMetrics, Duration)>,
}

/// The [`Sources`] that are shown now. A reload changes them, and no open page is cut for it.
#[derive(Clone)]
pub struct SharedSources(Arc<RwLock<Sources>>);

impl SharedSources {
    /// Shows `sources`, until others are to be shown.
    pub fn new(sources: Sources) -> Self {
        Self(Arc::new(RwLock::new(sources)))
    }

    /// Shows other sources from now on.
    pub fn show(&self, sources: Sources) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = sources;
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Sources> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All figures as they are now.
    pub fn view(&self) -> View {
        let Sources {
            spool,
            forwarder,
            confirming,
            keystone,
            listeners,
            taps,
            senders,
            expiries,
            vitals,
            log_records_lost,
            started,
            stop,
            spool_bytes_max,
            place,
            known,
            history,
            ..
        } = &*self.read();
        let mut view = View {
            ledger: spool.ledger().snapshot(),
            spool: spool.status(),
            forwarder: forwarder.snapshot(),
            confirming: confirming.status(),
            keystone: keystone
                .as_ref()
                .map(|status| status.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            listeners: listeners.iter().map(|stats| view::Listener::of(stats)).collect(),
            actors: vitals.iter().map(|vitals| view::ActorState::of(vitals)).collect(),
            log_records_lost: log_records_lost.load(Ordering::Relaxed),
            uptime: started.elapsed(),
            stopping: *stop.borrow(),
            spool_bytes_max: *spool_bytes_max,
            taps: taps.open_now(),
            senders: senders.snapshot(),
            expiries: listeners
                .iter()
                .flat_map(|stats| stats.expiries())
                .chain(expiries.iter().cloned())
                .collect(),
            now_ms: view::time_ms(SystemTime::now()),
            place: place.clone(),
            health: NOT_JUDGED,
            reload_succeeded: history.reload_succeeded(),
            rates: history.rates(RATES_OVER_MIN.max(known.interval.saturating_mul(2))),
        };
        view.health = history.watch(|watch| watch.look(&health::figures(&view, known)));
        view
    }
}

/// The health of a view that is not judged yet: the verdict looks at all other figures first.
const NOT_JUDGED: Health = Health {
    condition: Condition::Well,
    since_ms: 0,
    words: String::new(),
    next: None,
    until: None,
    losses: Vec::new(),
    caught_up_ms: None,
};
