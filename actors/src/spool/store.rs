//! Owns the spool's tables: chunks, dead letters and the ledger, as statements on one SQLite connection.
//! It never decides when a transaction begins or ends, and keeps no state of its own.
//!
//! Here is what all tables share: the schema, the connection and the checks. Each table has a file of its own beside.
//!
//! # Errors
//!
//! Every `Result` of this module is SQLite's, and its error too; where a function adds to that, its own comment says so.
//! Damage that SQLite does not see itself is `SQLITE_CORRUPT` as well (`damage`).

mod acknowledged;
mod chunks;
mod dead_letters;
mod identity;
mod lanes;
mod ledger;
mod pages;

use std::time::Duration;

use rusqlite::{Connection, Result};

pub(super) use self::identity::name_the_spool;
pub use self::{
    acknowledged::Answered,
    chunks::{Loaded, loaded},
    dead_letters::Letters,
    lanes::{LANE_DEFAULT, LaneNumber},
    ledger::read_ledger,
};
use super::open::{Amiss, Guard, Migrated, compare};
use crate::core::queue::ChunkId;

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
pub enum Durability {
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

impl Store {
    /// Sets a connection up, and makes the tables if the file is new.
    ///
    /// # Errors
    /// SQLite's. A file without our tables, or of another version, is `SQLITE_CORRUPT`.
    pub fn new(db: Connection, sync: Durability) -> Result<Self> {
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
                Durability::Normal => "NORMAL",
                Durability::Full => "FULL",
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

    fn pragma<T: rusqlite::types::FromSql>(&self, name: &str) -> Result<T> {
        self.db.pragma_query_value(None, name, |row| row.get(0))
    }
}

/// What SQLite would say of a file that is damaged where it does not look itself.
pub(super) fn damage(text: impl Into<String>) -> rusqlite::Error {
    failure(rusqlite::ffi::SQLITE_CORRUPT, text.into())
}

fn failure(code: i32, text: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text))
}
