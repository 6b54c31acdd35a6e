//! Owns looking: it reads back what Blueflood acknowledged, and tells the forwarder whether Blueflood can be believed. It
//! never decides what a look leads to: that is [`Confirm`]. It never holds up a POST of metrics, and teaches nobody a limit:
//! its requests have connections and time-outs of their own.
//!
//! It finds out by itself whether there is anything to look at, where it is not told.

mod looking;
pub mod query;
mod shared;

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

pub use self::shared::{Shared, Status};
use self::{
    looking::{Of, load, look_for, now_ms, send},
    query::Query,
};
use crate::{
    core::{
        chunk::Encoding,
        confirm::{Action, Belief, Confirm, Event, GroupId, Notice, Outcome, Seen, Way, What},
        datapoint::Datapoint,
        look,
        outbox::{ChunkId, Now, Standing},
        row::{Encoder, RowSettings, Rows},
        verdict::{NO_QUERY_SIDE, NOT_CONFIRMED},
    },
    faults,
    forwarder::{Auth, post::Target},
    spool::{AskLooks, Confirmed, Spool, SpoolError},
    supervisor::{Lifeline, supervised},
};

/// How often it is told that time has passed, beside the moments that it asks for itself.
const TICK: Duration = Duration::from_secs(1);

/// How often it is asked whether there is a query side, where nobody said so.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// The same in the first minutes: where a host was started with all that runs on it, Blueflood takes longer than we do.
const ASK_EVERY_FIRST: Duration = Duration::from_secs(5);

/// One that was seen to be of another Blueflood is tried again after so long.
const ASK_ANOTHER_EVERY: Duration = Duration::from_secs(600);

/// Witnesses that are not there, after which what never showed a row is taken for the query side of another Blueflood. One
/// whose store is away answers with an error, and one whose store came back lacks rows once.
const NOT_THERE_MAX: u32 = 3;

/// These first minutes.
const FIRST: Duration = Duration::from_secs(300);

/// How long a witness may take. In doubt the next one must not wait for long.
const WITNESS_MAX: Duration = Duration::from_secs(5);

/// The settings let no row be made of the witness.
const NO_WITNESS: &str = "no witness can be made";

/// Rows that were sent again are said at once, and then summed up for so long.
const SAY_RESENT_EVERY: Duration = Duration::from_secs(60);

/// Where Blueflood's query side is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// There is none for us.
    Off,
    /// Here, if something answers there as it does.
    Auto(String),
    /// Here.
    At(String),
}

impl Side {
    fn url(&self) -> Option<&str> {
        match self {
            Side::Off => None,
            Side::Auto(url) | Side::At(url) => Some(url),
        }
    }
}

/// The settings of looking.
#[derive(Clone)]
pub struct Options {
    /// How it is done; `None`: by samples where there is a query side, else not at all.
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

/// What became of a witness.
enum Witnessed {
    /// Blueflood did not take it, and why.
    NotTaken(String),
    /// It took it, and nobody looks.
    Taken,
    /// It took it, and it is not there.
    NotThere,
    /// It took it, and nobody can tell whether it is there.
    NotRead(String),
    /// It is there.
    There(Of),
}

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
    _line: Lifeline,
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
    /// Whether a query side was found; `None`: not asked yet.
    found: Option<bool>,
    asked_at: Option<Instant>,
    /// Whether a row was ever read back there.
    proven: bool,
    /// Witnesses in a row that Blueflood took and that were not there, though the query side answered.
    not_there: u32,
    /// When it was last seen to be the query side of another Blueflood.
    another_at: Option<Instant>,
    /// How often in a row nothing answered as a query side, while a witness was taken.
    gone: u32,
    /// Whether the last witness was taken.
    took_witness: bool,
    said_way: Option<Way>,
    resent: u64,
    said_resent: Option<Instant>,
    draining: bool,
    waiting: Vec<oneshot::Sender<()>>,
    wake: Option<SpawnHandle>,
}

