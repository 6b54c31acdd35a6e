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

mod answers;
mod vocabulary;
mod window;

use std::{collections::BTreeMap, time::Duration};

pub use self::vocabulary::*;
use self::window::{Bounds, Window};
use super::payload::punctuation_bytes;

/// Parcels set aside, at most, before probes are made with those alone.
const ASIDE_MAX: usize = 64;

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
    /// Failures that its size may have caused.
    silences: u32,
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
    payload_bytes_max: usize,

    window: Window,
    /// Chunks up to this one leave even in a payload that is not full.
    due_up_to: ChunkId,

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
            window: Window::new(newest, limits.newest_first),
            due_up_to: newest.unwrap_or(0),
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
        let mut turn = Turn { now, random, actions: Vec::new() };
        match event {
            Event::Appended(meta) => self.window.appended(meta),
            Event::Flush => self.due_up_to = self.window.newest(),
            Event::Refilled { metas, end } => {
                let held = self.parcels().flat_map(|parcel| parcel.ids()).collect();
                self.window.refilled(metas, end, &held);
            }
            Event::Answered { parcel: id, verdict, took } => {
                if let Some(parcel) = self.in_flight.remove(&id) {
                    self.answered(id, parcel, verdict, took, &mut turn);
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
            Event::Seen(newest) => {
                if self.window.seen(newest) {
                    self.due_up_to = newest;
                }
            }
            Event::Drain => self.draining = true,
            Event::Mended => self.mended(now),
            Event::Tick => {}
        }
        if self.draining {
            self.due_up_to = ChunkId::MAX;
        }
        self.send_what_may_leave(&mut turn);
        if let Some((from, max)) = self.window.wants() {
            turn.actions.push(Action::Refill { from, max });
        }
        turn.actions
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

    fn send_what_may_leave(&mut self, turn: &mut Turn) {
        let now = turn.now;
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
            } else if parcel.suspicion == 0 {
                parcel.baseline = self.passes;
            }
            parcel.sent_at = now;
            parcel.renewed = false;
            turn.actions.push(Action::Send { parcel: id, chunks: parcel.ids(), renew_token: false });
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
        let chunks = self.window.take_payload(Bounds {
            rows_max: self.limits.payload_rows_max,
            bytes_max: self.payload_bytes_max,
            due_up_to: self.due_up_to,
        })?;
        Some((self.new_id(), Parcel { chunks, ..Parcel::default() }))
    }

    fn new_id(&mut self) -> ParcelId {
        self.next_parcel = self.next_parcel.saturating_add(1);
        self.next_parcel
    }
}

#[cfg(test)]
mod tests;
