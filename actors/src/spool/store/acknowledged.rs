//! The table `acknowledged`, and the state of a chunk that goes with it.

use rusqlite::{OptionalExtension, Result, params};

use super::{Store, chunks::meta};
use crate::core::queue::{ChunkId, Meta};

/// A chunk that Blueflood acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Which.
    pub meta: Meta,
    /// When, in milliseconds since 1970: one answer, one time.
    pub acked_ms: i64,
    /// How often it was looked for and was not there; more than 0 too where each row of it is to be looked for.
    pub looks: u32,
}

impl Store {
    /// Blueflood acknowledged a chunk that waits; `None` if there is none such. `whole`: each row of it is to be looked
    /// for. Its rows are counted by the caller.
    pub fn acknowledge(&self, id: ChunkId, acked_ms: i64, whole: bool) -> Result<Option<Meta>> {
        // The number is stored in the head of the row, which stays as long: nothing else of it is written again.
        let sql =
            "UPDATE chunk SET state = 1 WHERE id = ?1 AND state = 0 RETURNING id, rows, raw_bytes, lane";
        let found = self.db.prepare_cached(sql)?.query_row([id], |row| meta(row, row.get(3)?)).optional()?;
        if found.is_some() {
            let sql = "INSERT OR REPLACE INTO acknowledged (chunk, acked_ms, looks) VALUES (?1, ?2, ?3)";
            self.db.prepare_cached(sql)?.execute(params![id, acked_ms, whole])?;
        }
        Ok(found)
    }

    /// A chunk that was acknowledged waits to be sent again; false if there is none such. Its rows are counted by the
    /// caller.
    pub fn wait_again(&self, id: ChunkId) -> Result<bool> {
        self.forget_acknowledged(id)?;
        let sql = "UPDATE chunk SET state = 0 WHERE id = ?1 AND state = 1";
        self.db.prepare_cached(sql)?.execute([id]).map(|changed| changed > 0)
    }

    /// What is known of a chunk that was acknowledged goes with the chunk.
    pub fn forget_acknowledged(&self, id: ChunkId) -> Result<()> {
        self.db.prepare_cached("DELETE FROM acknowledged WHERE chunk = ?1")?.execute([id]).map(|_| ())
    }

    /// Every chunk that Blueflood acknowledged, in the order in which it did.
    pub fn acknowledged(&self) -> Result<Vec<Answered>> {
        let mut statement = self.db.prepare(
            "SELECT chunk.id, rows, raw_bytes, lane, coalesce(acked_ms, 0), coalesce(looks, 1)
             FROM chunk LEFT JOIN acknowledged ON acknowledged.chunk = chunk.id
             WHERE state = 1 ORDER BY 5, 4, 1",
        )?;
        let answered = |row: &rusqlite::Row<'_>| {
            Ok(Answered { meta: meta(row, row.get(3)?)?, acked_ms: row.get(4)?, looks: row.get(5)? })
        };
        statement.query_map([], answered)?.collect()
    }
}
