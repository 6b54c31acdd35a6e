//! Owns the length of a wait between two tries. It never waits, and never draws a random number.

use std::time::Duration;

/// Exponential backoff with full jitter: a wait drawn evenly from nothing to `base * 2^tries`, at most `max`.
/// So many daemons that failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub base: Duration,
    /// The longest wait of all.
    pub max: Duration,
}

/// However small the drawn number, a wait is at least this, so that no failure becomes a busy loop.
pub const WAIT_MIN: Duration = Duration::from_millis(50);

impl Backoff {
    /// The wait after `tries` failures in a row (one or more); `random` is in `0.0..1.0`.
    pub fn wait(&self, tries: u32, random: f64) -> Duration {
        let doublings = tries.saturating_sub(1).min(31);
        let ceiling = self.base.saturating_mul(1 << doublings).min(self.max);
        ceiling.mul_f64(random.clamp(0.0, 1.0)).max(WAIT_MIN).min(self.max.max(WAIT_MIN))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_grows_with_the_tries_and_never_beyond_its_bound(tries: u32, random in 0.0..1.0f64) {
            let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };
            let wait = backoff.wait(tries, random);
            prop_assert!((WAIT_MIN..=backoff.max).contains(&wait));
            prop_assert!(wait <= backoff.wait(tries.saturating_add(1), random));
        }
    }

    #[test]
    fn the_first_wait_is_at_most_the_base() {
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };
        assert_eq!(backoff.wait(1, 1.0), Duration::from_secs(1));
        assert_eq!(backoff.wait(2, 0.5), Duration::from_secs(1));
        assert_eq!(backoff.wait(7, 1.0), Duration::from_secs(60));
    }
}
