//! Owns how an open spool gets its name back: its file or log was deleted or replaced, and all that was written is only
//! reachable through the connection that has them open. All of it goes into a new file, which takes the name.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rusqlite::Connection;

use super::{
    FOLDER_MODE, Guard, Known, OpenError, Salvage, connect, look, look_alone, make, remove, remove_one,
    salvage, whose::folder_of, with_suffix,
};
use crate::spool::store::{Durability, Store};

/// A spool that has its name again.
pub struct Rescued {
    /// Its tables: the same chunks under the same numbers, and the same ledger.
    pub store: Store,
    /// Its lock; `None` if the one that is held is still the one that has the name.
    pub lock: Option<File>,
    /// Another spool had taken the name, and lies here now.
    pub set_aside: Option<PathBuf>,
}

/// The copy has this name until it is whole.
pub(super) const RESCUED: &str = ".rescued";

/// Writes all that an open spool has into a new file of the same name. To be called when the content is in danger (see
/// [`super::Amiss::is_of_the_content`]); the old store is to be dropped then.
///
/// # Errors
/// [`OpenError`]: `NotOurs` if something that is no spool has the name now, `Held` if another daemon has it, or whatever
/// keeps a copy from being made. The old store is as good as before, and this can be tried again.
pub fn rescue(store: &Store, sync: Durability, now: SystemTime) -> Result<Option<Rescued>, OpenError> {
    match store.guard() {
        Some(guard) => put(guard, sync, now, |copy| copy_to(store.db(), copy)).map(Some),
        None => Ok(None),
    }
}

/// The same, where the old file cannot be read as a whole: what can be read goes into the new one.
///
/// # Errors
/// As [`rescue`].
pub fn start_anew(
    store: &Store,
    sync: Durability,
    now: SystemTime,
    cause: String,
    known: Known,
) -> Result<(Rescued, Salvage), OpenError> {
    let Some(guard) = store.guard() else {
        return Err(OpenError::not_ours(Path::new(":memory:"), "in memory"));
    };
    let mut salvaged = None;
    let rescued = put(guard, sync, now, |copy| {
        remove(copy).and_then(|()| make(copy)).map_err(salvage::as_sqlite)?;
        let new = Store::new(super::connection(copy)?, sync)?;
        let (path, read) = (guard.path(), Some(store.db()));
        salvaged = Some(salvage::salvage(&new, read, path, cause.clone(), Some(known.clone()), true)?);
        new.checkpoint()
    });
    // As it was, if it has to go on.
    let _ = store.db().pragma_update(None, "writable_schema", false);
    let rescued = rescued?;
    let salvage = salvaged.ok_or_else(|| OpenError::not_ours(guard.path(), "nothing"))?;
    Ok((rescued, salvage))
}

/// Puts a new spool in the place of the one that a guard knows.
fn put(
    guard: &Guard,
    sync: Durability,
    now: SystemTime,
    write: impl FnOnce(&Path) -> rusqlite::Result<()>,
) -> Result<Rescued, OpenError> {
    let path = guard.path();
    let folder = folder_of(path);
    let io = |doing: &str, path: &Path, error| OpenError::Io {
        doing: format!("{doing} {}", path.display()),
        error,
    };
    let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
    made.map_err(|error| io("make the folder", folder, error))?;
    let lock = if guard.has_its_lock() { None } else { Some(super::lock(path)?) };
    // Before anything is written: what has the name now may be another's. Our own file is not opened, see `look`.
    let another = !guard.has_its_name() && fs::symlink_metadata(path).is_ok();
    if another {
        // The log may still be ours, and says nothing of that file.
        if guard.has_its_log() {
            look_alone(path)?
        } else {
            look(path)?
        };
    }
    let copy = with_suffix(path, RESCUED);
    if let Err(error) = write(&copy) {
        let _ = remove(&copy);
        return Err(OpenError::Sqlite { path: copy, error });
    }
    let mut set_aside = None;
    if another {
        let aside = salvage::free_name(path, "replaced", now);
        // SQLite would read our log into it, if it took that along.
        if guard.has_its_log() {
            fs::rename(path, &aside).map_err(|error| io("rename", path, error))?;
        } else {
            salvage::rename(path, &aside)?;
        }
        set_aside = Some(aside);
    }
    // A log beside the new file must be its own. The old one is still open where it is needed, and is in the copy.
    for suffix in ["-wal", "-shm"] {
        let stale = with_suffix(path, suffix);
        remove_one(&stale).map_err(|error| io("remove", &stale, error))?;
    }
    fs::rename(&copy, path).map_err(|error| io("rename to the spool", &copy, error))?;
    let store = connect(path, sync).map_err(|error| OpenError::Sqlite { path: path.to_owned(), error })?;
    Ok(Rescued { store, lock, set_aside })
}

/// Copies a spool that is open into a file that only the daemon's user can read.
pub(super) fn copy_to(db: &Connection, copy: &Path) -> rusqlite::Result<()> {
    let made = remove(copy).and_then(|()| make(copy)).map_err(salvage::as_sqlite)?;
    let name = copy.to_str().ok_or_else(|| salvage::as_sqlite(io::ErrorKind::InvalidFilename.into()))?;
    db.execute("VACUUM INTO ?1", [name])?;
    made.sync_all().map_err(salvage::as_sqlite)
}
