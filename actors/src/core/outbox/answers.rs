//! Owns what follows from an answer: where the rows of a parcel go, when it may be tried again, and what is learned of
//! Blueflood by it. It never composes a payload.

use std::time::Duration;

use super::{
    Action, Examination, Fate, Learned, Lease, Notice, Now, Outbox, Parcel, ParcelId, Root, Settling, Trial,
    Turn, Who,
    evidence::{HALVE, PIECE, REFUSE, Witness},
    gate::Failure,
};
use crate::core::{
    blueflood::{Blame, Verdict},
    reason::Refused,
};

/// An answer that took longer than this may be one of a store that is ill: then each row is looked for.
const LONG: Duration = Duration::from_secs(2);

/// How often a 207 that refuses some rows and names none is answered by sending again, before all of them count as refused.
pub(super) const UNEXPLAINED_TRIES: u32 = 3;

/// Parcels that are halved on evidence at a time, at most: a storm of suspicion must not become a storm of POSTs.
const HALVED_AT_ONCE: usize = 4;

/// A learned limit is never below this, in bytes.
const LEARNED_BYTES_MIN: usize = 1_024;

/// A limit learned from silence, which a slow Blueflood may have caused, is never below this, in bytes.
const LEARNED_BY_SILENCE_BYTES_MIN: usize = 65_536;

/// Tries of a suspect that are made at a brisk pace.
const BRISK_TRIES: u32 = 12;

/// Failures of the parcel under examination, after which another one is tried, and then after so many more.
const OTHER_AFTER: u32 = 2;
const OTHER_EVERY: u32 = 8;

impl Outbox {
    pub(super) fn answered(
        &mut self,
        id: ParcelId,
        mut parcel: Parcel,
        verdict: Verdict,
        took: Duration,
        turn: &mut Turn,
    ) {
        let confirms = self.standing.confirms;
        if self.believes(&verdict) || verdict.names_rows() {
            self.passed(id, &parcel, took, turn);
        }
        match verdict {
            Verdict::Stored if confirms => {
                let whole_look = took > LONG || parcel.tries > 0 || parcel.root.is_some();
                self.settle(id, parcel, Fate::Acknowledged { whole_look }, turn);
            }
            Verdict::Stored => self.settle(id, parcel, Fate::Delivered, turn),
            Verdict::Unconfirmed if self.standing.reads => {
                self.gate.slow_down();
                self.settle(id, parcel, Fate::Acknowledged { whole_look: true }, turn);
            }
            Verdict::StoredExcept { errors, unexplained: Some(text) } if errors.is_empty() => {
                // It may have been a passing fault of its store, and to send a row again is harmless.
                parcel.unexplained = parcel.unexplained.saturating_add(1);
                if parcel.unexplained > UNEXPLAINED_TRIES {
                    let fate = Fate::DeliveredExcept { errors, unexplained: Some(text), read_back: confirms };
                    self.settle(id, parcel, fate, turn);
                } else {
                    let wait = self.limits.backoff.wait(parcel.unexplained, turn.random);
                    parcel.not_before = turn.now.saturating_add(wait);
                    self.aside.insert(id, parcel);
                }
            }
            // What is named is refused, and the rest is sent again to learn what the answer did not explain.
            Verdict::StoredExcept { errors, unexplained: Some(_) } => {
                self.settle(id, parcel, Fate::RefusedNamed(errors), turn);
            }
            Verdict::StoredExcept { errors, unexplained: None } => {
                let fate = Fate::DeliveredExcept { errors, unexplained: None, read_back: confirms };
                self.settle(id, parcel, fate, turn);
            }
            Verdict::Refused(errors) => self.settle(id, parcel, Fate::RefusedNamed(errors), turn),
            Verdict::RefusedWhole(message) => {
                parcel.cause = message;
                self.halve_or_refuse(id, parcel, Refused::Unnamed, turn);
            }
            Verdict::TooLarge => {
                self.learn_limit(parcel.raw_bytes() / 2, false, turn);
                parcel.cause = "too large for Blueflood or something before it".to_owned();
                self.halve_or_refuse(id, parcel, Refused::TooLarge, turn);
            }
            Verdict::Unauthorized if self.limits.authenticates && !parcel.renewed => {
                parcel.renewed = true;
                turn.actions.push(Action::Send { parcel: id, chunks: parcel.ids(), renew_token: true });
                self.in_flight.insert(id, parcel);
            }
            other => match other.misfit(self.limits.authenticates) {
                Some(text) => self.misconfigured(parcel.sent_at, text.to_owned(), turn),
                None => {
                    parcel.may_be_size = other.may_be_its_size();
                    self.failed(id, parcel, &other, turn);
                }
            },
        }
    }

