//! Owns all actors of a running daemon: how they are started, how they go on with other settings, and in which order
//! they stop. It never decides when.

use std::io;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use actix_rt::Arbiter;
use actors::collector::{self, Collector, Hand};
use actors::confirmer::{self, Confirmer};
use actors::core::endpoint::{Endpoint, Transport};
use actors::core::ledger::{Ledger, sum};
use actors::core::protocol::Protocol;
use actors::core::row::Encoder;
use actors::forwarder::{self, Forwarder};
use actors::keystone_auth::{self, KeystoneAuth};
use actors::listener::socket::Bound;
use actors::listener::{self, Listener, ListenerStats, Live, SharedSenders};
use actors::metrics::{History, Metrics, OwnMetrics, SharedSources, Sources};
use actors::spool::{Spool, SpoolThread};
use actors::supervisor::{Lifeline, Storms, Supervised};
use actors::tap::Taps;
use actors::tls::Outgoing;
use listenfd::ListenFd;
use rustls::ClientConfig;
use serde_json::Value;
use slog::{Logger, error, info, warn};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::options;
use crate::settings::{Settings, SpoolPlace};

/// How long connections may take to hand over what their sockets already hold.
pub(super) const READERS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last chunk may take into the spool.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// An endpoint whose socket is bound.
pub(super) struct Door {
    transport: Transport,
    protocol: Protocol,
    socket: Arc<Bound>,
    stats: Arc<ListenerStats>,
}

impl Door {
    /// Binds an endpoint, or takes the socket over that `others` have for the same address.
    ///
    /// # Errors
    /// Which endpoint cannot be had, and what to do.
    pub(super) fn open<'a>(
        endpoint: &Endpoint,
        protocol: Protocol,
        mut others: impl Iterator<Item = &'a Self>,
        passed: &mut ListenFd,
    ) -> Result<Self, String> {
        let socket = match others.find(|other| other.transport == endpoint.transport) {
            Some(other) => other.socket.clone(),
            None => Arc::new(Bound::bind(endpoint, passed).map_err(|error| error.to_string())?),
        };
        let protocol = Protocol::chosen(endpoint.protocol, protocol, socket.takes_datagrams()).ok_or_else(|| {
            format!(
                "cannot listen on {endpoint}: this socket takes datagrams, which carry lines only; leave protocol out"
            )
        })?;
        let stats = Listener::stats(&socket, protocol, endpoint.allow.clone());
        Ok(Self { transport: endpoint.transport.clone(), protocol, socket, stats })
    }

    fn is(&self, other: &Self) -> bool {
        self.transport == other.transport
            && self.protocol == other.protocol
            && self.stats.allow == other.stats.allow
    }
}

/// A door with somebody at it.
struct Running {
    door: Door,
    actor: Supervised<Listener>,
    stop: watch::Sender<bool>,
}

/// What outlives every actor.
pub(super) struct Ground {
    pub(super) spool: Spool,
    pub(super) spool_thread: SpoolThread,
    pub(super) stats: Option<Arc<TcpListener>>,
    pub(super) log: Logger,
    pub(super) log_records_lost: Arc<AtomicU64>,
}

/// All actors, and what stops them.
pub(super) struct Crew {
    ground: Ground,
    storms: Storms,
    listeners: Vec<Running>,
    collector: Supervised<Collector>,
    forwarder: Supervised<Forwarder>,
    forwarder_status: forwarder::SharedStatus,
    confirmer: Supervised<Confirmer>,
    confirming: confirmer::Shared,
    keystone: Option<Keystone>,
    /// Whom we trust on the way out.
    trust: Outgoing,
    /// None only while the crew is made: they show the rest of it.
    figures: Option<Figures>,
    hand: Hand,
    common: listener::Common,
    live: watch::Sender<Live>,
    history: History,
    started: Instant,
    /// Whether the daemon is stopping.
    stop: watch::Sender<bool>,
}

