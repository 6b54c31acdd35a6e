//! Owns the retry buffer's brain: which chunks make a payload, when it is sent, and what its answer leads to.
//! It never holds a row, and does nothing by itself: [`Outbox::apply`] turns an event into actions.
//!
//! - What waits is a window onto the spool, so that memory does not grow with an outage.
//! - A *parcel* is a payload that was composed and is not settled: in flight, being settled, or set aside until
//!   it may be tried again. Its chunks stay together until it is halved.
//! - One gate stands before the endpoint. A failure closes it; after a wait one parcel at a time probes it; the
//!   first answer opens it, and concurrency climbs again from one.
//! - A parcel that fails *while others pass* is no outage: it waits by itself, and after a few tries it is
//!   halved until the rows that alone cause it are found.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use super::{
    backoff::Backoff,
    blueflood::{RowError, Verdict},
    payload::punctuation_bytes,
};

/// Time since some fixed moment of this process, on a clock that never jumps.
pub type Now = Duration;

/// A chunk's number in the spool; a later chunk has a larger one.
pub type ChunkId = i64;

/// A parcel's number, of this process only.
pub type ParcelId = u64;

/// What is known of a chunk without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Its number.
    pub id: ChunkId,
    /// Rows in it.
    pub rows: u32,
    /// Bytes of its rows before compression.
    pub raw_bytes: u32,
}

/// What bounds the outbox.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest payload, in bytes before compression.
    pub payload_bytes_max: usize,
    /// The most rows in a payload.
    pub payload_rows_max: u32,
    /// The most payloads in flight.
    pub in_flight_max: u32,
    /// How long the gate, and a parcel set aside, wait.
    pub backoff: Backoff,
    /// Whether new chunks go before old ones.
    pub newest_first: bool,
    /// Whether there are credentials, so that a 401 can be mended by a new token.
    pub authenticates: bool,
}

/// Chunks that the window holds at most.
const WINDOW_MAX: usize = 512;

/// The window is filled again when fewer chunks are in it.
const WINDOW_LOW: usize = 256;

/// Parcels set aside, at most, before probes are made with those alone.
const ASIDE_MAX: usize = 64;

/// The wait after an answer that only a human can mend.
const MISCONFIGURED_WAIT: Duration = Duration::from_secs(60);

/// How often a 202 is answered by sending again, before the rows count as delivered.
const UNCONFIRMED_TRIES: u32 = 3;

/// Failures of one parcel while others pass, after which it is halved.
const SUSPICION_MAX: u32 = 4;

/// The same where the body's size may be the cause.
const SUSPICION_SIZE_MAX: u32 = 2;

/// The same for a single row, after which it counts as refused.
const SUSPICION_ROW_MAX: u32 = 8;

/// A learned limit is never below this, in bytes.
const LEARNED_BYTES_MIN: usize = 1_024;

/// A limit learned from a time-out, which a slow Blueflood may have caused, is never below this, in bytes.
const LEARNED_BY_TIMEOUT_BYTES_MIN: usize = 65_536;

/// Latency that is this many times the usual one, and over [`LATENCY_HIGH_MIN`], lowers concurrency.
const LATENCY_HIGH: u32 = 4;

/// See [`LATENCY_HIGH`].
const LATENCY_HIGH_MIN: Duration = Duration::from_secs(2);

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The spool has a new chunk.
    Appended(Meta),
    /// The send interval is over: all that is here is due.
    Flush,
    /// What [`Action::Refill`] asked for; `end` if the spool holds no more in that direction.
    Refilled {
        /// The chunks, in the order of the catch-up.
        metas: Vec<Meta>,
        /// Whether there is none beyond them.
        end: bool,
    },
    /// A POST came to an end.
    Answered {
        /// Which.
        parcel: ParcelId,
        /// What it came to.
        verdict: Verdict,
        /// From its start.
        took: Duration,
    },
    /// The spool has carried out [`Action::Settle`]; these chunks are new, made of rows that need another try.
    Settled {
        /// Which.
        parcel: ParcelId,
        /// To be sent by themselves.
        requeued: Vec<Meta>,
    },
    /// The spool could not carry out [`Action::Settle`], or load the chunks: try again later.
    SpoolFailed {
        /// Which.
        parcel: ParcelId,
    },
    /// The spool has none of these chunks any more: it dropped them by its policy.
    Gone {
        /// Which.
        parcel: ParcelId,
    },
    /// The spool's newest chunk, whoever put it there: a replay of dead letters does it without us.
    Seen(ChunkId),
    /// The daemon stops: all that is here is due.
    Drain,
    /// What kept payloads from leaving is gone, as where Keystone gives tokens again: nothing need wait for its time.
    Mended,
    /// Time has passed.
    Tick,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// POST these chunks as one payload.
    Send {
        /// To be named in the answer.
        parcel: ParcelId,
        /// In this order.
        chunks: Vec<ChunkId>,
        /// With a token newer than the one that was just refused.
        renew_token: bool,
    },
    /// Let the spool settle these chunks.
    Settle {
        /// To be named when it is done.
        parcel: ParcelId,
        /// Which.
        chunks: Vec<ChunkId>,
        /// How.
        fate: Fate,
    },
    /// Ask the spool for more chunks, beyond `from` in the order of the catch-up.
    Refill {
        /// `None`: from the start.
        from: Option<ChunkId>,
        /// At most so many.
        max: usize,
    },
    /// Worth a line in the log.
    Say(Notice),
}

