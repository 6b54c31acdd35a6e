//! Owns the way out: it stores what the collector sealed, POSTs what the outbox says may leave, and lets the spool
//! settle what was answered. It never decides: that is [`Outbox`]. It never holds the only copy of a row: that is
//! in the spool.

pub mod post;

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture,
    SpawnHandle, WrapFuture,
};
use bytes::Bytes;
use slog::{Logger, error, info, warn};
use tokio::sync::oneshot;

use self::post::Target;
use crate::{
    core::{
        blueflood::Verdict,
        chunk::Encoding,
        histogram::Histogram,
        outbox::{self, Action, ChunkId, Event, Fate, Limits, Meta, Notice, Now, Outbox, ParcelId},
        payload,
    },
    faults,
    keystone_auth::{GetToken, NoToken, Rejected, Token},
    spool::{Batch, Spool, SpoolError},
    supervisor::{Gone, Lifeline, Link, supervised},
};

/// How often the outbox is told that time has passed, beside the moments that it asks for itself.
const TICK: Duration = Duration::from_secs(1);

/// Store a batch. The reply is the receipt: the spool has it, in its file or for a moment in its hand. Sent again, it is
/// stored once.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Store(pub Arc<Batch>);

/// The send interval is over: everything here is due.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Flush;

/// Deliver everything, and answer when that is done or the time is over.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain(pub Duration);

/// Where tokens come from.
#[derive(Clone)]
pub struct Auth {
    /// For a token.
    pub get: Link<GetToken>,
    /// For a newer one.
    pub rejected: Link<Rejected>,
}

/// The settings of the way out.
#[derive(Clone)]
pub struct Options {
    /// Where tokens come from, if Blueflood wants any.
    pub auth: Option<Auth>,
    /// What bounds the outbox.
    pub limits: Limits,
    /// Whom to POST to, and how.
    pub target: Target,
    /// How payloads are encoded.
    pub encoding: Encoding,
}

/// What the forwarder looks like from outside.
#[derive(Debug, Clone)]
pub struct Status {
    /// What the outbox knows.
    pub outbox: outbox::Status,
    /// When the gate will let a probe through, if it is closed.
    pub next_try_in: Option<Duration>,
    /// The last failure, and when.
    pub last_error: Option<(String, SystemTime)>,
    /// When Blueflood last took a payload.
    pub last_success: Option<SystemTime>,
    /// POSTs that came to an end.
    pub posts: u64,
    /// Bytes of all bodies, as they were sent.
    pub bytes_sent: u64,
    /// How long requests took, from their start to the end of the answer.
    pub answer_times: Histogram,
}

impl Default for Status {
    fn default() -> Self {
        // From a warm Blueflood's few milliseconds to the minute in which it is given up.
        let bounds = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        Self {
            outbox: outbox::Status::default(),
            next_try_in: None,
            last_error: None,
            last_success: None,
            posts: 0,
            bytes_sent: 0,
            answer_times: Histogram::new(bounds),
        }
    }
}

/// A [`Status`] that others read.
#[derive(Debug, Clone, Default)]
pub struct SharedStatus(Arc<Mutex<Status>>);