/// Who shows the figures, and what they are of.
struct Figures {
    metrics: Supervised<Metrics>,
    sources: SharedSources,
}

impl Crew {
    /// The collector, the forwarder and the decoding of connections have threads of their own, so that none holds up
    /// another's timers; the rest is on the system's thread.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn start(
        ground: Ground,
        doors: Vec<Door>,
        settings: &Settings,
        shown: Value,
        trust: Outgoing,
        storms: Storms,
    ) -> io::Result<Self> {
        let tls = &trust.config;
        let log = ground.log.clone();
        let (stop, stopped) = watch::channel(false);
        let forwarder_status = forwarder::SharedStatus::default();
        let confirming = confirmer::Shared::default();
        let hand = Hand::default();

        let keystone =
            keystone_options(settings, tls, &log, keystone_auth::SharedStatus::default()).map(|options| {
                let make = make_keystone(options.clone());
                let actor =
                    Supervised::start("keystone", Arbiter::current(), storms.clone(), log.clone(), make);
                Keystone { actor, options }
            });
        let forwarder = {
            let options = options::forwarder(settings, auth(keystone.as_ref()), tls.clone());
            let make = make_forwarder(options, &ground, &forwarder_status, &confirming);
            Supervised::start("forwarder", Arbiter::try_new()?.handle(), storms.clone(), log.clone(), make)
        };
        let confirmer = {
            let options = options::confirmer(settings, auth(keystone.as_ref()), tls.clone());
            let make = make_confirmer(options, &ground, &confirming);
            Supervised::start("confirmer", Arbiter::try_new()?.handle(), storms.clone(), log.clone(), make)
        };
        let collector = {
            let make = make_collector(options::collector(settings), &hand, &forwarder);
            Supervised::start("collector", Arbiter::try_new()?.handle(), storms.clone(), log.clone(), make)
        };
        let (live, alive) = watch::channel(live(settings));
        let common = listener::Common {
            collector: collector.link(),
            live: alive,
            ledger: ground.spool.ledger().clone(),
            taps: Taps::default(),
            senders: SharedSenders::default(),
            ending: stopped.clone(),
            stop: stopped,
            permits: Arc::new(Semaphore::new(settings.connections as usize)),
            undecoded_bytes: Arc::new(AtomicUsize::new(0)),
            readers: TaskTracker::new(),
            arbiters: Arc::new(decoding_arbiters()?),
            log: log.clone(),
        };
        let listeners: Vec<_> = doors.into_iter().map(|door| listen(door, &common, &storms)).collect();
        let mut crew = Self {
            ground,
            storms,
            listeners,
            collector,
            forwarder,
            forwarder_status,
            confirmer,
            confirming,
            keystone,
            trust,
            figures: None,
            hand,
            common,
            live,
            history: History::default(),
            started: Instant::now(),
            stop,
        };
        let sources = SharedSources::new(crew.sources(settings, shown.clone()));
        // What was lost before is no news of this process.
        drop(sources.view());
        let metrics = {
            let (sources, socket) = (sources.clone(), crew.ground.stats.clone());
            let make = move |lifeline| Metrics::new(lifeline, sources.clone(), socket.clone(), log.clone());
            let log = crew.ground.log.clone();
            Supervised::start("metrics", Arbiter::current(), crew.storms.clone(), log, make)
        };
        crew.figures = Some(Figures { metrics, sources });
        // Once more, for it shows itself too.
        crew.show(settings, shown);
        Ok(crew)
    }

    /// The doors that are open.
    pub(super) fn doors(&self) -> impl Iterator<Item = &Door> {
        self.listeners.iter().map(|running| &running.door)
    }

    /// Remembers whether the settings could be read again.
    pub(super) fn note_reload(&self, succeeded: bool) {
        self.history.reloaded(succeeded);
    }

    /// Where all figures are.
    pub(super) fn shared_sources(&self) -> Option<&SharedSources> {
        self.figures.as_ref().map(|figures| &figures.sources)
    }

    /// What each endpoint looks like from outside.
    pub(super) fn listener_stats(&self) -> Vec<Arc<ListenerStats>> {
        self.listeners.iter().map(|running| running.door.stats.clone()).collect()
    }

    /// Goes on with other settings. Actors are told of them, and live on: what is in flight ends as it began, and nothing
    /// that was learned is forgotten. Keystone's actor is made anew if it would ask otherwise now. Endpoints come and go.
    pub(super) async fn apply(
        &mut self,
        settings: &Settings,
        doors: Vec<Door>,
        shown: Value,
        trust: Outgoing,
    ) {
        let log = self.ground.log.clone();
        // The files of certificates are read again. What was made of the same ones goes on.
        if trust.fingerprint != self.trust.fingerprint {
            self.trust = trust;
        }
        let tls = &self.trust.config;
        if let Some(keystone) = &mut self.keystone
            && let Some(options) = keystone_options(settings, tls, &log, keystone.options.status.clone())
            && !keystone.options.is_same(&options)
        {
            keystone.actor.renew(make_keystone(options.clone()));
            keystone.options = options;
        }
        let options = options::forwarder(settings, auth(self.keystone.as_ref()), tls.clone());
        let make = make_forwarder(options.clone(), &self.ground, &self.forwarder_status, &self.confirming);
        self.forwarder.configure(make, forwarder::Configure(options));
        let options = options::confirmer(settings, auth(self.keystone.as_ref()), tls.clone());
        let make = make_confirmer(options.clone(), &self.ground, &self.confirming);
        self.confirmer.configure(make, confirmer::Configure(options));
        let options = options::collector(settings);
        let make = make_collector(options, &self.hand, &self.forwarder);
        self.collector.configure(make, collector::Configure(options));
        self.live.send_replace(live(settings));
        if let Err(error) = self.ground.spool.configure(options::spool_policy(settings)).await {
            error!(log, "the spool goes on by its old limits"; "error" => %error);
        }
        if let Err(error) = self.ground.spool.set_tenant(settings.tenant.clone()).await {
            error!(log, "the spool cannot say whose rows wait"; "error" => %error);
        }

        let mut doors = doors;
        let (kept, gone): (Vec<_>, Vec<_>) =
            self.listeners.drain(..).partition(|running| doors.iter().any(|door| door.is(&running.door)));
        self.listeners = kept;
        for Running { door, actor, stop } in gone {
            info!(log, "no longer listening"; "endpoint" => &door.stats.endpoint);
            actor.let_go();
            stop.send_replace(true);
            actor.retire();
        }
        doors.retain(|door| !self.listeners.iter().any(|running| door.is(&running.door)));
        for door in doors {
            info!(log, "listening"; "endpoint" => &door.stats.endpoint, "protocol" => %door.stats.protocol);
            self.listeners.push(listen(door, &self.common, &self.storms));
        }
        self.show(settings, shown);
    }

    /// Shows these settings, and the actors that there are now.
    pub(super) fn show(&self, settings: &Settings, shown: Value) {
        if let Some(figures) = &self.figures {
            figures.sources.show(self.sources(settings, shown));
        }
    }

    fn sources(&self, settings: &Settings, shown: Value) -> Sources {
        let mut vitals = vec![self.collector.vitals(), self.forwarder.vitals(), self.confirmer.vitals()];
        vitals.extend(self.keystone.iter().map(|keystone| keystone.actor.vitals()));
        vitals.extend(self.listeners.iter().map(|running| running.actor.vitals()));
        vitals.extend(self.figures.iter().map(|figures| figures.metrics.vitals()));
        Sources {
            spool: self.ground.spool.clone(),
            forwarder: self.forwarder_status.clone(),
            confirming: self.confirming.clone(),
            keystone: self.keystone.as_ref().map(|keystone| keystone.options.status.clone()),
            listeners: self.listener_stats(),
            taps: self.common.taps.clone(),
            senders: self.common.senders.clone(),
            expiries: self.trust.expiries.clone(),
            vitals,
            log_records_lost: self.ground.log_records_lost.clone(),
            started: self.started,
            stop: self.stop.subscribe(),
            spool_bytes_max: settings.spool_max,
            settings: shown,
            place: options::place(settings),
            known: options::known(settings),
            history: self.history.clone(),
            own: own_metrics(settings, &self.common),
        }
    }

    /// Accept no more, read what the sockets hold, seal, deliver for a while, leave the rest in the spool.
    pub(super) async fn stop(self, settings: &Settings) -> ExitCode {
        let log = self.ground.log;
        self.stop.send_replace(true);
        for running in &self.listeners {
            running.stop.send_replace(true);
        }
        // What a full spool keeps out would end with the process.
        if let Err(error) = self.ground.spool.last_call().await {
            error!(log, "the spool may not take everything"; "error" => %error);
        }
        let readers = self.common.readers;
        readers.close();
        if timeout(READERS_TIMEOUT, readers.wait()).await.is_err() {
            warn!(log, "some connections did not end in time"; "connections" => readers.len());
        }
        for Running { actor, .. } in self.listeners {
            actor.let_go();
            // Its socket closes with it.
            actor.retire();
        }
        // Neither of these is data: one that is given up loses nothing.
        let seal = self.collector.link();
        if timeout(STORE_TIMEOUT, seal.ask(|| collector::Drain)).await.is_err() {
            warn!(log, "the spool did not take everything in time");
        }
        let (deliver, time, began) = (self.forwarder.link(), settings.shutdown_timeout, Instant::now());
        if deliver.ask(|| forwarder::Drain(time)).await.is_err() {
            warn!(log, "nothing more can be delivered: the forwarder is gone");
        }
        // What nobody looked for in time is looked for by the next process.
        let (confirm, time_left) = (self.confirmer.link(), time.saturating_sub(began.elapsed()));
        if confirm.ask(|| confirmer::Drain(time_left)).await.is_err() {
            warn!(log, "nothing more can be read back: the confirmer is gone");
        }
        self.collector.let_go();
        self.forwarder.let_go();
        self.confirmer.let_go();
        self.keystone.iter().for_each(|keystone| keystone.actor.let_go());
        self.figures.iter().for_each(|figures| figures.metrics.let_go());
        if let Err(error) = self.ground.spool.close().await {
            error!(log, "the spool could not be closed in order"; "error" => %error);
        }
        let stored = self.ground.spool_thread.join();
        let keeps = settings.spool != SpoolPlace::Memory;
        let code = last_line(&mut self.ground.spool.ledger().snapshot(), keeps, &log);
        if stored { code } else { ExitCode::FAILURE }
    }
}

