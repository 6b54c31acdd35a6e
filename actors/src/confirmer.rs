//! Owns looking: it reads back what Blueflood acknowledged, and tells the forwarder whether Blueflood can be believed. It
//! never decides what a look leads to: that is [`Confirm`]. It never holds up a POST of metrics, and teaches nobody a limit:
//! its requests have connections and time-outs of their own.
//!
//! It finds out by itself whether there is anything to look at, where it is not told.

mod looking;
pub mod query;
mod shared;
mod side;
mod witness;

use std::{
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, SpawnHandle,
    WrapFuture,
};
use slog::{Logger, info, warn};
use tokio::sync::oneshot;

use self::{
    looking::{Of, load, look_for},
    query::Query,
    side::Finding,
};
pub use self::{
    shared::{Shared, Status},
    side::Side,
};
use crate::{
    core::{
        chunk::Encoding,
        confirm::{Action, Belief, Confirm, Event, GroupId, Notice, Outcome, Seen, Way, What},
        outbox::{ChunkId, Now, Standing},
        row::{RowSettings, Rows},
        verdict::{NO_QUERY_SIDE, NOT_CONFIRMED},
    },
    faults,
    forwarder::{Auth, post::Target},
    spool::{AskLooks, Confirmed, Spool, SpoolError},
    supervisor::{Lifeline, supervised},
};

/// How often it is told that time has passed, beside the moments that it asks for itself.
const TICK: Duration = Duration::from_secs(1);

/// Rows that were sent again are said at once, and then summed up for so long.
const SAY_RESENT_EVERY: Duration = Duration::from_secs(60);

/// The settings of looking.
#[derive(Clone)]
pub struct Options {
    /// How it is done; `None`: by samples where there is a query service, else not at all.
    pub way: Option<Way>,
    /// Where it looks.
    pub side: Side,
    /// How long after the answer.
    pub delay: Duration,
    /// Where witnesses are sent.
    pub target: Target,
    /// How they are encoded.
    pub encoding: Encoding,
    /// Where tokens come from, if Blueflood wants any.
    pub auth: Option<Auth>,
    /// How rows are made.
    pub rows: RowSettings,
    /// The name of the witness, behind the prefix.
    pub witness: String,
}

/// Confirm everything, and answer when that is done or the time is over.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain(pub Duration);

/// Go on with other settings.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Configure(pub Options);

/// A group in hand.
#[derive(Debug, Default)]
struct InHand {
    chunks: Vec<ChunkId>,
    /// Whose they are, once they were looked for.
    tenant: Arc<str>,
    /// What was absent in the last look at it.
    absent: Rows,
    settling: bool,
}

/// The actor.
pub struct Confirmer {
    _lifeline: Lifeline,
    options: Options,
    spool: Spool,
    shared: Shared,
    log: Logger,
    clock: Instant,
    confirm: Confirm,
    /// Changes when what is under way means nothing any more.
    epoch: u64,
    groups: HashMap<GroupId, InHand>,
    query: Option<Rc<Query>>,
    /// A row that was there: it tells whether reading works.
    control: Option<Of>,
    /// What is known of the query service.
    finding: Finding,
    said_way: Option<Way>,
    resent: u64,
    said_resent: Option<Instant>,
    draining: bool,
    waiting: Vec<oneshot::Sender<()>>,
    wake: Option<SpawnHandle>,
}

impl Confirmer {
    /// A confirmer of what is in the spool.
    pub fn new(lifeline: Lifeline, options: Options, spool: Spool, shared: Shared, log: Logger) -> Self {
        Self {
            _lifeline: lifeline,
            options,
            spool,
            shared,
            log,
            clock: Instant::now(),
            confirm: Confirm::new(Way::Off),
            epoch: 0,
            groups: HashMap::new(),
            query: None,
            control: None,
            finding: Finding::default(),
            said_way: None,
            resent: 0,
            said_resent: None,
            draining: false,
            waiting: Vec::new(),
            wake: None,
        }
    }

    fn now(&self) -> Now {
        self.clock.elapsed()
    }

    /// The query service, if there is one for us: one client, for its connections are used again.
    fn query(&mut self) -> Option<Rc<Query>> {
        let options = &self.options;
        let url = options.side.url()?;
        let make = || {
            let (tls, auth) = (options.target.tls.clone(), options.auth.clone());
            Rc::new(Query::new(url, tls, auth))
        };
        Some(self.query.get_or_insert_with(make).clone())
    }

