//! Owns the local HTTP port and the view of all counters. Data flows whether it lives or not: the others count in
//! what they share with it, and never wait for it.

mod http;
mod own;
mod tap;
mod view;

use std::{
    collections::VecDeque,
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, WrapFuture};
use actix_web::dev::ServerHandle;
use slog::{Logger, error};
use tokio::sync::watch;

pub use self::{http::CONNECTIONS_MAX, own::OwnMetrics, view::View};
use crate::{
    collector::MetricFrame,
    faults,
    forwarder::SharedStatus,
    keystone_auth,
    listener::Desk,
    spool::Spool,
    supervisor::{Lifeline, Vitals, supervised},
    tap::Taps,
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
    /// Who reads back what Blueflood acknowledged.
    pub confirming: crate::confirmer::Shared,
    /// Keystone's actor, if there is one.
    pub keystone: Option<keystone_auth::SharedStatus>,
    /// The listeners.
    pub listeners: Vec<Arc<Desk>>,
    /// Who looks on while datapoints pass.
    pub taps: Taps,
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
    /// Its own figures as metrics, and how often, if they are wanted.
    pub own: Option<(OwnMetrics, Duration)>,
}

/// The [`Sources`] that are looked at now: a reload changes them, and no page is cut for it.
#[derive(Clone)]
pub struct Board(Arc<RwLock<Sources>>);

impl Board {
    /// A board that shows `sources`.
    pub fn new(sources: Sources) -> Self {
        Self(Arc::new(RwLock::new(sources)))
    }

    /// Shows others from now on.
    pub fn show(&self, sources: Sources) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = sources;
    }

    fn read(&self) -> RwLockReadGuard<'_, Sources> {
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
            vitals,
            log_records_lost,
            started,
            stop,
            spool_bytes_max,
            ..
        } = &*self.read();
        View {
            ledger: spool.ledger().snapshot(),
            spool: spool.status(),
            forwarder: forwarder.snapshot(),
            confirming: confirming.status(),
            keystone: keystone
                .as_ref()
                .map(|status| status.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            listeners: listeners.iter().map(|desk| view::Listener::of(desk)).collect(),
            actors: vitals.iter().map(|vitals| view::ActorState::of(vitals)).collect(),
            log_records_lost: log_records_lost.load(Ordering::Relaxed),
            uptime: started.elapsed(),
            stopping: *stop.borrow(),
            spool_bytes_max: *spool_bytes_max,
            taps: taps.open_now(),
        }
    }
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
    board: Board,
    /// The bound port, if there is to be one.
    socket: Option<Arc<TcpListener>>,
    log: Logger,
    server: Option<ServerHandle>,
    /// Its own figures are on their way into the collector.
    sending_own: bool,
    /// When they were last sent.
    sent_own: Instant,
}

impl Metrics {
    /// A view of what is on `board`, served on `socket`.
    pub fn new(line: Lifeline, board: Board, socket: Option<Arc<TcpListener>>, log: Logger) -> Self {
        Self { _line: line, board, socket, log, server: None, sending_own: false, sent_own: Instant::now() }
    }

    /// Sends its own figures on the way of all metrics.
    fn send_own(&mut self, ctx: &mut Context<Self>) {
        let Some((own, every)) = self.board.read().own.clone() else { return };
        if self.sent_own.elapsed() < every || std::mem::replace(&mut self.sending_own, true) {
            return;
        }
        self.sent_own = Instant::now();
        let now_ms = i64::try_from(view::time_ms(SystemTime::now())).unwrap_or(i64::MAX);
        let frame = own.frame(&self.board.view(), now_ms);
        let collector = own.collector.clone();
        // Not within this actor's context: its end must not lose what is already counted.
        let sent = actix_rt::spawn(async move { collector.ask(|| MetricFrame(frame.clone())).await });
        ctx.spawn(sent.into_actor(self).map(|_, metrics, _| metrics.sending_own = false));
    }

    fn serve(&mut self, ctx: &Context<Self>) -> std::io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let server = http::server(socket.try_clone()?, ctx.address(), self.board.clone())?;
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
        ctx.run_interval(HISTORY_EVERY, |metrics, ctx| {
            metrics.send_own(ctx);
            let board = metrics.board.read();
            let ledger = board.spool.ledger().snapshot();
            let point =
                [view::time_ms(SystemTime::now()), ledger.received, ledger.delivered, ledger.buffered()];
            board.history.add(point);
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
        MessageResult(self.board.view())
    }
}

impl Handler<HistoryOf> for Metrics {
    type Result = MessageResult<HistoryOf>;

    fn handle(&mut self, _: HistoryOf, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.board.read().history.snapshot())
    }
}