// === What each actor is made of ===

/// Keystone's actor, and what it was made of.
struct Keystone {
    actor: Supervised<KeystoneAuth>,
    options: keystone_auth::Options,
}

fn keystone_options(
    settings: &Settings,
    tls: &Arc<ClientConfig>,
    log: &Logger,
    status: keystone_auth::SharedStatus,
) -> Option<keystone_auth::Options> {
    let (account, key) = settings.credentials()?;
    let auth_url = settings.auth_url.clone();
    Some(keystone_auth::Options { account, key, auth_url, tls: tls.clone(), status, log: log.clone() })
}

fn make_keystone(
    options: keystone_auth::Options,
) -> impl Fn(Lifeline) -> KeystoneAuth + Clone + Send + 'static {
    move |lifeline| KeystoneAuth::new(options.clone(), lifeline)
}

fn auth(keystone: Option<&Keystone>) -> Option<forwarder::Auth> {
    keystone.map(|Keystone { actor, .. }| forwarder::Auth { get: actor.link(), rejected: actor.link() })
}

fn make_forwarder(
    options: forwarder::Options,
    ground: &Ground,
    status: &forwarder::SharedStatus,
    confirming: &confirmer::Shared,
) -> impl Fn(Lifeline) -> Forwarder + Clone + Send + 'static {
    let (spool, status, log) = (ground.spool.clone(), status.clone(), ground.log.clone());
    let confirming = confirming.clone();
    move |lifeline| {
        let (status, confirming) = (status.clone(), confirming.clone());
        Forwarder::new(lifeline, options.clone(), spool.clone(), status, confirming, log.clone())
    }
}

