//! Owns what becomes of a damaged spool: it is set aside under a dated name, and what can be read of it goes on in a new
//! file. It never writes to a file that was damaged: it is read, and renamed.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rusqlite::Connection;

use super::{OpenError, connect, remove, remove_one, rescue::RESCUED, whose, with_suffix};
use crate::{
    core::{ledger::Ledger, queue::ChunkId},
    spool::store::{self, Durability, LaneNumber, Loaded, Store},
};

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

/// What is known of a file better than from itself.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its ledger.
    pub ledger: Ledger,
    /// The highest number that a chunk had: those that are salvaged get others, for an answer to an old one may still
    /// be under way.
    pub last_id: ChunkId,
    /// The tenants of its lanes.
    pub tenants: Vec<(LaneNumber, String)>,
}

/// Sets the file aside, whatever is in it, and starts a new one with what can be read of it.
///
/// The new file is whole before the old one moves, so that an end in the middle of this loses nothing. It must be known
/// that the file is ours: while a spool is open, that it still has its name (see [`super::Guard::has_its_name`]).
///
/// # Errors
/// [`OpenError`] if it cannot be renamed, or a new one cannot be made.
pub fn set_aside(
    path: &Path,
    sync: Durability,
    now: SystemTime,
    cause: String,
    known: Option<Known>,
) -> Result<(Store, Salvage), OpenError> {
    let path = &whose::resolve(path)?;
    if fs::symlink_metadata(path).is_ok_and(|file| !file.is_file()) {
        return Err(OpenError::not_ours(path, "no regular file"));
    }
    let salvaged = with_suffix(path, SALVAGED);
    let new = |error| OpenError::Sqlite { path: path.to_owned(), error };
    let make = |copy: bool| -> rusqlite::Result<Salvage> {
        // What is there is of a salvage that was cut short.
        remove(&salvaged).map_err(as_sqlite)?;
        drop(whose::make(&salvaged).map_err(as_sqlite)?);
        let store = Store::new(super::connection(&salvaged)?, sync)?;
        // Of a file without a byte SQLite would delete the log, which is all that is left.
        let holds = fs::metadata(path).is_ok_and(|file| file.len() > 0);
        let damaged = if holds { super::connection(path).ok() } else { None };
        let salvage = salvage(&store, damaged.as_ref(), path, cause.clone(), known.clone(), copy)?;
        // From here on all of it is in the one file that is renamed.
        store.checkpoint()?;
        Ok(salvage)
    };
    let made = match make(true) {
        // There is no room for a second copy: what is in the old file can be got out of it later.
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => make(false),
        made => made,
    };
    if made.is_err() {
        // A later start would take it for the spool, if the file itself were gone by then.
        let _ = remove(&salvaged);
    }
    let mut salvage = made.map_err(new)?;
    salvage.set_aside = free_name(path, "damaged", now);
    rename(path, &salvage.set_aside)?;
    finish(path)?;
    Ok((connect(path, sync).map_err(new)?, salvage))
}

/// What is salvaged lies under this name until the damaged file has moved.
const SALVAGED: &str = ".salvaged";

/// Puts what was salvaged in the place of the damaged file, once that has moved.
pub(super) fn finish(path: &Path) -> Result<(), OpenError> {
    let salvaged = with_suffix(path, SALVAGED);
    let ours = || matches!(whose::look(&salvaged), Ok(whose::Whose::Ours(_)));
    if fs::symlink_metadata(path).is_ok() || !ours() {
        return Ok(());
    }
    // They are of the damaged file, which was moved before them.
    for stale in ["-wal", "-shm"].map(|suffix| with_suffix(path, suffix)) {
        remove_one(&stale)
            .map_err(|error| OpenError::Io { doing: format!("remove {}", stale.display()), error })?;
    }
    rename(&salvaged, path)
}

/// Removes what a salvage or a rescue left that did not come to its end, once the spool itself was opened and is whole: it would be
/// taken for the spool if that were ever gone, and what it holds would be sent a second time.
pub(super) fn forget(path: &Path) {
    for left in [SALVAGED, RESCUED].map(|suffix| with_suffix(path, suffix)) {
        if !matches!(whose::look(&left), Ok(whose::Whose::Anothers(_)) | Err(_)) {
            let _ = remove(&left);
        }
    }
}

/// Renames a database: the file first, then what SQLite keeps beside it.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), OpenError> {
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
pub(super) fn as_sqlite(error: io::Error) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
    rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
}

/// `spool.db.damaged-2026-11-24T20-30-00Z`, or the same with a number if that is taken.
pub(super) fn free_name(path: &Path, what: &str, now: SystemTime) -> PathBuf {
    let date = humantime::format_rfc3339_seconds(now).to_string().replace(':', "-");
    let first = with_suffix(path, &format!(".{what}-{date}"));
    let numbered = (2..1_000).map(|n| with_suffix(path, &format!(".{what}-{date}.{n}")));
    std::iter::once(first.clone()).chain(numbered).find(|name| !name.exists()).unwrap_or(first)
}