/// Where the rows of a parcel go.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// All are stored; `unconfirmed` if Blueflood only ever answered 202.
    Delivered {
        /// See there.
        unconfirmed: bool,
    },
    /// All are stored but those.
    DeliveredExcept(Vec<RowError>),
    /// Those are refused; the others need another try.
    RefusedNamed(Vec<RowError>),
    /// All are refused for one reason.
    RefusedAll {
        /// The `reason` under which they are counted.
        reason: &'static str,
        /// Blueflood's words.
        message: String,
    },
    /// The rows of the one chunk need another try in two halves.
    Halved,
}

/// A change worth telling an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The gate closed.
    Closed {
        /// What was seen.
        cause: String,
        /// Until the first probe.
        wait: Duration,
    },
    /// The gate opened again.
    Opened {
        /// How long it was closed.
        after: Duration,
        /// How many tries failed.
        failures: u32,
    },
    /// Nothing will pass until somebody changes a setting.
    Misconfigured(String),
    /// A parcel fails while others pass, and is halved to find the rows that cause it.
    Halving {
        /// Rows in it.
        rows: u64,
        /// What was seen last.
        cause: String,
    },
    /// Payloads are smaller from now on.
    LimitLearned {
        /// Bytes before compression.
        payload_bytes_max: usize,
    },
}

/// What the outbox looks like from outside.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// Payloads in flight now.
    pub in_flight: usize,
    /// Payloads that may be in flight now.
    pub concurrency: u32,
    /// Payloads that wait by themselves for another try.
    pub set_aside: usize,
    /// POSTs that were a second or later try.
    pub retries: u64,
    /// Until when the gate is closed, and why.
    pub closed: Option<(Now, String)>,
    /// What only a human can mend.
    pub misconfigured: Option<String>,
    /// The largest payload now, in bytes before compression.
    pub payload_bytes_max: usize,
}

#[derive(Debug, Clone, Default)]
struct Parcel {
    chunks: Vec<Meta>,
    /// Failures since it last passed: its own backoff.
    tries: u32,
    /// Failures while others passed.
    suspicion: u32,
    /// [`Outbox::passes`] when it was first sent or last failed.
    baseline: u64,
    sent_at: Now,
    not_before: Now,
    /// How often it was answered with 202.
    unconfirmed: u32,
    /// Whether this try already asked for a new token.
    renewed: bool,
    cause: String,
}

impl Parcel {
    fn rows(&self) -> u64 {
        self.chunks.iter().map(|meta| u64::from(meta.rows)).sum()
    }

    fn raw_bytes(&self) -> usize {
        let rows: usize = self.chunks.iter().map(|meta| meta.raw_bytes as usize).sum();
        rows.saturating_add(punctuation_bytes(self.chunks.len()))
    }