impl SharedStatus {
    /// It, as it is at this instant.
    pub fn snapshot(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The actor.
pub struct Forwarder {
    _line: Lifeline,
    options: Options,
    spool: Spool,
    status: SharedStatus,
    log: Logger,
    clock: Instant,
    /// Until the spool has said what is in it there is none.
    outbox: Option<Outbox>,
    client: Option<Rc<awc::Client>>,
    /// The token that each parcel in flight was sent with, by generation.
    tokens: HashMap<ParcelId, u64>,
    /// Whether somebody waits for the next token already.
    awaits_token: bool,
    wake: Option<SpawnHandle>,
    draining: Vec<oneshot::Sender<()>>,
}

/// How sending a parcel ended.
enum Sent {
    Answered {
        verdict: Verdict,
        took: Duration,
        bytes: usize,
        /// The token that it was sent with, by generation.
        token: Option<u64>,
    },
    /// There is no token to send it with, newer than the one that was refused.
    NoToken {
        verdict: Verdict,
        refused: Option<u64>,
    },
    /// The spool has none of its chunks any more.
    Gone,
    SpoolFailed(SpoolError),
}

impl Forwarder {
    /// A forwarder of what is in the spool.
    pub fn new(line: Lifeline, options: Options, spool: Spool, status: SharedStatus, log: Logger) -> Self {
        Self {
            _line: line,
            options,
            spool,
            status,
            log,
            clock: Instant::now(),
            outbox: None,
            client: None,
            tokens: HashMap::new(),
            awaits_token: false,
            wake: None,
            draining: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        self.clock.elapsed()
    }

    /// Tells the outbox, and does what it says.
    fn event(&mut self, event: Event, ctx: &mut Context<Self>) {
        let now = self.now();
        let Some(outbox) = self.outbox.as_mut() else { return };
        let actions = outbox.apply(event, now, fastrand::f64());
        let (status, next_wake) = (outbox.status(), outbox.next_wake(now));
        self.status.change(|shared| {
            shared.next_try_in = status.closed.as_ref().map(|(until, _)| until.saturating_sub(now));
            shared.outbox = status;
        });
        for action in actions {
            match action {
                Action::Send { parcel, chunks, renew_token } => self.send(parcel, chunks, renew_token, ctx),
                Action::Settle { parcel, chunks, fate } => self.settle(parcel, chunks, fate, ctx),
                Action::Refill { from, max } => self.refill(from, max, ctx),
                Action::Say(notice) => self.say(notice),
            }
        }
        self.wake.take().map(|wake| ctx.cancel_future(wake));
        self.wake = next_wake.map(|at| {
            ctx.run_later(at.saturating_sub(now), |forwarder, ctx| forwarder.event(Event::Tick, ctx))
        });
        if self.outbox.as_ref().is_some_and(Outbox::is_empty) {
            for waiting in self.draining.drain(..) {
                let _ = waiting.send(());
            }
        }
    }

    // === What the outbox says ===

    fn send(&mut self, parcel: ParcelId, chunks: Vec<ChunkId>, renew_token: bool, ctx: &mut Context<Self>) {
        let Some(client) = self.client.clone() else { return };
        let auth = self.options.auth.clone();
        let refused = self.tokens.remove(&parcel).filter(|_| renew_token);
        let (spool, target, encoding) =
            (self.spool.clone(), self.options.target.clone(), self.options.encoding);
        let sent = async move {
            let body: Bytes = match spool.load(chunks).await {
                Ok(chunks) if chunks.is_empty() => return Sent::Gone,
                Ok(chunks) => match payload::compose(&chunks, encoding) {
                    Ok(body) => body,
                    // It is whole in the spool, or it would not have been loaded: the spool drops it when it settles.
                    Err(damaged) => {
                        let verdict = Verdict::RefusedWhole(damaged.to_string());
                        return Sent::Answered { verdict, took: Duration::ZERO, bytes: 0, token: None };
                    }
                },
                Err(error) => return Sent::SpoolFailed(error),
            };
            let token = match token(auth, refused).await {
                Ok(token) => token,
                Err(verdict) => return Sent::NoToken { verdict, refused },
            };
            let started = Instant::now();
            let bytes = body.len();
            let verdict = post::post(&client, &target, token.as_deref(), encoding, body).await;
            let token = token.map(|token| token.generation);
            Sent::Answered { verdict, took: started.elapsed(), bytes, token }
        };
        ctx.spawn(sent.into_actor(self).map(move |sent, forwarder, ctx| {
            faults::point("forwarder.answered");
            match sent {
                Sent::Answered { verdict, took, bytes, token } => {
                    forwarder.note(&verdict, took, bytes);
                    if let Some(generation) = token.filter(|_| verdict == Verdict::Unauthorized) {
                        forwarder.tokens.insert(parcel, generation);
                    }
                    forwarder.event(Event::Answered { parcel, verdict, took }, ctx);
                }
                Sent::NoToken { verdict, refused } => {
                    forwarder.note(&verdict, Duration::ZERO, 0);
                    forwarder.event(Event::Answered { parcel, verdict, took: Duration::ZERO }, ctx);
                    forwarder.await_token(refused, ctx);
                }
                Sent::Gone => forwarder.event(Event::Gone { parcel }, ctx),
                Sent::SpoolFailed(error) => forwarder.spool_failed(parcel, &error, ctx),
            }
        }));
    }

    /// A token may come long before the next try is due, as when a key's file was corrected. Asking for one costs
    /// Keystone nothing while it is not to be asked.
    fn await_token(&mut self, refused: Option<u64>, ctx: &mut Context<Self>) {
        let Some(auth) = self.options.auth.clone().filter(|_| !self.awaits_token) else { return };
        self.awaits_token = true;
        let comes = async move {
            loop {
                tokio::time::sleep(TICK).await;
                match auth.get.ask(|| GetToken).await {
                    Ok(Ok(token)) if refused.is_none_or(|refused| token.generation > refused) => return,
                    Ok(_) => {}
                    Err(Gone) => return,
                }
            }
        };
        ctx.spawn(comes.into_actor(self).map(|(), forwarder, ctx| {
            forwarder.awaits_token = false;
            forwarder.event(Event::Mended, ctx);
        }));
    }

    fn note(&self, verdict: &Verdict, took: Duration, bytes: usize) {
        let passed = matches!(verdict, Verdict::Stored | Verdict::StoredExcept(_) | Verdict::Refused(_));
        self.status.change(|status| {
            status.posts = status.posts.saturating_add(1);
            status.answer_times.observe(took.as_secs_f64(), 1);
            status.bytes_sent = status.bytes_sent.saturating_add(bytes as u64);
            if passed {
                status.last_success = Some(SystemTime::now());
            } else {
                status.last_error = Some((verdict.words(), SystemTime::now()));
            }
        });
    }

    fn settle(&mut self, parcel: ParcelId, chunks: Vec<ChunkId>, fate: Fate, ctx: &mut Context<Self>) {
        let spool = self.spool.clone();
        let settled = async move { spool.settle(chunks, fate).await };
        ctx.spawn(settled.into_actor(self).map(move |settled, forwarder, ctx| {
            faults::point("forwarder.settled");
            match settled {
                Ok(requeued) => forwarder.event(Event::Settled { parcel, requeued }, ctx),
                Err(error) => forwarder.spool_failed(parcel, &error, ctx),
            }
        }));
    }

    fn refill(&mut self, from: Option<ChunkId>, max: usize, ctx: &mut Context<Self>) {
        let spool = self.spool.clone();
        let metas = async move { spool.scan(from, max).await };
        ctx.spawn(metas.into_actor(self).map(move |metas, forwarder, ctx| match metas {
            Ok(metas) => {
                let end = metas.len() < max;
                forwarder.event(Event::Refilled { metas, end }, ctx);
            }
            // The outbox asks again at once, so the answer is held back.
            Err(SpoolError::Disk(_) | SpoolError::DiskFull(_)) => {
                let nothing = || Event::Refilled { metas: Vec::new(), end: false };
                ctx.run_later(TICK, move |forwarder, ctx| forwarder.event(nothing(), ctx));
            }
            Err(SpoolError::Replaced | SpoolError::Closed) => ctx.stop(),
        }));
    }

    fn spool_failed(&mut self, parcel: ParcelId, error: &SpoolError, ctx: &mut Context<Self>) {
        match error {
            SpoolError::Disk(_) | SpoolError::DiskFull(_) => self.event(Event::SpoolFailed { parcel }, ctx),
            // What we know of its chunks is void: a new incarnation begins with what is there now.
            SpoolError::Replaced | SpoolError::Closed => ctx.stop(),
        }
    }

    fn say(&self, notice: Notice) {
        let log = &self.log;
        match notice {
            Notice::Closed { cause, wait } => {
                warn!(log, "Blueflood does not take metrics: they are kept, and sent again";
                    "url" => &self.options.target.url, "cause" => cause, "next_try_s" => wait.as_secs_f64());
            }
            Notice::Opened { after, failures } => {
                info!(log, "Blueflood takes metrics again";
                    "url" => &self.options.target.url, "after_s" => after.as_secs(), "failed_tries" => failures);
            }
            Notice::Misconfigured(text) => {
                error!(log, "Blueflood refuses everything, which only a change can mend: check --blueflood, \
                             --tenant and the credentials; metrics are kept meanwhile";
                    "url" => &self.options.target.url, "answer" => text);
            }
            Notice::Halving { rows, cause } => {
                info!(log, "a payload fails by itself: halving it to find the rows that cause it";
                    "rows" => rows, "cause" => cause);
            }
            Notice::LimitLearned { payload_bytes_max } => {
                warn!(log, "a payload was too large: payloads are smaller from now on; set --limit to make it last";
                    "bytes" => payload_bytes_max);
            }
        }
    }

    fn begin(&mut self, newest: Option<ChunkId>, ctx: &mut Context<Self>) {
        self.outbox = Some(Outbox::new(self.options.limits, newest));
        self.event(Event::Tick, ctx);
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        match self.spool.status().newest {
            Some(newest) => self.event(Event::Seen(newest), ctx),
            None => self.event(Event::Tick, ctx),
        }
    }
}

/// A token for the next request, newer than the one that was refused; none if none is wanted. What stands in the way
/// of one stands in the way of the request.
async fn token(auth: Option<Auth>, refused: Option<u64>) -> Result<Option<Arc<Token>>, Verdict> {
    let Some(auth) = auth else { return Ok(None) };
    let token = match refused {
        Some(generation) => auth.rejected.ask(|| Rejected { generation }).await,
        None => auth.get.ask(|| GetToken).await,
    };
    match token {
        Ok(Ok(token)) => Ok(Some(token)),
        Ok(Err(NoToken { cause, retry_in, .. })) => Err(Verdict::Unavailable {
            cause: format!("no token from Keystone: {cause}"),
            retry_after: Some(retry_in),
        }),
        Err(Gone) => {
            Err(Verdict::Unavailable { cause: "the daemon is stopping".to_owned(), retry_after: None })
        }
    }
}

impl Actor for Forwarder {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // A client is of one thread, and a new incarnation gets new connections.
        self.client = Some(Rc::new(post::client(&self.options.target)));
        let spool = self.spool.clone();
        let newest = async move { spool.newest().await };
        ctx.spawn(newest.into_actor(self).map(|newest, forwarder, ctx| match newest {
            Ok(newest) => forwarder.begin(newest, ctx),
            Err(error) => {
                error!(forwarder.log, "the spool cannot be read"; "error" => %error);
                ctx.stop();
            }
        }));
        ctx.run_interval(TICK, Self::tick);
    }
}

supervised!(Forwarder);

impl Handler<Store> for Forwarder {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Store(batch): Store, _: &mut Self::Context) -> Self::Result {
        faults::point("forwarder.store");
        let spool = self.spool.clone();
        let stored = async move {
            loop {
                match spool.append(batch.clone()).await {
                    Ok(meta) => return meta,
                    // The new file takes it.
                    Err(SpoolError::Replaced) => {}
                    Err(SpoolError::Disk(_) | SpoolError::DiskFull(_)) => tokio::time::sleep(TICK).await,
                    // No reply: the batch stays in the collector's hand.
                    Err(SpoolError::Closed) => std::future::pending().await,
                }
            }
        };
        Box::pin(stored.into_actor(self).map(|meta: Option<Meta>, forwarder, ctx| {
            faults::point("forwarder.stored");
            meta.into_iter().for_each(|meta| forwarder.event(Event::Appended(meta), ctx));
        }))
    }
}

impl Handler<Flush> for Forwarder {
    type Result = ();

    fn handle(&mut self, _: Flush, ctx: &mut Self::Context) {
        self.event(Event::Flush, ctx);
    }
}

impl Handler<Drain> for Forwarder {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Drain(time): Drain, ctx: &mut Self::Context) -> Self::Result {
        let (tell, drained) = oneshot::channel();
        self.draining.push(tell);
        self.event(Event::Drain, ctx);
        // The deadline is here, for a send that is given up by its sender may not have been handled.
        Box::pin(async move { drop(tokio::time::timeout(time, drained).await) }.into_actor(self))
    }
}
