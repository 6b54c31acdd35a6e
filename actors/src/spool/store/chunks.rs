//! The table `chunk`: what is written, read, scanned and counted of it.

use bytes::Bytes;
use rusqlite::{OptionalExtension, Result, params};

use super::{LANE_DEFAULT, LaneNumber, Store, damage};
use crate::core::{
    chunk::{Chunk, Encoding},
    queue::{ChunkId, Meta},
};

/// A chunk as it came from the file.
pub enum Loaded {
    /// As it was stored.
    Intact(Meta, Chunk),
    /// Its bytes are not what was stored.
    Damaged(Meta),
}

impl Store {
    /// Stores a chunk in a lane, under a number that no other ever had. Its rows are counted by the caller.
    pub fn insert_in(&self, lane: LaneNumber, id: ChunkId, chunk: &Chunk, received_ms: i64) -> Result<Meta> {
        let mut statement = self.db.prepare_cached(
            "INSERT INTO chunk (id, received_ms, encoding, rows, raw_bytes, crc, body_crc, body, lane)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?;
        let encoding: u8 = match chunk.encoding {
            Encoding::Plain => 0,
            Encoding::Deflate => 1,
        };
        let body_crc = body_crc(encoding, [chunk.rows, chunk.raw_bytes, chunk.crc], &chunk.body, lane);
        statement.execute(params![
            id,
            received_ms,
            encoding,
            chunk.rows,
            chunk.raw_bytes,
            chunk.crc,
            body_crc,
            &*chunk.body,
            lane
        ])?;
        Ok(Meta { id, rows: chunk.rows, raw_bytes: chunk.raw_bytes, lane })
    }

    /// Reads a chunk; `None` if it is gone.
    pub fn load(&self, id: ChunkId) -> Result<Option<Loaded>> {
        let mut statement = self.db.prepare_cached(
            "SELECT id, rows, raw_bytes, encoding, crc, body_crc, body, lane FROM chunk WHERE id = ?1",
        )?;
        statement.query_row([id], loaded).optional()
    }

    /// Whether a chunk is still there.
    pub fn has(&self, id: ChunkId) -> Result<bool> {
        self.db.prepare_cached("SELECT 1 FROM chunk WHERE id = ?1")?.exists([id])
    }

    /// Removes chunks; the rows of those that were still there. They are counted by the caller.
    pub fn remove(&self, ids: &[ChunkId]) -> Result<u64> {
        self.remove_each(ids, |_, _| {})
    }

    /// The same, with the rows of each chunk and when the oldest of them came, in milliseconds since 1970.
    pub fn remove_each(&self, ids: &[ChunkId], mut each: impl FnMut(u64, i64)) -> Result<u64> {
        let sql = "DELETE FROM chunk WHERE id = ?1 RETURNING rows, received_ms";
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows: u64 = 0;
        for id in ids {
            let removed =
                statement.query_row([id], |row| Ok((row.get::<_, u32>(0)?, row.get(1)?))).optional()?;
            if let Some((removed, received_ms)) = removed {
                rows = rows.saturating_add(removed.into());
                each(removed.into(), received_ms);
            }
        }
        Ok(rows)
    }

    /// Chunks beyond `from` in the order of the catch-up, at most `max`.
    pub fn scan(&self, from: Option<ChunkId>, newest_first: bool, max: usize) -> Result<Vec<Meta>> {
        // In a file that was migrated the lane stands behind the body. SQLite finds the page by its pointer map, and
        // a number below two takes no byte: 2,048 chunks of 100 KB take 13 ms at worst, and 6 ms without it.
        let (sql, from) = if newest_first {
            let sql = "SELECT id, rows, raw_bytes, lane FROM chunk WHERE id < ?1 AND state = 0 ORDER BY id DESC LIMIT ?2";
            (sql, from.unwrap_or(ChunkId::MAX))
        } else {
            let sql = "SELECT id, rows, raw_bytes, lane FROM chunk WHERE id > ?1 AND state = 0 ORDER BY id LIMIT ?2";
            (sql, from.unwrap_or(0))
        };
        let mut statement = self.db.prepare_cached(sql)?;
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        statement.query_map(params![from, max], |row| meta(row, row.get(3)?))?.collect()
    }

    /// How many chunks wait, and how many of them beyond `edge` in the order of the queue.
    pub fn count_chunks(&self, edge: Option<ChunkId>, newest_first: bool) -> Result<(usize, usize)> {
        let sql = if newest_first {
            "SELECT count(*), coalesce(sum(id < ?1), 0) FROM chunk WHERE state = 0"
        } else {
            "SELECT count(*), coalesce(sum(id > ?1), 0) FROM chunk WHERE state = 0"
        };
        let count = |n: i64| usize::try_from(n).unwrap_or(0);
        self.db
            .prepare_cached(sql)?
            .query_row([edge], |row| Ok((count(row.get(0)?), count(row.get::<_, i64>(1)?))))
    }

    /// The highest number that is known to have been given to a chunk.
    pub fn last_id(&self) -> Result<ChunkId> {
        let mut statement = self
            .db
            .prepare_cached("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'chunk'")?;
        statement.query_row([], |row| row.get(0))
    }

    /// Makes a number known that was given to a chunk, for it may never be stored.
    pub fn set_last_id(&self, id: ChunkId) -> Result<()> {
        let known = self.last_id()?;
        let sql = match known {
            0 => "INSERT INTO sqlite_sequence (name, seq) VALUES ('chunk', ?1)",
            _ => "UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'chunk'",
        };
        if id > known { self.db.prepare_cached(sql)?.execute([id]).map(|_| ()) } else { Ok(()) }
    }

    /// The oldest chunks that wait, at most `max`, each with when its oldest row came.
    pub fn oldest(&self, max: usize) -> Result<Vec<(ChunkId, i64)>> {
        let mut statement = self
            .db
            .prepare_cached("SELECT id, received_ms FROM chunk WHERE state = 0 ORDER BY id LIMIT ?1")?;
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        statement.query_map([max], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    /// When the oldest row that is still here came, in milliseconds since 1970.
    pub fn oldest_ms(&self) -> Result<Option<i64>> {
        let mut statement = self.db.prepare_cached("SELECT received_ms FROM chunk ORDER BY id LIMIT 1")?;
        statement.query_row([], |row| row.get(0)).optional()
    }

    /// When the oldest row of a chunk came, if it is here.
    pub fn received_ms(&self, id: ChunkId) -> Result<Option<i64>> {
        let mut statement = self.db.prepare_cached("SELECT received_ms FROM chunk WHERE id = ?1")?;
        statement.query_row([id], |row| row.get(0)).optional()
    }

    /// How many rows wait in each lane.
    pub fn rows_by_lane(&self) -> Result<Vec<(LaneNumber, u64)>> {
        let sql = "SELECT lane, sum(rows) FROM chunk GROUP BY lane";
        let rows =
            |row: &rusqlite::Row<'_>| Ok((row.get(0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0)));
        self.db.prepare(sql)?.query_map([], rows)?.collect()
    }

    /// The rows of all chunks that wait, and of those that are acknowledged.
    pub(super) fn rows_by_state(&self) -> Result<(u64, u64)> {
        let sql = "SELECT coalesce(sum(rows) FILTER (WHERE state = 0), 0),
                          coalesce(sum(rows) FILTER (WHERE state = 1), 0), count(*) FILTER (WHERE state > 1) FROM chunk";
        let (waits, acknowledged, other): (i64, i64, i64) =
            self.db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        match (u64::try_from(waits), u64::try_from(acknowledged), other) {
            (Ok(waits), Ok(acknowledged), 0) => Ok((waits, acknowledged)),
            _ => Err(damage("a chunk is in a state that there is not")),
        }
    }
}

/// What the columns of a chunk are checked by. Lane 0 is left out, as in version 1, which knew no other.
fn body_crc(encoding: u8, numbers: [u32; 3], body: &[u8], lane: LaneNumber) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[encoding]);
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(body);
    if lane != LANE_DEFAULT {
        hasher.update(&lane.to_le_bytes());
    }
    hasher.finalize()
}

pub(super) fn meta(row: &rusqlite::Row<'_>, lane: LaneNumber) -> Result<Meta> {
    Ok(Meta { id: row.get(0)?, rows: row.get(1)?, raw_bytes: row.get(2)?, lane })
}

/// Reads the columns `id, rows, raw_bytes, encoding, crc, body_crc, body, lane`; the last may be left out where there
/// is only lane 0.
pub fn loaded(row: &rusqlite::Row<'_>) -> Result<Loaded> {
    let lane: LaneNumber = match row.get(7) {
        Err(rusqlite::Error::InvalidColumnIndex(_)) => LANE_DEFAULT,
        lane => lane?,
    };
    let meta = meta(row, lane)?;
    let (encoding, crc, body_crc): (i64, u32, u32) = (row.get(3)?, row.get(4)?, row.get(5)?);
    let body: Bytes = row.get::<_, Vec<u8>>(6)?.into();
    let (kind, encoding) = match encoding {
        0 => (0, Encoding::Plain),
        1 => (1, Encoding::Deflate),
        _ => return Ok(Loaded::Damaged(meta)),
    };
    if self::body_crc(kind, [meta.rows, meta.raw_bytes, crc], &body, lane) != body_crc {
        return Ok(Loaded::Damaged(meta));
    }
    Ok(Loaded::Intact(
        meta,
        Chunk { encoding, body, whole: None, rows: meta.rows, raw_bytes: meta.raw_bytes, crc },
    ))
}
