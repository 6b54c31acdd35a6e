//! Owns the ledger: where every datapoint that was ever decoded is now.
//! It never guesses: each change moves a stated number of datapoints from one place to another.
//!
//! ```text
//! received = skipped + buffered + delivered + refused + dropped          (unaccounted = 0, always)
//! ```

use std::collections::BTreeMap;

use super::row::Skipped;

/// Counts by reason.
pub type ByReason = BTreeMap<String, u64>;

/// Where the datapoints are. `buffered` is `open + spooled`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Decoded from the wire.
    pub received: u64,
    /// Well-formed, and not forwardable.
    pub skipped: ByReason,
    /// In hand: decoded, and not yet in the spool.
    pub open: u64,
    /// In the spool, waiting or in flight.
    pub spooled: u64,
    /// Blueflood answered for them: stored.
    pub delivered: u64,
    /// Blueflood refused them: they lie in the dead letters.
    pub refused: ByReason,
    /// Given up by our own stated policy.
    pub dropped: ByReason,
    /// Beside the law: what never became a datapoint.
    pub malformed: ByReason,
    /// Beside the law: delivered, though Blueflood only ever answered 202.
    pub unconfirmed: u64,
    /// Beside the law: dead letters that made room for newer ones.
    pub dead_letters_discarded: u64,
    /// Beside the law: names with bytes that were not UTF-8 and were replaced.
    pub names_replaced: u64,
}

/// What decoding some bytes came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Datapoints that became rows.
    pub rows: u64,
    /// Datapoints that did not, in the order of [`Skipped::ALL`].
    pub skipped: [u64; Skipped::ALL.len()],
    /// Names in which bytes that were not UTF-8 were replaced.
    pub names_replaced: u64,
}

impl Decoded {
    /// Counts what became of one datapoint.
    pub fn count(&mut self, encoded: Result<bool, Skipped>) {
        let (counter, replaced) = match encoded {
            Ok(replaced) => (Some(&mut self.rows), replaced),
            Err(skipped) => (self.skipped.get_mut(skipped as usize), false),
        };
        if let Some(counter) = counter {
            *counter = counter.saturating_add(1);
        }
        self.names_replaced = self.names_replaced.saturating_add(u64::from(replaced));
    }
}

/// A place in which a datapoint's way ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Stored by Blueflood.
    pub delivered: u64,
    /// Of these, never answered better than 202.
    pub unconfirmed: u64,
    /// Refused by Blueflood, by reason.
    pub refused: ByReason,
    /// Given up, by policy.
    pub dropped: ByReason,
}

impl Settled {
    /// Datapoints that left the spool.
    pub fn rows(&self) -> u64 {
        self.delivered.saturating_add(sum(&self.refused)).saturating_add(sum(&self.dropped))
    }
}

impl Ledger {
    /// Bytes were decoded.
    pub fn decoded(&mut self, decoded: &Decoded) {
        self.open = self.open.saturating_add(decoded.rows);
        self.received = self.received.saturating_add(decoded.rows);
        self.names_replaced = self.names_replaced.saturating_add(decoded.names_replaced);
        for (reason, &n) in Skipped::ALL.iter().zip(&decoded.skipped) {
            self.received = self.received.saturating_add(n);
            add(&mut self.skipped, reason.label(), n);
        }
    }

    /// Something on the wire never became a datapoint.
    pub fn malformed(&mut self, reason: &str) {
        add(&mut self.malformed, reason, 1);
    }

    /// Rows in hand are in the spool now.
    pub fn spooled(&mut self, rows: u64) {
        self.open = self.open.saturating_sub(rows);
        self.spooled = self.spooled.saturating_add(rows);
    }

    /// The spool could not keep rows after all: they are in hand again.
    pub fn unspooled(&mut self, rows: u64) {
        self.spooled = self.spooled.saturating_sub(rows);
        self.open = self.open.saturating_add(rows);
    }

    /// Rows in hand were given up before the spool had them.
    pub fn dropped_in_hand(&mut self, reason: &str, rows: u64) {
        self.open = self.open.saturating_sub(rows);
        add(&mut self.dropped, reason, rows);
    }

