//! Owns the figures of the last minutes, and the line that is fitted through them: what was seen for less than a minute
//! tells nothing of the next hour.

use std::collections::VecDeque;

/// How often a sample is kept, at most.
const EVERY_MS: u64 = 1_000;

/// Samples that are kept: ten minutes.
const KEPT: usize = 600;

/// The shortest time that a line is fitted through.
const FIT_MIN_MS: u64 = 60_000;

/// The figures at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at_ms: u64,
    pub(super) used_bytes: u64,
    pub(super) buffered: u64,
}

/// The last minutes.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(VecDeque<Sample>);

impl Samples {
    pub(super) fn add(&mut self, sample: Sample) {
        match self.0.back() {
            // The clock was set back: what was seen before says nothing any more.
            Some(last) if sample.at_ms < last.at_ms => self.0.clear(),
            Some(last) if sample.at_ms < last.at_ms.saturating_add(EVERY_MS) => return,
            _ => {}
        }
        self.0.push_back(sample);
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }

    /// By how much a figure grows in a second, as a line through all samples from `from_ms` on has it; nothing if they are
    /// of less than a minute.
    pub(super) fn growth(&self, from_ms: u64, figure: impl Fn(&Sample) -> u64) -> Option<f64> {
        let samples = || self.0.iter().filter(|sample| sample.at_ms >= from_ms);
        let (first, last) = (samples().next()?, self.0.back()?);
        if last.at_ms.saturating_sub(first.at_ms) < FIT_MIN_MS {
            return None;
        }
        let point = |sample: &Sample| {
            (sample.at_ms.saturating_sub(first.at_ms) as f64 / 1_000.0, figure(sample) as f64)
        };
        let n = samples().count() as f64;
        let (sum_x, sum_y) = samples().map(point).fold((0.0, 0.0), |(xs, ys), (x, y)| (xs + x, ys + y));
        let (mean_x, mean_y) = (sum_x / n, sum_y / n);
        let (above, below) = samples().map(point).fold((0.0, 0.0), |(above, below), (x, y)| {
            (above + (x - mean_x) * (y - mean_y), below + (x - mean_x) * (x - mean_x))
        });
        (below > 0.0).then(|| above / below)
    }
}

/// When `amount` is used up at so much a second; nothing if it never is, or in more than a year.
pub(super) fn used_up_ms(now_ms: u64, amount: u64, per_second: f64) -> Option<u64> {
    const YEAR_S: f64 = 366.0 * 86_400.0;
    let seconds = amount as f64 / per_second;
    // Not negative, and less than a year of milliseconds.
    (per_second > 0.0 && seconds <= YEAR_S).then(|| now_ms.saturating_add((seconds * 1_000.0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(seconds: u64, used: impl Fn(u64) -> u64) -> Samples {
        let mut samples = Samples::default();
        for second in 0..seconds {
            samples.add(Sample { at_ms: second * 1_000, used_bytes: used(second), buffered: 0 });
        }
        samples
    }

    #[test]
    fn the_spool_that_fills_in_steps_has_one_slope() {
        // As it was seen: nothing for seconds, then a step; the difference of two samples is nothing or far too much.
        let growth = samples(120, |second| second / 5 * 40_000).growth(0, |sample| sample.used_bytes);
        assert!((growth.unwrap() - 8_000.0).abs() < 100.0, "{growth:?}");
    }

    #[test]
    fn less_than_a_minute_says_nothing() {
        let samples = samples(120, |second| second);
        assert!(samples.growth(0, |sample| sample.used_bytes).is_some());
        assert_eq!(samples.growth(60_001, |sample| sample.used_bytes), None);
        assert_eq!(Samples::default().growth(0, |sample| sample.used_bytes), None);
    }

    #[test]
    fn ten_minutes_are_kept_and_a_clock_that_was_set_back_begins_anew() {
        let mut samples = samples(5_000, |second| second);
        assert_eq!(samples.0.len(), KEPT);
        samples.add(Sample { at_ms: 7, used_bytes: 0, buffered: 0 });
        assert_eq!(samples.0.len(), 1);
    }

    #[test]
    fn what_is_never_used_up_has_no_time() {
        assert_eq!(used_up_ms(1_000, 600, 10.0), Some(61_000));
        for per_second in [0.0, -1.0, 1e-9, f64::NAN] {
            assert_eq!(used_up_ms(1_000, 600, per_second), None, "{per_second}");
        }
    }
}