impl Confirmer {
    /// A confirmer of what is in the spool.
    pub fn new(line: Lifeline, options: Options, spool: Spool, shared: Shared, log: Logger) -> Self {
        Self {
            _line: line,
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
            found: None,
            asked_at: None,
            proven: false,
            not_there: 0,
            another_at: None,
            gone: 0,
            took_witness: false,
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

    /// The query side, if there is one for us: one client, for its connections are used again.
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
            _ if self.misses_side() => Some(format!(
                "{NO_QUERY_SIDE} at {}, and --confirm wants one",
                self.options.side.url().unwrap_or_default()
            )),
            _ => None,
        };
        let standing = Standing {
            confirms: status.way != Way::Off,
            reads: status.way.reads(),
            holds: status.belief != Belief::Yes || doubt.is_some() || !self.is_settled(),
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

    // === Whether there is anything to look at ===

    /// Whether it is known how it is done.
    fn is_settled(&self) -> bool {
        self.found.is_some() || !self.has_to_ask()
    }

    fn has_to_ask(&self) -> bool {
        matches!(self.options.side, Side::Auto(_)) && self.options.way.is_none_or(Way::reads)
    }

    fn misses_side(&self) -> bool {
        self.has_to_ask() && self.options.way.is_some() && self.found == Some(false)
    }

    /// How it is done, as far as is known.
    fn way(&self) -> Way {
        let where_found = match &self.options.side {
            Side::Off => Way::Off,
            Side::At(_) => Way::Sample,
            Side::Auto(_) if self.found == Some(true) => Way::Sample,
            Side::Auto(_) => Way::Off,
        };
        self.options.way.unwrap_or(where_found)
    }

    fn resolve(&mut self, ctx: &mut Context<Self>) {
        let Some(query) = self.query().filter(|_| self.has_to_ask()) else {
            self.apply_way(ctx);
            return;
        };
        self.asked_at = Some(Instant::now());
        let side = self.options.side.clone();
        let tenant = self.options.target.tenant.clone();
        let is_there = async move { query.is_there(&tenant).await };
        ctx.spawn(is_there.into_actor(self).map(move |is_there, confirmer, ctx| {
            if confirmer.options.side != side || !confirmer.has_to_ask() {
                return;
            }
            (confirmer.another_at, confirmer.not_there) = (None, 0);
            if is_there {
                (confirmer.found, confirmer.gone) = (Some(true), 0);
            } else if confirmer.found != Some(true) {
                confirmer.found = Some(false);
            } else if confirmer.took_witness {
                // Blueflood takes what it is sent, and its query side is gone: it was taken away.
                confirmer.gone = confirmer.gone.saturating_add(1);
                if confirmer.gone > 1 {
                    (confirmer.found, confirmer.gone) = (Some(false), 0);
                }
            }
            confirmer.apply_way(ctx);
        }));
    }

    fn apply_way(&mut self, ctx: &mut Context<Self>) {
        let way = self.way();
        if self.said_way.is_none() && way == Way::Off {
            // What was acknowledged before a restart nobody looks for any more.
            self.give_back(ctx);
        }
        if self.said_way != Some(way) {
            let url = self.options.side.url().unwrap_or("none").to_owned();
            match way {
                Way::Off if matches!(self.options.side, Side::Auto(_)) && self.options.way.is_none() => {
                    info!(self.log, "what Blueflood acknowledges counts as delivered, and is not read back: nothing \
                                     answers as its query side; see --query and --confirm"; "query" => url);
                }
                Way::Off => {
                    info!(self.log, "what Blueflood acknowledges counts as delivered, and is not read back");
                }
                Way::Witness => {
                    info!(self.log, "what Blueflood acknowledges is confirmed by a witness";
                        "metric" => self.witness_name());
                }
                Way::Sample | Way::All => {
                    info!(self.log, "what Blueflood acknowledges is read back"; "query" => url,
                        "rows" => if way == Way::All { "all" } else { "a sample" });
                }
            }
            self.said_way = Some(way);
        }
        self.event(Event::Configured(way), ctx);
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let unsure = self.found != Some(true) || matches!(self.confirm.status().belief, Belief::No(_));
        let first = self.clock.elapsed() < FIRST && self.found != Some(true);
        let every = if first { ASK_EVERY_FIRST } else { ASK_EVERY };
        let is_time = match self.another_at {
            Some(at) => at.elapsed() >= ASK_ANOTHER_EVERY,
            None => self.asked_at.is_some_and(|at| at.elapsed() >= every),
        };
        if self.has_to_ask() && unsure && is_time {
            self.resolve(ctx);
        }
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
                (confirmer.control, confirmer.proven) = (control, true);
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

    /// Sends a witness, and looks for it.
    fn probe(&mut self, read: bool, ctx: &mut Context<Self>) {
        let row = self.witness(look::witness_ms(now_ms()));
        let target =
            Target { timeout: WITNESS_MAX.min(self.options.target.timeout), ..self.options.target.clone() };
        let (auth, encoding, epoch) = (self.options.auth.clone(), self.options.encoding, self.epoch);
        let query = self.query().filter(|_| read);
        let probed = async move {
            let Some(row) = row else { return Witnessed::NotTaken(NO_WITNESS.to_owned()) };
            if let Err(cause) = send(&target, auth, encoding, row.clone()).await {
                return Witnessed::NotTaken(cause);
            }
            let Some(query) = query else { return Witnessed::Taken };
            let Some(witness) = look::Row::of(&row.text) else {
                return Witnessed::NotRead(NO_WITNESS.to_owned());
            };
            match query.look(&target.tenant, &[witness], &[0], WITNESS_MAX).await {
                Ok(absent) if absent.is_empty() => {
                    Witnessed::There(Of { tenant: target.tenant.as_str().into(), rows: row })
                }
                Ok(_) => Witnessed::NotThere,
                Err(cause) => Witnessed::NotRead(cause),
            }
        };
        ctx.spawn(probed.into_actor(self).map(move |witnessed, confirmer, ctx| {
            faults::point("confirmer.probed");
            if confirmer.epoch == epoch {
                confirmer.witnessed(witnessed, ctx);
            }
        }));
    }

    fn witnessed(&mut self, witnessed: Witnessed, ctx: &mut Context<Self>) {
        self.took_witness = !matches!(witnessed, Witnessed::NotTaken(_));
        self.not_there = match &witnessed {
            Witnessed::NotThere => self.not_there.saturating_add(1),
            _ => 0,
        };
        let found_by_us = matches!(self.options.side, Side::Auto(_)) && self.options.way.is_none();
        if found_by_us && !self.proven && self.not_there >= NOT_THERE_MAX {
            warn!(self.log, "what answers as Blueflood's query side does not show what Blueflood takes: it is of another \
                             one, and not used; set --query to the right one, or off";
                "query" => self.options.side.url().unwrap_or_default());
            (self.found, self.another_at) = (Some(false), Some(Instant::now()));
            self.apply_way(ctx);
            return;
        }
        let outcome = match witnessed {
            Witnessed::Taken => Ok(()),
            Witnessed::There(row) => {
                (self.control, self.proven) = (Some(row), true);
                Ok(())
            }
            Witnessed::NotThere => Err("a datapoint of our own that it took is not there".to_owned()),
            Witnessed::NotTaken(cause) => {
                Err(format!("Blueflood does not take a datapoint of our own: {cause}"))
            }
            Witnessed::NotRead(cause) => Err(cause),
        };
        self.event(Event::Probed(outcome), ctx);
    }

    /// Two daemons that used one witness would hide the truth from each other.
    fn witness_name(&self) -> String {
        format!("{}.{}", self.options.witness, self.spool.name())
    }

    fn witness(&self, ms: i64) -> Option<Rows> {
        let settings = RowSettings { overwrite_time: false, ..self.options.rows.clone() };
        let mut rows = Rows::default();
        let name = self.witness_name();
        let datapoint = Datapoint { name: name.as_bytes(), timestamp: ms as f64 / 1000.0, value: 1.0 };
        Encoder::new(&settings).encode(&datapoint, ms, &mut rows).ok()?;
        Some(rows)
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
            (self.found, self.gone, self.control) = (None, 0, None);
            (self.proven, self.not_there, self.another_at) = (false, 0, None);
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