fn make_confirmer(
    options: confirmer::Options,
    ground: &Ground,
    shared: &confirmer::Shared,
) -> impl Fn(Lifeline) -> Confirmer + Clone + Send + 'static {
    let (spool, shared, log) = (ground.spool.clone(), shared.clone(), ground.log.clone());
    move |lifeline| Confirmer::new(lifeline, options.clone(), spool.clone(), shared.clone(), log.clone())
}

fn make_collector(
    options: collector::Options,
    hand: &Hand,
    forwarder: &Supervised<Forwarder>,
) -> impl Fn(Lifeline) -> Collector + Clone + Send + 'static {
    let (hand, store, flush) = (hand.clone(), forwarder.link(), forwarder.link());
    move |lifeline| Collector::new(lifeline, options, hand.clone(), store.clone(), flush.clone())
}

fn listen(door: Door, common: &listener::Common, storms: &Storms) -> Running {
    let (stop, stopped) = watch::channel(false);
    let common = listener::Common { stop: stopped, ..common.clone() };
    let (socket, stats, log) = (door.socket.clone(), door.stats.clone(), common.log.clone());
    let ours = !matches!(door.transport, Transport::Systemd { .. });
    let make = move |lifeline| Listener::new(lifeline, socket.clone(), ours, stats.clone(), common.clone());
    let name = format!("listener {}", door.stats.endpoint);
    let actor = Supervised::start(name, Arbiter::current(), storms.clone(), log, make);
    Running { door, actor, stop }
}