    /// Whether Blueflood took something. A 202 that nobody looks behind says no more than a 503.
    fn believes(&self, verdict: &Verdict) -> bool {
        verdict.took_payload() && (self.standing.reads || *verdict != Verdict::Unconfirmed)
    }

    /// A few rows of a parcel were answered.
    pub(super) fn tried(
        &mut self,
        id: ParcelId,
        mut trial: Trial,
        verdict: Verdict,
        took: Duration,
        turn: &mut Turn,
    ) {
        let now = turn.now;
        if self.believes(&verdict) || verdict.names_rows() {
            self.misconfigured = None;
            self.gate.passed(took, now, false);
            self.note(id, true, now);
            match (&mut self.examination, trial.of.filter(|of| self.aside.contains_key(of))) {
                (Some(examination), _) => {
                    examination.other(true);
                }
                (None, Some(of)) if !self.gate.is_open() => self.begin_examination(of, turn),
                (None, _) => {
                    // Of what passed before, so the gate may open: there is nothing to examine.
                    if !self.gate.is_open() {
                        self.open_gate(took, turn);
                    }
                }
            }
            return;
        }
        if verdict == Verdict::Unauthorized && self.limits.authenticates && !trial.renewed {
            // The next one is sent with a new token.
            trial.renewed = true;
            let chunks = trial.of.and_then(|of| self.aside.get(&of)).map(Parcel::ids).unwrap_or_default();
            turn.actions.push(Action::Try { trial: id, chunks, rows: 1 });
            self.trials.insert(id, trial);
            return;
        }
        self.note(id, false, now);
        if let Some(text) = verdict.misfit(self.limits.authenticates) {
            self.examination = None;
            self.misconfigured(trial.sent_at, text.to_owned(), turn);
            return;
        }
        let goes_on = match &mut self.examination {
            Some(examination) if verdict.may_be_the_payload() => examination.other(false),
            _ => false,
        };
        if !goes_on {
            self.examination = None;
            self.close(trial.sent_at, &verdict, turn);
        }
    }

    fn settle(&mut self, id: ParcelId, parcel: Parcel, fate: Fate, turn: &mut Turn) {
        turn.actions.push(Action::Settle { parcel: id, chunks: parcel.ids(), fate: fate.clone() });
        self.settling.insert(id, Settling { parcel, fate, again_at: None });
    }

    /// An answer that speaks for Blueflood, or against it: all who wait for a witness learn of it.
    fn note(&mut self, id: ParcelId, passed: bool, now: Now) {
        self.recent.add(now, id, passed);
        for (_, parcel) in self.aside.iter_mut().filter(|(aside, _)| **aside != id) {
            parcel.evidence.other(passed);
        }
    }

    /// Blueflood took or judged a payload: it is there.
    fn passed(&mut self, id: ParcelId, parcel: &Parcel, took: Duration, turn: &mut Turn) {
        self.note(id, true, turn.now);
        self.misconfigured = None;
        if let Some(examination) = &mut self.examination {
            examination.other(true);
            if parcel.root == Some(examination.root) {
                // It is one of many pieces; the gate opens when all are settled.
                self.gate.passed(took, turn.now, false);
                return;
            }
            // Another parcel passed whole: what is examined is alone in its kind, and waits for its turns among all others.
            self.examination = None;
        }
        if parcel.apart.is_none() {
            self.apart_saved = (self.apart_saved + super::APART_PER_PASS).min(super::APART_SAVED_MAX);
            self.passed_at = Some(turn.now);
        }
        self.open_gate(took, turn);
    }

