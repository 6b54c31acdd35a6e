//! The table `dead_letter`: the rows that Blueflood refused.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Result, params};

use super::{LaneNumber, Store};
use crate::{
    core::{queue::ChunkId, settlement::DeadLetter},
    spool::Refused,
};

/// Dead letters that are looked through for the last of each reason.
const RECENT_MAX: u32 = 1_000;

/// How many dead letters there are, and how large they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Letters {
    /// How many.
    pub count: u64,
    /// Bytes of their rows and messages.
    pub bytes: u64,
}

impl Letters {
    /// One more, of so many bytes.
    pub fn add(&mut self, bytes: u64) {
        *self = Self { count: self.count.saturating_add(1), bytes: self.bytes.saturating_add(bytes) };
    }

    /// One less.
    pub fn take(&mut self, bytes: u64) {
        *self = Self { count: self.count.saturating_sub(1), bytes: self.bytes.saturating_sub(bytes) };
    }
}

impl Store {
    /// Keeps refused rows. They are counted by the caller.
    pub fn add_dead_letters(
        &self,
        lane: LaneNumber,
        letters: &[DeadLetter],
        payload: ChunkId,
        refused_ms: i64,
    ) -> Result<()> {
        let mut statement = self.db.prepare_cached(
            "INSERT INTO dead_letter (refused_ms, payload, reason, message, row, lane)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for DeadLetter { row, reason, message } in letters {
            statement.execute(params![
                refused_ms,
                payload,
                reason.label(),
                message,
                String::from_utf8_lossy(row),
                lane
            ])?;
        }
        Ok(())
    }

    /// The last dead letter of each reason, as far as it is among the last thousand.
    pub fn last_dead_letters(&self) -> Result<BTreeMap<String, Refused>> {
        let mut statement = self.db.prepare(
            "SELECT reason, row, message, refused_ms FROM (SELECT * FROM dead_letter ORDER BY id DESC LIMIT ?1)
             ORDER BY id",
        )?;
        let letter = |row: &rusqlite::Row<'_>| {
            let (text, message): (String, String) = (row.get(1)?, row.get(2)?);
            Ok((row.get(0)?, Refused::new(text.as_bytes(), &message, row.get(3)?)))
        };
        statement.query_map([RECENT_MAX], letter)?.collect()
    }

    /// The dead letters. All of them are counted: not to be asked for each request.
    pub fn letters(&self) -> Result<Letters> {
        let sql =
            "SELECT count(*), coalesce(sum(octet_length(row) + octet_length(message)), 0) FROM dead_letter";
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
        self.db.query_row(sql, [], |row| {
            Ok(Letters { count: unsigned(row.get(0)?), bytes: unsigned(row.get(1)?) })
        })
    }

    /// Removes the oldest dead letter; its bytes. It is counted by the caller.
    pub fn discard_oldest_dead_letter(&self) -> Result<Option<u64>> {
        let mut statement = self.db.prepare_cached(
            "DELETE FROM dead_letter WHERE id = (SELECT min(id) FROM dead_letter)
             RETURNING octet_length(row) + octet_length(message)",
        )?;
        let bytes: Option<i64> = statement.query_row([], |row| row.get(0)).optional()?;
        Ok(bytes.map(|n| u64::try_from(n).unwrap_or(0)))
    }

    /// Takes dead letters that are marked for replay, at most `max`: each row, the reason it was counted under, and its
    /// lane. One whose lane is lost stays.
    pub fn take_replays(&self, max: u32) -> Result<Vec<(String, String, LaneNumber)>> {
        let mut statement = self.db.prepare_cached(
            "DELETE FROM dead_letter WHERE id IN (
                 SELECT id FROM dead_letter WHERE replay = 1 AND lane IN (SELECT id FROM lane) ORDER BY id LIMIT ?1
             ) RETURNING row, reason, lane",
        )?;
        statement.query_map([max], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    }
}
