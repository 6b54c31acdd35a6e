//! Owns the look into a spool from outside: what is in it, row by row, and whether it is whole. It works beside a
//! running daemon. It changes nothing but the marks on dead letters that ask for a replay, and their purge. It is for
//! tools: not for a process that has the spool open itself.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Result, params};

use super::{
    open::{OpenError, Whose, compare, folder_of, holder, lock, look, with_suffix},
    store::{self, BUSY_TIMEOUT, Loaded, SCHEMA, VERSION},
};
use crate::core::ledger::{Ledger, sum};

/// A spool's file, opened by a tool.
pub struct Inspector {
    db: Connection,
    path: PathBuf,
    version: i32,
    /// The file was opened as one that nobody writes to, for nobody did.
    alone: bool,
}

/// Why a tool cannot do what was asked of it.
#[derive(Debug)]
pub enum InspectError {
    /// There is nothing under that name.
    Nothing,
    /// It is another's, or of a later version.
    Refused(OpenError),
    /// This user may not.
    Forbidden {
        /// What was not allowed.
        what: &'static str,
        /// Whose the file is, if this user may see that.
        owner: Option<u32>,
    },
    /// The daemon has it.
    Held(String),
    /// Any other error of the system.
    Io(io::Error),
    /// An error of SQLite.
    Sqlite(rusqlite::Error),
}

