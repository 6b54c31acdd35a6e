//! Owns how a bounded share of many things is chosen: few are all taken, of many a sample, never more than a quota a
//! second. It has no clock and throws no dice: both come in.
//!
//! The first half of a quota goes to whoever comes first, so that a single thing is taken however much there was a
//! second ago. The other half goes by a chance that would spread it over as much as came in the last second, so that a
//! flood at a second's beginning does not take it all.

/// The span for which a quota is.
const WINDOW_MS: u64 = 1_000;

/// A quota a second.
#[derive(Debug, Clone)]
pub struct Share {
    quota: u64,
    /// Which second it is.
    window: u64,
    /// Taken or promised in it.
    used: u64,
    /// How much came in it.
    came: u64,
    /// How much came in the one before.
    came_before: u64,
}

/// What may be taken for now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grant {
    /// How much at most.
    pub left: u64,
    /// The chance that each has.
    pub chance: f64,
}

impl Share {
    /// Nothing of it is used yet.
    pub fn new(quota: u64) -> Self {
        Self { quota, window: 0, used: 0, came: 0, came_before: 0 }
    }

    /// Promises half of what is left, for others may come at the same time; see [`Share::settle`].
    pub fn grant(&mut self, now_ms: u64) -> Grant {
        let window = now_ms / WINDOW_MS;
        if window != self.window {
            self.came_before = if window == self.window.saturating_add(1) { self.came } else { 0 };
            (self.window, self.used, self.came) = (window, 0, 0);
        }
        let half = self.quota / 2;
        let anybody = self.used < half || self.came_before <= self.quota;
        let chance = if anybody { 1.0 } else { half as f64 / self.came_before as f64 };
        let left = self.quota.saturating_sub(self.used).div_ceil(2);
        self.used = self.used.saturating_add(left);
        Grant { left, chance }
    }

    /// So much came, and so much of the grant was not needed.
    pub fn settle(&mut self, came: u64, unused: u64) {
        self.came = self.came.saturating_add(came);
        self.used = self.used.saturating_sub(unused);
    }
}

impl Grant {
    /// Whether one more is taken, by a throw from 0 to 1.
    pub fn take(&mut self, dice: impl FnOnce() -> f64) -> bool {
        if self.left == 0 || (self.chance < 1.0 && dice() >= self.chance) {
            return false;
        }
        self.left = self.left.saturating_sub(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Throws that are the same each time (Knuth's MMIX generator).
    fn dice(mut seed: u64) -> impl FnMut() -> f64 {
        move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// Lets `n` come at once; how many are taken.
    fn come(share: &mut Share, n: u64, now_ms: u64, dice: &mut impl FnMut() -> f64) -> u64 {
        let mut grant = share.grant(now_ms);
        let taken = (0..n).filter(|_| grant.take(&mut *dice)).count() as u64;
        share.settle(n, grant.left);
        taken
    }

    proptest! {
        #[test]
        fn never_more_than_the_quota_a_second_and_few_are_all_taken(
            quota in 1u64..200,
            bursts in prop::collection::vec((0u64..50, 0u64..400), 1..100),
            seed: u64,
        ) {
            let mut dice = dice(seed);
            let mut share = Share::new(quota);
            let (mut now, mut second, mut came, mut taken) = (0, 0, 0, 0);
            for (pause, n) in bursts {
                now += pause;
                if now / 1_000 != second {
                    (second, came, taken) = (now / 1_000, 0, 0);
                }
                came += n;
                taken += come(&mut share, n, now, &mut dice);
                prop_assert!(taken <= quota);
                prop_assert!(came > quota / 2 || taken == came, "few at the start of a second are all taken");
            }
        }
    }

    #[test]
    fn of_a_flood_each_part_is_taken_from() {
        let mut dice = dice(7);
        let mut share = Share::new(100);
        let mut by_tenth = [0; 10];
        for ms in (0..10_000).step_by(10) {
            let taken = come(&mut share, 100, ms, &mut dice);
            by_tenth[(ms % 1_000 / 100) as usize] += if ms < 1_000 { 0 } else { taken };
        }
        assert!(by_tenth.iter().all(|&taken| taken > 0), "{by_tenth:?}");
    }

    #[test]
    fn one_after_a_flood_is_taken() {
        let mut share = Share::new(100);
        come(&mut share, 1_000_000, 500, &mut || 0.0);
        assert_eq!(come(&mut share, 1, 1_000, &mut || 1.0), 1);
    }
}
