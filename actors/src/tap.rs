//! Owns who looks on while datapoints pass: the open taps, each with its glob, its bounds and its channel. A tap never
//! makes who decodes wait, takes a bounded share of its time, and never touches the ledger.
//!
//! While there is no tap, decoding asks once for each frame, and that is all it costs. While there is one, it begins to look
//! at a frame if the buckets of time and of lines hold tokens, and else leaves the whole frame alone. What a look took is
//! charged to the buckets afterwards. So neither a slow glob, a long name nor a slow machine matters, and what nobody
//! looked at is counted.

mod bucket;
mod glob;
pub(crate) mod http;
mod line;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use self::bucket::{Bucket, ns};
pub(crate) use self::line::{Whence, skipped_sample};
pub use self::{
    glob::Glob,
    line::{Bad, Counts, Line, Origin, number},
};
use crate::core::{
    datapoint::{Datapoint, Reason},
    row::Skipped,
};

/// Taps that may be open at once.
const TAPS_MAX: usize = 4;

/// Time that all taps together may take of those who decode, in nanoseconds a second: 2% of a core. A quarter of it is
/// for what is malformed or skipped: in a flood of good datapoints that is what one looks for.
const GOOD_NS_A_SECOND: u64 = 15_000_000;
const BAD_NS_A_SECOND: u64 = 5_000_000;

/// Time that is taken of one frame. Longer, and somebody else had the processor meanwhile, or the glob is a slow one.
const FRAME_MAX: Duration = Duration::from_millis(2);

/// Lines that a tap shows a second, of good datapoints and of what is malformed or skipped; and of one frame, at most.
const GOOD_SHOWN_A_SECOND: u64 = 1_000;
const BAD_SHOWN_A_SECOND: u64 = 200;

/// Lines that wait for a tap's reader. They have at most 3 KiB, and usually 200 bytes.
const LINES_MAX: usize = 2_048;

/// All taps; cheap to clone.
#[derive(Clone)]
pub struct Taps(Arc<Shared>);

struct Shared {
    /// How many taps there are, which is what decoding asks.
    open: AtomicUsize,
    taps: Mutex<Vec<Arc<Tap>>>,
    good: Bucket,
    bad: Bucket,
    since: Instant,
}

struct Tap {
    glob: Option<Glob>,
    lines: mpsc::Sender<Bytes>,
    good: Seen,
    bad: Seen,
}

/// What a tap has seen of good datapoints, or of bad ones.
struct Seen {
    /// Lines that it may show.
    lines: Bucket,
    passed: AtomicU64,
    unlooked: AtomicU64,
    matched: AtomicU64,
    shown: AtomicU64,
}

impl Seen {
    fn new(lines_a_second: u64) -> Self {
        let [passed, unlooked, matched, shown] = Default::default();
        Self { lines: Bucket::new(lines_a_second), passed, unlooked, matched, shown }
    }
}

/// A tap in its reader's hand. Dropped, it is closed.
pub(crate) struct Opened {
    taps: Taps,
    tap: Arc<Tap>,
    /// What it shows, a line of JSON each.
    lines: mpsc::Receiver<Bytes>,
}

impl Default for Taps {
    fn default() -> Self {
        Self(Arc::new(Shared {
            open: AtomicUsize::new(0),
            taps: Mutex::default(),
            good: Bucket::new(GOOD_NS_A_SECOND),
            bad: Bucket::new(BAD_NS_A_SECOND),
            since: Instant::now(),
        }))
    }
}

