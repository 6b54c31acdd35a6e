//! Owns who looks on while datapoints pass: the open taps, each with its glob, its shares and its bounded channel. It
//! never waits, never takes more than a bounded time of whoever decodes, and never touches the ledger.
//!
//! While there is no tap, decoding asks once for each frame, and that is all it costs. While there is one, names are
//! matched where they are decoded, for what is sampled first never shows a rare name. That is bounded by its time, not
//! by its count, so that neither a slow glob, a long name nor a slow machine matters; and what passes meanwhile is counted.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::core::{
    datapoint::{Datapoint, Reason},
    glob::Glob,
    row::Skipped,
    share::{Grant, Share},
    tap::{self, Counts, Line, Whence},
};

/// Taps that may be open at once.
pub const TAPS_MAX: usize = 4;

/// What all taps together may take of those who decode, for datapoints that pass: two hundredths of one core.
const NAMES_NS_A_SECOND: u64 = 20_000_000;

/// The same, for what is malformed or skipped. By itself, for in a flood of good datapoints it is what one looks for.
const BAD_NS_A_SECOND: u64 = 5_000_000;

/// What one look counts for at most: longer, and somebody else had the processor meanwhile.
const LOOK_NS_MAX: u128 = 1_000_000;

/// Datapoints that a tap shows a second.
const SHOWN_A_SECOND: u64 = 1_000;

/// Malformed and skipped ones that a tap shows a second.
const BAD_SHOWN_A_SECOND: u64 = 200;

/// Lines that wait for a tap's reader. They have at most 3 KiB, and usually 200 bytes.
const LINES_MAX: usize = 2_048;

/// All taps; cheap to clone.
#[derive(Clone)]
pub struct Taps(Arc<Shared>);

struct Shared {
    /// How many there are, which is what decoding asks.
    open: AtomicUsize,
    taps: Mutex<Vec<Arc<Tap>>>,
    time: Mutex<Time>,
    since: Instant,
}

/// The time that may be taken, in nanoseconds.
struct Time {
    names: Share,
    bad: Share,
    /// What a name took lately: what those cost that nobody looked at.
    a_name: u64,
}

struct Tap {
    glob: Option<Glob>,
    lines: mpsc::Sender<Bytes>,
    state: Mutex<State>,
}

struct State {
    shown: Share,
    bad_shown: Share,
    counts: Counts,
}

/// A tap in its reader's hand. Dropped, it is closed.
pub struct Opened {
    taps: Taps,
    tap: Arc<Tap>,
    /// What it shows, a line of JSON each.
    pub lines: mpsc::Receiver<Bytes>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Taps {
    fn default() -> Self {
        Self(Arc::new(Shared {
            open: AtomicUsize::new(0),
            taps: Mutex::default(),
            time: Mutex::new(Time {
                names: Share::new(NAMES_NS_A_SECOND),
                bad: Share::new(BAD_NS_A_SECOND),
                a_name: 0,
            }),
            since: Instant::now(),
        }))
    }
}

impl Taps {
    /// Opens a tap on the names that `glob` means, or on all; `None` if there are [`TAPS_MAX`] already.
    pub fn open(&self, glob: Option<Glob>) -> Option<Opened> {
        let (sender, lines) = mpsc::channel(LINES_MAX);
        let state = State {
            shown: Share::new(SHOWN_A_SECOND),
            bad_shown: Share::new(BAD_SHOWN_A_SECOND),
            counts: Counts::default(),
        };
        let tap = Arc::new(Tap { glob, lines: sender, state: Mutex::new(state) });
        let mut taps = lock(&self.0.taps);
        if taps.len() >= TAPS_MAX {
            return None;
        }
        taps.push(tap.clone());
        self.0.open.store(taps.len(), Ordering::Relaxed);
        drop(taps);
        Some(Opened { taps: self.clone(), tap, lines })
    }

    /// How many are open.
    pub fn open_now(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// A look at what is decoded next, if anybody wants one. It is for a frame at most: its counts show when it ends.
    #[inline]
    pub(crate) fn look(&self) -> Option<Look<'_>> {
        if self.open_now() == 0 { None } else { Some(Look::new(&self.0)) }
    }
}

impl Opened {
    /// What it has seen so far.
    pub fn counts(&self) -> Counts {
        lock(&self.tap.state).counts
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let shared = &self.taps.0;
        let mut taps = lock(&shared.taps);
        taps.retain(|tap| !Arc::ptr_eq(tap, &self.tap));
        shared.open.store(taps.len(), Ordering::Relaxed);
    }
}

impl Tap {
    fn means(&self, name: &[u8]) -> bool {
        self.glob.as_ref().is_none_or(|glob| glob.matches(name))
    }

