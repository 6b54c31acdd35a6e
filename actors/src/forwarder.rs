//! Owns the way out: it stores what the collector sealed, POSTs what the outbox says may leave, and lets the spool
//! settle what was answered. It never decides: that is [`Outbox`]. It never holds the only copy of a row: that is
//! in the spool.

mod body;
mod log;
pub mod post;
mod status;
mod token;

use std::{
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, SpawnHandle,
    WrapFuture,
};
use slog::Logger;
use tokio::sync::{oneshot, watch};

pub(crate) use self::token::token;
use self::{
    body::{Ready, What, body},
    post::Target,
    token::Missing,
};
pub use self::{
    status::{SharedStatus, Status},
    token::Auth,
};
use crate::{
    confirmer,
    core::{
        blueflood::Verdict,
        chunk::{Chunk, Encoding},
        outbox::{self, Action, ChunkId, Event, Fate, Leased, Limits, Now, Outbox, ParcelId},
    },
    faults,
    keystone_auth::GetToken,
    spool::{Ask, Batch, Bodies, Granted, Payload, Spool, SpoolError},
    supervisor::{Gone, Lifeline, supervised},
};

/// How often the outbox is told that time has passed, beside the moments that it asks for itself.
const TICK: Duration = Duration::from_secs(1);

/// What is due may wait for so long while a payload could leave: beyond it something is wrong with us. The flow of a busy
/// machine may stop for seconds.
const DUE_MAX: Duration = Duration::from_secs(20);

/// The part of the time of a stop in which payloads leave.
const DELIVER_FOR: f64 = 0.75;

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

/// Go on with other settings. What is in flight ends as it began.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Configure(pub Options);

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
    /// Whether the spool keeps what is left at the end of the process.
    pub keeps: bool,
}

/// The actor.
pub struct Forwarder {
    _lifeline: Lifeline,
    options: Options,
    spool: Spool,
    status: SharedStatus,
    confirmer: confirmer::Shared,
    log: Logger,
    clock: Instant,
    outbox: Outbox,
    client: Option<Rc<awc::Client>>,
    /// Bodies that came with a lease, each with whose it is, for the POST that follows at once.
    bodies: HashMap<ChunkId, (Arc<str>, Chunk)>,
    /// A POST of one row that passed: it tells whether Blueflood works.
    control: Option<Ready>,
    /// Where the last answer came from that was no success.
    failed_url: Option<String>,
    /// Since when a payload could leave.
    free_since: Option<Instant>,
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
        /// Whose rows they were.
        tenant: Arc<str>,
    },
    /// There is no token to send it with, newer than the one that was refused.
    NoToken { missing: Missing, refused: Option<u64> },
    /// The spool could not read its chunks, or has them no more.
    NotLoaded,
}

