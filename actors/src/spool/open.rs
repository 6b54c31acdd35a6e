//! Owns how a spool is opened: one owner at a time, and a damaged file set aside and salvaged, never in the way.
//! It never writes to a file that was damaged: it is read, and renamed.

use std::{
    collections::HashSet,
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rusqlite::{Connection, OpenFlags};

use super::store::{self, Loaded, Store, Sync};
use crate::core::{ledger::Ledger, queue::ChunkId};

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
    finish_salvage(path)?;
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
    set_aside(path, sync, now, cause, None).map(|(store, salvage)| (store, Some(salvage)))
}

/// What is known of a file better than from itself.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its ledger.
    pub ledger: Ledger,
    /// The highest number that a chunk had: those that are salvaged get others, for an answer to an old one may still
    /// be under way.
    pub last_id: ChunkId,
}

/// Sets the file aside, whatever is in it, and starts a new one with what can be read of it.
///
/// The new file is whole before the old one moves, so that an end in the middle of this loses nothing.
///
/// # Errors
/// [`OpenError`] if it cannot be renamed, or a new one cannot be made.
pub fn set_aside(
    path: &Path,
    sync: Sync,
    now: SystemTime,
    cause: String,
    known: Option<Known>,
) -> Result<(Store, Salvage), OpenError> {
    let salvaged = with_suffix(path, SALVAGED);
    let new = |error| OpenError::Sqlite { path: path.to_owned(), error };
    let make = |copy: bool| -> rusqlite::Result<Salvage> {
        // What is there is of a salvage that was cut short.
        remove(&salvaged).map_err(as_sqlite)?;
        let store = Store::new(Connection::open(&salvaged)?, sync)?;
        let salvage = salvage(&store, path, cause.clone(), known.clone(), copy)?;
        // From here on all of it is in the one file that is renamed.
        store.checkpoint()?;
        Ok(salvage)
    };
    let mut salvage = match make(true) {
        // There is no room for a second copy: what is in the old file can be got out of it later.
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => make(false),
        made => made,
    }
    .map_err(new)?;
    salvage.set_aside = free_name(path, now);
    rename(path, &salvage.set_aside)?;
    finish_salvage(path)?;
    Ok((connect(path, sync).map_err(new)?, salvage))
}

/// What is salvaged lies under this name until the damaged file has moved.
const SALVAGED: &str = ".salvaged";

/// Puts what was salvaged in the place of the damaged file, once that has moved.
fn finish_salvage(path: &Path) -> Result<(), OpenError> {
    let salvaged = with_suffix(path, SALVAGED);
    if path.exists() || !salvaged.exists() {
        return Ok(());
    }
    // They are of the damaged file, which was moved before them.
    for stale in ["-wal", "-shm"].map(|suffix| with_suffix(path, suffix)) {
        remove_one(&stale)
            .map_err(|error| OpenError::Io { doing: format!("remove {}", stale.display()), error })?;
    }
    rename(&salvaged, path)
}

/// Renames a database: the file first, then what SQLite keeps beside it.
fn rename(from: &Path, to: &Path) -> Result<(), OpenError> {
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (with_suffix(from, suffix), with_suffix(to, suffix));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::Io {
                    doing: format!("rename {} to {}", from.display(), to.display()),
                    error,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// As SQLite would say it.
fn as_sqlite(error: io::Error) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
    rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
}

/// Removes a database, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    ["", "-wal", "-shm"].iter().try_for_each(|suffix| remove_one(&with_suffix(path, suffix)))
}