    /// False if its reader has not taken what is there.
    fn say(&self, line: &Line) -> bool {
        // It is made of texts and finite numbers, so it can be written.
        let Ok(mut text) = serde_json::to_vec(line) else { return false };
        text.push(b'\n');
        self.lines.try_send(text.into()).is_ok()
    }
}

/// A look at a frame while it is decoded.
pub(crate) struct Look<'a> {
    shared: &'a Shared,
    onlookers: Vec<Onlooker>,
    names: Purse,
    bad: Purse,
    passed: u64,
    looked_at: u64,
}

/// A tap while it looks at a frame.
struct Onlooker {
    tap: Arc<Tap>,
    shown: Grant,
    bad_shown: Grant,
    seen: Counts,
}

/// Time to spend, in nanoseconds.
struct Purse {
    left: u64,
    spent: u64,
    /// What was promised, and must not be spent on this frame.
    idle: u64,
}

impl Purse {
    fn new(grant: Grant, wanted: bool) -> Self {
        if wanted && (grant.chance >= 1.0 || fastrand::f64() < grant.chance) {
            Self { left: grant.left, spent: 0, idle: 0 }
        } else {
            Self { left: 0, spent: 0, idle: grant.left }
        }
    }

    fn pay(&mut self, work: impl FnOnce()) {
        let began = Instant::now();
        work();
        let ns = u64::try_from(began.elapsed().as_nanos().clamp(1, LOOK_NS_MAX)).unwrap_or(u64::MAX);
        self.spent = self.spent.saturating_add(ns);
        self.left = self.left.saturating_sub(ns);
    }

    fn unused(&self) -> u64 {
        self.left.saturating_add(self.idle)
    }
}

impl<'a> Look<'a> {
    #[cold]
    fn new(shared: &'a Shared) -> Self {
        let now_ms = millis(shared.since.elapsed());
        let onlooker = |tap: &Arc<Tap>| {
            let mut state = lock(&tap.state);
            let (shown, bad_shown) = (state.shown.grant(now_ms), state.bad_shown.grant(now_ms));
            Onlooker { tap: tap.clone(), shown, bad_shown, seen: Counts::default() }
        };
        let onlookers: Vec<_> = lock(&shared.taps).iter().map(onlooker).collect();
        // A reader that stopped reading costs no more than this question.
        let wanted = onlookers.iter().any(|onlooker| onlooker.tap.lines.capacity() > 0);
        let mut time = lock(&shared.time);
        let names = Purse::new(time.names.grant(now_ms), wanted);
        let bad = Purse::new(time.bad.grant(now_ms), wanted);
        drop(time);
        Self { shared, onlookers, names, bad, passed: 0, looked_at: 0 }
    }

    /// A datapoint passes.
    pub(crate) fn datapoint(&mut self, whence: Whence<'_>, datapoint: &Datapoint<'_>) {
        self.passed = self.passed.saturating_add(1);
        if self.names.left == 0 {
            return;
        }
        self.looked_at = self.looked_at.saturating_add(1);
        self.names.pay(|| {
            for Onlooker { tap, shown, seen, .. } in &mut self.onlookers {
                if tap.means(datapoint.name) {
                    seen.matched = seen.matched.saturating_add(1);
                    let said = shown.take(fastrand::f64) && tap.say(&Line::datapoint(whence, datapoint));
                    seen.shown = seen.shown.saturating_add(u64::from(said));
                }
            }
        });
    }

    /// A datapoint is skipped.
    pub(crate) fn skipped(&mut self, whence: Whence<'_>, reason: Skipped, datapoint: &Datapoint<'_>) {
        self.bad(datapoint.name, || Line::skipped(whence, reason, datapoint));
    }

    /// Something is malformed.
    pub(crate) fn malformed(&mut self, whence: Whence<'_>, reason: Reason, sample: &[u8]) {
        self.bad(tap::name_of(sample), || Line::malformed(whence, reason, sample));
    }