impl Shared {
    /// Changes which taps there are.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Arc<Tap>>) -> T) -> T {
        let mut taps = self.taps();
        let changed = change(&mut taps);
        self.open.store(taps.len(), Ordering::Relaxed);
        changed
    }

    fn taps(&self) -> MutexGuard<'_, Vec<Arc<Tap>>> {
        self.taps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taps {
    /// Opens a tap on the names that `glob` means, or on all; `None` if there are [`TAPS_MAX`] already.
    pub(crate) fn open(&self, glob: Option<Glob>) -> Option<Opened> {
        let (sender, lines) = mpsc::channel(LINES_MAX);
        let (good, bad) = (Seen::new(GOOD_SHOWN_A_SECOND), Seen::new(BAD_SHOWN_A_SECOND));
        let tap = Arc::new(Tap { glob, lines: sender, good, bad });
        let opened = Opened { taps: self.clone(), tap: tap.clone(), lines };
        self.0.change(|taps| (taps.len() < TAPS_MAX).then(|| taps.push(tap))).map(|()| opened)
    }

    /// How many are open.
    pub(crate) fn open_now(&self) -> usize {
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
    fn counts(&self) -> Counts {
        let Tap { good, bad, .. } = &*self.tap;
        let [passed, unlooked, matched, shown, bad, bad_shown] =
            [&good.passed, &good.unlooked, &good.matched, &good.shown, &bad.passed, &bad.shown]
                .map(|count| count.load(Ordering::Relaxed));
        Counts { passed, unlooked, matched, shown, bad, bad_shown }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.taps.0.change(|taps| taps.retain(|tap| !Arc::ptr_eq(tap, &self.tap)));
    }
}

/// All taps while they look at a frame that is decoded.
pub(crate) struct Look<'a> {
    good: Kind<'a>,
    bad: Kind<'a>,
}

impl<'a> Look<'a> {
    #[cold]
    fn new(shared: &'a Shared) -> Self {
        let now = shared.since.elapsed();
        let taps = shared.taps().clone();
        let bad = Kind::new(&shared.bad, now, &taps, |tap| &tap.bad);
        Self { good: Kind::new(&shared.good, now, &taps, |tap| &tap.good), bad }
    }

    /// A datapoint passes.
    pub(crate) fn datapoint(&mut self, whence: Whence<'_>, datapoint: &Datapoint<'_>) {
        self.good.pass(datapoint.name, || Line::datapoint(whence, datapoint));
    }

    /// A datapoint is skipped.
    pub(crate) fn skipped(&mut self, whence: Whence<'_>, reason: Skipped, datapoint: &Datapoint<'_>) {
        self.bad.pass(datapoint.name, || Line::skipped(whence, reason, datapoint));
    }

    /// Something is malformed. A glob is asked about its first word, which is its name if it has one.
    pub(crate) fn malformed(&mut self, whence: Whence<'_>, reason: Reason, sample: &[u8]) {
        let name = sample.trim_ascii_start().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        self.bad.pass(name, || Line::malformed(whence, reason, sample));
    }
}

/// The good datapoints of a frame, or its bad ones.
struct Kind<'a> {
    now: Duration,
    time: &'a Bucket,
    /// Time that may be taken of this frame, and what is left of it.
    granted: Duration,
    left: Duration,
    passed: u64,
    looked_at: u64,
    seen: fn(&Tap) -> &Seen,
    /// Whether it looks at this frame, for each tap.
    taps: Vec<(Arc<Tap>, bool)>,
}

impl<'a> Kind<'a> {
    fn new(time: &'a Bucket, now: Duration, taps: &[Arc<Tap>], seen: fn(&Tap) -> &Seen) -> Self {
        // A reader that stopped reading costs no more than this question.
        let looks = |tap: &Arc<Tap>| tap.lines.capacity() > 0 && seen(tap).lines.has_some(now);
        let taps: Vec<_> = taps.iter().map(|tap| (tap.clone(), looks(tap))).collect();
        let looked_at = time.has_some(now) && taps.iter().any(|&(_, looks)| looks);
        let granted = if looked_at { FRAME_MAX } else { Duration::ZERO };
        Self { now, time, granted, left: granted, passed: 0, looked_at: 0, seen, taps }
    }

