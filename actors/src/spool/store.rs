//! Owns the spool's tables: chunks, dead letters and the ledger, as statements on one SQLite connection.
//! It never decides when a transaction begins or ends, and keeps no state of its own.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{
    Refused,
    open::{Amiss, Guard, Migrated, compare},
};
pub use crate::core::queue::LaneNumber;
use crate::core::{
    chunk::{Chunk, Encoding},
    ledger::{ByReason, Ledger},
    queue::{ChunkId, Meta},
    settlement::DeadLetter,
    tally::{Move, Tally},
};

/// Written into the file's header, so that `file(1)` and we can tell whose it is: "BFwd".
pub const APPLICATION_ID: i32 = 0x4246_7764;

/// The version of the tables.
pub const VERSION: i32 = 2;

/// Chunks are 20 to 300 KB: larger pages mean fewer of them to chain.
pub(super) const PAGE_BYTES: i32 = 8_192;

/// SQLite's page cache. Chunks are read once, so there is nothing to keep.
const CACHE_KIB: i32 = 1_024;

/// Pages in the write-ahead log after which they go into the file: on a disk that is full, room for all of them is
/// what keeps us able to move (see `reserve`).
const CHECKPOINT_PAGES: i32 = 128;

/// The write-ahead log is cut back to this after a burst, in bytes.
const WAL_BYTES_MAX: i64 = 1 << 20;

/// How long a statement waits for the tools that read beside the daemon.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A file in which a chunk has a higher number is damaged: a chunk a nanosecond would take a century to get there.
const ID_MAX: ChunkId = ChunkId::MAX / 2;

/// Dead letters that are looked through for the last of each reason.
const RECENT_MAX: u32 = 1_000;

/// The lane of the first tenant that had this spool; what an older version left is its own too. A number belongs to its
/// name and tenant for ever, never to the order of the configuration.
pub const LANE_DEFAULT: LaneNumber = 0;

/// Under which key the tenant of [`LANE_DEFAULT`] is kept.
const FIRST_TENANT: &str = "tenant";

/// The name of every lane of the daemon's one destination.
const DESTINATION: &str = "default";

/// The tables as they are. A change here is a new version: see `open/migrate.rs`.
pub(super) const SCHEMA: &str = "
CREATE TABLE spool (                               -- what is known of the file as a whole
    key   TEXT PRIMARY KEY,                        -- 'uuid', 'tenant' (of lane 0): never changed
    value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE lane (                                -- a destination with its tenant; a row is never changed or removed
    id     INTEGER PRIMARY KEY,
    name   TEXT NOT NULL,
    tenant TEXT NOT NULL,                          -- '' in lane 0: see the key 'tenant' above
    UNIQUE (name, tenant)
);
INSERT INTO lane (id, name, tenant) VALUES (0, 'default', '');
CREATE TABLE chunk (
    id          INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice
    lane        INTEGER NOT NULL DEFAULT 0,        -- lane.id: whose rows they are
    received_ms INTEGER NOT NULL,                  -- when its oldest row came, ms since 1970
    state       INTEGER NOT NULL DEFAULT 0,        -- 0: waits to be sent; 1: acknowledged, waits to be read back
    encoding    INTEGER NOT NULL,                  -- 0: text; 1: raw deflate, ending on a full flush
    rows        INTEGER NOT NULL,
    raw_bytes   INTEGER NOT NULL,                  -- of the rows as text
    crc         INTEGER NOT NULL,                  -- CRC-32 of the rows as text
    body_crc    INTEGER NOT NULL,                  -- CRC-32 of encoding, rows, raw_bytes, crc, body, and lane if not 0
    body        BLOB NOT NULL
);
CREATE TABLE acknowledged (                        -- a chunk of state 1. Not in its row: a row that changes its length is
    chunk    INTEGER PRIMARY KEY,                  -- chunk.id                  written again, with all of its body
    acked_ms INTEGER NOT NULL,                     -- when Blueflood answered for it, ms since 1970
    looks    INTEGER NOT NULL DEFAULT 0            -- how often it was looked for, and was not there
);
CREATE TABLE dead_letter (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    lane       INTEGER NOT NULL DEFAULT 0,         -- lane.id: whose row it is
    refused_ms INTEGER NOT NULL,                   -- when Blueflood refused it, ms since 1970
    payload    INTEGER NOT NULL,                   -- the first chunk of the payload it was sent in
    reason     TEXT NOT NULL,                      -- as counted in the ledger
    message    TEXT NOT NULL,                      -- Blueflood's words
    row        TEXT NOT NULL,                      -- as it was sent
    replay     INTEGER NOT NULL DEFAULT 0          -- 1: to be put back among the chunks
);
CREATE INDEX dead_letter_replay ON dead_letter (replay) WHERE replay = 1;
CREATE TABLE ledger (
    lane   INTEGER NOT NULL DEFAULT 0,             -- lane.id: whose datapoints they are
    place  TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    n      INTEGER NOT NULL,
    PRIMARY KEY (lane, place, reason)
) WITHOUT ROWID;
";

/// How much of what is written survives what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Everything that is written survives the end of the process, however sudden.
    Normal,
    /// And a power cut.
    Full,
}

