//! Owns what follows from an answer: where the rows of a parcel go, when it may be tried again, and what is learned of
//! Blueflood by it. It never composes a payload.

use std::time::Duration;

use super::{Action, Fate, Gate, Meta, Notice, Now, Outbox, Parcel, ParcelId, Turn};
use crate::core::blueflood::Verdict;

/// How often a 202 is answered by sending again, before the rows count as delivered.
pub(super) const UNCONFIRMED_TRIES: u32 = 3;

/// Failures of one parcel while others pass, after which it is halved.
const SUSPICION_MAX: u32 = 4;

/// The same where the body's size may be the cause.
const SUSPICION_SIZE_MAX: u32 = 2;

/// The same for a single row, after which it counts as refused.
const SUSPICION_ROW_MAX: u32 = 8;

/// Times that one payload got no answer while nothing passed, after which it is halved: only a smaller one can show
/// whether Blueflood is away, or every payload is larger than something on the way can bear.
const SILENCES_MAX: u32 = 3;

/// A learned limit is never below this, in bytes.
const LEARNED_BYTES_MIN: usize = 1_024;

/// A limit learned from a time-out, which a slow Blueflood may have caused, is never below this, in bytes; nor is
/// anything smaller halved for silence alone.
const LEARNED_BY_TIMEOUT_BYTES_MIN: usize = 65_536;

/// Latency that is this many times the usual one, and over [`LATENCY_HIGH_MIN`], lowers concurrency.
const LATENCY_HIGH: u32 = 4;

/// See [`LATENCY_HIGH`].
const LATENCY_HIGH_MIN: Duration = Duration::from_secs(2);

impl Outbox {
    pub(super) fn answered(
        &mut self,
        id: ParcelId,
        mut parcel: Parcel,
        verdict: Verdict,
        took: Duration,
        turn: &mut Turn,
    ) {
        match verdict {
            Verdict::Stored => {
                self.passed(took, turn);
                self.settle(id, parcel, Fate::Delivered { unconfirmed: false }, turn);
            }
            Verdict::Unconfirmed => {
                self.passed(took, turn);
                self.slow_down();
                parcel.unconfirmed = parcel.unconfirmed.saturating_add(1);
                if parcel.unconfirmed > UNCONFIRMED_TRIES {
                    self.settle(id, parcel, Fate::Delivered { unconfirmed: true }, turn);
                } else {
                    let wait = self.limits.backoff.wait(parcel.unconfirmed, turn.random);
                    parcel.not_before = turn.now.saturating_add(wait);
                    self.aside.insert(id, parcel);
                }
            }
            Verdict::StoredExcept(errors) => {
                self.passed(took, turn);
                self.settle(id, parcel, Fate::DeliveredExcept(errors), turn);
            }
            Verdict::StoredExceptUnknown => {
                self.passed(took, turn);
                let message = "HTTP 207 whose list of refused rows could not be read".to_owned();
                self.settle(id, parcel, Fate::RefusedAll { reason: "unattributed", message }, turn);
            }
            Verdict::Refused(errors) => {
                self.passed(took, turn);
                self.settle(id, parcel, Fate::RefusedNamed(errors), turn);
            }
            Verdict::RefusedWhole(message) => {
                self.passed(took, turn);
                parcel.cause = message;
                self.halve_or_refuse(id, parcel, "unnamed", turn);
            }
            Verdict::TooLarge => {
                self.passed(took, turn);
                self.learn_limit(parcel.raw_bytes() / 2, LEARNED_BYTES_MIN, turn);
                parcel.cause = "too large for Blueflood or something before it".to_owned();
                self.halve_or_refuse(id, parcel, "too_large", turn);
            }
            Verdict::Unauthorized if self.limits.authenticates && !parcel.renewed => {
                parcel.renewed = true;
                turn.actions.push(Action::Send { parcel: id, chunks: parcel.ids(), renew_token: true });
                self.in_flight.insert(id, parcel);
            }
            Verdict::Unauthorized if self.limits.authenticates => {
                self.failed(id, parcel, "HTTP 401 with a new token".to_owned(), None, turn);
            }
            Verdict::Unauthorized => {
                let text = "HTTP 401: Blueflood wants a token, and no --user is set".to_owned();
                self.stopped(id, parcel, text, turn);
            }
            Verdict::Misconfigured(text) | Verdict::Unexpected(text) => {
                self.stopped(id, parcel, text, turn);
            }
            Verdict::Unavailable { cause, retry_after } => {
                self.failed(id, parcel, cause, retry_after, turn);
            }
            Verdict::NoAnswer { cause, may_be_size } => {
                parcel.silences = parcel.silences.saturating_add(may_be_size.into());
                if self.others_passed(&parcel) && may_be_size {
                    self.failed_by_size(id, parcel, cause, turn);
                } else if parcel.silences >= SILENCES_MAX && parcel.raw_bytes() > LEARNED_BY_TIMEOUT_BYTES_MIN
                {
                    self.slow_down();
                    self.close(&parcel, &cause, None, turn);
                    parcel.cause = cause;
                    self.halve_or_refuse(id, parcel, "always_fails", turn);
                } else {
                    self.failed(id, parcel, cause, None, turn);
                }
            }
        }
    }

