//! Owns how a spool is opened: whose the file is, one owner at a time, an older file brought up to date, and a damaged
//! one set aside. What is not ours, or of a later version, is refused and not touched.

mod guard;
mod lock;
mod migrate;
mod rescue;
mod salvage;
mod whose;

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rusqlite::{Connection, OpenFlags};

use self::whose::{Found, open as open_regular};
pub use self::{
    guard::{Amiss, Guard},
    migrate::Migrated,
    rescue::{Rescued, rescue, start_anew},
    salvage::{Known, Salvage, set_aside},
};
use super::store::{Durability, Store, VERSION};

pub(super) use self::{
    migrate::compare,
    whose::{Whose, folder_of, make, resolve},
};

/// With less than this free, a disk is full for SQLite, in bytes.
const FULL_BYTES: u64 = 64 << 10;

/// A folder that we make is for the daemon's user alone: what lies in it is all metrics.
const FOLDER_MODE: u32 = 0o700;

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
    /// There is something that is not ours. It was not touched.
    NotOurs {
        /// Where.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// The spool was made by a later version of this program. It was not touched.
    Later {
        /// Where.
        path: PathBuf,
        /// The version of its tables.
        version: i32,
    },
    /// SQLite cannot make a new file there, or open the one that is there.
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
            OpenError::NotOurs { path, what } => write!(
                f,
                "{} is no spool, and no file of one: it is {what}; nothing was changed there: name another path with \
                 --spool",
                path.display()
            ),
            OpenError::Later { path, version } => write!(
                f,
                "the spool {} was made by a later version of this program (its tables are of version {version}, and this \
                 one knows them up to {VERSION}); nothing was changed there: start the later version again, or name another \
                 path with --spool",
                path.display()
            ),
            OpenError::Sqlite { path, error } => {
                // SQLite says "disk I/O error" where the system would not let it have a page of its index.
                let room = super::reserve::disk_room(folder_of(path));
                let full = room.is_some_and(|room| room.free_bytes < FULL_BYTES);
                write!(
                    f,
                    "cannot open the spool {}: {error}{}; set --spool to a path that can be written, or to :memory:",
                    path.display(),
                    if full { " (its disk is full)" } else { "" }
                )
            }
        }
    }
}

impl std::error::Error for OpenError {}

impl OpenError {
    fn not_ours(path: &Path, what: impl Into<String>) -> Self {
        OpenError::NotOurs { path: path.to_owned(), what: what.into() }
    }
}

/// Opens the spool.
///
/// # Errors
/// [`OpenError`]; a damaged file is none.
pub fn open(place: &Place, sync: Durability, now: SystemTime) -> Result<Opened, OpenError> {
    let Place::File(path) = place else {
        let memory = PathBuf::from(":memory:");
        let store = Connection::open_in_memory().and_then(|db| Store::new(db, sync));
        let store = store.map_err(|error| OpenError::Sqlite { path: memory, error })?;
        return Ok(Opened { store, lock: None, salvage: None });
    };
    let folder = folder_of(path);
    let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
    made.map_err(|error| OpenError::Io { doing: format!("make the folder {}", folder.display()), error })?;
    let path = &resolve(path)?;
    let lock_path = with_suffix(path, ".lock");
    // Only what is locked, or has no lock, may be looked at. Nothing is made beside a file that is not ours.
    let lock = lock::take_existing(&lock_path)?;
    look(path)?;
    let mut lock = lock.map_or_else(|| lock::take(&lock_path), Ok)?;
    lock::sign(&mut lock);
    let (store, salvage) = open_or_set_aside(path, sync, now)?;
    Ok(Opened { store, lock: Some(lock), salvage })
}

/// Takes the lock of a spool; again, where it was lost: see [`Amiss::LockGone`].
///
/// # Errors
/// [`OpenError`]; `Held` if another process has it.
pub fn lock(path: &Path) -> Result<File, OpenError> {
    let mut lock = lock::take(&with_suffix(&resolve(path)?, ".lock"))?;
    lock::sign(&mut lock);
    Ok(lock)
}

/// Who has the spool that lies there, if anybody has.
pub fn holder(path: &Path) -> Option<String> {
    lock::holder(&with_suffix(path, ".lock"))
}

/// The size of the disk, if it is smaller than the spool may grow: it will be full first.
pub fn small_disk(place: &Place, bytes_max: u64) -> Option<u64> {
    let Place::File(path) = place else { return None };
    // What is wrong with the path shows when it is opened.
    let path = resolve(path).unwrap_or_else(|_| path.clone());
    let disk = super::reserve::disk_room(folder_of(&path))?.total_bytes;
    Some(disk).filter(|&disk| disk < bytes_max)
}