    fn ids(&self) -> Vec<ChunkId> {
        self.chunks.iter().map(|meta| meta.id).collect()
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Gate {
    Open,
    Closed { since: Now, at: Now, until: Now, failures: u32, cause: String },
}

/// The retry buffer's brain. See the module.
#[derive(Debug)]
pub struct Outbox {
    limits: Limits,
    payload_bytes_max: usize,

    window: BTreeMap<ChunkId, Meta>,
    /// The spool holds chunks beyond the window.
    more: bool,
    /// The last chunk that was ever in the window, in the order of the catch-up.
    cursor: Option<ChunkId>,
    refilling: bool,
    /// The window's edge moved while a refill was under way, so its answer may be short of a chunk.
    refill_stale: bool,
    /// Chunks up to this one leave even in a payload that is not full.
    due_up_to: ChunkId,
    newest: ChunkId,
    /// A newer chunk that we were not told of.
    unknown: Option<ChunkId>,

    in_flight: BTreeMap<ParcelId, Parcel>,
    settling: BTreeMap<ParcelId, Parcel>,
    aside: BTreeMap<ParcelId, Parcel>,
    next_parcel: ParcelId,

    gate: Gate,
    concurrency: f64,
    usual_latency: Option<Duration>,
    /// Answers so far that show that Blueflood takes payloads.
    passes: u64,
    retries: u64,
    misconfigured: Option<String>,
    draining: bool,
}

impl Outbox {
    /// An outbox for a spool whose newest chunk is `newest`, if it has any. What is in the spool is due at once.
    pub fn new(limits: Limits, newest: Option<ChunkId>) -> Self {
        Self {
            limits,
            payload_bytes_max: limits.payload_bytes_max,
            window: BTreeMap::new(),
            more: newest.is_some(),
            cursor: None,
            refilling: false,
            refill_stale: false,
            due_up_to: newest.unwrap_or(0),
            newest: newest.unwrap_or(0),
            unknown: None,
            in_flight: BTreeMap::new(),
            settling: BTreeMap::new(),
            aside: BTreeMap::new(),
            next_parcel: 0,
            gate: Gate::Open,
            concurrency: 1.0,
            usual_latency: None,
            passes: 0,
            retries: 0,
            misconfigured: None,
            draining: false,
        }
    }

    /// Takes an event, and says what is to be done. `random` is in `0.0..1.0`.
    pub fn apply(&mut self, event: Event, now: Now, random: f64) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Appended(meta) => self.appended(meta),
            Event::Flush => self.due_up_to = self.newest,
            Event::Refilled { metas, end } => self.refilled(metas, end),
            Event::Answered { parcel, verdict, took } => {
                if let Some(parcel_) = self.in_flight.remove(&parcel) {
                    self.answered(parcel, parcel_, verdict, took, now, random, &mut actions);
                }
            }
            Event::Settled { parcel, requeued } => {
                if let Some(parent) = self.settling.remove(&parcel) {
                    self.requeue(&parent, requeued.into_iter().map(|meta| vec![meta]), now);
                }
            }
            Event::SpoolFailed { parcel } => {
                // From flight: nothing was sent. From settling: Blueflood has it, and taking it twice is harmless.
                let failed = self.in_flight.remove(&parcel).or_else(|| self.settling.remove(&parcel));
                if let Some(mut failed) = failed {
                    failed.not_before = now.saturating_add(self.limits.backoff.wait(1, 1.0));
                    self.aside.insert(parcel, failed);
                }
            }
            Event::Gone { parcel } => {
                self.in_flight.remove(&parcel);
            }
            Event::Seen(newest) => self.seen(newest),
            Event::Drain => self.draining = true,
            Event::Mended => self.mended(now),
            Event::Tick => {}
        }
        if self.draining {
            self.due_up_to = ChunkId::MAX;
        }
        self.send_what_may_leave(now, &mut actions);
        self.refill(&mut actions);
        actions
    }

    /// When time alone lets something be done, later than `now`; `None`: nothing before another event.
    pub fn next_wake(&self, now: Now) -> Option<Now> {
        let gate = match &self.gate {
            Gate::Open => None,
            Gate::Closed { until, .. } => Some(*until),
        };
        let aside = self.aside.values().map(|parcel| parcel.not_before);
        aside.chain(gate).filter(|&at| at > now).min()
    }

    /// Whether every chunk is settled.
    pub fn is_empty(&self) -> bool {
        self.window.is_empty()
            && !self.more
            && self.in_flight.is_empty()
            && self.settling.is_empty()
            && self.aside.is_empty()
    }