    /// Tells the core, and does what it says.
    fn event(&mut self, event: Event, ctx: &mut Context<Self>) {
        let now = self.now();
        let actions = self.confirm.apply(event, now, fastrand::f64());
        for action in actions {
            match action {
                Action::Ask(groups) => self.ask(groups, ctx),
                Action::Look { group, what } => self.look(group, what, ctx),
                Action::Settle { group, outcome } => self.settle(group, outcome, ctx),
                Action::Probe { read } => self.probe(read, ctx),
                Action::GiveBack => self.give_back(ctx),
                Action::TakeStock => self.take_stock(ctx),
                Action::Believe(_) => {}
                Action::Say(notice) => self.say(notice),
            }
        }
        self.show();
        self.wake.take().map(|wake| ctx.cancel_future(wake));
        self.wake = self.confirm.next_wake(now).map(|at| {
            ctx.run_later(at.saturating_sub(now), |confirmer, ctx| confirmer.event(Event::Tick, ctx))
        });
        if self.draining && self.confirm.is_drained() {
            for waiting in self.waiting.drain(..) {
                let _ = waiting.send(());
            }
        }
    }

    fn show(&self) {
        let status = self.confirm.status();
        let doubt = match &status.belief {
            Belief::No(cause) => Some(format!("{NOT_CONFIRMED}: {cause}")),
            // What is to be read back must not leave before there is somebody who can.
            _ if self.finding.is_missed(&self.options) => Some(format!(
                "{NO_QUERY_SIDE} at {}, and --confirm wants one",
                self.options.side.url().unwrap_or_default()
            )),
            _ => None,
        };
        let standing = Standing {
            confirms: status.way != Way::Off,
            reads: status.way.reads(),
            holds: status.belief != Belief::Yes || doubt.is_some() || !self.finding.is_settled(&self.options),
            doubt: doubt.clone(),
        };
        self.shared.stand(standing);
        self.shared.show(Status {
            mode: match status.way {
                Way::Off => "off",
                Way::Witness => "witness",
                Way::Sample => "sample",
                Way::All => "all",
            },
            query: self.options.side.url().filter(|_| status.way.reads()).map(str::to_owned),
            doubt,
            looks: status.looks,
            resent: status.resent,
            unknown: status.unknown,
        });
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let doubts = matches!(self.confirm.status().belief, Belief::No(_));
        self.resolve_again(doubts, ctx);
        self.say_resent();
        self.event(Event::Tick, ctx);
    }

    // === What the core says ===

    fn ask(&mut self, groups: usize, ctx: &mut Context<Self>) {
        let (spool, epoch) = (self.spool.clone(), self.epoch);
        let after = if self.draining { Duration::ZERO } else { self.options.delay };
        let given = async move { spool.looks(AskLooks { groups, after }).await };
        ctx.spawn(given.into_actor(self).map(move |given, confirmer, ctx| {
            if confirmer.epoch != epoch {
                return;
            }
            let event = match given {
                Ok(looks) => {
                    let mut groups = Vec::with_capacity(looks.groups.len());
                    for (given, chunks) in looks.groups {
                        let in_hand = InHand { chunks, ..InHand::default() };
                        confirmer.groups.entry(given.id).or_insert(in_hand);
                        groups.push(given);
                    }
                    Event::Given { groups, left: looks.left, next_in: looks.next_in }
                }
                Err(_) => Event::NotGiven,
            };
            confirmer.event(event, ctx);
        }));
    }

    fn look(&mut self, group: GroupId, what: What, ctx: &mut Context<Self>) {
        let query = self.query();
        let Some((query, in_hand)) = query.zip(self.groups.get(&group)) else {
            // Its slot must be free again, whatever the reason.
            ctx.run_later(Duration::ZERO, move |confirmer, ctx| {
                confirmer.event(Event::Looked { group, seen: Seen::NotLoaded }, ctx);
            });
            return;
        };
        let epoch = self.epoch;
        let (spool, chunks) = (self.spool.clone(), in_hand.chunks.clone());
        let absent = (what == What::Absent).then(|| (in_hand.tenant.clone(), vec![in_hand.absent.clone()]));
        let control = self.control.clone();
        let looked = async move {
            let loaded = match absent {
                Some(absent) => Some(absent),
                None => load(&spool, chunks).await,
            };
            let Some((tenant, rows)) = loaded else { return (Seen::NotLoaded, Of::default(), None) };
            let (seen, absent, there) = look_for(&query, &tenant, &rows, what, control).await;
            let there = there.map(|rows| Of { tenant: tenant.clone(), rows });
            (seen, Of { tenant, rows: absent }, there)
        };
        ctx.spawn(looked.into_actor(self).map(move |(seen, absent, control), confirmer, ctx| {
            faults::point("confirmer.looked");
            if confirmer.epoch != epoch {
                return;
            }
            if let Some(in_hand) = confirmer.groups.get_mut(&group) {
                (in_hand.tenant, in_hand.absent) = (absent.tenant, absent.rows);
            }
            if control.is_some() {
                confirmer.control = control;
                confirmer.finding.proves();
            }
            confirmer.event(Event::Looked { group, seen }, ctx);
        }));
    }

