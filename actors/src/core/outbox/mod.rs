//! Owns the retry buffer's brain: when a payload is sent, and what its answer leads to. It never holds a row, and does
//! nothing by itself: [`Outbox::apply`] turns an event into actions.
//!
//! - What waits is the spool's affair. With a free slot the outbox asks for a lease; what it does not need at once, it
//!   drops, and then it waits in the spool again.
//! - A *parcel* is a payload that was leased and is not settled: in flight, being settled, or set aside because its failure
//!   may be its own fault. Its chunks stay together until it is halved.
//! - The gate (`gate.rs`) stands before the endpoint: it learns from each answer how much Blueflood bears.
//! - The evidence (`evidence.rs`) against a parcel grows only with failures *while others pass*. With enough of it the parcel is
//!   halved, until the rows that alone cause it are found.
//! - A *trial* is a POST of a few rows. While nothing passes it tells a Blueflood that is away from a row that stands in
//!   every payload.
//!
//! The whole of it is told in `actors/DESIGN.md`, "The outbox", "The gate" and "Who is to blame".

mod answers;
mod evidence;
mod gate;
mod parcel;
mod trials;
mod vocabulary;

use std::{collections::BTreeMap, time::Duration};

pub use self::vocabulary::*;
use self::{
    evidence::Examination,
    gate::Gate,
    parcel::{Parcel, Root, Settling},
    trials::Trial,
};

/// Parcels set aside, at most; beyond it the least suspicious waits in the spool again.
const ASIDE_MAX: usize = 64;

/// Parcels that are being settled, at most, before no more is leased: the disk is slow or full.
const SETTLING_MAX: usize = 64;

/// A limit that was learned from silence is doubled after so long, for what caused it may be gone.
const LEARNED_FOR: Duration = Duration::from_secs(600);

/// Tries of series that are kept apart, for each payload that passes.
const APART_PER_PASS: f64 = 0.1;

/// Such tries that may be saved up.
const APART_SAVED_MAX: f64 = 5.0;

/// Nothing else has passed for so long: then such tries disturb nobody.
const QUIET: Duration = Duration::from_secs(5);

/// The pause between such tries then.
const APART_PAUSE: Duration = Duration::from_millis(100);

/// A payload limit that was learned from answers.
#[derive(Debug, Clone, Copy)]
struct Learned {
    bytes: usize,
    at: Now,
    /// Whether it was learned from silence, which may have had another cause.
    by_silence: bool,
}

/// What one call of [`Outbox::apply`] is given, and what it comes to.
struct Turn {
    now: Now,
    random: f64,
    actions: Vec<Action>,
}

/// The retry buffer's brain. See the module.
#[derive(Debug)]
pub struct Outbox {
    limits: Limits,
    learned: Option<Learned>,
    gate: Gate,

    in_flight: BTreeMap<ParcelId, Parcel>,
    trials: BTreeMap<ParcelId, Trial>,
    settling: BTreeMap<ParcelId, Settling>,
    aside: BTreeMap<ParcelId, Parcel>,
    roots: BTreeMap<ParcelId, Root>,
    last_id: ParcelId,

    /// Payloads that were asked for, in requests that are not answered.
    asked: usize,
    /// Whether asking may be worth it: nobody has said that nothing is due.
    may_be_due: bool,
    /// Somebody said that something may be due, since the spool was asked last.
    poked: bool,
    /// What the spool said last.
    waiting: Waiting,
    /// What is examined while the gate is closed.
    examination: Option<Examination>,
    /// What passed and what failed, of late.
    recent: evidence::Recent,
    /// Whether there is a row that passed before, to be tried again.
    has_control: bool,
    /// Tries of what is kept apart that may be made.
    apart_saved: f64,
    apart_at: Now,
    passed_at: Option<Now>,

    retries: u64,
    tried: u64,
    misconfigured: Option<String>,
    draining: bool,
    halted: bool,
    /// See [`Standing`].
    standing: Standing,
}