    fn open_gate(&mut self, took: Duration, turn: &mut Turn) {
        let was_closed = !self.gate.is_open();
        turn.actions.extend(self.gate.passed(took, turn.now, true).map(Action::Say));
        if was_closed {
            self.wait_no_longer(turn.now);
        }
    }

    /// A failure that passes by itself, or so it seems.
    fn failed(&mut self, id: ParcelId, mut parcel: Parcel, verdict: &Verdict, turn: &mut Turn) {
        let now = turn.now;
        let examined =
            self.examination.as_ref().is_some_and(|examination| parcel.root == Some(examination.root));
        let may_be_the_payload = verdict.may_be_the_payload();
        if examined && may_be_the_payload {
            if let Some(examination) = &mut self.examination {
                examination.failures = examination.failures.saturating_add(1);
                examination.wants_other |=
                    examination.failures == OTHER_AFTER || examination.failures.is_multiple_of(OTHER_EVERY);
            }
        } else if may_be_the_payload
            && (parcel.root.is_some() || parcel.apart.is_some())
            && self.gate.is_open()
        {
            // Its failures are expected: they say nothing of Blueflood, and the pace of others is not theirs.
        } else {
            self.note(id, false, now);
            if self.examination.is_some() && !may_be_the_payload {
                self.examination = None;
            }
            if self.examination.is_none() {
                self.close(parcel.sent_at, verdict, turn);
            }
        }
        if !may_be_the_payload {
            // Nothing is held against it: dropped, it waits in the spool again.
            return;
        }
        parcel.evidence.failed(&self.recent, parcel.sent_at, id);
        parcel.tries = parcel.tries.saturating_add(1);
        parcel.cause = verdict.words();
        // A suspect is tried at a brisk pace, for its pauses are those of nobody else; not for ever, though.
        let tries = if parcel.root.is_some() {
            parcel.tries.saturating_sub(BRISK_TRIES).max(1)
        } else {
            parcel.tries
        };
        parcel.not_before = now.saturating_add(self.limits.backoff.wait(tries, turn.random));
        self.aside.insert(id, parcel);
    }

    fn close(&mut self, sent_at: Now, verdict: &Verdict, turn: &mut Turn) {
        let (blame, cause) = (verdict.blame(), verdict.words());
        let at_least = verdict.retry_after().map(|wait| self.believable(wait));
        let failure = Failure { blame, who: Who::Blueflood, cause: &cause, sent_at, at_least, silent: false };
        turn.actions.extend(self.gate.failed(&failure, turn.now, turn.random).map(Action::Say));
    }

    /// A `Retry-After` of more than a few minutes is a mistake of somebody, and must not silence us.
    fn believable(&self, retry_after: Duration) -> Duration {
        const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
        if retry_after <= RETRY_AFTER_MAX { retry_after } else { self.limits.backoff.max }
    }

    /// There is no token: nothing was sent, and nothing is held against the parcel.
    pub(super) fn not_sent(&mut self, sent_at: Now, cause: &str, retry_in: Duration, turn: &mut Turn) {
        self.examination = None;
        let at_least = Some(retry_in.min(self.limits.backoff.max));
        let failure =
            Failure { blame: Blame::Endpoint, who: Who::Keystone, cause, sent_at, at_least, silent: false };
        turn.actions.extend(self.gate.failed(&failure, turn.now, turn.random).map(Action::Say));
    }

    /// A failure that only a human can mend: all is kept, and tried now and then.
    fn misconfigured(&mut self, sent_at: Now, text: String, turn: &mut Turn) {
        // As a closed gate, but without a line of its own: the one below is louder.
        let failure = Failure {
            blame: Blame::Endpoint,
            who: Who::Blueflood,
            cause: &text,
            sent_at,
            at_least: Some(self.limits.backoff.max),
            silent: true,
        };
        self.gate.failed(&failure, turn.now, 1.0);
        // Said once until something passes: a page of a proxy may differ with each answer.
        if self.misconfigured.replace(text.clone()).is_none() {
            turn.actions.push(Action::Say(Notice::Misconfigured(text)));
        }
    }

    // === Suspects ===

