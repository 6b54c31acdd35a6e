//! Owns the past: what came and went in the last minutes by second and in the last day by minute, and what the verdict
//! and the last reload have left to remember. It never looks at a clock.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::view::Rates;
use crate::core::verdict::Watch;

/// Points of the history: 15 minutes.
const HISTORY_POINTS: usize = 900;

/// How often a point of the last day is taken.
const MINUTE: Duration = Duration::from_secs(60);

/// Points of the last day.
const MINUTES: usize = 1_440;

/// The time in milliseconds since 1970; then received, delivered and buffered; and the condition by its place in
/// [`crate::core::verdict::Condition::ALL`]: of a minute the worst.
pub type Point = [u64; 5];

/// A copy of the history.
#[derive(Debug)]
pub struct Past {
    /// The last quarter of an hour, by second.
    pub points: Vec<Point>,
    /// The last day, by minute.
    pub minutes: Vec<Point>,
}

/// The last quarter of an hour by second, and the last day by minute.
#[derive(Debug, Clone, Default)]
pub struct History {
    points: Arc<Mutex<VecDeque<Point>>>,
    minutes: Arc<Mutex<VecDeque<Point>>>,
    watch: Arc<Mutex<Watch>>,
    reload_failed: Arc<AtomicBool>,
}

impl History {
    /// Remembers whether the settings could be used when they were read again.
    pub fn reloaded(&self, succeeded: bool) {
        self.reload_failed.store(!succeeded, Ordering::Relaxed);
    }

    /// Uses what the verdict remembers of earlier figures.
    pub(super) fn watch<T>(&self, look: impl FnOnce(&mut Watch) -> T) -> T {
        look(&mut self.watch.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn add(&self, point: Point) {
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        points.push_back(point);
        while points.len() > HISTORY_POINTS {
            points.pop_front();
        }
        let mut minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        let [at, .., state] = point;
        let minute = u64::try_from(MINUTE.as_millis()).unwrap_or(u64::MAX);
        match minutes.back_mut() {
            Some([began, .., worst]) if *began / minute == at / minute => {
                // What is lost is worse than what is kept.
                let badness =
                    |state: u64| [0, 2, 1, 3].get(usize::try_from(state).unwrap_or(0)).copied().unwrap_or(0);
                if badness(state) > badness(*worst) {
                    *worst = state;
                }
            }
            _ => minutes.push_back(point),
        }
        while minutes.len() > MINUTES {
            minutes.pop_front();
        }
    }

    /// Whether the settings could be used when they were read last.
    pub(super) fn reload_succeeded(&self) -> bool {
        !self.reload_failed.load(Ordering::Relaxed)
    }

    /// What was received and delivered a second, over as long as is asked for or is known.
    pub(super) fn rates(&self, over: Duration) -> Option<Rates> {
        let points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let last = points.back()?;
        let from = last[0].saturating_sub(u64::try_from(over.as_millis()).unwrap_or(u64::MAX));
        let first = points.iter().find(|point| point[0] >= from)?;
        let seconds = last[0].saturating_sub(first[0]) as f64 / 1_000.0;
        let per_second = |n: u64| n as f64 / seconds;
        (seconds > 0.0).then(|| Rates {
            over: Duration::from_secs_f64(seconds),
            received: per_second(last[1].saturating_sub(first[1])),
            delivered: per_second(last[2].saturating_sub(first[2])),
        })
    }

    pub(super) fn snapshot(&self) -> Past {
        let all = |points: &Mutex<VecDeque<Point>>| {
            points.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
        };
        Past { points: all(&self.points), minutes: all(&self.minutes) }
    }
}