/// A spool's tables on one connection.
pub struct Store {
    db: Connection,
    guard: Option<Guard>,
    migrated: Option<Migrated>,
}

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

/// A chunk as it came from the file.
pub enum Loaded {
    /// As it was stored.
    Intact(Meta, Chunk),
    /// Its bytes are not what was stored.
    Damaged(Meta),
}

impl Store {
    /// Sets a connection up, and makes the tables if the file is new.
    ///
    /// # Errors
    /// SQLite's. A file without our tables, or of another version, is `SQLITE_CORRUPT`.
    pub fn new(db: Connection, sync: Sync) -> Result<Self> {
        db.busy_timeout(BUSY_TIMEOUT)?;
        db.pragma_update(None, "page_size", PAGE_BYTES)?;
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        db.pragma_update(None, "cache_size", -CACHE_KIB)?;
        let store = Self { db, guard: None, migrated: None };
        // Before there is a log, so that the file itself says from the first moment whose it is.
        if store.pragma::<i64>("schema_version")? == 0 {
            store.make_tables()?;
        }
        let of = (store.pragma::<i32>("application_id")?, store.pragma::<i32>("user_version")?);
        if of != (APPLICATION_ID, VERSION) {
            let (application, version) = of;
            return Err(damage(format!(
                "not a spool of this version (application {application:#x}, version {version})"
            )));
        }
        let _: String = store.db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        store.db.pragma_update(None, "journal_size_limit", WAL_BYTES_MAX)?;
        store.db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        store.db.pragma_update(
            None,
            "synchronous",
            match sync {
                Sync::Normal => "NORMAL",
                Sync::Full => "FULL",
            },
        )?;
        Ok(store)
    }

    fn make_tables(&self) -> Result<()> {
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        self.db.execute_batch(SCHEMA)?;
        name_the_spool(&self.db)?;
        self.db.pragma_update(None, "application_id", APPLICATION_ID)?;
        self.db.pragma_update(None, "user_version", VERSION)?;
        self.db.execute_batch("COMMIT")
    }

    /// With what was seen when it was opened.
    pub(super) fn guarded(mut self, guard: Option<Guard>, migrated: Option<Migrated>) -> Self {
        (self.guard, self.migrated) = (guard, migrated);
        self
    }

    /// What the file was until it was opened, if it was of an older version.
    pub fn migrated(&self) -> Option<&Migrated> {
        self.migrated.as_ref()
    }

    /// What the files of this spool were when it was opened; `None` in memory.
    pub fn guard(&self) -> Option<&Guard> {
        self.guard.as_ref()
    }

    /// Whether the file that is open is still the one that has the name, with its log and its lock, in a folder that can
    /// be written. A few `stat`s: to be asked once a second.
    ///
    /// # Errors
    /// What is amiss.
    pub fn still_ours(&self) -> std::result::Result<(), Amiss> {
        match &self.guard {
            // An error of SQLite shows wherever it is used.
            Some(guard) => guard.look(self.file_bytes().unwrap_or(0)),
            None => Ok(()),
        }
    }

    /// The name that this spool was given when it was made, which no other has.
    ///
    /// # Errors
    /// SQLite's.
    pub fn uuid(&self) -> Result<String> {
        self.db.query_row("SELECT value FROM spool WHERE key = 'uuid'", [], |row| row.get(0))
    }