    /// Judges who failed and whose time has come.
    pub(super) fn judge(&mut self, turn: &mut Turn) {
        let ready: Vec<ParcelId> =
            self.aside.iter().filter(|(_, parcel)| parcel.evidence.is_open()).map(|(&id, _)| id).collect();
        for id in ready {
            let Some(parcel) = self.aside.get_mut(&id).filter(|parcel| parcel.not_before <= turn.now) else {
                continue;
            };
            let examination =
                self.examination.as_ref().filter(|examination| parcel.root == Some(examination.root));
            parcel.evidence.judge(examination);
            let doubt = parcel.evidence.doubt();
            let together = parcel.rows() == 1 || parcel.apart == Some(true);
            // A series that is proven bad is refused together; of one that is not yet, the rows are tried one by one.
            let convicted = if together {
                doubt < REFUSE
            } else {
                doubt < HALVE || parcel.apart.is_some() && !parcel.evidence.is_open()
            };
            let root = parcel.root;
            if parcel.rows() == 1 && doubt < HALVE {
                // From here on its failures are its own.
                parcel.root.get_or_insert(id);
            }
            if !convicted
                || (root.is_none() && parcel_roots(self.aside.values()) >= HALVED_AT_ONCE && !together)
            {
                continue;
            }
            let Some(mut parcel) = self.aside.remove(&id) else { continue };
            parcel.root = root.or(Some(id));
            if together {
                if let Some(known) = root.and_then(|root| self.roots.get_mut(&root)) {
                    known.refused = true;
                }
                let message = std::mem::take(&mut parcel.cause);
                let fate = Fate::RefusedAll { reason: Refused::AlwaysFails, message };
                self.settle(id, parcel, fate, turn);
                continue;
            }
            let bytes = parcel.raw_bytes();
            let (root, may_be_size) = (parcel.root.unwrap_or(id), parcel.may_be_size);
            let known =
                self.roots.entry(root).or_insert(Root { failed_bytes: bytes, may_be_size, refused: false });
            known.failed_bytes = known.failed_bytes.min(bytes);
            known.may_be_size &= may_be_size;
            self.halve_or_refuse(id, parcel, Refused::AlwaysFails, turn);
        }
    }

    /// A piece is settled. If it was the last, and each passed though the whole did not, the whole was too large.
    pub(super) fn forget_root(&mut self, root: Option<ParcelId>, turn: &mut Turn) {
        let Some(root) = root.filter(|root| !self.parcels().any(|parcel| parcel.root == Some(*root))) else {
            return;
        };
        if let Some(known) = self.roots.remove(&root)
            && known.may_be_size
            && !known.refused
        {
            self.learn_limit(known.failed_bytes / 2, true, turn);
        }
    }

    fn begin_examination(&mut self, of: ParcelId, turn: &mut Turn) {
        let Some(parcel) = self.aside.get_mut(&of) else { return };
        let root = *parcel.root.get_or_insert(of);
        turn.actions.push(Action::Say(Notice::Examining { cause: parcel.cause.clone() }));
        self.examination = Some(Examination::new(root, turn.now));
        for parcel in self.aside.values_mut().filter(|parcel| parcel.root == Some(root)) {
            (parcel.tries, parcel.not_before) = (0, turn.now);
        }
    }

    /// Sends the parcel that is examined, or a piece of it, or a few rows that tell whether Blueflood still works.
    pub(super) fn examine(&mut self, turn: &mut Turn) {
        /// POSTs at once: silence must not hold up what tells of it.
        const AT_ONCE: usize = 2;
        let now = turn.now;
        let Some(examination) = &self.examination else { return };
        let (root, next_at, wants_other) = (examination.root, examination.next_at, examination.wants_other);
        let of_root = |parcel: &Parcel| parcel.root == Some(root);
        if !self.parcels().any(of_root) {
            self.examination = None;
            self.open_gate(Duration::ZERO, turn);
            return;
        }
        if now < next_at || self.busy() >= AT_ONCE {
            return;
        }
        let whole_under_way = self.in_flight.values().any(of_root);
        let due = |parcel: &&Parcel| of_root(parcel) && parcel.not_before <= now;
        let next = self
            .aside
            .iter()
            .find(|(_, parcel)| due(parcel) && !parcel.evidence.is_open())
            .map(|(&id, _)| id);
        let unjudged = self.aside.iter().find(|(_, parcel)| due(parcel)).map(|(&id, _)| id);
        if let Some(id) = next.filter(|_| !whole_under_way) {
            if let Some(parcel) = self.aside.remove(&id) {
                self.send(id, parcel, turn);
            }
        } else if let Some(id) = unjudged.filter(|_| self.trials.is_empty()) {
            self.send_trial(Some(id), turn);
        } else {
            if wants_other {
                self.ask_for_another(turn);
            }
            return;
        }
        // Blueflood is known to be up; still, nobody is helped by a storm.
        let pause = Duration::from_millis(50).saturating_add(Duration::from_millis(200).mul_f64(turn.random));
        if let Some(examination) = &mut self.examination {
            examination.next_at = now.saturating_add(pause);
        }
    }

