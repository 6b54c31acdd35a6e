//! Owns how a spool is opened: one owner at a time, and a damaged file set aside and salvaged, never in the way.
//! It never writes to a file that was damaged: it is renamed, and read.

use std::{
    collections::HashSet,
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rusqlite::{Connection, OpenFlags};

use super::store::{self, Loaded, Store, Sync};
use crate::core::outbox::ChunkId;

/// Where the spool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In memory: nothing survives the process.
    Memory,
    /// In this file.
    File(PathBuf),
}

/// A spool that is open, and what it took.
pub struct Opened {
    /// Its tables.
    pub store: Store,
    /// Held as long as the spool is ours; `None` in memory.
    pub lock: Option<File>,
    /// What had to be set aside.
    pub salvage: Option<Salvage>,
}

/// What became of a damaged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvage {
    /// Why it could not be used.
    pub cause: String,
    /// Where it lies now.
    pub set_aside: PathBuf,
    /// Rows that could be read out of it, and go on.
    pub rows: u64,
    /// Rows that it should have held besides; `None` if its ledger could not be read.
    pub lost: Option<u64>,
    /// Dead letters that could be read out of it.
    pub dead_letters: u64,
}

/// Why a spool cannot be opened at all.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it.
    Held {
        /// The lock file.
        lock: PathBuf,
        /// What the other process wrote about itself.
        holder: String,
    },
    /// A directory or file cannot be made, read or written.
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        error: io::Error,
    },
    /// SQLite cannot make a new file there.
    Sqlite {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: rusqlite::Error,
    },
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Held { lock, holder } => write!(
                f,
                "the spool is in use by {holder} (lock {}): stop that process, or give this one another --spool",
                lock.display()
            ),
            OpenError::Io { doing, error } => {
                write!(
                    f,
                    "cannot {doing}: {error}; set --spool to a path that can be written, or to :memory:"
                )
            }
            OpenError::Sqlite { path, error } => write!(
                f,
                "cannot make the spool {}: {error}; set --spool to a path that can be written, or to :memory:",
                path.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// Opens the spool.
///
/// # Errors
/// [`OpenError`]; a damaged file is none.
pub fn open(place: &Place, sync: Sync, now: SystemTime) -> Result<Opened, OpenError> {
    let Place::File(path) = place else {
        let memory = PathBuf::from(":memory:");
        let store = Connection::open_in_memory().and_then(|db| Store::new(db, sync));
        let store = store.map_err(|error| OpenError::Sqlite { path: memory, error })?;
        return Ok(Opened { store, lock: None, salvage: None });
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|error| OpenError::Io {
            doing: format!("make the folder {}", folder.display()),
            error,
        })?;
    }
    let lock = lock(&with_suffix(path, ".lock"))?;
    let (store, salvage) = open_or_set_aside(path, sync, now)?;
    Ok(Opened { store, lock: Some(lock), salvage })
}

/// Opens the file, or sets it aside and starts a new one with what can be read of it.
///
/// # Errors
/// [`OpenError`]; a damaged file is none.
pub fn open_or_set_aside(
    path: &Path,
    sync: Sync,
    now: SystemTime,
) -> Result<(Store, Option<Salvage>), OpenError> {
    let empty = fs::metadata(path).is_ok_and(|file| file.len() == 0);
    let cause = if empty {
        "it has no bytes".to_owned()
    } else {
        match connect(path, sync) {
            Ok(store) => return Ok((store, None)),
            Err(error) if is_damage(&error) => error.to_string(),
            Err(error) => return Err(OpenError::Sqlite { path: path.to_owned(), error }),
        }
    };
    set_aside(path, sync, now, cause)
}

/// Sets the file aside, whatever is in it, and starts a new one with what can be read of it.
///
/// # Errors
/// [`OpenError`] if it cannot be renamed, or a new one cannot be made.
pub fn set_aside(
    path: &Path,
    sync: Sync,
    now: SystemTime,
    cause: String,
) -> Result<(Store, Option<Salvage>), OpenError> {
    let aside = free_name(path, now);
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (with_suffix(path, suffix), with_suffix(&aside, suffix));
        match fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let doing = format!("set the damaged spool {} aside as {}", from.display(), to.display());
                return Err(OpenError::Io { doing, error });
            }
        }
    }
    let new = |error| OpenError::Sqlite { path: path.to_owned(), error };
    let store = connect(path, sync).map_err(new)?;
    let salvage = salvage(&store, &aside, cause).map_err(new)?;
    Ok((store, Some(salvage)))
}

/// Whether an error of SQLite says that the file itself is damaged.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error {
        rusqlite::Error::SqliteFailure(failure, text) => {
            matches!(failure.code, DatabaseCorrupt | NotADatabase)
                // A table of ours that is not there, in a file that says it is ours.
                || text.as_ref().is_some_and(|text| text.starts_with("no such table"))
        }
        // A value of a type that we never write.
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::Utf8Error(..) => true,
        _ => false,
    }
}

