//! Owns the local HTTP port and the view of all counters. Data flows whether it lives or not: the others count in
//! what they share with it, and never wait for it.

mod http;
mod view;

use std::{
    collections::VecDeque,
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use actix::{Actor, AsyncContext, Context, Handler, Message, MessageResult};
use actix_web::dev::ServerHandle;
use slog::{Logger, error};
use tokio::sync::watch;

pub use self::view::View;
use crate::{
    faults,
    forwarder::SharedStatus,
    keystone_auth,
    listener::Desk,
    spool::Spool,
    supervisor::{Lifeline, Vitals, supervised},
};

/// How often a point of the history is taken.
const HISTORY_EVERY: Duration = Duration::from_secs(1);

/// Points of the history: 15 minutes.
const HISTORY_POINTS: usize = 900;

/// Everything that is looked at.
#[derive(Clone)]
pub struct Sources {
    /// The spool, and with it the ledger.
    pub spool: Spool,
    /// The forwarder.
    pub forwarder: SharedStatus,
    /// Keystone's actor, if there is one.
    pub keystone: Option<keystone_auth::SharedStatus>,
    /// The listeners.
    pub listeners: Vec<Arc<Desk>>,
    /// The actors.
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
    /// The last minutes; it outlives the incarnations.
    pub history: History,
}

/// Received, delivered and buffered once a second, after the time in milliseconds since 1970.
pub type Point = [u64; 4];

/// The last quarter of an hour.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<VecDeque<Point>>>);

impl History {
    fn add(&self, point: Point) {
        let mut points = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        points.push_back(point);
        while points.len() > HISTORY_POINTS {
            points.pop_front();
        }
    }

    fn snapshot(&self) -> Vec<Point> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// All figures at one instant.
#[derive(Message)]
#[rtype(result = "View")]
pub struct Snapshot;

/// The figures of the last minutes.
#[derive(Message)]
#[rtype(result = "Vec<Point>")]
pub struct HistoryOf;

/// The actor.
pub struct Metrics {
    _line: Lifeline,
    sources: Sources,
    /// The bound port, if there is to be one.
    socket: Option<Arc<TcpListener>>,
    log: Logger,
    server: Option<ServerHandle>,
}

impl Metrics {
    /// A view of `sources`, served on `socket`.
    pub fn new(line: Lifeline, sources: Sources, socket: Option<Arc<TcpListener>>, log: Logger) -> Self {
        Self { _line: line, sources, socket, log, server: None }
    }

    fn serve(&mut self, ctx: &Context<Self>) -> std::io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let server = http::server(socket.try_clone()?, ctx.address(), self.sources.settings.clone())?;
        self.server = Some(server.handle());
        let log = self.log.clone();
        actix_rt::spawn(async move {
            if let Err(error) = server.await {
                error!(log, "the stats port failed"; "error" => %error);
            }
        });
        Ok(())
    }
}

impl Actor for Metrics {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Err(error) = self.serve(ctx) {
            error!(self.log, "the stats port cannot be served"; "error" => %error);
        }
        ctx.run_interval(HISTORY_EVERY, |metrics, _| {
            let ledger = metrics.sources.spool.ledger().snapshot();
            let point =
                [view::time_ms(SystemTime::now()), ledger.received, ledger.delivered, ledger.buffered()];
            metrics.sources.history.add(point);
        });
    }
}

impl Drop for Metrics {
    /// However an incarnation ends, its server must not answer for the next.
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            // The command is sent at once; nobody waits for its end.
            drop(server.stop(false));
        }
    }
}

supervised!(Metrics);

impl Handler<Snapshot> for Metrics {
    type Result = MessageResult<Snapshot>;

    fn handle(&mut self, _: Snapshot, _: &mut Self::Context) -> Self::Result {
        faults::point("metrics.snapshot");
        let Sources {
            spool,
            forwarder,
            keystone,
            listeners,
            vitals,
            log_records_lost,
            started,
            stop,
            spool_bytes_max,
            ..
        } = &self.sources;
        MessageResult(View {
            ledger: spool.ledger().snapshot(),
            spool: spool.status(),
            forwarder: forwarder.snapshot(),
            keystone: keystone
                .as_ref()
                .map(|status| status.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            listeners: listeners.iter().map(|desk| view::Listener::of(desk)).collect(),
            actors: vitals.iter().map(|vitals| view::ActorState::of(vitals)).collect(),
            log_records_lost: log_records_lost.load(Ordering::Relaxed),
            uptime: started.elapsed(),
            stopping: *stop.borrow(),
            spool_bytes_max: *spool_bytes_max,
        })
    }
}

impl Handler<HistoryOf> for Metrics {
    type Result = MessageResult<HistoryOf>;

    fn handle(&mut self, _: HistoryOf, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.sources.history.snapshot())
    }
}