    fn ask_for_another(&mut self, turn: &mut Turn) {
        if self.asked > 0 || !self.waiting.any || self.busy() > 0 {
            return;
        }
        let bounds = self.bounds();
        turn.actions.push(Action::Lease { payloads: 1, bounds, due: super::Due::Flushed, apart: false });
        self.asked = 1;
    }

    pub(super) fn learn_limit(&mut self, bytes: usize, by_silence: bool, turn: &mut Turn) {
        let min = if by_silence { LEARNED_BY_SILENCE_BYTES_MIN } else { LEARNED_BYTES_MIN };
        let bytes = bytes.max(min);
        if bytes < self.payload_bytes_max() {
            self.learned = Some(Learned { bytes, at: turn.now, by_silence });
            turn.actions.push(Action::Say(Notice::LimitLearned { payload_bytes_max: bytes }));
        }
    }

    /// What was learned from silence is tried again after a while.
    pub(super) fn relearn(&mut self, now: Now) {
        if let Some(learned) = &mut self.learned
            && learned.by_silence
            && now.saturating_sub(learned.at) >= super::LEARNED_FOR
        {
            (learned.bytes, learned.at) = (learned.bytes.saturating_mul(2), now);
            if learned.bytes >= self.limits.payload_bytes_max {
                self.learned = None;
            }
        }
    }

    /// Halves a parcel, or refuses the one row in it.
    fn halve_or_refuse(&mut self, id: ParcelId, mut parcel: Parcel, reason: Refused, turn: &mut Turn) {
        let rows = parcel.rows();
        if rows <= 1 {
            let message = std::mem::take(&mut parcel.cause);
            self.settle(id, parcel, Fate::RefusedAll { reason, message }, turn);
            return;
        }
        turn.actions.push(Action::Say(Notice::Halving { rows, cause: parcel.cause.clone() }));
        if parcel.leases.len() == 1 {
            self.settle(id, parcel, Fate::Halved, turn);
            return;
        }
        let mut left = std::mem::take(&mut parcel.leases);
        let right = left.split_off(left.len() / 2);
        self.set_pieces_aside(id, &parcel, [left, right], turn);
    }

    /// Sets the pieces of a parcel aside, each by itself.
    pub(super) fn set_pieces_aside(
        &mut self,
        parent_id: ParcelId,
        parent: &Parcel,
        pieces: impl IntoIterator<Item = Vec<Lease>>,
        turn: &Turn,
    ) {
        // What was halved on evidence is suspected in each piece; what Blueflood itself refused needs none.
        let on_evidence = parent.root.is_some();
        for leases in pieces {
            let id = self.new_id();
            let mut piece = Parcel::new(leases, parent.apart, turn.now);
            if on_evidence && parent.apart.is_none() {
                piece.evidence = Witness::new(PIECE);
            }
            piece.root = parent.root.filter(|_| on_evidence).or(on_evidence.then_some(parent_id));
            piece.may_be_size = parent.may_be_size;
            self.aside.insert(id, piece);
        }
    }
}

/// How many parcels were halved on evidence, and are not settled.
fn parcel_roots<'a>(parcels: impl Iterator<Item = &'a Parcel>) -> usize {
    let mut roots: Vec<ParcelId> = parcels.filter_map(|parcel| parcel.root).collect();
    roots.sort_unstable();
    roots.dedup();
    roots.len()
}
