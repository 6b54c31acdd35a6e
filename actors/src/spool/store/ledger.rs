//! The table `ledger`: the counts of every lane.

use rusqlite::{Connection, Result, params};

use super::{LANE_DEFAULT, LaneNumber, Store};
use crate::core::{
    ledger::{ByReason, Ledger},
    tally::{Move, Tally},
};

impl Store {
    /// Moves datapoints as `tally` says: what [`Ledger::apply`] does in memory. The file does not count what is only in
    /// memory, so what comes from there is received now.
    pub fn apply(&self, tally: &Tally) -> Result<()> {
        for &Move { from, to, n } in tally.moves() {
            match (from.is_in_file(), to.is_in_file()) {
                (false, true) => self.count("received", "", n)?,
                (true, false) => self.uncount("received", "", n)?,
                _ => {}
            }
            if from.is_in_file() {
                let (place, reason) = from.key();
                self.uncount(place, reason, n)?;
            }
            if to.is_in_file() {
                let (place, reason) = to.key();
                self.count(place, reason, n)?;
            }
        }
        self.count("dead_letters_discarded", "", tally.dead_letters_discarded)
    }

    /// Adds to a count of the ledger.
    pub fn count(&self, place: &str, reason: &str, n: u64) -> Result<()> {
        self.count_in(LANE_DEFAULT, place, reason, n)
    }

    /// The same, of a lane.
    pub fn count_in(&self, lane: LaneNumber, place: &str, reason: &str, n: u64) -> Result<()> {
        self.change(lane, place, reason, i64::try_from(n).unwrap_or(i64::MAX))
    }

    /// Takes from a count of the ledger.
    pub fn uncount(&self, place: &str, reason: &str, n: u64) -> Result<()> {
        self.change(LANE_DEFAULT, place, reason, i64::try_from(n).unwrap_or(i64::MAX).saturating_neg())
    }

    /// Adds to a count of a lane's ledger, or takes from it.
    fn change(&self, lane: LaneNumber, place: &str, reason: &str, n: i64) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let mut statement = self.db.prepare_cached(
            "INSERT INTO ledger (place, reason, n, lane) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (lane, place, reason) DO UPDATE SET n = n + excluded.n",
        )?;
        statement.execute(params![place, reason, n, lane]).map(|_| ())
    }

    /// Adds by reason.
    pub fn count_by_reason(&self, place: &str, by_reason: &ByReason) -> Result<()> {
        by_reason.iter().try_for_each(|(reason, &n)| self.count(place, reason, n))
    }

    /// The ledger as it was last written.
    pub fn ledger(&self) -> Result<Ledger> {
        read_ledger(&self.db)
    }
}

/// The ledger in the tables of any connection and any version, all lanes together.
pub fn read_ledger(db: &Connection) -> Result<Ledger> {
    let mut ledger = Ledger::default();
    let mut statement = db.prepare("SELECT place, reason, sum(n) FROM ledger GROUP BY place, reason")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (place, reason): (String, String) = (row.get(0)?, row.get(1)?);
        let n = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
        let by_reason = match place.as_str() {
            "skipped" => &mut ledger.skipped,
            "refused" => &mut ledger.refused,
            "dropped" => &mut ledger.dropped,
            "malformed" => &mut ledger.malformed,
            _ => {
                let count = match place.as_str() {
                    "received" => &mut ledger.received,
                    "spooled" => &mut ledger.spooled,
                    "delivered" => &mut ledger.delivered,
                    "acknowledged" => &mut ledger.acknowledged,
                    "names_replaced" => &mut ledger.names_replaced,
                    "dead_letters_discarded" => &mut ledger.dead_letters_discarded,
                    _ => continue,
                };
                *count = count.saturating_add(n);
                continue;
            }
        };
        let count = by_reason.entry(reason).or_default();
        *count = count.saturating_add(n);
    }
    Ok(ledger)
}