    /// What it looks like from outside.
    pub fn status(&self) -> Status {
        Status {
            in_flight: self.in_flight.len(),
            concurrency: u32::try_from(self.slots_when_open()).unwrap_or(u32::MAX),
            set_aside: self.aside.len(),
            retries: self.retries,
            closed: match &self.gate {
                Gate::Open => None,
                Gate::Closed { until, cause, .. } => Some((*until, cause.clone())),
            },
            misconfigured: self.misconfigured.clone(),
            payload_bytes_max: self.payload_bytes_max,
        }
    }

    // === The window onto the spool ===

    fn appended(&mut self, meta: Meta) {
        self.newest = self.newest.max(meta.id);
        if self.limits.newest_first {
            self.window.insert(meta.id, meta);
            if self.window.len() > WINDOW_MAX {
                self.window.pop_first();
                self.more = true;
                self.cursor = self.window.first_key_value().map(|(&id, _)| id);
                self.refill_stale = self.refilling;
            } else if self.cursor.is_none() {
                self.cursor = Some(meta.id);
            }
        } else if self.more || self.window.len() >= WINDOW_MAX {
            self.more = true;
            self.refill_stale = self.refilling;
        } else {
            self.window.insert(meta.id, meta);
            self.cursor = Some(meta.id);
        }
    }

    fn seen(&mut self, newest: ChunkId) {
        // Once is no news: our own chunk may be seen there before we are told of it.
        if newest > self.newest && self.unknown.replace(newest) == Some(newest) {
            self.newest = newest;
            self.due_up_to = newest;
            self.more = true;
            self.refill_stale = self.refilling;
            if self.limits.newest_first {
                self.window.clear();
                self.cursor = None;
            }
        }
    }

    fn refill(&mut self, actions: &mut Vec<Action>) {
        if self.more && !self.refilling && self.window.len() < WINDOW_LOW {
            self.refilling = true;
            self.refill_stale = false;
            actions.push(Action::Refill { from: self.cursor, max: WINDOW_MAX - WINDOW_LOW });
        }
    }

    fn refilled(&mut self, metas: Vec<Meta>, end: bool) {
        self.refilling = false;
        if self.refill_stale && self.limits.newest_first {
            return; // chunks between the new edge and the old one would be passed over: ask again
        }
        self.more = !end || self.refill_stale;
        let held: HashSet<ChunkId> = self.parcels().flat_map(|parcel| parcel.ids()).collect();
        for meta in metas {
            self.cursor = Some(meta.id);
            if !held.contains(&meta.id) {
                self.window.insert(meta.id, meta);
            }
        }
    }

    fn parcels(&self) -> impl Iterator<Item = &Parcel> {
        self.in_flight.values().chain(self.settling.values()).chain(self.aside.values())
    }

    // === Sending ===

    fn slots_when_open(&self) -> usize {
        // Between 1 and `in_flight_max`, a u32.
        self.concurrency as usize
    }

    fn slots(&self, now: Now) -> usize {
        match &self.gate {
            Gate::Open => self.slots_when_open(),
            Gate::Closed { until, .. } if *until <= now => 1,
            Gate::Closed { .. } => 0,
        }
    }

    fn send_what_may_leave(&mut self, now: Now, actions: &mut Vec<Action>) {
        while self.in_flight.len() < self.slots(now) {
            // While the gate is closed every other probe is made with a new parcel: those set aside may be the
            // ones that never pass.
            let fresh_first = match &self.gate {
                Gate::Open => false,
                Gate::Closed { failures, .. } => failures % 2 == 1 && self.aside.len() < ASIDE_MAX,
            };
            let next = if fresh_first {
                self.compose().or_else(|| self.take_aside(now))
            } else {
                self.take_aside(now).or_else(|| self.compose_within_bounds())
            };
            let Some((id, mut parcel)) = next else { break };
            if parcel.tries > 0 || parcel.unconfirmed > 0 {
                self.retries = self.retries.saturating_add(1);
            } else {
                parcel.baseline = self.passes;
            }
            parcel.sent_at = now;
            parcel.renewed = false;
            actions.push(Action::Send { parcel: id, chunks: parcel.ids(), renew_token: false });
            self.in_flight.insert(id, parcel);
        }
    }

    /// The parcel set aside that may be tried again for the longest time.
    fn take_aside(&mut self, now: Now) -> Option<(ParcelId, Parcel)> {
        let (&id, _) = self
            .aside
            .iter()
            .filter(|(_, parcel)| parcel.not_before <= now)
            .min_by_key(|(_, parcel)| parcel.not_before)?;
        self.aside.remove_entry(&id)
    }