    fn settle(&mut self, id: ParcelId, parcel: Parcel, fate: Fate, turn: &mut Turn) {
        turn.actions.push(Action::Settle { parcel: id, chunks: parcel.ids(), fate });
        self.settling.insert(id, parcel);
    }

    /// Blueflood took or judged a payload: it is there.
    fn passed(&mut self, took: Duration, turn: &mut Turn) {
        self.passes = self.passes.saturating_add(1);
        self.misconfigured = None;
        if let Gate::Closed { since, failures, .. } = std::mem::replace(&mut self.gate, Gate::Open) {
            turn.actions
                .push(Action::Say(Notice::Opened { after: turn.now.saturating_sub(since), failures }));
            self.wait_no_longer(turn.now);
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
    pub(super) fn mended(&mut self, now: Now) {
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
    fn failed(
        &mut self,
        id: ParcelId,
        mut parcel: Parcel,
        cause: String,
        retry_after: Option<Duration>,
        turn: &mut Turn,
    ) {
        // A first failure says more of Blueflood than of the parcel, whoever passed before it.
        let known = parcel.tries > 0 || parcel.suspicion > 0;
        let probing = self.gate != Gate::Open;
        if known && self.others_passed(&parcel) && retry_after.is_none() {
            parcel.suspicion = parcel.suspicion.saturating_add(1);
            let suspicion_max = if parcel.rows() == 1 { SUSPICION_ROW_MAX } else { SUSPICION_MAX };
            if parcel.suspicion >= suspicion_max {
                parcel.cause = cause;
                self.halve_or_refuse(id, parcel, "always_fails", turn);
                return;
            }
        } else if parcel.suspicion == 0 || probing || retry_after.is_some() {
            // A suspect that fails again says nothing of Blueflood; any other does.
            self.slow_down();
            self.close(&parcel, &cause, retry_after, turn);
        }
        self.set_aside(id, parcel, cause, retry_after, turn);
    }

    fn failed_by_size(&mut self, id: ParcelId, mut parcel: Parcel, cause: String, turn: &mut Turn) {
        parcel.suspicion = parcel.suspicion.saturating_add(1);
        if parcel.suspicion >= SUSPICION_SIZE_MAX && parcel.rows() > 1 {
            self.learn_limit(parcel.raw_bytes() / 2, LEARNED_BY_TIMEOUT_BYTES_MIN, turn);
            parcel.cause = cause;
            self.halve_or_refuse(id, parcel, "always_fails", turn);
        } else if parcel.suspicion >= SUSPICION_ROW_MAX {
            parcel.cause = cause;
            self.halve_or_refuse(id, parcel, "always_fails", turn);
        } else {
            self.set_aside(id, parcel, cause, None, turn);
        }
    }

    /// A failure that only a human can mend: all is kept, and tried now and then.
    fn stopped(&mut self, id: ParcelId, parcel: Parcel, text: String, turn: &mut Turn) {
        // Said once until something passes: a page of a proxy may differ with each answer.
        if self.misconfigured.replace(text.clone()).is_none() {
            turn.actions.push(Action::Say(Notice::Misconfigured(text.clone())));
        }
        // As a closed gate, but without a line of its own: the one above is louder.
        let mut unsaid = Turn { now: turn.now, random: 1.0, actions: Vec::new() };
        let wait = Some(self.limits.backoff.max);
        self.close(&parcel, &text, wait, &mut unsaid);
        self.set_aside(id, parcel, text, wait, &unsaid);
    }

    fn set_aside(
        &mut self,
        id: ParcelId,
        mut parcel: Parcel,
        cause: String,
        at_least: Option<Duration>,
        turn: &Turn,
    ) {
        parcel.tries = parcel.tries.saturating_add(1);
        parcel.baseline = self.passes;
        parcel.cause = cause;
        let wait = self.limits.backoff.wait(parcel.tries, turn.random).max(at_least.unwrap_or_default());
        parcel.not_before = turn.now.saturating_add(wait);
        self.aside.insert(id, parcel);
    }

    fn close(&mut self, parcel: &Parcel, cause: &str, retry_after: Option<Duration>, turn: &mut Turn) {
        let (since, failures) = match &self.gate {
            Gate::Open => (turn.now, 1),
            // Several in flight that fail together are one failure.
            Gate::Closed { at, .. } if parcel.sent_at < *at => return,
            Gate::Closed { since, failures, .. } => (*since, failures.saturating_add(1)),
        };
        let wait = self.limits.backoff.wait(failures, turn.random).max(retry_after.unwrap_or_default());
        if failures == 1 {
            turn.actions.push(Action::Say(Notice::Closed { cause: cause.to_owned(), wait }));
        }
        let until = turn.now.saturating_add(wait);
        self.gate = Gate::Closed { since, at: turn.now, until, failures, cause: cause.to_owned() };
    }

    fn learn_limit(&mut self, bytes: usize, min: usize, turn: &mut Turn) {
        let learned = bytes.max(min);
        if learned < self.payload_bytes_max {
            self.payload_bytes_max = learned;
            turn.actions.push(Action::Say(Notice::LimitLearned { payload_bytes_max: learned }));
        }
    }

    /// Halves a parcel, or refuses the one row in it.
    fn halve_or_refuse(&mut self, id: ParcelId, mut parcel: Parcel, reason: &'static str, turn: &mut Turn) {
        let rows = parcel.rows();
        if rows <= 1 {
            let message = std::mem::take(&mut parcel.cause);
            self.settle(id, parcel, Fate::RefusedAll { reason, message }, turn);
            return;
        }
        turn.actions.push(Action::Say(Notice::Halving { rows, cause: parcel.cause.clone() }));
        if parcel.chunks.len() == 1 {
            self.settle(id, parcel, Fate::Halved, turn);
            return;
        }
        let chunks = std::mem::take(&mut parcel.chunks);
        let (left, right) = chunks.split_at(chunks.len() / 2);
        self.requeue(&parcel, [left.to_vec(), right.to_vec()], turn.now);
    }

    /// Sets the pieces of a parcel aside, each by itself, to be sent at once. What was suspected of the whole is
    /// suspected of each piece, so that it is found in one try a halving.
    pub(super) fn requeue(&mut self, parent: &Parcel, pieces: impl IntoIterator<Item = Vec<Meta>>, now: Now) {
        for chunks in pieces {
            let id = self.new_id();
            let piece = Parcel {
                chunks,
                suspicion: parent.suspicion.saturating_sub(1),
                silences: parent.silences.saturating_sub(1),
                baseline: self.passes,
                not_before: now,
                ..Parcel::default()
            };
            piece.chunks.iter().for_each(|meta| self.window.note(meta.id));
            self.aside.insert(id, piece);
        }
    }
}