    /// Sets what is known of the file as a whole.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_of_spool(&self, key: &str, value: &str) -> Result<()> {
        let sql = "INSERT INTO spool (key, value) VALUES (?1, ?2)
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.db.execute(sql, [key, value]).map(|_| ())
    }

    /// The tenant of [`LANE_DEFAULT`]: the first that ever had this spool, which is `now` if there was none.
    ///
    /// # Errors
    /// SQLite's.
    pub fn first_tenant(&self, now: &str) -> Result<String> {
        self.db.execute("INSERT OR IGNORE INTO spool (key, value) VALUES (?1, ?2)", [FIRST_TENANT, now])?;
        self.db.query_row("SELECT value FROM spool WHERE key = ?1", [FIRST_TENANT], |row| row.get(0))
    }

    /// The lanes beside [`LANE_DEFAULT`], each with its tenant.
    ///
    /// # Errors
    /// SQLite's.
    pub fn tenants(&self) -> Result<Vec<(LaneNumber, String)>> {
        let sql = "SELECT id, tenant FROM lane WHERE id > 0 AND tenant <> ''";
        self.db.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    /// The number of a tenant's lane, which is made if it is new.
    ///
    /// # Errors
    /// SQLite's.
    pub fn lane_of(&self, tenant: &str) -> Result<LaneNumber> {
        self.lane(DESTINATION, tenant)
    }

    /// Takes the lane of a tenant over from another file, under the number that it has there.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_lane(&self, id: LaneNumber, tenant: &str) -> Result<()> {
        if id == LANE_DEFAULT {
            self.first_tenant(tenant).map(drop)
        } else {
            self.copy_lane(id, DESTINATION, tenant)
        }
    }

    /// Whether it is known whose the rows of a lane are.
    ///
    /// # Errors
    /// SQLite's.
    pub fn has_lane(&self, id: LaneNumber) -> Result<bool> {
        self.db.prepare_cached("SELECT 1 FROM lane WHERE id = ?1 AND (id = 0 OR tenant <> '')")?.exists([id])
    }

    /// How many rows wait in each lane.
    ///
    /// # Errors
    /// SQLite's.
    pub fn rows_by_lane(&self) -> Result<Vec<(LaneNumber, u64)>> {
        let sql = "SELECT lane, sum(rows) FROM chunk GROUP BY lane";
        let rows =
            |row: &rusqlite::Row<'_>| Ok((row.get(0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0)));
        self.db.prepare(sql)?.query_map([], rows)?.collect()
    }

    /// The number of the lane of this name and tenant, which is made if it is new.
    ///
    /// # Errors
    /// SQLite's.
    pub fn lane(&self, name: &str, tenant: &str) -> Result<LaneNumber> {
        self.db.execute(
            "INSERT INTO lane (name, tenant) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            [name, tenant],
        )?;
        let sql = "SELECT id FROM lane WHERE name = ?1 AND tenant = ?2";
        self.db.query_row(sql, [name, tenant], |row| row.get(0))
    }

    /// Takes a lane over from another file, under the number that it has there.
    pub(super) fn copy_lane(&self, id: LaneNumber, name: &str, tenant: &str) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO lane (id, name, tenant) VALUES (?1, ?2, ?3)";
        self.db.execute(sql, params![id, name, tenant]).map(|_| ())
    }

    /// Whether the file is what its header says it is, as far as can be told without reading all of it.
    ///
    /// # Errors
    /// SQLite's; `SQLITE_CORRUPT` if the tables are not ours, or the ledger is not that of these chunks.
    pub fn check(&self) -> Result<()> {
        compare(&self.db, SCHEMA)?;
        let ledger = self.ledger()?;
        if ledger.unaccounted() != 0 || self.rows_by_state()? != (ledger.spooled, ledger.acknowledged) {
            return Err(damage("its ledger does not add up"));
        }
        self.oldest_ms()?;
        self.letters()?;
        if self.last_id()? > ID_MAX {
            return Err(damage("it has no numbers left for chunks"));
        }
        Ok(())
    }

    /// Moves the write-ahead log into the file, and cuts it to nothing.
    ///
    /// # Errors
    /// SQLite's; `SQLITE_BUSY` if another process that reads kept it from doing so.
    pub fn checkpoint(&self) -> Result<()> {
        let busy: i64 = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy == 0 {
            Ok(())
        } else {
            Err(failure(rusqlite::ffi::SQLITE_BUSY, "a reader keeps the log".to_owned()))
        }
    }

    /// Moves the write-ahead log into the file, and begins it again at its start; its room on the disk stays ours.
    ///
    /// # Errors
    /// SQLite's.
    pub fn restart_log(&self) -> Result<()> {
        self.db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
    }

    /// Moves the log into the file whenever it has grown by so many bytes, or sooner.
    ///
    /// # Errors
    /// SQLite's.
    pub fn checkpoint_each(&self, bytes: u64) -> Result<()> {
        let pages = i32::try_from(bytes / u64::from(PAGE_BYTES.unsigned_abs())).unwrap_or(CHECKPOINT_PAGES);
        self.db.pragma_update(None, "wal_autocheckpoint", pages.clamp(1, CHECKPOINT_PAGES))
    }

    /// Whether the pages of the file are in order; all of it is read.
    ///
    /// # Errors
    /// SQLite's; `SQLITE_CORRUPT` if they are not.
    pub fn quick_check(&self) -> Result<()> {
        let found: String = self.db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found == "ok" { Ok(()) } else { Err(damage(found)) }
    }

    /// Whether the ledger and the chunks in the file are those of so many rows that wait, and that are acknowledged.
    ///
    /// # Errors
    /// SQLite's; `SQLITE_CORRUPT` if they are not.
    pub fn check_counts(&self, known: (u64, u64)) -> Result<()> {
        let (rows, ledger) = (self.rows_by_state()?, self.ledger()?);
        let counted = (ledger.spooled, ledger.acknowledged);
        if ledger.unaccounted() == 0 && counted == known && rows == known {
            return Ok(());
        }
        Err(damage(format!(
            "{} rows were stored and {} acknowledged; it counts {} and {}, and its chunks {} and {}",
            known.0, known.1, counted.0, counted.1, rows.0, rows.1
        )))
    }

    /// The rows of all chunks that wait, and of those that are acknowledged.
    fn rows_by_state(&self) -> Result<(u64, u64)> {
        let sql = "SELECT coalesce(sum(rows) FILTER (WHERE state = 0), 0),
                          coalesce(sum(rows) FILTER (WHERE state = 1), 0), count(*) FILTER (WHERE state > 1) FROM chunk";
        let (waits, acknowledged, other): (i64, i64, i64) =
            self.db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        match (u64::try_from(waits), u64::try_from(acknowledged), other) {
            (Ok(waits), Ok(acknowledged), 0) => Ok((waits, acknowledged)),
            _ => Err(damage("a chunk is in a state that there is not")),
        }
    }

    /// The connection, for the tools that only read.
    pub fn db(&self) -> &Connection {
        &self.db
    }

    /// Runs `work` as one transaction: all of it, or nothing.
    ///
    /// # Errors
    /// SQLite's, or those of `work`; nothing has changed then.
    pub fn transaction<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let transaction = self.db.unchecked_transaction()?;
        let done = work(self)?;
        transaction.commit()?;
        Ok(done)
    }

    /// Stores a chunk in a lane, under a number that no other ever had. Its rows are counted by the caller.
    ///
    /// # Errors
    /// SQLite's.
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
    ///
    /// # Errors
    /// SQLite's.
    pub fn load(&self, id: ChunkId) -> Result<Option<Loaded>> {
        let mut statement = self.db.prepare_cached(
            "SELECT id, rows, raw_bytes, encoding, crc, body_crc, body, lane FROM chunk WHERE id = ?1",
        )?;
        statement.query_row([id], loaded).optional()
    }

    /// Whether a chunk is still there.
    ///
    /// # Errors
    /// SQLite's.
    pub fn has(&self, id: ChunkId) -> Result<bool> {
        self.db.prepare_cached("SELECT 1 FROM chunk WHERE id = ?1")?.exists([id])
    }

    /// Removes chunks; the rows of those that were still there. They are counted by the caller.
    ///
    /// # Errors
    /// SQLite's.
    pub fn remove(&self, ids: &[ChunkId]) -> Result<u64> {
        self.remove_each(ids, |_, _| {})
    }

    /// The same, with the rows of each chunk and when the oldest of them came, in milliseconds since 1970.
    ///
    /// # Errors
    /// SQLite's.
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

    /// Blueflood acknowledged a chunk that waits; `None` if there is none such. `whole`: each row of it is to be looked
    /// for. Its rows are counted by the caller.
    ///
    /// # Errors
    /// SQLite's.
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
    ///
    /// # Errors
    /// SQLite's.
    pub fn wait_again(&self, id: ChunkId) -> Result<bool> {
        self.forget_acknowledged(id)?;
        let sql = "UPDATE chunk SET state = 0 WHERE id = ?1 AND state = 1";
        self.db.prepare_cached(sql)?.execute([id]).map(|changed| changed > 0)
    }

    /// What is known of a chunk that was acknowledged goes with the chunk.
    ///
    /// # Errors
    /// SQLite's.
    pub fn forget_acknowledged(&self, id: ChunkId) -> Result<()> {
        self.db.prepare_cached("DELETE FROM acknowledged WHERE chunk = ?1")?.execute([id]).map(|_| ())
    }

    /// Every chunk that Blueflood acknowledged, in the order in which it did.
    ///
    /// # Errors
    /// SQLite's.
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

    /// Chunks beyond `from` in the order of the catch-up, at most `max`.
    ///
    /// # Errors
    /// SQLite's.
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
    ///
    /// # Errors
    /// SQLite's.
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
    ///
    /// # Errors
    /// SQLite's.
    pub fn last_id(&self) -> Result<ChunkId> {
        let mut statement = self
            .db
            .prepare_cached("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'chunk'")?;
        statement.query_row([], |row| row.get(0))
    }

    /// Makes a number known that was given to a chunk, for it may never be stored.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_last_id(&self, id: ChunkId) -> Result<()> {
        let known = self.last_id()?;
        let sql = match known {
            0 => "INSERT INTO sqlite_sequence (name, seq) VALUES ('chunk', ?1)",
            _ => "UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'chunk'",
        };
        if id > known { self.db.prepare_cached(sql)?.execute([id]).map(|_| ()) } else { Ok(()) }
    }

    /// The oldest chunks that wait, at most `max`, each with when its oldest row came.
    ///
    /// # Errors
    /// SQLite's.
    pub fn oldest(&self, max: usize) -> Result<Vec<(ChunkId, i64)>> {
        let mut statement = self
            .db
            .prepare_cached("SELECT id, received_ms FROM chunk WHERE state = 0 ORDER BY id LIMIT ?1")?;
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        statement.query_map([max], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    /// When the oldest row that is still here came, in milliseconds since 1970.
    ///
    /// # Errors
    /// SQLite's.
    pub fn oldest_ms(&self) -> Result<Option<i64>> {
        let mut statement = self.db.prepare_cached("SELECT received_ms FROM chunk ORDER BY id LIMIT 1")?;
        statement.query_row([], |row| row.get(0)).optional()
    }

    /// When the oldest row of a chunk came, if it is here.
    ///
    /// # Errors
    /// SQLite's.
    pub fn received_ms(&self, id: ChunkId) -> Result<Option<i64>> {
        let mut statement = self.db.prepare_cached("SELECT received_ms FROM chunk WHERE id = ?1")?;
        statement.query_row([id], |row| row.get(0)).optional()
    }

    /// Keeps refused rows. They are counted by the caller.
    ///
    /// # Errors
    /// SQLite's.
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
    ///
    /// # Errors
    /// SQLite's.
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
    ///
    /// # Errors
    /// SQLite's.
    pub fn letters(&self) -> Result<Letters> {
        let sql =
            "SELECT count(*), coalesce(sum(octet_length(row) + octet_length(message)), 0) FROM dead_letter";
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
        self.db.query_row(sql, [], |row| {
            Ok(Letters { count: unsigned(row.get(0)?), bytes: unsigned(row.get(1)?) })
        })
    }

    /// Removes the oldest dead letter; its bytes. It is counted by the caller.
    ///
    /// # Errors
    /// SQLite's.
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
    ///
    /// # Errors
    /// SQLite's.
    pub fn take_replays(&self, max: u32) -> Result<Vec<(String, String, LaneNumber)>> {
        let mut statement = self.db.prepare_cached(
            "DELETE FROM dead_letter WHERE id IN (
                 SELECT id FROM dead_letter WHERE replay = 1 AND lane IN (SELECT id FROM lane) ORDER BY id LIMIT ?1
             ) RETURNING row, reason, lane",
        )?;
        statement.query_map([max], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    }

    /// Moves datapoints as `tally` says: what [`Ledger::apply`] does in memory. The file does not count what is only in
    /// memory, so what comes from there is received now.
    ///
    /// # Errors
    /// SQLite's.
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
    ///
    /// # Errors
    /// SQLite's.
    pub fn count(&self, place: &str, reason: &str, n: u64) -> Result<()> {
        self.count_in(LANE_DEFAULT, place, reason, n)
    }

    /// The same, of a lane.
    ///
    /// # Errors
    /// SQLite's.
    pub fn count_in(&self, lane: LaneNumber, place: &str, reason: &str, n: u64) -> Result<()> {
        self.change(lane, place, reason, i64::try_from(n).unwrap_or(i64::MAX))
    }

    /// Takes from a count of the ledger.
    ///
    /// # Errors
    /// SQLite's.
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
    ///
    /// # Errors
    /// SQLite's.
    pub fn count_by_reason(&self, place: &str, by_reason: &ByReason) -> Result<()> {
        by_reason.iter().try_for_each(|(reason, &n)| self.count(place, reason, n))
    }

    /// The ledger as it was last written.
    ///
    /// # Errors
    /// SQLite's.
    pub fn ledger(&self) -> Result<Ledger> {
        read_ledger(&self.db)
    }

    /// Bytes of the file that are in use, whatever its size.
    ///
    /// # Errors
    /// SQLite's.
    pub fn used_bytes(&self) -> Result<u64> {
        let (pages, free, bytes) = self.pages()?;
        Ok(pages.saturating_sub(free).saturating_mul(bytes))
    }

    /// Bytes of the file, with what is still in the write-ahead log.
    ///
    /// # Errors
    /// SQLite's.
    pub fn file_bytes(&self) -> Result<u64> {
        let (pages, _, bytes) = self.pages()?;
        Ok(pages.saturating_mul(bytes))
    }

    /// Gives unused pages back to the file system, all but `keep` and at most `max` at once; false if there was none.
    ///
    /// # Errors
    /// SQLite's.
    pub fn give_back(&self, keep: u32, max: u32) -> Result<bool> {
        let (_, free, _) = self.pages()?;
        let max = free.saturating_sub(keep.into()).min(max.into());
        if max == 0 {
            return Ok(false);
        }
        let mut statement = self.db.prepare(&format!("PRAGMA incremental_vacuum({max})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        if let Some(guard) = &self.guard {
            guard.may_shrink_to(self.file_bytes()?);
        }
        Ok(true)
    }

    /// Pages of the file, those of them that are unused, and the bytes of one.
    fn pages(&self) -> Result<(u64, u64, u64)> {
        let get = |name| self.pragma::<i64>(name).map(|n| u64::try_from(n).unwrap_or(0));
        Ok((get("page_count")?, get("freelist_count")?, get("page_size")?))
    }

    /// Changes when another process writes to the file.
    ///
    /// # Errors
    /// SQLite's.
    pub fn data_version(&self) -> Result<i64> {
        self.pragma("data_version")
    }

    fn pragma<T: rusqlite::types::FromSql>(&self, name: &str) -> Result<T> {
        self.db.pragma_query_value(None, name, |row| row.get(0))
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

/// Gives a new spool, or one that had none, its name.
pub(super) fn name_the_spool(db: &Connection) -> Result<()> {
    // SQLite's own random bytes, which it seeds from the system.
    let bytes: Vec<u8> = db.query_row("SELECT randomblob(16)", [], |row| row.get(0))?;
    let mut uuid = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        // As RFC 9562 marks random ones: version 4.
        let byte = match at {
            6 => byte & 0x0f | 0x40,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        let dash = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
        uuid.push_str(&format!("{dash}{byte:02x}"));
    }
    db.execute("INSERT OR IGNORE INTO spool (key, value) VALUES ('uuid', ?1)", [uuid]).map(|_| ())
}

/// What SQLite would say of a file that is damaged where it does not look itself.
pub(super) fn damage(text: impl Into<String>) -> rusqlite::Error {
    failure(rusqlite::ffi::SQLITE_CORRUPT, text.into())
}

fn failure(code: i32, text: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text))
}

fn meta(row: &rusqlite::Row<'_>, lane: LaneNumber) -> Result<Meta> {
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

/// The ledger in the tables of any connection and any version, all lanes together.
///
/// # Errors
/// SQLite's.
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