/// The folder of the spool, if every user of this host may put files into it.
pub fn open_to_all(place: &Place) -> Option<PathBuf> {
    let Place::File(path) = place else { return None };
    let path = resolve(path).unwrap_or_else(|_| path.clone());
    let folder = folder_of(&path);
    let mode = fs::metadata(folder).ok()?.permissions().mode();
    (mode & 0o002 != 0).then(|| folder.to_owned())
}

/// Why no daemon would start on this spool, as far as that can be seen without the right to read it: it is another's, or of
/// a later version. Not to be asked by a process that has it open.
pub fn would_refuse(place: &Place) -> Option<OpenError> {
    let Place::File(path) = place else { return None };
    match resolve(path).and_then(|path| look(&path)) {
        Err(error @ (OpenError::NotOurs { .. } | OpenError::Later { .. })) => Some(error),
        _ => None,
    }
}

/// Whose the file is, if we may go on with it.
pub(super) fn look(path: &Path) -> Result<Whose, OpenError> {
    judge(path, whose::look(path))
}

/// The same of a file alone: the log that has its name is of another.
fn look_alone(path: &Path) -> Result<Whose, OpenError> {
    judge(path, whose::look_alone(path))
}

fn judge(path: &Path, looked: io::Result<Whose>) -> Result<Whose, OpenError> {
    match looked.map_err(|error| OpenError::Io { doing: format!("read {}", path.display()), error })? {
        Whose::Anothers(what) => Err(OpenError::not_ours(path, what)),
        Whose::Ours(Some(version)) if version > VERSION => {
            Err(OpenError::Later { path: path.to_owned(), version })
        }
        whose => Ok(whose),
    }
}

/// Opens the file, or sets it aside and starts a new one with what can be read of it.
fn open_or_set_aside(
    path: &Path,
    sync: Durability,
    now: SystemTime,
) -> Result<(Store, Option<Salvage>), OpenError> {
    salvage::finish(path)?;
    let opened = match look(path)? {
        Whose::Nobodys => {
            make_new(path)?;
            make_private(path);
            connect(path, sync)
        }
        Whose::Ours(Some(version)) => {
            if version == 1 {
                make_private(path);
            }
            connect(path, sync)
        }
        Whose::Ours(None) => Err(super::store::damage("its version cannot be read")),
        Whose::OnlyTheLog => Err(super::store::damage("the file is gone, and its log is here")),
        Whose::Anothers(what) => return Err(OpenError::not_ours(path, what)),
    };
    match opened {
        Ok(store) => {
            salvage::forget(path);
            Ok((store, None))
        }
        Err(error) if is_damage(&error) => {
            let cause = error.to_string();
            set_aside(path, sync, now, cause, None).map(|(store, salvage)| (store, Some(salvage)))
        }
        Err(error) => Err(OpenError::Sqlite { path: path.to_owned(), error }),
    }
}

/// SQLite would make the file itself, for every local user to read.
fn make_new(path: &Path) -> Result<(), OpenError> {
    match make(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(OpenError::Io { doing: format!("make {}", path.display()), error })
        }
        _ => Ok(()),
    }
}

/// Version 1 let every local user read the spool, and so may an empty file that somebody made for it. What cannot be
/// changed was not ours to change.
fn make_private(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        if let Ok(Some(Found::File(file, _))) =
            open_regular(&with_suffix(path, suffix), rustix::fs::OFlags::RDONLY)
        {
            let _ = rustix::fs::fchmod(&file, whose::OWN);
        }
    }
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
                // A table or column of ours that is not there, in a file that says it is ours.
                || text.as_ref().is_some_and(|text| {
                    text.starts_with("no such table") || text.starts_with("no such column")
                })
        }
        // A value of a type that we never write.
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::Utf8Error(..) => true,
        _ => false,
    }
}

/// A connection to a file that is there, and is no link.
fn connection(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    Connection::open_with_flags(path, flags)
}

fn connect(path: &Path, sync: Durability) -> rusqlite::Result<Store> {
    let db = connection(path)?;
    db.busy_timeout(super::store::BUSY_TIMEOUT)?;
    let migrated = migrate::migrate(&db, path)?;
    let store = Store::new(db, sync)?;
    store.check()?;
    Ok(store.guarded(Guard::new(path).ok(), migrated))
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
