//! Owns the look into a spool from outside: what is in it, row by row, and whether it is whole. It works beside a
//! running daemon. It changes nothing but the marks on dead letters that ask for a replay, and their purge.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Result, params};

use super::store::{self, APPLICATION_ID, Loaded, VERSION};
use crate::core::ledger::{Ledger, sum};

/// How long to wait while the daemon writes, in milliseconds.
const BUSY_MS: u32 = 10_000;

/// A spool's file, opened by a tool.
pub struct Inspector {
    db: Connection,
}

/// What is in a spool.
#[derive(Debug, Clone, Default)]
pub struct Info {
    /// Chunks.
    pub chunks: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of the chunks as they are kept.
    pub body_bytes: u64,
    /// Bytes of the rows before compression.
    pub raw_bytes: u64,
    /// Bytes of the file that are in use.
    pub used_bytes: u64,
    /// When the oldest row came, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
    /// When the oldest row of the newest chunk came, in milliseconds since 1970.
    pub newest_ms: Option<i64>,
    /// Dead letters, and how many of them are marked for replay.
    pub dead_letters: (u64, u64),
    /// The ledger as it was last written.
    pub ledger: Ledger,
}

/// A refused row.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its number.
    pub id: i64,
    /// When Blueflood refused it, in milliseconds since 1970.
    pub refused_ms: i64,
    /// The first chunk of the payload that it was sent in.
    pub payload: i64,
    /// As counted in the ledger.
    pub reason: String,
    /// Blueflood's words.
    pub message: String,
    /// As it was sent.
    pub row: String,
    /// Whether it will be sent again.
    pub replay: bool,
}

/// Which dead letters are meant.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Those of this reason only.
    pub reason: Option<String>,
    /// Those with this number only.
    pub id: Option<i64>,
}

impl Which {
    const SQL: &'static str = "(?1 IS NULL OR reason = ?1) AND (?2 IS NULL OR id = ?2)";
}

impl Inspector {
    /// Opens a spool that is there.
    ///
    /// # Errors
    /// SQLite's, or `SQLITE_NOTADB` if the file is not a spool of this version.
    pub fn open(path: &Path) -> Result<Self> {
        // Not read-only: a reader of a write-ahead log needs to write its index.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        db.pragma_update(None, "busy_timeout", BUSY_MS)?;
        let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if (application, version) == (APPLICATION_ID, VERSION) {
            return Ok(Self { db });
        }
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
        Err(rusqlite::Error::SqliteFailure(code, Some("not a spool of this version".to_owned())))
    }

