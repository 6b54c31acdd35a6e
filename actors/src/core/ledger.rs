//! Owns the ledger: where every datapoint that was ever decoded is now.
//! It never guesses: each change moves a stated number of datapoints from one place to another.
//!
//! ```text
//! received = skipped + buffered + delivered + refused + dropped          (unaccounted = 0, always)
//! ```
//!
//! Who moves datapoints where: `actors/DESIGN.md`, "The ledger".

use std::collections::BTreeMap;

use super::{
    reason::Dropped,
    row::Skipped,
    tally::{Move, Place, Tally},
};

/// Counts by reason.
pub type ByReason = BTreeMap<String, u64>;

/// Where the datapoints are. `buffered` is `open + held + spooled`, and what is acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Decoded from the wire.
    pub received: u64,
    /// Well-formed, and not forwardable.
    pub skipped: ByReason,
    /// In hand: decoded, and not yet given to the spool.
    pub open: u64,
    /// Given to the spool, which holds them in memory for Blueflood's answer.
    pub held: u64,
    /// In the spool's file, waiting or in flight.
    pub spooled: u64,
    /// In the spool's file; Blueflood acknowledged them, and they were not read back yet.
    pub acknowledged: u64,
    /// The same, of what the spool holds in memory.
    pub held_acknowledged: u64,
    /// Blueflood answered for them; with `--confirm` they were read back.
    pub delivered: u64,
    /// Blueflood refused them: they lie in the dead letters.
    pub refused: ByReason,
    /// Given up by our own stated policy.
    pub dropped: ByReason,
    /// Beside the law: what never became a datapoint.
    pub malformed: ByReason,
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

    /// Moves datapoints as `tally` says. Beside [`Ledger::decoded`] and [`Ledger::malformed`], which count what comes in,
    /// nothing else changes a ledger.
    pub fn apply(&mut self, tally: &Tally) {
        for &Move { from, to, n } in tally.moves() {
            self.change(from, |count| {
                debug_assert!(*count >= n, "{n} datapoints leave {from:?}, which has {count}");
                *count = count.saturating_sub(n);
            });
            self.change(to, |count| *count = count.saturating_add(n));
            match (from, to) {
                (Place::Wire, _) => self.received = self.received.saturating_add(n),
                (_, Place::Wire) => self.received = self.received.saturating_sub(n),
                _ => {}
            }
        }
        self.dead_letters_discarded =
            self.dead_letters_discarded.saturating_add(tally.dead_letters_discarded);
    }

    /// Whether every place has what `tally` takes from it. It has not if a number was damaged that it came from.
    pub fn covers(&self, tally: &Tally) -> bool {
        let mut left: Vec<(Place, u64)> = Vec::new();
        let mut change = |place: Place, change: &dyn Fn(u64) -> Option<u64>| {
            if place == Place::Wire {
                return true;
            }
            let at = left.iter().position(|(known, _)| *known == place).unwrap_or(left.len());
            let before = left.get(at).map_or_else(|| self.at(place), |&(_, n)| n);
            let Some(after) = change(before) else { return false };
            match left.get_mut(at) {
                Some(known) => known.1 = after,
                None => left.push((place, after)),
            }
            true
        };
        tally.moves().all(|&Move { from, to, n }| {
            change(from, &|has| has.checked_sub(n)) && change(to, &|has| has.checked_add(n))
        })
    }

    /// How many datapoints are in a place.
    pub fn at(&self, place: Place) -> u64 {
        let by_reason = match place {
            Place::Wire => return 0,
            Place::Open => return self.open,
            Place::Held => return self.held,
            Place::Spooled => return self.spooled,
            Place::Acknowledged => return self.acknowledged,
            Place::HeldAcknowledged => return self.held_acknowledged,
            Place::Delivered => return self.delivered,
            Place::Skipped(_) => &self.skipped,
            Place::Refused(_) => &self.refused,
            Place::Dropped(_) => &self.dropped,
        };
        by_reason.get(place.key().1).copied().unwrap_or(0)
    }

    /// Another process has changed the file, which counts `file` now: what only memory knows stays, which is what is in
    /// hand, what came beside the chunks since `written`, and what `late` moves from the wire.
    pub fn adopt(&mut self, file: &Ledger, written: &Ledger, late: &Tally) {
        let mut here = file.clone();
        (here.open, here.held, here.held_acknowledged) = (self.open, self.held, self.held_acknowledged);
        let skipped = since(&self.skipped, &written.skipped);
        for more in [self.open, self.held, self.held_acknowledged, sum(&skipped)] {
            here.received = here.received.saturating_add(more);
        }
        merge(&mut here.skipped, &skipped);
        merge(&mut here.malformed, &since(&self.malformed, &written.malformed));
        let names = self.names_replaced.saturating_sub(written.names_replaced);
        here.names_replaced = here.names_replaced.saturating_add(names);
        here.apply(late);
        *self = here;
    }

    fn change(&mut self, place: Place, change: impl FnOnce(&mut u64)) {
        let by_reason = match place {
            Place::Wire => return,
            Place::Open => return change(&mut self.open),
            Place::Held => return change(&mut self.held),
            Place::Spooled => return change(&mut self.spooled),
            Place::Acknowledged => return change(&mut self.acknowledged),
            Place::HeldAcknowledged => return change(&mut self.held_acknowledged),
            Place::Delivered => return change(&mut self.delivered),
            Place::Skipped(_) => &mut self.skipped,
            Place::Refused(_) => &mut self.refused,
            Place::Dropped(_) => &mut self.dropped,
        };
        let (_, reason) = place.key();
        match by_reason.get_mut(reason) {
            Some(count) => change(count),
            None => change(by_reason.entry(reason.to_owned()).or_default()),
        }
    }

    /// All that no file keeps ends with the process: how many datapoints that is.
    pub fn stopped(&mut self, keeps: bool) -> u64 {
        let mut tally = Tally::default();
        tally.add(Place::Open, Place::Dropped(Dropped::Stopped), self.open);
        tally.add(Place::Held, Place::Dropped(Dropped::Stopped), self.held);
        tally.add(Place::HeldAcknowledged, Place::Dropped(Dropped::Stopped), self.held_acknowledged);
        if !keeps {
            tally.add(Place::Spooled, Place::Dropped(Dropped::Stopped), self.spooled);
            tally.add(Place::Acknowledged, Place::Dropped(Dropped::Stopped), self.acknowledged);
        }
        self.apply(&tally);
        tally.moves().map(|each| each.n).sum()
    }

    /// Kept here: in hand, and with the spool in memory and in its file.
    pub fn buffered(&self) -> u64 {
        self.open.saturating_add(self.held).saturating_add(self.spooled).saturating_add(self.acknowledged())
    }

    /// Of these, what Blueflood acknowledged, and what was not read back yet.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.saturating_add(self.held_acknowledged)
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
    use crate::core::reason::Refused;

    proptest! {
        #[test]
        fn the_law_holds_whatever_moves_where(moves in prop::collection::vec((0u8..9, 0u64..1000), 0..200)) {
            let mut ledger = Ledger::default();
            for (what, n) in moves {
                let mut tally = Tally::default();
                match what {
                    0 => ledger.decoded(&Decoded { rows: n, skipped: [n / 3, 0, 1, 0, 0, 0, 2], names_replaced: 0 }),
                    1 => ledger.malformed("frame"),
                    2 => tally.add(Place::Open, Place::Held, n.min(ledger.open)),
                    3 => tally.add(Place::Held, Place::Spooled, n.min(ledger.held)),
                    4 => tally.add(Place::Spooled, Place::Delivered, n.min(ledger.spooled)),
                    5 => tally.add(Place::Open, Place::Dropped(Dropped::SpoolFull), n.min(ledger.open)),
                    7 => tally.add(Place::Spooled, Place::Acknowledged, n.min(ledger.spooled)),
                    8 => tally.add(Place::Held, Place::HeldAcknowledged, n.min(ledger.held)),
                    _ => {
                        let n = n.min(ledger.spooled);
                        tally.add(Place::Spooled, Place::Refused(Refused::TtlInSeconds), n / 2);
                        tally.add(Place::Spooled, Place::Dropped(Dropped::MaxAge), n - n / 2);
                    }
                }
                ledger.apply(&tally);
                prop_assert_eq!(ledger.unaccounted(), 0);
            }
            let buffered = ledger.buffered();
            prop_assert_eq!(ledger.stopped(false), buffered);
            prop_assert_eq!((ledger.buffered(), ledger.unaccounted()), (0, 0));
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