    fn compose_within_bounds(&mut self) -> Option<(ParcelId, Parcel)> {
        if self.aside.len() < ASIDE_MAX { self.compose() } else { None }
    }

    /// The next payload from the window, if it is full or due.
    fn compose(&mut self) -> Option<(ParcelId, Parcel)> {
        let mut chunks: Vec<Meta> = Vec::new();
        let mut rows: u32 = 0;
        let mut bytes = punctuation_bytes(0);
        let mut full = false;
        let mut take = |meta: &Meta| {
            let rows_with = rows.saturating_add(meta.rows);
            let bytes_with = bytes.saturating_add(meta.raw_bytes as usize).saturating_add(1);
            let fits = rows_with <= self.limits.payload_rows_max
                && bytes_with <= self.payload_bytes_max.saturating_add(1);
            if chunks.is_empty() || fits {
                (rows, bytes) = (rows_with, bytes_with);
                chunks.push(*meta);
            }
            full = !fits || rows_with == self.limits.payload_rows_max;
            !full
        };
        if self.limits.newest_first {
            let _ = self.window.values().rev().all(&mut take);
        } else {
            let _ = self.window.values().all(&mut take);
        }
        let due = chunks.iter().any(|meta| meta.id <= self.due_up_to);
        if chunks.is_empty() || !(full || due) {
            return None;
        }
        for meta in &chunks {
            self.window.remove(&meta.id);
        }
        Some((self.new_id(), Parcel { chunks, ..Parcel::default() }))
    }

    fn new_id(&mut self) -> ParcelId {
        self.next_parcel = self.next_parcel.saturating_add(1);
        self.next_parcel
    }

    // === Answers ===

    #[expect(clippy::too_many_arguments, reason = "the parts of one event, taken apart once")]
    fn answered(
        &mut self,
        id: ParcelId,
        mut parcel: Parcel,
        verdict: Verdict,
        took: Duration,
        now: Now,
        random: f64,
        actions: &mut Vec<Action>,
    ) {
        match verdict {
            Verdict::Stored => {
                self.passed(took, now, actions);
                self.settle(id, parcel, Fate::Delivered { unconfirmed: false }, actions);
            }
            Verdict::Unconfirmed => {
                self.passed(took, now, actions);
                self.slow_down();
                parcel.unconfirmed = parcel.unconfirmed.saturating_add(1);
                if parcel.unconfirmed > UNCONFIRMED_TRIES {
                    self.settle(id, parcel, Fate::Delivered { unconfirmed: true }, actions);
                } else {
                    let wait = self.limits.backoff.wait(parcel.unconfirmed, random);
                    parcel.not_before = now.saturating_add(wait);
                    self.aside.insert(id, parcel);
                }
            }
            Verdict::StoredExcept(errors) => {
                self.passed(took, now, actions);
                self.settle(id, parcel, Fate::DeliveredExcept(errors), actions);
            }
            Verdict::StoredExceptUnknown => {
                self.passed(took, now, actions);
                let message = "HTTP 207 whose list of refused rows could not be read".to_owned();
                self.settle(id, parcel, Fate::RefusedAll { reason: "unattributed", message }, actions);
            }
            Verdict::Refused(errors) => {
                self.passed(took, now, actions);
                self.settle(id, parcel, Fate::RefusedNamed(errors), actions);
            }
            Verdict::RefusedWhole(message) => {
                self.passed(took, now, actions);
                parcel.cause = message;
                self.halve_or_refuse(id, parcel, "unnamed", now, actions);
            }
            Verdict::TooLarge => {
                self.passed(took, now, actions);
                self.learn_limit(parcel.raw_bytes() / 2, LEARNED_BYTES_MIN, actions);
                parcel.cause = "too large for Blueflood or something before it".to_owned();
                self.halve_or_refuse(id, parcel, "too_large", now, actions);
            }
            Verdict::Unauthorized if self.limits.authenticates && !parcel.renewed => {
                parcel.renewed = true;
                actions.push(Action::Send { parcel: id, chunks: parcel.ids(), renew_token: true });
                self.in_flight.insert(id, parcel);
            }
            Verdict::Unauthorized if self.limits.authenticates => {
                self.failed(id, parcel, "HTTP 401 with a new token".to_owned(), None, now, random, actions);
            }
            Verdict::Unauthorized => {
                let text = "HTTP 401: Blueflood wants a token, and no --user is set".to_owned();
                self.stopped(id, parcel, text, now, actions);
            }
            Verdict::Misconfigured(text) | Verdict::Unexpected(text) => {
                self.stopped(id, parcel, text, now, actions);
            }
            Verdict::Unavailable { cause, retry_after } => {
                self.failed(id, parcel, cause, retry_after, now, random, actions);
            }
            Verdict::NoAnswer { cause, may_be_size } => {
                if self.others_passed(&parcel) && may_be_size {
                    self.failed_by_size(id, parcel, cause, now, random, actions);
                } else {
                    self.failed(id, parcel, cause, None, now, random, actions);
                }
            }
        }
    }