    /// What is in it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn info(&self) -> Result<Info> {
        // One transaction, so that the figures are of one moment.
        let transaction = self.db.unchecked_transaction()?;
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
        let chunks = "SELECT count(*), coalesce(sum(rows), 0), coalesce(sum(length(body)), 0),
                      coalesce(sum(raw_bytes), 0), min(received_ms), max(received_ms) FROM chunk";
        let mut info = transaction.query_row(chunks, [], |row| {
            Ok(Info {
                chunks: unsigned(row.get(0)?),
                rows: unsigned(row.get(1)?),
                body_bytes: unsigned(row.get(2)?),
                raw_bytes: unsigned(row.get(3)?),
                oldest_ms: row.get(4)?,
                newest_ms: row.get(5)?,
                ..Info::default()
            })
        })?;
        let letters = "SELECT count(*), coalesce(sum(replay), 0) FROM dead_letter";
        info.dead_letters =
            transaction.query_row(letters, [], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))))?;
        info.ledger = store::read_ledger(&transaction)?;
        let pragma = |name: &str| -> Result<u64> {
            transaction.pragma_query_value(None, name, |row| row.get(0)).map(unsigned)
        };
        let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
        info.used_bytes = pages.saturating_mul(pragma("page_size")?);
        Ok(info)
    }

    /// Gives each row to `each`, the oldest chunk first; how many rows could not be read.
    ///
    /// # Errors
    /// SQLite's, or those of `each`.
    pub fn rows<E: From<rusqlite::Error>>(
        &self,
        mut each: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<u64, E> {
        let mut damaged: u64 = 0;
        self.chunks(|loaded| {
            match loaded {
                Loaded::Intact(meta, chunk) => match chunk.open() {
                    Ok(rows) => return rows.as_ref().iter().try_for_each(&mut each),
                    Err(_) => damaged = damaged.saturating_add(meta.rows.into()),
                },
                Loaded::Damaged(meta) => damaged = damaged.saturating_add(meta.rows.into()),
            }
            Ok(())
        })?;
        Ok(damaged)
    }

    /// Everything that is wrong with it; nothing if it is whole.
    ///
    /// # Errors
    /// SQLite's, if it cannot even be looked at.
    pub fn verify(&self) -> Result<Vec<String>> {
        let transaction = self.db.unchecked_transaction()?;
        let mut wrong = Vec::new();
        let mut statement = transaction.prepare("PRAGMA integrity_check")?;
        let findings = statement.query_map([], |row| row.get::<_, String>(0))?;
        for finding in findings {
            match finding {
                Ok(finding) if finding == "ok" => {}
                Ok(finding) => wrong.push(finding),
                Err(error) => wrong.push(error.to_string()),
            }
        }
        let mut rows: u64 = 0;
        let read = self.chunks::<rusqlite::Error>(|loaded| {
            let (meta, intact) = match loaded {
                Loaded::Intact(meta, chunk) => (meta, chunk.open().is_ok()),
                Loaded::Damaged(meta) => (meta, false),
            };
            rows = rows.saturating_add(meta.rows.into());
            if !intact {
                wrong.push(format!(
                    "chunk {} of {} rows does not read back as it was written",
                    meta.id, meta.rows
                ));
            }
            Ok(())
        });
        if let Err(error) = read {
            wrong.push(format!("not all chunks can be read: {error}"));
        }
        let ledger = store::read_ledger(&transaction)?;
        if ledger.spooled != rows {
            wrong.push(format!("the ledger says {} rows are here, and {rows} are", ledger.spooled));
        }
        if ledger.unaccounted() != 0 {
            wrong.push(format!(
                "the ledger does not add up: {} rows are unaccounted for",
                ledger.unaccounted()
            ));
        }
        Ok(wrong)
    }

    fn chunks<E: From<rusqlite::Error>>(
        &self,
        mut each: impl FnMut(Loaded) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let sql = "SELECT id, rows, raw_bytes, encoding, crc, body_crc, body FROM chunk ORDER BY id";
        let mut statement = self.db.prepare(sql)?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            each(store::loaded(row)?)?;
        }
        Ok(())
    }

    /// Gives each dead letter to `each`, the oldest first.
    ///
    /// # Errors
    /// SQLite's, or those of `each`.
    pub fn letters<E: From<rusqlite::Error>>(
        &self,
        which: &Which,
        mut each: impl FnMut(&Letter) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let sql = format!(
            "SELECT id, refused_ms, payload, reason, message, row, replay FROM dead_letter WHERE {} ORDER BY id",
            Which::SQL
        );
        let mut statement = self.db.prepare(&sql)?;
        let mut found = statement.query(params![which.reason, which.id])?;
        while let Some(row) = found.next()? {
            each(&Letter {
                id: row.get(0)?,
                refused_ms: row.get(1)?,
                payload: row.get(2)?,
                reason: row.get(3)?,
                message: row.get(4)?,
                row: row.get(5)?,
                replay: row.get(6)?,
            })?;
        }
        Ok(())
    }

    /// Marks dead letters, so that the daemon sends them again: at once if it runs, else when it starts. How many.
    ///
    /// # Errors
    /// SQLite's.
    pub fn replay(&self, which: &Which) -> Result<usize> {
        let sql = format!("UPDATE dead_letter SET replay = 1 WHERE replay = 0 AND {}", Which::SQL);
        self.db.execute(&sql, params![which.reason, which.id])
    }

    /// Removes dead letters for good; how many. They stay counted as refused.
    ///
    /// # Errors
    /// SQLite's.
    pub fn purge(&self, which: &Which) -> Result<usize> {
        let sql = format!("DELETE FROM dead_letter WHERE {}", Which::SQL);
        self.db.execute(&sql, params![which.reason, which.id])
    }
}

impl Info {
    /// Rows that the ledger has as refused, less those that were put back.
    pub fn refused(&self) -> u64 {
        sum(&self.ledger.refused)
    }
}
