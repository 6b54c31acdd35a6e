//! Owns a token bucket. It has no clock: the time comes in.
//!
//! What a tap takes, time or lines, is known only once it is taken. `governor`, the library for this, is asked before and
//! knows no debt, so this is by hand. Without a lock: nobody who decodes waits for anybody.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

const SECOND_NS: u64 = 1_000_000_000;

/// Tokens that come at a steady rate. As many as come in a second can be saved; who takes more leaves a debt.
#[derive(Debug)]
pub(super) struct Bucket {
    token_ns: u64,
    /// When it is full again, in nanoseconds of the time that comes in.
    full_at_ns: AtomicU64,
}

impl Bucket {
    /// A full one, into which `tokens` come a second, at least one.
    pub(super) fn new(tokens: u64) -> Self {
        Self { token_ns: SECOND_NS.checked_div(tokens).unwrap_or(SECOND_NS), full_at_ns: AtomicU64::new(0) }
    }

    /// Whether it has any tokens.
    pub(super) fn has_some(&self, now: Duration) -> bool {
        self.full_at_ns.load(Ordering::Relaxed) < ns(now).saturating_add(SECOND_NS)
    }

    /// Whether it owes less than what comes in a second.
    pub(super) fn may_owe(&self, now: Duration) -> bool {
        self.has_some(now.saturating_add(Duration::from_nanos(SECOND_NS)))
    }

    /// Takes tokens, whether it has them or not.
    pub(super) fn take(&self, tokens: u64, now: Duration) {
        self.full_at_ns.fetch_max(ns(now), Ordering::Relaxed);
        self.full_at_ns.fetch_add(tokens.saturating_mul(self.token_ns), Ordering::Relaxed);
    }
}

/// A span in nanoseconds: 584 years fit.
pub(super) fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn over_any_time_it_gives_its_rate_and_what_was_saved_and_few_all_get_some(
            tokens in 1u64..500,
            takers in proptest::collection::vec((0u64..50, 1u64..20), 1..300),
        ) {
            let bucket = Bucket::new(tokens);
            let (mut now_ms, mut taken, mut asked) = (0, 0, 0);
            for (pause_ms, wanted) in takers {
                now_ms += pause_ms;
                asked += wanted;
                if bucket.has_some(Duration::from_millis(now_ms)) {
                    bucket.take(wanted, Duration::from_millis(now_ms));
                    taken += wanted;
                }
                let last_debt = 20;
                assert!(taken <= tokens + tokens * now_ms / 1_000 + last_debt);
                assert!(asked > tokens || taken == asked);
            }
        }
    }

    #[test]
    fn a_debt_is_paid_before_anything_else_is_given() {
        let bucket = Bucket::new(100);
        bucket.take(250, Duration::ZERO);
        assert!(!bucket.has_some(Duration::from_millis(1_500)));
        assert!(bucket.has_some(Duration::from_millis(1_501)));
    }
}
