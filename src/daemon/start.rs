//! Owns the start of the pipeline: what each actor is made of, and on which thread it runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::available_parallelism;

use actix_rt::{Arbiter, ArbiterHandle};
use actors::collector::Collector;
use actors::confirmer::{self, Confirmer};
use actors::forwarder::{self, Auth, Forwarder};
use actors::keystone_auth::{self, KeystoneAuth};
use actors::listener::{self, SharedSenders};
use actors::supervisor::{Lifeline, Storms, Supervised};
use actors::tap::Taps;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::endpoints::{BoundEndpoint, RunningListener};
use super::pipeline::{Pipeline, Resources};
use super::plan::Plan;

impl Pipeline {
    /// The collector, the forwarder and the decoding of connections have threads of their own, so that none holds up
    /// another's timers; the rest is on the system's thread.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn start(
        plan: Plan,
        resources: Resources,
        endpoints: Vec<BoundEndpoint>,
        storms: Storms,
    ) -> io::Result<Self> {
        let log = &resources.log;
        let keystone = plan.keystone.clone().map(|options| {
            let make = keystone(options);
            Supervised::start("keystone", Arbiter::current(), storms.clone(), log.clone(), make)
        });
        let forwarder = {
            let make = forwarder(forwarder_options(&plan, keystone.as_ref()), &resources);
            Supervised::start("forwarder", Arbiter::try_new()?.handle(), storms.clone(), log.clone(), make)
        };
        let confirmer = {
            let make = confirmer(confirmer_options(&plan, keystone.as_ref()), &resources);
            Supervised::start("confirmer", Arbiter::try_new()?.handle(), storms.clone(), log.clone(), make)
        };
        let collector = {
            let make = collector(&plan, &resources, &forwarder);
            Supervised::start("collector", Arbiter::try_new()?.handle(), storms.clone(), log.clone(), make)
        };
        let (stop, stopped) = watch::channel(false);
        let (live, alive) = watch::channel(plan.live.clone());
        let common = listener::Common {
            collector: collector.link(),
            live: alive,
            ledger: resources.spool.ledger().clone(),
            taps: Taps::default(),
            senders: SharedSenders::default(),
            ending: stopped.clone(),
            stop: stopped,
            permits: Arc::new(Semaphore::new(plan.connections as usize)),
            undecoded_bytes: Arc::new(AtomicUsize::new(0)),
            readers: TaskTracker::new(),
            arbiters: Arc::new(decoding_arbiters()?),
            log: log.clone(),
        };
        let listen = |endpoint| RunningListener::start(endpoint, &common, &storms);
        let listeners = endpoints.into_iter().map(listen).collect();
        Ok(Self {
            plan,
            resources,
            storms,
            listeners,
            collector,
            forwarder,
            confirmer,
            keystone,
            common,
            live,
            stop,
        })
    }
}

/// What makes Keystone's actor.
pub(super) fn keystone(
    options: keystone_auth::Options,
) -> impl Fn(Lifeline) -> KeystoneAuth + Clone + Send + 'static {
    move |lifeline| KeystoneAuth::new(options.clone(), lifeline)
}

/// The links to Keystone's actor, for who needs tokens.
fn auth(keystone: Option<&Supervised<KeystoneAuth>>) -> Option<Auth> {
    keystone.map(|actor| Auth { get: actor.link(), rejected: actor.link() })
}

/// The planned options of the forwarder, and where its tokens come from.
pub(super) fn forwarder_options(
    plan: &Plan,
    keystone: Option<&Supervised<KeystoneAuth>>,
) -> forwarder::Options {
    forwarder::Options { auth: auth(keystone), ..plan.forwarder.clone() }
}

/// What makes the forwarder.
pub(super) fn forwarder(
    options: forwarder::Options,
    resources: &Resources,
) -> impl Fn(Lifeline) -> Forwarder + Clone + Send + 'static {
    let (spool, log) = (resources.spool.clone(), resources.log.clone());
    let (status, confirming) = (resources.forwarder_status.clone(), resources.confirming.clone());
    move |lifeline| {
        let (status, confirming) = (status.clone(), confirming.clone());
        Forwarder::new(lifeline, options.clone(), spool.clone(), status, confirming, log.clone())
    }
}

/// The planned options of the confirmer, and where its tokens come from.
pub(super) fn confirmer_options(
    plan: &Plan,
    keystone: Option<&Supervised<KeystoneAuth>>,
) -> confirmer::Options {
    confirmer::Options { auth: auth(keystone), ..plan.confirmer.clone() }
}

/// What makes the confirmer.
pub(super) fn confirmer(
    options: confirmer::Options,
    resources: &Resources,
) -> impl Fn(Lifeline) -> Confirmer + Clone + Send + 'static {
    let (spool, log) = (resources.spool.clone(), resources.log.clone());
    let shared = resources.confirming.clone();
    move |lifeline| Confirmer::new(lifeline, options.clone(), spool.clone(), shared.clone(), log.clone())
}

/// What makes the collector.
pub(super) fn collector(
    plan: &Plan,
    resources: &Resources,
    forwarder: &Supervised<Forwarder>,
) -> impl Fn(Lifeline) -> Collector + Clone + Send + 'static {
    let (options, collected) = (plan.collector, resources.collected.clone());
    let (store, flush) = (forwarder.link(), forwarder.link());
    move |lifeline| Collector::new(lifeline, options, collected.clone(), store.clone(), flush.clone())
}

/// One thread a core decodes, but for the one that the way out needs.
fn decoding_arbiters() -> io::Result<Vec<ArbiterHandle>> {
    let cores = available_parallelism().map_or(1, usize::from);
    (0..cores.saturating_sub(1).max(1)).map(|_| Arbiter::try_new().map(|arbiter| arbiter.handle())).collect()
}