    /// Rows end with the process, for no spool has them.
    pub fn stopped(&mut self, rows: u64) {
        let in_hand = rows.min(self.open);
        self.dropped_in_hand("stopped", in_hand);
        self.spooled = self.spooled.saturating_sub(rows.saturating_sub(in_hand));
        add(&mut self.dropped, "stopped", rows.saturating_sub(in_hand));
    }

    /// Rows left the spool.
    pub fn settled(&mut self, settled: &Settled) {
        self.spooled = self.spooled.saturating_sub(settled.rows());
        self.delivered = self.delivered.saturating_add(settled.delivered);
        self.unconfirmed = self.unconfirmed.saturating_add(settled.unconfirmed);
        merge(&mut self.refused, &settled.refused);
        merge(&mut self.dropped, &settled.dropped);
    }

    /// Refused rows are in the spool again, to be sent once more.
    pub fn replayed(&mut self, refused: &ByReason) {
        for (reason, &n) in refused {
            if let Some(counter) = self.refused.get_mut(reason) {
                *counter = counter.saturating_sub(n);
            }
        }
        self.spooled = self.spooled.saturating_add(sum(refused));
    }

    /// Held here: in hand and in the spool.
    pub fn buffered(&self) -> u64 {
        self.open.saturating_add(self.spooled)
    }

    /// By how much the law is broken: received less all the places. Anything but 0 is a bug.
    pub fn unaccounted(&self) -> i128 {
        let places =
            [self.buffered(), sum(&self.skipped), self.delivered, sum(&self.refused), sum(&self.dropped)];
        i128::from(self.received) - places.iter().map(|&n| i128::from(n)).sum::<i128>()
    }
}

/// The sum over all reasons.
pub fn sum(by_reason: &ByReason) -> u64 {
    by_reason.values().fold(0, |all, &n| all.saturating_add(n))
}

/// Adds `n` under `reason`.
pub fn add(by_reason: &mut ByReason, reason: &str, n: u64) {
    if n == 0 {
        return;
    }
    match by_reason.get_mut(reason) {
        Some(counter) => *counter = counter.saturating_add(n),
        None => {
            by_reason.insert(reason.to_owned(), n);
        }
    }
}

/// Adds all of `more`.
pub fn merge(by_reason: &mut ByReason, more: &ByReason) {
    for (reason, &n) in more {
        add(by_reason, reason, n);
    }
}

/// By how much each reason has grown.
pub fn since(now: &ByReason, before: &ByReason) -> ByReason {
    let grown = |(reason, &n): (&String, &u64)| {
        (reason.clone(), n.saturating_sub(before.get(reason).copied().unwrap_or(0)))
    };
    now.iter().map(grown).filter(|&(_, n)| n > 0).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_law_holds_whatever_moves_where(moves in prop::collection::vec((0u8..6, 0u64..1000), 0..200)) {
            let mut ledger = Ledger::default();
            for (what, n) in moves {
                match what {
                    0 => ledger.decoded(&Decoded { rows: n, skipped: [n / 3, 0, 1, 0, 0, 0, 2], names_replaced: 0 }),
                    1 => ledger.malformed("frame"),
                    2 => ledger.spooled(n.min(ledger.open)),
                    3 => ledger.dropped_in_hand("spool_full", n.min(ledger.open)),
                    4 => ledger.settled(&Settled { delivered: n.min(ledger.spooled), ..Settled::default() }),
                    _ => {
                        let n = n.min(ledger.spooled);
                        let refused = ByReason::from([("ttl".to_owned(), n / 2)]);
                        let dropped = ByReason::from([("max_age".to_owned(), n - n / 2)]);
                        ledger.settled(&Settled { refused, dropped, ..Settled::default() });
                    }
                }
                prop_assert_eq!(ledger.unaccounted(), 0);
            }
        }
    }

    #[test]
    fn a_datapoint_that_is_nowhere_shows() {
        let mut ledger = Ledger::default();
        ledger.decoded(&Decoded { rows: 5, ..Decoded::default() });
        ledger.open -= 2;
        assert_eq!(ledger.unaccounted(), 2);
    }
}