/// Copies what can be read of a damaged file into a new spool; of chunks and dead letters nothing without `copy`.
pub(super) fn salvage(
    store: &Store,
    damaged: Option<&Connection>,
    path: &Path,
    cause: String,
    known: Option<Known>,
    copy: bool,
) -> rusqlite::Result<Salvage> {
    let mut salvage = Salvage { cause, set_aside: path.to_owned(), rows: 0, lost: None, dead_letters: 0 };
    if let Some(damaged) = damaged {
        // Without this SQLite reads nothing at all of a file that is shorter than its header says.
        let _ = damaged.pragma_update(None, "writable_schema", true);
    }
    let whole = |recorded: &Ledger| recorded.unaccounted() == 0;
    let recorded = || damaged.and_then(|damaged| store::read_ledger(damaged).ok()).filter(whole);
    let last_id = known.as_ref().map_or(0, |known| known.last_id);
    let tenants = known.as_ref().map(|known| known.tenants.clone()).unwrap_or_default();
    let recorded = known.map(|known| known.ledger).or_else(recorded);
    store.transaction(|store| {
        tenants.iter().try_for_each(|(lane, tenant)| store.set_lane(*lane, tenant))?;
        if let Some(damaged) = damaged.filter(|_| copy) {
            copy_names(store, damaged)?;
            salvage.rows = copy_chunks(store, damaged, last_id)?;
            salvage.dead_letters = copy_dead_letters(store, damaged)?;
        }
        let spooled =
            recorded.as_ref().map_or(0, |recorded| recorded.spooled.saturating_add(recorded.acknowledged));
        salvage.lost = recorded.as_ref().map(|_| spooled.saturating_sub(salvage.rows));
        // More rows than the ledger knew: their counts were in the part that cannot be read.
        let unknown = salvage.rows.saturating_sub(spooled);
        let recorded = recorded.unwrap_or_default();
        store.count("received", "", recorded.received.saturating_add(unknown))?;
        store.count("delivered", "", recorded.delivered)?;
        store.count("names_replaced", "", recorded.names_replaced)?;
        store.count("dead_letters_discarded", "", recorded.dead_letters_discarded)?;
        store.count("dropped", "damaged", salvage.lost.unwrap_or(0))?;
        store.count_by_reason("dropped", &recorded.dropped)?;
        store.count_by_reason("refused", &recorded.refused)?;
        store.count_by_reason("skipped", &recorded.skipped)?;
        store.count_by_reason("malformed", &recorded.malformed)
    })?;
    Ok(salvage)
}

/// The columns of a chunk as [`store::loaded`] reads them, and when it came. Version 1 knew no lanes.
fn chunk_columns(damaged: &Connection) -> String {
    let columns = |lane| {
        format!("SELECT id, rows, raw_bytes, encoding, crc, body_crc, body, {lane}, received_ms FROM chunk")
    };
    let with_lane = columns("lane");
    if damaged.prepare(&with_lane).is_ok() { with_lane } else { columns("0") }
}

/// The lanes keep their numbers, and the spool its own name.
fn copy_names(store: &Store, damaged: &Connection) -> rusqlite::Result<()> {
    if let Ok(mut statement) = damaged.prepare("SELECT id, name, tenant FROM lane")
        && let Ok(mut found) = statement.query([])
    {
        while let Ok(Some(row)) = found.next() {
            if let (Ok(id), Ok(name), Ok(tenant)) =
                (row.get(0), row.get::<_, String>(1), row.get::<_, String>(2))
            {
                store.copy_lane(id, &name, &tenant)?;
            }
        }
    }
    if let Ok(mut statement) = damaged.prepare("SELECT key, value FROM spool")
        && let Ok(mut found) = statement.query([])
    {
        while let Ok(Some(row)) = found.next() {
            if let (Ok(key), Ok(value)) = (row.get::<_, String>(0), row.get::<_, String>(1)) {
                store.set_of_spool(&key, &value)?;
            }
        }
    }
    Ok(())
}

/// The chunks get new numbers beyond `last_id`, for those in a damaged file may be anything.
///
/// A page that cannot be read ends a scan, so there is one from each end, and what lies between where they ended is
/// asked for one by one.
fn copy_chunks(store: &Store, damaged: &Connection, mut last_id: ChunkId) -> rusqlite::Result<u64> {
    let columns = chunk_columns(damaged);
    let columns = columns.as_str();
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
            // Where nobody can tell whose they are, they are nobody's to send: they stay in the file that is set aside.
            && store.has_lane(meta.lane)?
            && copied.insert(id)
        {
            last_id = last_id.saturating_add(1);
            let lane = meta.lane;
            store.insert_in(lane, last_id, &chunk, row.get(8).unwrap_or(0))?;
            store.count_in(lane, "spooled", "", meta.rows.into())?;
            rows = rows.saturating_add(meta.rows.into());
        }
        Ok(Some(id))
    };
    let mut ends = (0, ChunkId::MAX);
    if let Ok(mut up) = damaged.prepare(&format!("{columns} ORDER BY id"))
        && let Ok(mut found) = up.query([])
    {
        while let Some(id) = copy(&mut found)? {
            ends.0 = id;
        }
    }
    if let Ok(mut down) = damaged.prepare(&format!("{columns} WHERE id > ?1 ORDER BY id DESC"))
        && let Ok(mut found) = down.query([ends.0])
    {
        while let Some(id) = copy(&mut found)? {
            ends.1 = id;
        }
    }
    if ends.1 < ChunkId::MAX
        && let Ok(mut one) = damaged.prepare(&format!("{columns} WHERE id = ?1"))
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
    let columns = |lane| {
        format!(
            "SELECT refused_ms, payload, reason, message, row, replay, {lane} FROM dead_letter ORDER BY id"
        )
    };
    let statement = damaged.prepare(&columns("lane")).or_else(|_| damaged.prepare(&columns("0")));
    let Ok(mut statement) = statement else { return Ok(0) };
    let Ok(mut found) = statement.query([]) else { return Ok(0) };
    while let Ok(Some(row)) = found.next() {
        type Letter = (i64, i64, String, String, String, i64, i64);
        let read = || -> rusqlite::Result<Letter> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        };
        let Ok(letter) = read() else { continue };
        store.db().execute(
            "INSERT INTO dead_letter (refused_ms, payload, reason, message, row, replay, lane)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            letter,
        )?;
        copied = copied.saturating_add(1);
    }
    Ok(copied)
}
