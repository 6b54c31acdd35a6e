//! Owns the local HTTP port and the view of all counters. Data flows whether it lives or not: the others count in
//! what they share with it, and never wait for it.

mod figures;
mod filled;
mod health;
mod http;
mod own;
mod process;
mod tap;
mod view;

use std::{
    collections::VecDeque,
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, WrapFuture};
use actix_web::dev::ServerHandle;
use slog::{Logger, error};
use tokio::sync::watch;

pub use self::{
    http::CONNECTIONS_MAX,
    own::OwnMetrics,
    view::{Place, Rates, View},
};
use crate::{
    collector::MetricFrame,
    core::verdict::{Condition, Health, Known, Line, Watch},
    expiry::Expiry,
    faults,
    forwarder::SharedStatus,
    keystone_auth,
    listener::{Desk, SharedSenders},
    spool::Spool,
    supervisor::{Lifeline, Vitals, supervised},
    tap::Taps,
};

/// How often a point of the history is taken.
const HISTORY_EVERY: Duration = Duration::from_secs(1);

/// Rates are averaged over so long at least, and over two send intervals.
const RATES_OVER_MIN: Duration = Duration::from_secs(60);

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
    /// Who sends most.
    pub senders: SharedSenders,
    /// When the certificates end that are used on the way out.
    pub expiries: Vec<Expiry>,
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
    /// Where this daemon is, and where it delivers to.
    pub place: Place,
    /// What of the settings the verdict needs.
    pub known: Known,
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
            listeners: listeners.iter().map(|desk| view::Listener::of(desk)).collect(),
            actors: vitals.iter().map(|vitals| view::ActorState::of(vitals)).collect(),
            log_records_lost: log_records_lost.load(Ordering::Relaxed),
            uptime: started.elapsed(),
            stopping: *stop.borrow(),
            spool_bytes_max: *spool_bytes_max,
            taps: taps.open_now(),
            senders: senders.snapshot(),
            expiries: listeners
                .iter()
                .flat_map(|desk| desk.expiries())
                .chain(expiries.iter().cloned())
                .collect(),
            now_ms: view::time_ms(SystemTime::now()),
            place: place.clone(),
            health: NOT_JUDGED,
            reload_succeeded: !history.reload_failed.load(Ordering::Relaxed),
            rates: history.rates(RATES_OVER_MIN.max(known.interval.saturating_mul(2))),
        };
        view.health = history.watch(|watch| watch.look(&health::figures(&view, known)));
        view
    }
}

/// Stands in a view until it is judged.
const NOT_JUDGED: Health = Health {
    condition: Condition::Well,
    since_ms: 0,
    words: String::new(),
    next: None,
    until: None,
    losses: Vec::new(),
    caught_up_ms: None,
};

/// How often a point of the last day is taken.
const MINUTE: Duration = Duration::from_secs(60);

/// Points of the last day.
const MINUTES: usize = 1_440;

/// The time in milliseconds since 1970; then received, delivered and buffered; and the condition by its place in
/// [`Condition::ALL`]: of a minute the worst.
pub type Point = [u64; 5];

/// What is remembered.
#[derive(Debug)]
pub struct Past {
    /// The last quarter of an hour, by second.
    pub points: Vec<Point>,
    /// The last day, by minute.
    pub minutes: Vec<Point>,
}

/// The last quarter of an hour by second, and the last day by minute.
#[derive(Debug, Clone, Default)]
pub struct History {
    points: Arc<Mutex<VecDeque<Point>>>,
    minutes: Arc<Mutex<VecDeque<Point>>>,
    watch: Arc<Mutex<Watch>>,
    reload_failed: Arc<AtomicBool>,
}

impl History {
    /// The settings were read again, and could be used or not.
    pub fn reloaded(&self, succeeded: bool) {
        self.reload_failed.store(!succeeded, Ordering::Relaxed);
    }

    /// What the verdict remembers.
    fn watch<T>(&self, look: impl FnOnce(&mut Watch) -> T) -> T {
        look(&mut self.watch.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, point: Point) {
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        points.push_back(point);
        while points.len() > HISTORY_POINTS {
            points.pop_front();
        }
        let mut minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        let [at, .., state] = point;
        let minute = u64::try_from(MINUTE.as_millis()).unwrap_or(u64::MAX);
        match minutes.back_mut() {
            Some([began, .., worst]) if *began / minute == at / minute => {
                // What is lost is worse than what is kept.
                let badness =
                    |state: u64| [0, 2, 1, 3].get(usize::try_from(state).unwrap_or(0)).copied().unwrap_or(0);
                if badness(state) > badness(*worst) {
                    *worst = state;
                }
            }
            _ => minutes.push_back(point),
        }
        while minutes.len() > MINUTES {
            minutes.pop_front();
        }
    }

    /// What was received and delivered a second, over as long as is asked for or is known.
    fn rates(&self, over: Duration) -> Option<Rates> {
        let points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let last = points.back()?;
        let from = last[0].saturating_sub(u64::try_from(over.as_millis()).unwrap_or(u64::MAX));
        let first = points.iter().find(|point| point[0] >= from)?;
        let seconds = last[0].saturating_sub(first[0]) as f64 / 1_000.0;
        let per_second = |n: u64| n as f64 / seconds;
        (seconds > 0.0).then(|| Rates {
            over: Duration::from_secs_f64(seconds),
            received: per_second(last[1].saturating_sub(first[1])),
            delivered: per_second(last[2].saturating_sub(first[2])),
        })
    }

    fn snapshot(&self) -> Past {
        let all = |points: &Mutex<VecDeque<Point>>| {
            points.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
        };
        Past { points: all(&self.points), minutes: all(&self.minutes) }
    }
}

/// All figures at one instant.
#[derive(Message)]
#[rtype(result = "View")]
pub struct Snapshot;

/// The figures of the last minutes.
#[derive(Message)]
#[rtype(result = "Past")]
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

    /// Takes a point of the history, and says what is worth a line.
    fn look(&self) {
        let view = self.board.view();
        let history = self.board.read().history.clone();
        let ledger = &view.ledger;
        let state = Condition::ALL.iter().position(|condition| *condition == view.health.condition);
        let state = state.unwrap_or(0) as u64;
        history.add([view.now_ms, ledger.received, ledger.delivered, ledger.buffered(), state]);
        let lines: Vec<Line> = history.watch(|watch| watch.lines(&view.health, view.now_ms));
        lines.into_iter().for_each(|line| health::say(&self.log, line, view.now_ms));
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
            metrics.look();
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