    fn settle(&mut self, id: ParcelId, parcel: Parcel, fate: Fate, actions: &mut Vec<Action>) {
        actions.push(Action::Settle { parcel: id, chunks: parcel.ids(), fate });
        self.settling.insert(id, parcel);
    }

    /// Blueflood took or judged a payload: it is there.
    fn passed(&mut self, took: Duration, now: Now, actions: &mut Vec<Action>) {
        self.passes = self.passes.saturating_add(1);
        self.misconfigured = None;
        if let Gate::Closed { since, failures, .. } = std::mem::replace(&mut self.gate, Gate::Open) {
            actions.push(Action::Say(Notice::Opened { after: now.saturating_sub(since), failures }));
            self.wait_no_longer(now);
        }
        let usual = self.usual_latency.unwrap_or(took);
        if took > LATENCY_HIGH_MIN.max(usual.saturating_mul(LATENCY_HIGH)) {
            self.slow_down();
        } else {
            let max = f64::from(self.limits.in_flight_max.max(1));
            self.concurrency = (self.concurrency + 1.0 / self.concurrency).min(max);
        }
        self.usual_latency = Some((usual * 9 + took) / 10);
    }

    /// The gate stays closed until a probe has passed it, but that may be made now.
    fn mended(&mut self, now: Now) {
        if let Gate::Closed { until, .. } = &mut self.gate {
            *until = now.min(*until);
            self.wait_no_longer(now);
        }
    }

    /// What only waited for the gate is due.
    fn wait_no_longer(&mut self, now: Now) {
        for parcel in
            self.aside.values_mut().filter(|parcel| parcel.suspicion == 0 && parcel.unconfirmed == 0)
        {
            parcel.not_before = parcel.not_before.min(now);
        }
    }

    fn slow_down(&mut self) {
        self.concurrency = (self.concurrency / 2.0).max(1.0);
    }

    fn others_passed(&self, parcel: &Parcel) -> bool {
        self.passes > parcel.baseline
    }

    /// A failure that passes by itself, or so it seems.
    #[expect(clippy::too_many_arguments, reason = "the parts of one event, taken apart once")]
    fn failed(
        &mut self,
        id: ParcelId,
        mut parcel: Parcel,
        cause: String,
        retry_after: Option<Duration>,
        now: Now,
        random: f64,
        actions: &mut Vec<Action>,
    ) {
        // A first failure says more of Blueflood than of the parcel, whoever passed before it.
        if parcel.tries > 0 && self.others_passed(&parcel) && retry_after.is_none() {
            parcel.suspicion = parcel.suspicion.saturating_add(1);
            let suspicion_max = if parcel.rows() == 1 { SUSPICION_ROW_MAX } else { SUSPICION_MAX };
            if parcel.suspicion >= suspicion_max {
                parcel.cause = cause;
                self.halve_or_refuse(id, parcel, "always_fails", now, actions);
                return;
            }
        } else {
            self.slow_down();
            self.close(&parcel, &cause, retry_after, now, random, actions);
        }
        self.set_aside(id, parcel, cause, retry_after, now, random);
    }

    fn failed_by_size(
        &mut self,
        id: ParcelId,
        mut parcel: Parcel,
        cause: String,
        now: Now,
        random: f64,
        actions: &mut Vec<Action>,
    ) {
        parcel.suspicion = parcel.suspicion.saturating_add(1);
        if parcel.suspicion >= SUSPICION_SIZE_MAX && parcel.rows() > 1 {
            self.learn_limit(parcel.raw_bytes() / 2, LEARNED_BY_TIMEOUT_BYTES_MIN, actions);
            parcel.cause = cause;
            self.halve_or_refuse(id, parcel, "always_fails", now, actions);
        } else if parcel.suspicion >= SUSPICION_ROW_MAX {
            parcel.cause = cause;
            self.halve_or_refuse(id, parcel, "always_fails", now, actions);
        } else {
            self.set_aside(id, parcel, cause, None, now, random);
        }
    }