impl std::fmt::Display for InspectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            InspectError::Nothing => {
                f.write_str("there is no spool: name the daemon's with --spool or --config")
            }
            InspectError::Refused(error) => error.fmt(f),
            InspectError::Forbidden { what, owner } => {
                write!(f, "this user may not {what} it: run this as root, or as the daemon's user")?;
                owner.map_or(Ok(()), |owner| write!(f, " (uid {owner})"))
            }
            InspectError::Held(holder) => write!(
                f,
                "the daemon has it ({holder}), and gives unused room back by itself: stop it first, or leave it alone"
            ),
            InspectError::Io(error) => error.fmt(f),
            InspectError::Sqlite(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for InspectError {}

impl From<rusqlite::Error> for InspectError {
    fn from(error: rusqlite::Error) -> Self {
        InspectError::Sqlite(error)
    }
}

/// What is in a spool.
#[derive(Debug, Clone, Default)]
pub struct Info {
    /// The version of its tables.
    pub version: i32,
    /// The name that it was given when it was made; none before version 2.
    pub uuid: Option<String>,
    /// Chunks.
    pub chunks: u64,
    /// Rows in them.
    pub rows: u64,
    /// These by tenant. What an older version left, and no daemon has seen since, is nobody's yet: "".
    pub tenants: Vec<(String, u64)>,
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
    /// Opens a spool that is there, to be read. Of a file of any version that is known; beside a daemon too.
    ///
    /// # Errors
    /// [`InspectError`].
    pub fn open(path: &Path) -> std::result::Result<Self, InspectError> {
        let path = find(path, "read", |path| fs::File::open(path))?;
        // Where nobody writes, SQLite need not make files beside it to keep others out. What a daemon that was killed
        // left in its log must be read all the same.
        let log = fs::symlink_metadata(with_suffix(&path, "-wal"));
        let left = log.is_ok_and(|log| log.len() > 0);
        let alone = !left && holder(&path).is_none();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let db = if alone {
            Connection::open_with_flags(uri(&path), flags | OpenFlags::SQLITE_OPEN_URI)?
        } else {
            Connection::open_with_flags(&path, flags)?
        };
        Self::new(db, path, alone)
    }

    /// Opens a spool that is there, to change the marks on its dead letters.
    ///
    /// # Errors
    /// [`InspectError`].
    pub fn open_to_change(path: &Path) -> std::result::Result<Self, InspectError> {
        let write = |path: &Path| fs::OpenOptions::new().read(true).write(true).open(path);
        let path = find(path, "change", write)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let db = Connection::open_with_flags(&path, flags)?;
        Self::new(db, path, false)
    }

    fn new(db: Connection, path: PathBuf, alone: bool) -> std::result::Result<Self, InspectError> {
        db.busy_timeout(BUSY_TIMEOUT)?;
        let version = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > VERSION {
            return Err(InspectError::Refused(OpenError::Later { path, version }));
        }
        Ok(Self { db, path, version, alone })
    }

    /// The version of its tables.
    pub fn version(&self) -> i32 {
        self.version
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
        info.version = self.version;
        let uuid =
            || transaction.query_row("SELECT value FROM spool WHERE key = 'uuid'", [], |row| row.get(0));
        info.uuid = if self.version > 1 { uuid().optional()? } else { None };
        let by_tenant = format!("SELECT {}, sum(rows) FROM chunk GROUP BY 1 ORDER BY 1", self.tenant());
        info.tenants = transaction
            .prepare(&by_tenant)?
            .query_map([], |row| Ok((row.get(0)?, unsigned(row.get(1)?))))?
            .collect::<Result<_>>()?;
        info.ledger = store::read_ledger(&transaction)?;
        let pragma = |name: &str| -> Result<u64> {
            transaction.pragma_query_value(None, name, |row| row.get(0)).map(unsigned)
        };
        let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
        info.used_bytes = pages.saturating_mul(pragma("page_size")?);
        Ok(info)
    }

    /// The tenant of a chunk, in SQL.
    fn tenant(&self) -> &'static str {
        match self.version {
            1 => "''",
            _ => {
                "coalesce((SELECT CASE lane.id
                      WHEN 0 THEN (SELECT value FROM spool WHERE key = 'tenant') ELSE lane.tenant
                  END FROM lane WHERE lane.id = chunk.lane), '')"
            }
        }
    }

    /// Gives each row to `each`, the oldest chunk first, of all tenants or of one; how many rows could not be read.
    ///
    /// # Errors
    /// SQLite's, or those of `each`.
    pub fn rows<E: From<rusqlite::Error>>(
        &self,
        of: Option<&str>,
        mut each: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<u64, E> {
        let mut damaged: u64 = 0;
        self.chunks(of, |loaded| {
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
        if self.version == VERSION
            && let Err(error) = compare(&self.db, SCHEMA)
        {
            wrong.push(error.to_string());
        }
        let mut rows: u64 = 0;
        let read = self.chunks::<rusqlite::Error>(None, |loaded| {
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
        let here = ledger.spooled.saturating_add(ledger.acknowledged);
        if here != rows {
            wrong.push(format!("the ledger says {here} rows are here, and {rows} are"));
        }
        if ledger.unaccounted() != 0 {
            wrong.push(format!(
                "the ledger does not add up: {} rows are unaccounted for",
                ledger.unaccounted()
            ));
        }
        if !wrong.is_empty() && self.alone && holder(&self.path).is_some() {
            return Ok(vec!["a daemon was started while it was read: check it again".to_owned()]);
        }
        Ok(wrong)
    }

    fn chunks<E: From<rusqlite::Error>>(
        &self,
        of: Option<&str>,
        mut each: impl FnMut(Loaded) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let lane = if self.version > 1 { "lane" } else { "0" };
        let sql = format!(
            "SELECT id, rows, raw_bytes, encoding, crc, body_crc, body, {lane} FROM chunk
             WHERE ?1 IS NULL OR {} = ?1 ORDER BY id",
            self.tenant()
        );
        let mut statement = self.db.prepare(&sql)?;
        let mut found = statement.query([of])?;
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

    /// How many dead letters are marked, and not yet taken by a daemon.
    ///
    /// # Errors
    /// SQLite's.
    pub fn marked(&self) -> Result<u64> {
        let count = "SELECT count(*) FROM dead_letter WHERE replay = 1";
        self.db.query_row(count, (), |row| row.get(0)).map(|count: i64| u64::try_from(count).unwrap_or(0))
    }

    /// Who has the spool, if a daemon runs on it.
    pub fn holder(&self) -> Option<String> {
        holder(&self.path)
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

/// Gives the unused room in a spool's file back to the disk; the bytes of the file before and after. Only where no daemon
/// has it.
///
/// # Errors
/// [`InspectError`].
pub fn compact(path: &Path) -> std::result::Result<(u64, u64), InspectError> {
    let inspector = Inspector::open_to_change(path)?;
    let path = &inspector.path;
    let _lock = match lock(path) {
        Err(OpenError::Held { holder, .. }) => return Err(InspectError::Held(holder)),
        Err(OpenError::Io { error, .. }) => return Err(InspectError::Io(error)),
        lock => lock.map_err(InspectError::Refused)?,
    };
    let bytes = || fs::symlink_metadata(path).map(|file| file.len()).map_err(InspectError::Io);
    let before = bytes()?;
    for pragma in ["PRAGMA incremental_vacuum", "PRAGMA wal_checkpoint(TRUNCATE)"] {
        let mut statement = inspector.db.prepare(pragma)?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok((before, bytes()?))
}

/// Where the spool lies, if it is one that this user may use in this way.
fn find(
    path: &Path,
    what: &'static str,
    try_it: impl FnOnce(&Path) -> io::Result<fs::File>,
) -> std::result::Result<PathBuf, InspectError> {
    let owner = |path: &Path| fs::metadata(path).ok().map(|file| file.uid());
    let failed = |path: &Path, error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => InspectError::Nothing,
        io::ErrorKind::PermissionDenied => InspectError::Forbidden { what, owner: owner(path) },
        _ => InspectError::Io(error),
    };
    // Whoever may read it may follow any link to it.
    let path = fs::canonicalize(path).map_err(|error| failed(folder_of(path), error))?;
    match look(&path) {
        Ok(Whose::Ours(_)) => {}
        Ok(Whose::Nobodys | Whose::OnlyTheLog) => return Err(InspectError::Nothing),
        Ok(Whose::Anothers(what)) => {
            return Err(InspectError::Refused(OpenError::NotOurs { path, what }));
        }
        Err(OpenError::Io { error, .. }) => return Err(failed(&path, error)),
        Err(error) => return Err(InspectError::Refused(error)),
    }
    // SQLite would open what it may not write to for reading only, and say so at the first write.
    drop(try_it(&path).map_err(|error| failed(&path, error))?);
    Ok(path)
}

/// As SQLite takes a name with options behind it.
fn uri(path: &Path) -> String {
    use std::{fmt::Write, os::unix::ffi::OsStrExt};
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(byte.into());
        } else {
            let _ = write!(uri, "%{byte:02x}");
        }
    }
    uri.push_str("?immutable=1");
    uri
}

impl Info {
    /// Rows that the ledger has as refused, less those that were put back.
    pub fn refused(&self) -> u64 {
        sum(&self.ledger.refused)
    }
}