    fn settle(&mut self, group: GroupId, outcome: Outcome, ctx: &mut Context<Self>) {
        let in_hand = self.groups.entry(group).or_default();
        in_hand.settling = true;
        let confirmed = match outcome {
            Outcome::Stored | Outcome::Unknown => Confirmed::Stored,
            Outcome::StoredButAbsent => Confirmed::StoredBut(in_hand.absent.clone()),
            Outcome::Again => Confirmed::Again,
        };
        let spool = self.spool.clone();
        let settled = async move { spool.confirm(group, confirmed).await };
        ctx.spawn(settled.into_actor(self).map(move |settled, confirmer, ctx| {
            faults::point("confirmer.settled");
            match settled {
                // The file is another one: what was acknowledged waits again there.
                Ok(()) | Err(SpoolError::Replaced) => {
                    confirmer.groups.remove(&group);
                    confirmer.event(Event::Settled { group }, ctx);
                }
                Err(_) => confirmer.event(Event::NotSettled { group }, ctx),
            }
        }));
    }

    fn take_stock(&mut self, ctx: &mut Context<Self>) {
        self.epoch = self.epoch.saturating_add(1);
        self.groups.retain(|_, in_hand| in_hand.settling);
        let spool = self.spool.clone();
        let taken = async move { spool.take_stock().await };
        ctx.spawn(taken.into_actor(self).map(|_, confirmer, ctx| confirmer.event(Event::Poke, ctx)));
    }

    fn give_back(&mut self, ctx: &mut Context<Self>) {
        self.epoch = self.epoch.saturating_add(1);
        self.groups.retain(|_, in_hand| in_hand.settling);
        let spool = self.spool.clone();
        let given_back = async move {
            loop {
                match spool.give_back().await {
                    Ok(rows) => return rows,
                    Err(SpoolError::Replaced | SpoolError::Closed) => return 0,
                    Err(_) => tokio::time::sleep(TICK).await,
                }
            }
        };
        ctx.spawn(given_back.into_actor(self).map(|rows, confirmer, ctx| {
            confirmer.event(Event::GaveBack { rows }, ctx);
        }));
    }

    fn say(&mut self, notice: Notice) {
        let log = &self.log;
        match notice {
            Notice::Doubted { cause } => {
                warn!(log, "what Blueflood acknowledged cannot be confirmed, its store may be away: metrics are kept, and \
                            sent when it can"; "cause" => cause);
            }
            Notice::Believed { after, failures } => {
                info!(log, "what Blueflood takes can be confirmed again";
                    "after_s" => after.as_secs(), "failed_tries" => failures);
            }
            Notice::Resent { rows } => {
                self.resent = self.resent.saturating_add(rows);
                self.say_resent();
            }
            Notice::Unknown { rows, cause } => {
                warn!(log, "these datapoints cannot be read back though others can: they count as delivered";
                    "datapoints" => rows, "cause" => cause);
            }
        }
    }

    fn say_resent(&mut self) {
        let is_time = self.draining || self.said_resent.is_none_or(|at| at.elapsed() >= SAY_RESENT_EVERY);
        if self.resent > 0 && is_time {
            let rows = std::mem::take(&mut self.resent);
            warn!(self.log, "datapoints that Blueflood acknowledged could not be confirmed: they are sent again";
                "datapoints" => rows);
            self.said_resent = Some(Instant::now());
        }
    }

    fn await_poke(&mut self, ctx: &mut Context<Self>) {
        let shared = self.shared.clone();
        let poked = async move { shared.poked().await };
        ctx.spawn(poked.into_actor(self).map(|(), confirmer, ctx| {
            confirmer.await_poke(ctx);
            confirmer.event(Event::Poke, ctx);
        }));
    }
}

impl Actor for Confirmer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // What an incarnation before this one had in hand is handed out again.
        self.take_stock(ctx);
        self.resolve(ctx);
        self.await_poke(ctx);
        ctx.run_interval(TICK, Self::tick);
    }
}

supervised!(Confirmer);

impl Handler<Configure> for Confirmer {
    type Result = ();

    fn handle(&mut self, Configure(options): Configure, ctx: &mut Self::Context) {
        if self.options.side != options.side {
            self.finding.forget();
            self.control = None;
        }
        self.options = options;
        self.query = None;
        self.resolve(ctx);
        self.show();
    }
}

impl Handler<Drain> for Confirmer {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Drain(time): Drain, ctx: &mut Self::Context) -> Self::Result {
        let (tell, drained) = oneshot::channel();
        self.waiting.push(tell);
        self.draining = true;
        self.say_resent();
        self.event(Event::Drain, ctx);
        Box::pin(async move { drop(tokio::time::timeout(time, drained).await) }.into_actor(self))
    }
}