fn connect(path: &Path, sync: Sync) -> rusqlite::Result<Store> {
    let store = Store::new(Connection::open(path)?, sync)?;
    store.ledger()?;
    store.newest()?;
    store.dead_letter_bytes()?;
    Ok(store)
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |doing: &str, error| OpenError::Io { doing: format!("{doing} {}", path.display()), error };
    let mut file = File::options()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(path)
        .map_err(|error| io("open the lock", error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = file.take(200).read_to_string(&mut holder);
            let known = read.is_ok() && !holder.trim().is_empty();
            let holder = if known { holder.trim().to_owned() } else { "another process".to_owned() };
            return Err(OpenError::Held { lock: path.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(io("lock", error)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "process {} ({})", std::process::id(), program())
    };
    // The words are for a human only: a full disk must not keep us from starting.
    let _ = write(&mut file);
    Ok(file)
}

fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "blueflood-forward".to_owned())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// `spool.db.damaged-2026-11-24T20-30-00Z`, or the same with a number if that is taken.
fn free_name(path: &Path, now: SystemTime) -> PathBuf {
    let date = humantime::format_rfc3339_seconds(now).to_string().replace(':', "-");
    let first = with_suffix(path, &format!(".damaged-{date}"));
    let numbered = (2..1_000).map(|n| with_suffix(path, &format!(".damaged-{date}.{n}")));
    std::iter::once(first.clone()).chain(numbered).find(|name| !name.exists()).unwrap_or(first)
}

/// Copies what can be read of a damaged file into a new spool.
fn salvage(store: &Store, aside: &Path, cause: String) -> rusqlite::Result<Salvage> {
    let mut salvage = Salvage { cause, set_aside: aside.to_owned(), rows: 0, lost: None, dead_letters: 0 };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let Ok(damaged) = Connection::open_with_flags(aside, flags) else { return Ok(salvage) };
    let recorded = store::read_ledger(&damaged).ok().filter(|recorded| recorded.unaccounted() == 0);
    store.transaction(|store| {
        salvage.rows = copy_chunks(store, &damaged)?;
        salvage.dead_letters = copy_dead_letters(store, &damaged)?;
        let spooled = recorded.as_ref().map_or(0, |recorded| recorded.spooled);
        salvage.lost = recorded.as_ref().map(|_| spooled.saturating_sub(salvage.rows));
        // More rows than the ledger knew: their counts were in the part that cannot be read.
        let unknown = salvage.rows.saturating_sub(spooled);
        let recorded = recorded.unwrap_or_default();
        let lost = salvage.lost.unwrap_or(0);
        store.count("received", "", recorded.received.saturating_add(unknown))?;
        store.count("delivered", "", recorded.delivered)?;
        store.count("unconfirmed", "", recorded.unconfirmed)?;
        store.count("names_replaced", "", recorded.names_replaced)?;
        store.count("dropped", "damaged", lost)?;
        store.count_by_reason("dropped", &recorded.dropped)?;
        store.count_by_reason("refused", &recorded.refused)?;
        store.count_by_reason("skipped", &recorded.skipped)?;
        store.count_by_reason("malformed", &recorded.malformed)
    })?;
    Ok(salvage)
}

/// A page that cannot be read ends a scan, so there is one from each end.
fn copy_chunks(store: &Store, damaged: &Connection) -> rusqlite::Result<u64> {
    const COLUMNS: &str = "SELECT id, rows, raw_bytes, encoding, crc, body_crc, body, received_ms FROM chunk";
    let mut rows: u64 = 0;
    let mut last: ChunkId = 0;
    let mut copied: HashSet<ChunkId> = HashSet::new();
    for (order, sql) in [
        ("up", format!("{COLUMNS} WHERE id > ?1 ORDER BY id")),
        ("down", format!("{COLUMNS} WHERE id > ?1 ORDER BY id DESC")),
    ] {
        let Ok(mut statement) = damaged.prepare(&sql) else { continue };
        let Ok(mut found) = statement.query([last]) else { continue };
        while let Ok(Some(row)) = found.next() {
            let Ok(Loaded::Intact(meta, chunk)) = store::loaded(row) else { continue };
            // The seal's own checks: a row that is not whole must not reach Blueflood.
            if copied.contains(&meta.id) || chunk.open().is_err() {
                continue;
            }
            store.insert(&chunk, row.get(7).unwrap_or(0))?;
            copied.insert(meta.id);
            rows = rows.saturating_add(meta.rows.into());
            if order == "up" {
                last = meta.id;
            }
        }
    }
    Ok(rows)
}

fn copy_dead_letters(store: &Store, damaged: &Connection) -> rusqlite::Result<u64> {
    let mut copied: u64 = 0;
    let sql = "SELECT refused_ms, payload, reason, message, row, replay FROM dead_letter ORDER BY id";
    let Ok(mut statement) = damaged.prepare(sql) else { return Ok(0) };
    let Ok(mut found) = statement.query([]) else { return Ok(0) };
    while let Ok(Some(row)) = found.next() {
        type Letter = (i64, i64, String, String, String, i64);
        let read = || -> rusqlite::Result<Letter> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        };
        let Ok(letter) = read() else { continue };
        store.db().execute(
            "INSERT INTO dead_letter (refused_ms, payload, reason, message, row, replay)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            letter,
        )?;
        copied = copied.saturating_add(1);
    }
    Ok(copied)
}