impl Outbox {
    /// An outbox that has leased nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            learned: None,
            gate: Gate::new(limits.in_flight_max, limits.backoff),
            in_flight: BTreeMap::new(),
            trials: BTreeMap::new(),
            settling: BTreeMap::new(),
            aside: BTreeMap::new(),
            roots: BTreeMap::new(),
            last_id: 0,
            asked: 0,
            may_be_due: true,
            poked: false,
            waiting: Waiting::default(),
            examination: None,
            recent: evidence::Recent::default(),
            has_control: false,
            apart_saved: 0.0,
            apart_at: Duration::ZERO,
            passed_at: None,
            retries: 0,
            tried: 0,
            misconfigured: None,
            draining: false,
            halted: false,
            standing: Standing::default(),
        }
    }

    /// Takes an event, and says what is to be done. `random` is in `0.0..1.0`.
    pub fn apply(&mut self, event: Event, now: Now, random: f64) -> Vec<Action> {
        let mut turn = Turn { now, random, actions: Vec::new() };
        match event {
            Event::Poke => (self.may_be_due, self.poked) = (true, true),
            Event::Leased { asked, payloads, waiting } => {
                debug_assert!(self.asked >= asked, "{asked} payloads come, {} were asked for", self.asked);
                self.asked = self.asked.saturating_sub(asked);
                self.leased(payloads, waiting, &mut turn);
            }
            Event::NotLeased { asked } => {
                (self.asked, self.may_be_due) = (self.asked.saturating_sub(asked), false);
            }
            Event::Answered { parcel: id, verdict, took } => {
                if let Some(parcel) = self.in_flight.remove(&id) {
                    self.answered(id, parcel, verdict, took, &mut turn);
                } else if let Some(trial) = self.trials.remove(&id) {
                    self.tried(id, trial, verdict, took, &mut turn);
                }
            }
            Event::NotSent { parcel: id, cause, retry_in } => {
                let sent_at = match (self.in_flight.remove(&id), self.trials.remove(&id)) {
                    (Some(parcel), _) => Some(parcel.sent_at),
                    (None, trial) => trial.map(|trial| trial.sent_at),
                };
                if let Some(sent_at) = sent_at {
                    self.not_sent(sent_at, &cause, retry_in, &mut turn);
                }
            }
            Event::Settled { parcel, pieces } => {
                if let Some(Settling { parcel: parent, .. }) = self.settling.remove(&parcel) {
                    self.set_pieces_aside(
                        parcel,
                        &parent,
                        pieces.into_iter().map(|piece| vec![piece]),
                        &turn,
                    );
                    self.forget_root(parent.root, &mut turn);
                }
                self.may_be_due = true;
            }
            Event::NotSettled { parcel } => {
                if let Some(settling) = self.settling.get_mut(&parcel) {
                    settling.again_at = Some(now.saturating_add(self.limits.backoff.wait(1, 1.0)));
                }
            }
            Event::NotLoaded { parcel } => {
                // Dropped, its chunks wait again, if the spool still has them.
                self.in_flight.remove(&parcel);
                self.trials.remove(&parcel);
            }
            Event::Drain => (self.draining, self.may_be_due) = (true, true),
            Event::Halt => self.halted = true,
            Event::Mended => {
                self.gate.mended(now);
                self.wait_no_longer(now);
            }
            Event::Configured(limits) => {
                self.limits = limits;
                self.gate.configure(limits.in_flight_max, limits.backoff);
                self.may_be_due = true;
            }
            Event::Standing(standing) => (self.standing, self.may_be_due) = (standing, true),
            Event::Tick => {
                self.may_be_due = true;
                self.relearn(now);
            }
        }
        self.upkeep(&mut turn);
        turn.actions
    }

    /// When time alone lets something be done, later than `now`; `None`: nothing before another event.
    pub fn next_wake(&self, now: Now) -> Option<Now> {
        let aside = self.aside.values().map(|parcel| parcel.not_before);
        let settling = self.settling.values().filter_map(|settling| settling.again_at);
        let apart = (self.waiting.apart && self.gate.is_open()).then_some(self.apart_at);
        let examination = self.examination.as_ref().map(|examination| examination.next_at);
        let times = aside.chain(settling).chain(apart).chain(examination);
        times.chain([self.gate.next_at()]).filter(|&at| at > now).min()
    }

    /// Whether nothing more can be delivered now: everything is settled, or the gate is closed and the spool `keeps` what is
    /// left.
    pub fn is_drained(&self, keeps: bool) -> bool {
        let busy = !self.in_flight.is_empty() || !self.trials.is_empty() || !self.settling.is_empty();
        let hopeless = |parcel: &Parcel| parcel.tries >= 3 || parcel.root.is_some() || parcel.apart.is_some();
        let nothing_left = self.asked == 0
            && !self.waiting.any
            && !self.may_be_due
            && (self.aside.is_empty() || keeps && self.aside.values().all(hopeless));
        let closed = !self.gate.is_open() || self.standing.doubt.is_some();
        !busy && (self.halted || nothing_left || (keeps && closed))
    }

    /// Whether it asks the spool for something that is not answered yet.
    pub fn is_asking(&self) -> bool {
        self.asked > 0
    }

    /// What it looks like from outside.
    pub fn status(&self, now: Now) -> Status {
        let nothing_aside_is_due = self.aside.values().all(|parcel| parcel.not_before > now);
        Status {
            in_flight: self.busy(),
            concurrency: u32::try_from(self.gate.slots_when_open()).unwrap_or(u32::MAX),
            set_aside: self.aside.len(),
            retries: self.retries,
            trials: self.tried,
            closed: match (self.gate.closed(), &self.standing.doubt) {
                (Some((until, cause)), _) => Some((until, cause.to_owned())),
                (None, Some(doubt)) => Some((Duration::ZERO, doubt.clone())),
                (None, None) => None,
            },
            misconfigured: self.misconfigured.clone(),
            payload_bytes_max: self.payload_bytes_max(),
            has_free_slot: self.gate.is_open()
                && !self.gate.is_paced()
                && !self.standing.holds
                && self.busy() < self.gate.slots_when_open()
                && self.settling.len() < SETTLING_MAX
                && nothing_aside_is_due,
        }
    }

    /// Whether a row that passed is wanted, to be tried again when nothing else tells whether Blueflood works.
    pub fn wants_control(&self) -> bool {
        !self.has_control && (!self.aside.is_empty() || self.waiting.apart)
    }

    /// There is a row that passed.
    pub fn set_control(&mut self) {
        self.has_control = true;
    }

    /// Every chunk that it holds a lease of.
    #[cfg(test)]
    fn held(&self) -> Vec<ChunkId> {
        let settling = self.settling.values().map(|settling| &settling.parcel);
        self.in_flight.values().chain(self.aside.values()).chain(settling).flat_map(Parcel::ids).collect()
    }

    fn payload_bytes_max(&self) -> usize {
        let learned = self.learned.map_or(usize::MAX, |learned| learned.bytes);
        self.limits.payload_bytes_max.min(learned)
    }

    fn bounds(&self) -> Bounds {
        Bounds { rows_max: self.limits.payload_rows_max, bytes_max: self.payload_bytes_max() }
    }

    fn busy(&self) -> usize {
        self.in_flight.len().saturating_add(self.trials.len())
    }

    fn new_id(&mut self) -> ParcelId {
        self.last_id = self.last_id.saturating_add(1);
        self.last_id
    }

    // === Upkeep: the same after every event ===

    fn upkeep(&mut self, turn: &mut Turn) {
        self.settle_again(turn);
        self.judge(turn);
        while self.aside.len() > ASIDE_MAX {
            // Dropped, it waits in the spool again, and nothing is held against it.
            let mildest =
                self.aside.iter().max_by(|(_, a), (_, b)| a.evidence.doubt().total_cmp(&b.evidence.doubt()));
            let Some(id) = mildest.map(|(&id, _)| id) else { break };
            self.aside.remove(&id);
        }
        if self.halted || self.standing.holds {
            return;
        }
        if self.examination.is_some() {
            self.examine(turn);
        }
        if self.examination.is_none() {
            self.send_what_may_leave(turn);
        }
    }

    fn settle_again(&mut self, turn: &mut Turn) {
        for (&parcel, settling) in &mut self.settling {
            if settling.again_at.is_some_and(|at| at <= turn.now) {
                settling.again_at = None;
                let (chunks, fate) = (settling.parcel.ids(), settling.fate.clone());
                turn.actions.push(Action::Settle { parcel, chunks, fate });
            }
        }
    }

    fn send_what_may_leave(&mut self, turn: &mut Turn) {
        let now = turn.now;
        while self.busy() < self.gate.slots(now) && self.settling.len() < SETTLING_MAX {
            if self.gate.wants_trial() && self.send_trial_of_what_is_aside(turn) {
                continue;
            }
            // Every other probe is made with what waits in the spool: what is set aside may be what never passes.
            let fresh_first =
                !self.gate.is_open() && self.gate.probes().is_multiple_of(2) && self.waiting.any;
            if !fresh_first && let Some((id, parcel)) = self.take_aside(now) {
                self.send(id, parcel, turn);
                continue;
            }
            if self.ask(turn) {
                return;
            }
            if let Some((id, parcel)) = self.take_aside(now) {
                self.send(id, parcel, turn);
                continue;
            }
            if !self.try_for_a_suspect(turn) {
                return;
            }
        }
    }

    /// Asks the spool for as many payloads as there are free slots. True if that is under way for each of them.
    fn ask(&mut self, turn: &mut Turn) -> bool {
        let free = self.gate.slots(turn.now).saturating_sub(self.busy());
        // Closed, or at a pace, each leaves in its own time.
        let free = if self.gate.is_open() && !self.gate.is_paced() { free } else { free.min(1) };
        if self.asked >= free {
            return true;
        }
        let apart = self.asked == 0 && self.waiting.apart && self.may_try_apart(turn.now);
        if !self.may_be_due && !apart {
            return self.asked > 0;
        }
        let (bounds, due) = (self.bounds(), if self.draining { Due::All } else { Due::Flushed });
        let payloads = if apart { 1 } else { free.saturating_sub(self.asked) };
        if apart {
            self.apart_saved = (self.apart_saved - 1.0).max(0.0);
            self.apart_at = turn.now.saturating_add(APART_PAUSE);
        }
        turn.actions.push(Action::Lease { payloads, bounds, due, apart });
        (self.asked, self.poked) = (self.asked.saturating_add(payloads), false);
        true
    }

    /// Whether no ordinary payload has passed of late.
    fn is_quiet(&self, now: Now) -> bool {
        self.passed_at.is_none_or(|at| now.saturating_sub(at) >= QUIET)
    }

    fn may_try_apart(&self, now: Now) -> bool {
        let one_is_tried = self.parcels().any(|parcel| parcel.apart.is_some());
        self.gate.is_open()
            && !self.draining
            && !one_is_tried
            && now >= self.apart_at
            && (self.apart_saved >= 1.0 || self.is_quiet(now))
    }

    fn parcels(&self) -> impl Iterator<Item = &Parcel> {
        let settling = self.settling.values().map(|settling| &settling.parcel);
        self.in_flight.values().chain(self.aside.values()).chain(settling)
    }

    fn leased(&mut self, payloads: Vec<Leased>, waiting: Waiting, turn: &mut Turn) {
        self.waiting = waiting;
        self.may_be_due = waiting.due || self.poked;
        for Leased { chunks, apart } in payloads {
            if self.standing.holds {
                continue; // dropped, it waits in the spool again
            }
            let (id, parcel) = (self.new_id(), Parcel::new(chunks, apart, turn.now));
            if self.examination.is_none() && self.gate.wants_trial() && parcel.rows() > 1 {
                self.aside.insert(id, parcel);
                if self.busy() < self.gate.slots(turn.now) {
                    self.send_trial(Some(id), turn);
                }
                continue;
            }
            let may_leave = match &self.examination {
                Some(examination) => examination.wants_other && self.busy() < 2,
                None => self.busy() < self.gate.slots(turn.now),
            };
            if may_leave {
                if let Some(examination) = &mut self.examination {
                    examination.wants_other = false;
                }
                self.send(id, parcel, turn);
            }
            // Otherwise the gate has closed meanwhile: dropped, it waits in the spool again.
        }
    }

    fn send(&mut self, id: ParcelId, mut parcel: Parcel, turn: &mut Turn) {
        // A probe is a second try too: what failed before it was given back.
        if parcel.tries > 0 || parcel.unexplained > 0 || !self.gate.is_open() {
            self.retries = self.retries.saturating_add(1);
        }
        parcel.sent_at = turn.now;
        parcel.renewed = false;
        self.gate.sent(turn.now, turn.random);
        turn.actions.push(Action::Send { parcel: id, chunks: parcel.ids(), renew_token: false });
        self.in_flight.insert(id, parcel);
    }

    /// The parcel set aside that may be tried again for the longest time.
    fn take_aside(&mut self, now: Now) -> Option<(ParcelId, Parcel)> {
        let closed = !self.gate.is_open();
        let (&id, _) = self
            .aside
            .iter()
            .filter(|(_, parcel)| parcel.not_before <= now && (closed || !parcel.wants_trial()))
            .min_by_key(|(_, parcel)| parcel.not_before)?;
        self.aside.remove_entry(&id)
    }

    fn wait_no_longer(&mut self, now: Now) {
        for parcel in
            self.aside.values_mut().filter(|parcel| parcel.root.is_none() && parcel.unexplained == 0)
        {
            parcel.not_before = parcel.not_before.min(now);
        }
    }
}

#[cfg(test)]
mod tests;