fn remove_one(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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
    store.check()?;
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

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
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

/// Copies what can be read of a damaged file into a new spool; of chunks and dead letters nothing without `copy`.
fn salvage(
    store: &Store,
    path: &Path,
    cause: String,
    known: Option<Known>,
    copy: bool,
) -> rusqlite::Result<Salvage> {
    let mut salvage = Salvage { cause, set_aside: path.to_owned(), rows: 0, lost: None, dead_letters: 0 };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let damaged = Connection::open_with_flags(path, flags).ok();
    if let Some(damaged) = &damaged {
        // Without this SQLite reads nothing at all of a file that is shorter than its header says.
        let _ = damaged.pragma_update(None, "writable_schema", true);
    }
    let whole = |recorded: &Ledger| recorded.unaccounted() == 0;
    let recorded = || damaged.as_ref().and_then(|damaged| store::read_ledger(damaged).ok()).filter(whole);
    let last_id = known.as_ref().map_or(0, |known| known.last_id);
    let recorded = known.map(|known| known.ledger).or_else(recorded);
    store.transaction(|store| {
        if let Some(damaged) = damaged.as_ref().filter(|_| copy) {
            salvage.rows = copy_chunks(store, damaged, last_id)?;
            salvage.dead_letters = copy_dead_letters(store, damaged)?;
        }
        let spooled = recorded.as_ref().map_or(0, |recorded| recorded.spooled);
        salvage.lost = recorded.as_ref().map(|_| spooled.saturating_sub(salvage.rows));
        // More rows than the ledger knew: their counts were in the part that cannot be read.
        let unknown = salvage.rows.saturating_sub(spooled);
        let recorded = recorded.unwrap_or_default();
        store.count("received", "", recorded.received.saturating_add(unknown))?;
        store.count("delivered", "", recorded.delivered)?;
        store.count("unconfirmed", "", recorded.unconfirmed)?;
        store.count("names_replaced", "", recorded.names_replaced)?;
        store.count("dead_letters_discarded", "", recorded.dead_letters_discarded)?;
        store.count("spooled", "", salvage.rows)?;
        store.count("dropped", "damaged", salvage.lost.unwrap_or(0))?;
        store.count_by_reason("dropped", &recorded.dropped)?;
        store.count_by_reason("refused", &recorded.refused)?;
        store.count_by_reason("skipped", &recorded.skipped)?;
        store.count_by_reason("malformed", &recorded.malformed)
    })?;
    Ok(salvage)
}

/// The chunks get new numbers beyond `last_id`, for those in a damaged file may be anything.
///
/// A page that cannot be read ends a scan, so there is one from each end, and what lies between where they ended is
/// asked for one by one.
fn copy_chunks(store: &Store, damaged: &Connection, mut last_id: ChunkId) -> rusqlite::Result<u64> {
    const COLUMNS: &str = "SELECT id, rows, raw_bytes, encoding, crc, body_crc, body, received_ms FROM chunk";
    /// Numbers between, at most: far more than a spool holds chunks.
    const BETWEEN_MAX: usize = 1_000_000;
    let mut copied: HashSet<ChunkId> = HashSet::new();
    let mut rows: u64 = 0;
    // The number of the chunk, whole or not; `None` at the end of what can be read.
    let mut copy = |found: &mut rusqlite::Rows<'_>| -> rusqlite::Result<Option<ChunkId>> {
        let Ok(Some(row)) = found.next() else { return Ok(None) };
        let Ok(id) = row.get::<_, ChunkId>(0) else { return Ok(None) };
        // The seal's own checks: a row that is not whole must not reach Blueflood.
        if let Ok(Loaded::Intact(meta, chunk)) = store::loaded(row)
            && chunk.open().is_ok()
            && copied.insert(id)
        {
            last_id = last_id.saturating_add(1);
            store.insert(last_id, &chunk, row.get(7).unwrap_or(0))?;
            rows = rows.saturating_add(meta.rows.into());
        }
        Ok(Some(id))
    };
    let mut ends = (0, ChunkId::MAX);
    if let Ok(mut up) = damaged.prepare(&format!("{COLUMNS} ORDER BY id"))
        && let Ok(mut found) = up.query([])
    {
        while let Some(id) = copy(&mut found)? {
            ends.0 = id;
        }
    }
    if let Ok(mut down) = damaged.prepare(&format!("{COLUMNS} WHERE id > ?1 ORDER BY id DESC"))
        && let Ok(mut found) = down.query([ends.0])
    {
        while let Some(id) = copy(&mut found)? {
            ends.1 = id;
        }
    }
    if ends.1 < ChunkId::MAX
        && let Ok(mut one) = damaged.prepare(&format!("{COLUMNS} WHERE id = ?1"))
    {
        for id in (ends.0.saturating_add(1)..ends.1).rev().take(BETWEEN_MAX) {
            if let Ok(mut found) = one.query([id]) {
                copy(&mut found)?;
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
