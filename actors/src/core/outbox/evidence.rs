//! Owns the evidence against a parcel: how unlikely it is that its failures come of Blueflood, and not of itself. It never
//! decides what is done with a parcel.
//!
//! Let `p` be the share of other requests that passed around a failure. A parcel that is like all others fails again with
//! the chance `1 - p`, so its [`Witness::doubt`] is the product of these: the chance that a good parcel would have failed as
//! often. Where nothing else passed, a failure says nothing of the parcel.

use std::collections::VecDeque;

use super::vocabulary::{Now, ParcelId};

/// With less doubt than this a parcel is halved.
pub(super) const HALVE: f64 = 1e-3;

/// With less doubt than this a single row is refused.
pub(super) const REFUSE: f64 = 1e-9;

/// The doubt of a piece of a parcel that was halved: the other piece may be the one. So a good piece is halved again in few
/// of a hundred cases, and a wrong suspicion never grows to dust.
pub(super) const PIECE: f64 = 0.02;

/// The doubt of a row of a series that was proven bad: one failure of its own is enough.
pub(super) const APART: f64 = 2.5e-9;

/// Answers before a failure, and after it, that are looked at.
const AROUND: usize = 8;

/// Trials that fail one after the other, after which an examination ends: Blueflood itself may be ill.
const FAILED_IN_A_ROW_MAX: u32 = 3;

/// Part of an answer that is added to all answers, for with few of them the share is not sure.
const UNSURE: f64 = 0.5;

/// How many answers passed, of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Share {
    passes: u32,
    all: u32,
}

impl Share {
    fn add(&mut self, passed: bool) {
        self.passes = self.passes.saturating_add(passed.into());
        self.all = self.all.saturating_add(1);
    }

    fn of_failing(self, other: Share) -> f64 {
        let passes = f64::from(self.passes.saturating_add(other.passes));
        let all = f64::from(self.all.saturating_add(other.all));
        1.0 - passes / (all + UNSURE)
    }
}

/// The last answers.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(Now, ParcelId, bool)>);

impl Recent {
    pub(super) fn add(&mut self, at: Now, of: ParcelId, passed: bool) {
        self.0.push_back((at, of, passed));
        if self.0.len() > AROUND * 2 {
            self.0.pop_front();
        }
    }

    /// Of the answers since `from`, the last few that are not of `own`.
    fn since(&self, from: Now, own: ParcelId) -> Share {
        let mut share = Share::default();
        let others = self.0.iter().rev().filter(|&&(at, of, _)| at >= from && of != own);
        others.take(AROUND).for_each(|&(_, _, passed)| share.add(passed));
        share
    }
}

/// What speaks for and against a parcel.
#[derive(Debug)]
pub(super) struct Witness {
    doubt: f64,
    /// The last failure, as long as it is not judged: the answers to others before it, and after it.
    open: Option<(Share, Share)>,
}

impl Witness {
    pub(super) fn new(doubt: f64) -> Self {
        Self { doubt, open: None }
    }

    /// The chance that a good parcel would have failed as this one did.
    pub(super) fn doubt(&self) -> f64 {
        self.doubt
    }

    /// Whether its last failure is not judged.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// It failed. What else was answered since it was sent stands in `recent`.
    pub(super) fn failed(&mut self, recent: &Recent, sent_at: Now, own: ParcelId) {
        self.open = Some((recent.since(sent_at, own), Share::default()));
    }

    /// Another one was answered. When none of many passes, the failure was that of all, and says nothing.
    pub(super) fn other(&mut self, passed: bool) {
        let Some((_, after)) = &mut self.open else { return };
        if after.all < AROUND as u32 {
            after.add(passed);
        }
        if after.all == AROUND as u32 && after.passes == 0 {
            self.open = None;
        }
    }

    /// Judges the last failure, if something has passed after it: an outage that began with it would still go on. `in_all`
    /// is what is known where the parcel is examined.
    pub(super) fn judge(&mut self, in_all: Option<&Examination>) {
        let Some((before, after)) = self.open.filter(|(_, after)| after.passes > 0) else { return };
        self.open = None;
        self.doubt *= match in_all {
            Some(examination) => examination.share.of_failing(Share::default()),
            None => before.of_failing(after),
        };
    }
}

/// A few rows of a parcel pass, and the whole of it does not: while the gate is closed for all others, it is sent again,
/// and a few rows between, until it passes or the rows that cause it are refused.
#[derive(Debug)]
pub(super) struct Examination {
    /// The parcel, whole or in pieces.
    pub(super) root: ParcelId,
    share: Share,
    failed_in_a_row: u32,
    /// When the next POST may leave.
    pub(super) next_at: Now,
    /// Failures of the parcel or a piece of it.
    pub(super) failures: u32,
    /// Whether another parcel should be tried, for this one may be alone in its kind.
    pub(super) wants_other: bool,
}

impl Examination {
    /// It begins with a few rows that passed.
    pub(super) fn new(root: ParcelId, now: Now) -> Self {
        let share = Share { passes: 1, all: 1 };
        Self { root, share, failed_in_a_row: 0, next_at: now, failures: 0, wants_other: false }
    }

    /// Something else than the parcel was answered; false if it is no longer to be seen that Blueflood works.
    pub(super) fn other(&mut self, passed: bool) -> bool {
        self.share.add(passed);
        self.failed_in_a_row = if passed { 0 } else { self.failed_in_a_row.saturating_add(1) };
        self.failed_in_a_row < FAILED_IN_A_ROW_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Now {
        Duration::from_millis(ms)
    }

    /// How often a parcel fails, with `pass` of `all` others passing around each failure, until its doubt is below `limit`.
    fn failures_until(limit: f64, pass: u32, all: u32) -> u32 {
        let mut witness = Witness::new(1.0);
        for failures in 1..10_000 {
            witness.failed(&Recent::default(), at(0), 1);
            (0..all).for_each(|i| witness.other(i < pass));
            witness.judge(None);
            if witness.doubt() < limit {
                return failures;
            }
        }
        panic!("never")
    }

    #[test]
    fn evidence_grows_fast_while_all_others_pass_and_slowly_while_most_fail() {
        assert_eq!(failures_until(HALVE, 8, 8), 3);
        assert!((8..14).contains(&failures_until(HALVE, 4, 8)));
        assert!((45..60).contains(&failures_until(HALVE, 1, 8)));
        assert!((130..180).contains(&failures_until(REFUSE, 1, 8)));
    }

    #[test]
    fn a_failure_after_which_nothing_passes_says_nothing() {
        let mut recent = Recent::default();
        (0..8).for_each(|i| recent.add(at(i), 7, true));
        let mut witness = Witness::new(1.0);
        witness.failed(&recent, at(0), 1);
        (0..8).for_each(|_| witness.other(false));
        witness.judge(None);
        assert!(!witness.is_open() && witness.doubt() == 1.0);
    }

    #[test]
    fn what_passed_before_the_parcel_was_sent_and_its_own_answers_say_nothing() {
        let mut recent = Recent::default();
        recent.add(at(1), 7, true);
        recent.add(at(5), 1, true);
        recent.add(at(6), 7, false);
        assert_eq!(recent.since(at(3), 1), Share { passes: 0, all: 1 });
    }
}
