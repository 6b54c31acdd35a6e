//! Owns what a change of the ledger is: datapoints that move from one place to another. It never applies one: the
//! ledger in memory does ([`super::ledger::Ledger::apply`]), and the one in the spool's file.
//!
//! Nothing else changes the ledger once rows are on their way. A move takes from one place what it puts into another, so
//! the law cannot be broken by a change that was written half.

use super::{
    reason::{Dropped, Refused},
    row::Skipped,
};

/// Where a datapoint can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Not here: it was not counted as received yet.
    Wire,
    /// In hand: decoded, and not yet given to the spool.
    Open,
    /// Given to the spool, which holds it in memory for Blueflood's answer.
    Held,
    /// In the spool's file, waiting or on its way to Blueflood.
    Spooled,
    /// In the spool's file; Blueflood acknowledged it, and it was not read back yet.
    Acknowledged,
    /// The same, of what the spool holds in memory.
    HeldAcknowledged,
    /// Blueflood has it.
    Delivered,
    /// It could not be forwarded.
    Skipped(Skipped),
    /// Blueflood refused it: it lies in the dead letters.
    Refused(Refused),
    /// It was given up by a stated policy.
    Dropped(Dropped),
}

impl Place {
    /// Whether the spool's file counts it. What is only in memory ends with the process, and so does its count.
    pub const fn is_in_file(self) -> bool {
        !matches!(self, Place::Wire | Place::Open | Place::Held | Place::HeldAcknowledged)
    }

    /// What the file counts it under: the place, and the reason where there is one.
    pub const fn key(self) -> (&'static str, &'static str) {
        match self {
            Place::Wire => ("wire", ""),
            Place::Open => ("open", ""),
            Place::Held => ("held", ""),
            Place::Spooled => ("spooled", ""),
            Place::Acknowledged => ("acknowledged", ""),
            Place::HeldAcknowledged => ("held_acknowledged", ""),
            Place::Delivered => ("delivered", ""),
            Place::Skipped(reason) => ("skipped", reason.label()),
            Place::Refused(reason) => ("refused", reason.label()),
            Place::Dropped(reason) => ("dropped", reason.label()),
        }
    }
}

/// Datapoints that go from one place to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// From here.
    pub from: Place,
    /// To here.
    pub to: Place,
    /// How many.
    pub n: u64,
}

/// What one transaction changes of the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    moves: Vec<Move>,
    /// Beside the law: dead letters that made room for newer ones.
    pub dead_letters_discarded: u64,
}

impl Tally {
    /// Moves `n` datapoints.
    pub fn add(&mut self, from: Place, to: Place, n: u64) {
        if n == 0 {
            return;
        }
        match self.moves.iter_mut().find(|known| known.from == from && known.to == to) {
            Some(known) => known.n = known.n.saturating_add(n),
            None => self.moves.push(Move { from, to, n }),
        }
    }

    /// Adds all of `more`.
    pub fn merge(&mut self, more: &Tally) {
        more.moves.iter().for_each(|each| self.add(each.from, each.to, each.n));
        self.dead_letters_discarded = self.dead_letters_discarded.saturating_add(more.dead_letters_discarded);
    }

    /// What moves where.
    pub fn moves(&self) -> impl Iterator<Item = &Move> {
        self.moves.iter()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many datapoints go from one place to another.
    pub fn moved(&self, from: Place, to: Place) -> u64 {
        self.moves.iter().filter(|each| each.from == from && each.to == to).map(|each| each.n).sum()
    }
}
