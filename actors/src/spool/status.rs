//! Owns what the spool shows of itself: its status, and the ledger, which it shares with all who count.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::store::Letters;
use crate::core::{
    histogram::Histogram, ledger::Ledger, printable::printable, settlement::DeadLetter, tally::Tally,
};

/// What the spool looks like from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Bytes of the file that are in use.
    pub used_bytes: u64,
    /// When its oldest row came, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
    /// The dead letters.
    pub letters: Letters,
    /// Why it takes nothing now: a full disk, or the cap with `--spool_full block`.
    pub blocked: Option<String>,
    /// The cap in effect: lower than the policy's while the disk is full.
    pub bytes_cap: u64,
    /// While the disk is full: how many rows were dropped for that.
    pub disk_full: Option<u64>,
    /// What is amiss with its file, and could not be mended yet.
    pub amiss: Option<String>,
    /// Since when something is due, and nothing has been leased.
    pub due_since: Option<Instant>,
    /// Since when the oldest datapoint is acknowledged that was not read back.
    pub acknowledged_since: Option<Instant>,
    /// Whether anything waits, due or not.
    pub waits: bool,
    /// Series that were proven bad, whose rows are tried by themselves.
    pub series_apart: Vec<String>,
    /// How often the index of what waits was not what the file holds: anything but 0 is a bug.
    pub audit_failures: u64,
    /// When that was last so, in milliseconds since 1970.
    pub audit_failed_ms: Option<i64>,
    /// How old datapoints were when Blueflood had answered for them.
    pub delays: Histogram,
    /// The last row that Blueflood refused, by reason.
    pub refused: BTreeMap<String, Refused>,
}

/// For so long an index that was wrong, and was made anew, makes the daemon ill.
const AUDIT_AILS_FOR: Duration = Duration::from_secs(3_600);

impl Status {
    /// Whether the index of what waits was wrong of late. It is right again at once: one failure must not be said for
    /// ever.
    pub fn audit_ails(&self, now_ms: i64) -> bool {
        let for_ms = i64::try_from(AUDIT_AILS_FOR.as_millis()).unwrap_or(i64::MAX);
        self.audit_failed_ms.is_some_and(|at| now_ms.saturating_sub(at) < for_ms)
    }
}

/// A row that Blueflood refused, as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The row as it was sent: printable, and cut.
    pub row: String,
    /// Blueflood's words, likewise.
    pub message: String,
    /// When, in milliseconds since 1970.
    pub refused_ms: i64,
}

/// How much of a refused row is shown, in bytes, and how much of Blueflood's words.
const REFUSED_BYTES_SHOWN: usize = 320;

impl Refused {
    pub(super) fn new(row: &[u8], message: &str, refused_ms: i64) -> Self {
        let message = printable(message.as_bytes(), REFUSED_BYTES_SHOWN);
        Self { row: printable(row, REFUSED_BYTES_SHOWN), message, refused_ms }
    }

    /// The last of each reason.
    pub(super) fn last_of(letters: &[DeadLetter], refused_ms: i64) -> BTreeMap<String, Self> {
        let last: BTreeMap<_, _> = letters.iter().map(|letter| (letter.reason.label(), letter)).collect();
        let shown = |letter: &DeadLetter| Self::new(&letter.row, &letter.message, refused_ms);
        last.into_iter().map(|(reason, letter)| (reason.to_owned(), shown(letter))).collect()
    }
}

impl Default for Status {
    fn default() -> Self {
        Self {
            used_bytes: 0,
            oldest_ms: None,
            letters: Letters::default(),
            blocked: None,
            bytes_cap: 0,
            disk_full: None,
            amiss: None,
            due_since: None,
            acknowledged_since: None,
            waits: false,
            series_apart: Vec::new(),
            audit_failures: 0,
            audit_failed_ms: None,
            delays: delays(),
            refused: BTreeMap::new(),
        }
    }
}

/// From a tenth of a second, which the shortest intervals allow, to a day's outage.
pub(super) fn delays() -> Histogram {
    Histogram::new(&[0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0, 3_600.0, 21_600.0, 86_400.0])
}

/// The ledger, shared by all who count: locked for one change at a time, never across a wait.
#[derive(Debug, Clone, Default)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Changes it.
    pub fn change(&self, change: impl FnOnce(&mut Ledger)) {
        // Each change is one step that cannot stop half-way, so a poisoned lock holds a whole ledger.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether it has what a change takes from it.
    pub(super) fn covers(&self, tally: &Tally) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).covers(tally)
    }

    /// It, as it is at this instant.
    pub fn snapshot(&self) -> Ledger {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