    /// A failure that only a human can mend: all is kept, and tried now and then.
    fn stopped(&mut self, id: ParcelId, parcel: Parcel, text: String, now: Now, actions: &mut Vec<Action>) {
        if self.misconfigured.as_ref() != Some(&text) {
            actions.push(Action::Say(Notice::Misconfigured(text.clone())));
            self.misconfigured = Some(text.clone());
        }
        // As a closed gate, but without a line of its own: the one above is louder.
        let mut unsaid = Vec::new();
        self.close(&parcel, &text, Some(MISCONFIGURED_WAIT), now, 1.0, &mut unsaid);
        self.set_aside(id, parcel, text, Some(MISCONFIGURED_WAIT), now, 1.0);
    }

    fn set_aside(
        &mut self,
        id: ParcelId,
        mut parcel: Parcel,
        cause: String,
        at_least: Option<Duration>,
        now: Now,
        random: f64,
    ) {
        parcel.tries = parcel.tries.saturating_add(1);
        parcel.baseline = self.passes;
        parcel.cause = cause;
        let wait = self.limits.backoff.wait(parcel.tries, random).max(at_least.unwrap_or_default());
        parcel.not_before = now.saturating_add(wait);
        self.aside.insert(id, parcel);
    }

    fn close(
        &mut self,
        parcel: &Parcel,
        cause: &str,
        retry_after: Option<Duration>,
        now: Now,
        random: f64,
        actions: &mut Vec<Action>,
    ) {
        let (since, failures) = match &self.gate {
            Gate::Open => (now, 1),
            // Several in flight that fail together are one failure.
            Gate::Closed { at, .. } if parcel.sent_at < *at => return,
            Gate::Closed { since, failures, .. } => (*since, failures.saturating_add(1)),
        };
        let wait = self.limits.backoff.wait(failures, random).max(retry_after.unwrap_or_default());
        if failures == 1 {
            actions.push(Action::Say(Notice::Closed { cause: cause.to_owned(), wait }));
        }
        let until = now.saturating_add(wait);
        self.gate = Gate::Closed { since, at: now, until, failures, cause: cause.to_owned() };
    }

    fn learn_limit(&mut self, bytes: usize, min: usize, actions: &mut Vec<Action>) {
        let learned = bytes.max(min);
        if learned < self.payload_bytes_max {
            self.payload_bytes_max = learned;
            actions.push(Action::Say(Notice::LimitLearned { payload_bytes_max: learned }));
        }
    }

    /// Halves a parcel, or refuses the one row in it.
    fn halve_or_refuse(
        &mut self,
        id: ParcelId,
        mut parcel: Parcel,
        reason: &'static str,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let rows = parcel.rows();
        if rows <= 1 {
            let message = std::mem::take(&mut parcel.cause);
            self.settle(id, parcel, Fate::RefusedAll { reason, message }, actions);
            return;
        }
        actions.push(Action::Say(Notice::Halving { rows, cause: parcel.cause.clone() }));
        if parcel.chunks.len() == 1 {
            self.settle(id, parcel, Fate::Halved, actions);
            return;
        }
        let chunks = std::mem::take(&mut parcel.chunks);
        let (left, right) = chunks.split_at(chunks.len() / 2);
        self.requeue(&parcel, [left.to_vec(), right.to_vec()], now);
    }

    /// Sets the pieces of a parcel aside, each by itself, to be sent at once. What was suspected of the whole is
    /// suspected of each piece, so that it is found in one try a halving.
    fn requeue(&mut self, parent: &Parcel, pieces: impl IntoIterator<Item = Vec<Meta>>, now: Now) {
        for chunks in pieces {
            let id = self.new_id();
            let piece = Parcel {
                chunks,
                suspicion: parent.suspicion.saturating_sub(1),
                baseline: self.passes,
                not_before: now,
                ..Parcel::default()
            };
            self.newest = piece.chunks.iter().map(|meta| meta.id).fold(self.newest, ChunkId::max);
            self.aside.insert(id, piece);
        }
    }
}

#[cfg(test)]
mod tests;