/// What may change while connections are open.
fn live(settings: &Settings) -> Live {
    let encoder = Arc::new(Encoder::new(&options::rows(settings)));
    Live { encoder, idle_timeout: settings.idle_timeout }
}

/// Its own figures as metrics, if they are wanted, as often as metrics are sent.
fn own_metrics(settings: &Settings, common: &listener::Common) -> Option<(OwnMetrics, Duration)> {
    let own = OwnMetrics {
        prefix: settings.self_metrics.clone(),
        encoder: live(settings).encoder,
        collector: common.collector.clone(),
        ledger: common.ledger.clone(),
    };
    (!settings.self_metrics.is_empty()).then_some((own, settings.interval))
}

/// One thread a core decodes, but for the one that the way out needs.
fn decoding_arbiters() -> io::Result<Vec<actix_rt::ArbiterHandle>> {
    let cores = available_parallelism().map_or(1, usize::from);
    (0..cores.saturating_sub(1).max(1)).map(|_| Arbiter::try_new().map(|arbiter| arbiter.handle())).collect()
}

/// The closing line, whose figures add up.
fn last_line(ledger: &mut Ledger, spool_keeps: bool, log: &Logger) -> ExitCode {
    let lost = ledger.stopped(spool_keeps);
    if lost > 0 {
        error!(log, "datapoints are lost with this process: there is no spool that took them"; "datapoints" => lost);
    }
    info!(log, "stopped";
        "received" => ledger.received, "skipped" => sum(&ledger.skipped), "buffered" => ledger.buffered(),
        "delivered" => ledger.delivered, "refused" => sum(&ledger.refused), "dropped" => sum(&ledger.dropped),
        "unaccounted" => i64::try_from(ledger.unaccounted()).unwrap_or(i64::MAX));
    if lost == 0 && ledger.unaccounted() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