    fn pass(&mut self, name: &[u8], line: impl Fn() -> Line) {
        self.passed = self.passed.saturating_add(1);
        if self.left.is_zero() {
            return;
        }
        self.looked_at = self.looked_at.saturating_add(1);
        let began = Instant::now();
        for (tap, _) in self.taps.iter().filter(|(_, looks)| *looks) {
            if tap.glob.as_ref().is_none_or(|glob| glob.matches(name)) {
                let seen = (self.seen)(tap);
                seen.matched.fetch_add(1, Ordering::Relaxed);
                if seen.lines.may_owe(self.now) && tap.say(&line()) {
                    seen.lines.take(1, self.now);
                    seen.shown.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.left = self.left.saturating_sub(began.elapsed());
    }
}

impl Drop for Kind<'_> {
    fn drop(&mut self) {
        self.time.take(ns(self.granted.saturating_sub(self.left)), self.now);
        for (tap, looks) in &self.taps {
            let looked_at = if *looks { self.looked_at } else { 0 };
            let seen = (self.seen)(tap);
            seen.passed.fetch_add(self.passed, Ordering::Relaxed);
            seen.unlooked.fetch_add(self.passed.saturating_sub(looked_at), Ordering::Relaxed);
        }
    }
}

impl Tap {
    /// Whether its reader has room for a line.
    fn say(&self, line: &Line) -> bool {
        // It is made of texts and finite numbers, so it can be written.
        let Ok(mut text) = serde_json::to_vec(line) else { return false };
        text.push(b'\n');
        self.lines.try_send(text.into()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::protocol::Protocol;

    const WHENCE: Whence<'static> =
        Whence { time_ms: 1, endpoint: "tcp:1", protocol: Protocol::Line, peer: &"10.0.0.1:5" };

    fn pass(taps: &Taps, names: &[&str]) {
        let mut look = taps.look().unwrap();
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
        taps.look().unwrap().malformed(WHENCE, Reason::LineFields, b" b.2 x");
        assert_eq!(shown(&mut all).len(), 4);
        let shown = shown(&mut some);
        assert!(matches!(&shown[0], Line::Datapoint { name, .. } if name == "b.1"), "{shown:?}");
        assert!(matches!(&shown[1], Line::Malformed(Bad { sample, .. }) if sample == " b.2 x"), "{shown:?}");
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
        while opened.tap.lines.try_send(Bytes::new()).is_ok() {}
        pass(&taps, &["a"; 100]);
        let counts = Counts { passed: 100, unlooked: 100, ..Counts::default() };
        assert_eq!(opened.counts(), counts);
        assert_eq!(opened.lines.len(), LINES_MAX);
    }

    #[test]
    fn what_a_look_takes_is_charged_and_without_time_only_what_is_bad_is_looked_at() {
        let taps = Taps::default();
        let opened = taps.open(Some(Glob::new(&format!("*a{}", "?".repeat(100))).unwrap())).unwrap();
        let name = "a".repeat(1_000);
        let runs_out = |_| {
            pass(&taps, &[&name]);
            !taps.0.good.has_some(taps.0.since.elapsed())
        };
        assert!((0..100_000).any(runs_out));

        taps.0.good.take(2 * GOOD_NS_A_SECOND, taps.0.since.elapsed());
        let before = opened.counts();
        pass(&taps, &[&name]);
        taps.look().unwrap().malformed(WHENCE, Reason::LineFields, name.as_bytes());
        let after = opened.counts();
        assert_eq!((after.unlooked, after.shown), (before.unlooked + 1, before.shown));
        assert_eq!(after.bad_shown, 1);
    }

    #[test]
    fn of_one_frame_no_more_is_shown_than_two_seconds_bring() {
        let taps = Taps::default();
        let mut opened = taps.open(None).unwrap();
        let mut look = taps.look().unwrap();
        for _ in 0..10 * BAD_SHOWN_A_SECOND {
            look.bad.left = FRAME_MAX;
            look.malformed(WHENCE, Reason::LineFields, b"x");
        }
        drop(look);
        assert_eq!(shown(&mut opened).len() as u64, 2 * BAD_SHOWN_A_SECOND);
        assert_eq!(opened.counts().bad, 10 * BAD_SHOWN_A_SECOND);
    }
}