    fn bad(&mut self, name: &[u8], line: impl Fn() -> Line) {
        for Onlooker { seen, .. } in &mut self.onlookers {
            seen.bad = seen.bad.saturating_add(1);
        }
        if self.bad.left == 0 {
            return;
        }
        self.bad.pay(|| {
            for Onlooker { tap, bad_shown, seen, .. } in &mut self.onlookers {
                let said = tap.means(name) && bad_shown.take(fastrand::f64) && tap.say(&line());
                seen.bad_shown = seen.bad_shown.saturating_add(u64::from(said));
            }
        });
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let mut time = lock(&self.shared.time);
        if let Some(a_name) = self.names.spent.checked_div(self.looked_at) {
            time.a_name = a_name;
        }
        let all_names = time.a_name.saturating_mul(self.passed);
        time.names.settle(all_names, self.names.unused());
        time.bad.settle(self.bad.spent, self.bad.unused());
        drop(time);
        for Onlooker { tap, shown, bad_shown, seen } in &self.onlookers {
            let mut state = lock(&tap.state);
            state.shown.settle(seen.matched, shown.left);
            state.bad_shown.settle(seen.bad, bad_shown.left);
            let counts = &mut state.counts;
            counts.passed = counts.passed.saturating_add(self.passed);
            let unlooked = self.passed.saturating_sub(self.looked_at);
            counts.unlooked = counts.unlooked.saturating_add(unlooked);
            counts.matched = counts.matched.saturating_add(seen.matched);
            counts.shown = counts.shown.saturating_add(seen.shown);
            counts.bad = counts.bad.saturating_add(seen.bad);
            counts.bad_shown = counts.bad_shown.saturating_add(seen.bad_shown);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::protocol::Protocol;

    const WHENCE: Whence<'static> =
        Whence { time_ms: 1, endpoint: "tcp:1", protocol: Protocol::Line, peer: &"10.0.0.1:5" };

    fn pass(taps: &Taps, names: &[&str]) {
        let Some(mut look) = taps.look() else { return };
        for name in names {
            look.datapoint(WHENCE, &Datapoint { name: name.as_bytes(), value: 1.0, timestamp: 1.0 });
        }
    }

    fn shown(opened: &mut Opened) -> Vec<Line> {
        let lines = std::iter::from_fn(|| opened.lines.try_recv().ok());
        lines.map(|line| serde_json::from_slice(&line).unwrap()).collect()
    }

    #[test]
    fn a_tap_shows_what_its_glob_means_and_counts_the_rest() {
        let taps = Taps::default();
        assert!(taps.look().is_none());
        let mut all = taps.open(None).unwrap();
        let mut some = taps.open(Some(Glob::new("b*").unwrap())).unwrap();
        pass(&taps, &["a", "b.1", "c"]);
        taps.look().unwrap().malformed(WHENCE, Reason::LineFields, b"b.2 x");
        assert_eq!(shown(&mut all).len(), 4);
        let shown = shown(&mut some);
        assert!(matches!(&shown[0], Line::Datapoint { name, .. } if name == "b.1"), "{shown:?}");
        assert!(matches!(&shown[1], Line::Malformed { sample, .. } if sample == "b.2 x"), "{shown:?}");
        let counts = Counts { passed: 3, matched: 1, shown: 1, bad: 1, bad_shown: 1, unlooked: 0 };
        assert_eq!(some.counts(), counts);
        drop((all, some));
        assert!(taps.look().is_none());
    }

    #[test]
    fn there_are_so_many_at_most() {
        let taps = Taps::default();
        let mut opened: Vec<_> = (0..TAPS_MAX).map(|_| taps.open(None).unwrap()).collect();
        assert!(taps.open(None).is_none());
        opened.pop();
        assert!(taps.open(None).is_some());
    }

    #[test]
    fn who_does_not_read_holds_a_bounded_number_of_lines_and_costs_no_more_looks() {
        let taps = Taps::default();
        let opened = taps.open(None).unwrap();
        while opened.tap.lines.capacity() > 0 {
            pass(&taps, &["a"; 100]);
        }
        let before = opened.counts();
        pass(&taps, &["a"; 100]);
        let after = opened.counts();
        assert_eq!((after.unlooked, after.shown), (before.unlooked + 100, before.shown));
        assert!(after.shown <= LINES_MAX as u64, "{after:?}");
    }
}
