//! Owns the local HTTP port and the view of all counters. Data flows whether it lives or not: the others count in
//! what they share with it, and never wait for it.
//!
//! | module | holds |
//! | --- | --- |
//! | `sources` | where the figures are read |
//! | `view` | all figures at one instant |
//! | `figures` | the table of them, which `/metrics`, `/stats`, the page and the daemon's own metrics show |
//! | `health` | from the figures to the verdict, and from it into the log |
//! | `judgement` | what `/healthz`, `/readyz` and `/delivering` answer |
//! | `stats` | `/stats` |
//! | `page` | the page |
//! | `history` | the last minutes and the last day |
//! | `own` | the figures as metrics of their own |
//! | `process` | what the kernel tells of this process |
//! | `http` | routes, and who may ask |

mod figures;
mod health;
mod history;
mod http;
mod judgement;
mod own;
mod page;
mod process;
mod sources;
mod stats;
mod view;

use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, WrapFuture};
use actix_web::dev::ServerHandle;
use slog::{Logger, error};

pub use self::{
    history::{History, Past, Point},
    http::CONNECTIONS_MAX,
    own::OwnMetrics,
    sources::{SharedSources, Sources},
    view::{Place, Rates, View},
};
use crate::{
    collector::MetricFrame,
    core::verdict::{Condition, Line},
    faults,
    supervisor::{Lifeline, supervised},
};

/// How often a point of the history is taken.
const HISTORY_EVERY: Duration = Duration::from_secs(1);

/// All figures at one instant.
#[derive(Message)]
#[rtype(result = "View")]
pub struct Snapshot;

/// The figures of the last minutes.
#[derive(Message)]
#[rtype(result = "Past")]
pub struct HistoryOf;

/// The actor that serves the stats port, takes a point of the history each second, and tells the log of the verdict.
pub struct Metrics {
    _lifeline: Lifeline,
    sources: SharedSources,
    /// The bound port, if there is to be one.
    socket: Option<Arc<TcpListener>>,
    log: Logger,
    server: Option<ServerHandle>,
    /// Whether its own figures are on their way into the collector.
    sending_own: bool,
    /// When they were last sent.
    sent_own: Instant,
}

impl Metrics {
    /// A view of what is in `sources`, served on `socket`.
    pub fn new(
        lifeline: Lifeline,
        sources: SharedSources,
        socket: Option<Arc<TcpListener>>,
        log: Logger,
    ) -> Self {
        Self {
            _lifeline: lifeline,
            sources,
            socket,
            log,
            server: None,
            sending_own: false,
            sent_own: Instant::now(),
        }
    }

    /// Sends its own figures on the way of all metrics.
    fn send_own(&mut self, ctx: &mut Context<Self>) {
        let Some((own, every)) = self.sources.read().own.clone() else { return };
        if self.sent_own.elapsed() < every || std::mem::replace(&mut self.sending_own, true) {
            return;
        }
        self.sent_own = Instant::now();
        let now_ms = i64::try_from(view::time_ms(SystemTime::now())).unwrap_or(i64::MAX);
        let frame = own.frame(&self.sources.view(), now_ms);
        let collector = own.collector.clone();
        // Not within this actor's context: its end must not lose what is already counted.
        let sent = actix_rt::spawn(async move { collector.ask(|| MetricFrame(frame.clone())).await });
        ctx.spawn(sent.into_actor(self).map(|_, metrics, _| metrics.sending_own = false));
    }

    /// Takes a point of the history, and says what is worth a line.
    fn look(&self) {
        let view = self.sources.view();
        let history = self.sources.read().history.clone();
        let ledger = &view.ledger;
        let state = Condition::ALL.iter().position(|condition| *condition == view.health.condition);
        let state = state.unwrap_or(0) as u64;
        history.add([view.now_ms, ledger.received, ledger.delivered, ledger.buffered(), state]);
        let lines: Vec<Line> = history.watch(|watch| watch.lines(&view.health, view.now_ms));
        lines.into_iter().for_each(|line| health::say(&self.log, line, view.now_ms));
    }

    fn serve(&mut self, ctx: &Context<Self>) -> std::io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let server = http::server(socket.try_clone()?, ctx.address(), self.sources.clone())?;
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
        MessageResult(self.sources.view())
    }
}

impl Handler<HistoryOf> for Metrics {
    type Result = MessageResult<HistoryOf>;

    fn handle(&mut self, _: HistoryOf, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.sources.read().history.snapshot())
    }
}