impl Forwarder {
    /// A forwarder of what is in the spool.
    pub fn new(
        lifeline: Lifeline,
        options: Options,
        spool: Spool,
        status: SharedStatus,
        confirmer: confirmer::Shared,
        log: Logger,
    ) -> Self {
        Self {
            _lifeline: lifeline,
            outbox: Outbox::new(options.limits),
            options,
            spool,
            status,
            confirmer,
            log,
            clock: Instant::now(),
            client: None,
            bodies: HashMap::new(),
            control: None,
            failed_url: None,
            free_since: None,
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
        let actions = self.outbox.apply(event, now, fastrand::f64());
        let (status, next_wake) = (self.outbox.status(now), self.outbox.next_wake(now));
        self.free_since = status.has_free_slot.then(|| self.free_since.unwrap_or_else(Instant::now));
        self.status.change(|shared| {
            // Of what is not believed nobody knows when.
            let until = status.closed.as_ref().map(|(until, _)| *until).filter(|until| !until.is_zero());
            shared.next_try_in = until.map(|until| until.saturating_sub(now));
            shared.outbox = status;
        });
        for action in actions {
            match action {
                Action::Lease { payloads, bounds, due, apart } => {
                    self.lease(Ask { payloads, bounds, due, apart }, ctx);
                }
                Action::Send { parcel, chunks, renew_token } => {
                    let mut here = Bodies::default();
                    for (tenant, chunk) in chunks.iter().filter_map(|id| self.bodies.remove(id)) {
                        here.tenant = tenant;
                        here.chunks.push(chunk);
                    }
                    let all_here = here.chunks.len() == chunks.len();
                    let what = if all_here { What::Here(here) } else { What::InSpool(chunks) };
                    self.send(parcel, what, renew_token, ctx);
                }
                Action::Try { trial, chunks, rows } => {
                    let what = match &self.control {
                        Some(control) if chunks.is_empty() => What::Body(control.clone()),
                        _ => What::Few(chunks, rows),
                    };
                    let renew_token = self.tokens.contains_key(&trial);
                    self.send(trial, what, renew_token, ctx);
                }
                Action::Settle { parcel, chunks, fate } => self.settle(parcel, chunks, fate, ctx),
                Action::Say(notice) => self.say(notice),
            }
        }
        self.wake.take().map(|wake| ctx.cancel_future(wake));
        self.wake = next_wake.map(|at| {
            ctx.run_later(at.saturating_sub(now), |forwarder, ctx| forwarder.event(Event::Tick, ctx))
        });
        if !self.draining.is_empty() && self.outbox.is_drained(self.options.keeps) {
            for waiting in self.draining.drain(..) {
                let _ = waiting.send(());
            }
        }
    }

    // === What the outbox says ===

    fn lease(&mut self, ask: Ask, ctx: &mut Context<Self>) {
        let spool = self.spool.clone();
        let (granted, asked) = (async move { spool.lease(ask).await }, ask.payloads);
        ctx.spawn(granted.into_actor(self).map(move |granted, forwarder, ctx| {
            faults::point("forwarder.leased");
            let event = match granted {
                Ok(Granted { payloads, waiting }) => {
                    let mut leased = Vec::with_capacity(payloads.len());
                    for Payload { leases, tenant, chunks, apart } in payloads {
                        let bodies = chunks.into_iter().map(|chunk| (tenant.clone(), chunk));
                        forwarder.bodies.extend(leases.iter().map(|lease| lease.meta.id).zip(bodies));
                        leased.push(Leased { chunks: leases, apart });
                    }
                    Event::Leased { asked, payloads: leased, waiting }
                }
                Err(_) => {
                    // The disk is to blame, and says so itself: what is due waits for it.
                    forwarder.free_since = None;
                    Event::NotLeased { asked }
                }
            };
            forwarder.event(event, ctx);
            // What is sent later is read again: nothing that only waits is kept in memory.
            forwarder.bodies.clear();
        }));
    }

    fn send(&mut self, parcel: ParcelId, what: What, renew_token: bool, ctx: &mut Context<Self>) {
        let Some(client) = self.client.clone() else { return };
        let auth = self.options.auth.clone();
        let refused = self.tokens.remove(&parcel).filter(|_| renew_token);
        let (spool, target, encoding) =
            (self.spool.clone(), self.options.target.clone(), self.options.encoding);
        let keep_row = self.outbox.wants_control();
        let sent = async move {
            let (Ready { tenant, body }, control) = match body(what, &spool, encoding, keep_row).await {
                Some(found) => found,
                None => return (Sent::NotLoaded, None),
            };
            let token = match token(auth, refused).await {
                Ok(token) => token,
                Err(missing) => return (Sent::NoToken { missing, refused }, None),
            };
            let started = Instant::now();
            let bytes = body.len();
            let verdict = post::post(&client, &target, &tenant, token.as_deref(), encoding, body).await;
            let token = token.map(|token| token.generation);
            (Sent::Answered { verdict, took: started.elapsed(), bytes, token, tenant }, control)
        };
        ctx.spawn(sent.into_actor(self).map(move |(sent, control), forwarder, ctx| {
            faults::point("forwarder.answered");
            match sent {
                Sent::Answered { verdict, took, bytes, token, tenant } => {
                    let url = || forwarder.options.target.ingest_url(&tenant);
                    forwarder.failed_url = (!verdict.is_success()).then(url);
                    forwarder.status.note(&verdict, took, bytes);
                    if let Some(generation) = token.filter(|_| verdict == Verdict::Unauthorized) {
                        forwarder.tokens.insert(parcel, generation);
                    }
                    if verdict == Verdict::Stored
                        && let Some(control) = control
                    {
                        forwarder.control = Some(control);
                        forwarder.outbox.set_control();
                    }
                    forwarder.event(Event::Answered { parcel, verdict, took }, ctx);
                }
                Sent::NoToken { missing: Missing { cause, retry_in }, refused } => {
                    forwarder.status.change(|status| {
                        status.last_error = Some((cause.clone(), SystemTime::now()));
                    });
                    forwarder.event(Event::NotSent { parcel, cause, retry_in }, ctx);
                    forwarder.await_token(refused, ctx);
                }
                Sent::NotLoaded => forwarder.event(Event::NotLoaded { parcel }, ctx),
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

    fn settle(&mut self, parcel: ParcelId, chunks: Vec<ChunkId>, fate: Fate, ctx: &mut Context<Self>) {
        let spool = self.spool.clone();
        let acknowledges =
            matches!(fate, Fate::Acknowledged { .. } | Fate::DeliveredExcept { read_back: true, .. });
        let settled = async move { spool.settle(chunks, fate).await };
        ctx.spawn(settled.into_actor(self).map(move |settled, forwarder, ctx| {
            faults::point("forwarder.settled");
            if acknowledges {
                forwarder.confirmer.poke();
            }
            let event = match settled {
                Ok(pieces) => Event::Settled { parcel, pieces },
                Err(_) => Event::NotSettled { parcel },
            };
            forwarder.event(event, ctx);
        }));
    }

    /// Goes by what the confirmer says, now and whenever it says something else.
    fn stand(&mut self, mut standing: watch::Receiver<outbox::Standing>, ctx: &mut Context<Self>) {
        let now = standing.borrow_and_update().clone();
        self.event(Event::Standing(now), ctx);
        let changed = async move { standing.changed().await.is_ok().then_some(standing) };
        ctx.spawn(changed.into_actor(self).map(|standing, forwarder, ctx| {
            if let Some(standing) = standing {
                forwarder.stand(standing, ctx);
            }
        }));
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.event(Event::Tick, ctx);
        self.audit(ctx);
    }

    /// What is due must not wait while a payload could leave.
    fn audit(&mut self, ctx: &mut Context<Self>) {
        let Some(due) = self.spool.status().due_since.zip(self.free_since).map(|(due, free)| due.max(free))
        else {
            return;
        };
        if due.elapsed() < DUE_MAX || self.outbox.is_asking() {
            return;
        }
        self.free_since = None;
        let spool = self.spool.clone();
        let why = format!("datapoints are due, and not sent, for {} s", due.elapsed().as_secs());
        let reindexed = async move { spool.reindex(why).await };
        ctx.spawn(reindexed.into_actor(self).map(|_, forwarder, ctx| forwarder.event(Event::Poke, ctx)));
    }
}

impl Actor for Forwarder {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // A client is of one thread, and a new incarnation gets new connections.
        self.client = Some(Rc::new(post::client(&self.options.target)));
        self.stand(self.confirmer.standing(), ctx);
        self.event(Event::Tick, ctx);
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
                    Ok(due) => return due,
                    // The new file takes it.
                    Err(SpoolError::Replaced) => {}
                    Err(SpoolError::Disk(_) | SpoolError::DiskFull(_)) => tokio::time::sleep(TICK).await,
                    // No reply: the batch stays in the collector's hand.
                    Err(SpoolError::Closed) => std::future::pending().await,
                }
            }
        };
        Box::pin(stored.into_actor(self).map(|due, forwarder, ctx| {
            faults::point("forwarder.stored");
            if due {
                forwarder.event(Event::Poke, ctx);
            }
        }))
    }
}

impl Handler<Flush> for Forwarder {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Flush, _: &mut Self::Context) -> Self::Result {
        let spool = self.spool.clone();
        // One that fails is made up for by the next.
        let flushed = async move { drop(spool.flush().await) };
        Box::pin(flushed.into_actor(self).map(|(), forwarder, ctx| forwarder.event(Event::Poke, ctx)))
    }
}

impl Handler<Configure> for Forwarder {
    type Result = ();

    fn handle(&mut self, Configure(options): Configure, ctx: &mut Self::Context) {
        if !self.options.target.is_same(&options.target) {
            self.client = Some(Rc::new(post::client(&options.target)));
        }
        let limits = options.limits;
        self.options = options;
        self.event(Event::Configured(limits), ctx);
    }
}

impl Handler<Drain> for Forwarder {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Drain(time): Drain, ctx: &mut Self::Context) -> Self::Result {
        let (tell, drained) = oneshot::channel();
        self.draining.push(tell);
        self.event(Event::Drain, ctx);
        // The last part of the time is for what is in flight: cut off, it would be sent again by the next process.
        ctx.run_later(time.mul_f64(DELIVER_FOR), |forwarder, ctx| forwarder.event(Event::Halt, ctx));
        // The deadline is here, for a send that is given up by its sender may not have been handled.
        Box::pin(async move { drop(tokio::time::timeout(time, drained).await) }.into_actor(self))
    }
}
