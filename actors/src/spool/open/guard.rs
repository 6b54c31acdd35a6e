//! Owns the question whether the spool that is open is still the one that has the name. A file that is deleted or
//! replaced while it is open goes on as if nothing had happened, and is gone with the process. It only looks, once a
//! second, and never opens a file: to close one is to give up the locks that SQLite has on it.

use std::{
    cell::Cell,
    fmt,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::Access;

use super::{whose::folder_of, with_suffix};

/// What is wrong with a spool that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amiss {
    /// Its folder is gone.
    FolderGone(PathBuf),
    /// Nothing can be made in its folder: the disk was mounted again, read-only, say.
    FolderReadOnly(PathBuf),
    /// It has no name any more: it was deleted, or renamed, or its disk unmounted.
    FileGone(PathBuf),
    /// Another file has its name.
    FileReplaced(PathBuf),
    /// It is shorter than it was, and we did not cut it.
    FileCut(PathBuf),
    /// Its write-ahead log, or the index of that, was deleted or replaced: what is written goes nowhere.
    LogGone(PathBuf),
    /// Its lock was deleted or replaced: another daemon may start on the same spool.
    LockGone(PathBuf),
    /// It cannot be looked at.
    Unseen {
        /// What was looked at.
        path: PathBuf,
        /// What the system said.
        error: String,
    },
}

impl Amiss {
    /// Whether the content is in danger: all that was written may be gone with the process.
    pub fn is_of_the_content(&self) -> bool {
        !matches!(self, Amiss::FolderReadOnly(_) | Amiss::LockGone(_) | Amiss::Unseen { .. })
    }
}

impl fmt::Display for Amiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, what) = match self {
            Amiss::FolderGone(path) => (path, "the spool's folder is gone"),
            Amiss::FolderReadOnly(path) => (path, "the spool's folder cannot be written"),
            Amiss::FileGone(path) => (path, "the spool's file was deleted or renamed"),
            Amiss::FileReplaced(path) => (path, "the spool's file was replaced by another"),
            Amiss::FileCut(path) => (path, "the spool's file was cut"),
            Amiss::LogGone(path) => (path, "the spool's write-ahead log was deleted or replaced"),
            Amiss::LockGone(path) => (path, "the spool's lock was deleted or replaced"),
            Amiss::Unseen { path, error } => {
                return write!(f, "the spool cannot be looked at: {}: {error}", path.display());
            }
        };
        write!(f, "{what}: {}", path.display())
    }
}

/// Which file it is, whatever its name.
type Identity = (u64, u64);

fn identity(file: &Metadata) -> Identity {
    (file.dev(), file.ino())
}

/// What the files of a spool were when it was opened.
#[derive(Debug)]
pub struct Guard {
    path: PathBuf,
    file: Identity,
    /// None until SQLite makes them, with the first read or write. It keeps both until the end.
    log: Cell<Option<Identity>>,
    index: Cell<Option<Identity>>,
    lock: Cell<Option<Identity>>,
    /// How long the file was when it was last looked at.
    bytes: Cell<u64>,
    /// The smallest size since then that SQLite itself gave it.
    bytes_min: Cell<u64>,
}

impl Guard {
    /// That of the spool that lies at `path`, which is no link, and is locked by the file beside it.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        let beside = |suffix| fs::symlink_metadata(with_suffix(path, suffix)).ok().as_ref().map(identity);
        Ok(Self {
            path: path.to_owned(),
            file: identity(&file),
            log: Cell::new(beside("-wal")),
            index: Cell::new(beside("-shm")),
            lock: Cell::new(beside(".lock")),
            bytes: Cell::new(0),
            bytes_min: Cell::new(0),
        })
    }

    /// Where the file lies, at the end of all links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file that has the name is the one that was opened: only then may it be renamed.
    pub fn has_its_name(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == self.file)
    }

    /// Whether the lock that has the name is the one that was taken.
    pub(super) fn has_its_lock(&self) -> bool {
        let lock = fs::symlink_metadata(with_suffix(&self.path, ".lock"));
        self.lock.get().is_some() && lock.ok().as_ref().map(identity) == self.lock.get()
    }

    /// The lock was lost, and taken again.
    pub(in crate::spool) fn locked_by(&self, lock: &File) {
        self.lock.set(lock.metadata().ok().as_ref().map(identity));
    }

    /// How long the file is on its disk, whatever SQLite has cut off it since its last checkpoint.
    pub(in crate::spool) fn file_bytes(&self) -> Option<u64> {
        fs::symlink_metadata(&self.path).ok().map(|file| file.len())
    }

    /// How long the log is.
    pub(in crate::spool) fn log_bytes(&self) -> Option<u64> {
        fs::symlink_metadata(with_suffix(&self.path, "-wal")).ok().map(|log| log.len())
    }

    /// Whether the log that has the name is the one of this spool.
    pub(super) fn has_its_log(&self) -> bool {
        let log = fs::symlink_metadata(with_suffix(&self.path, "-wal"));
        self.log.get().is_some() && log.ok().as_ref().map(identity) == self.log.get()
    }

    /// SQLite made the file smaller, or is about to.
    pub(in crate::spool) fn may_shrink_to(&self, bytes: u64) {
        self.bytes_min.set(self.bytes_min.get().min(bytes));
    }

    /// Whether all is as it was; `bytes_used` is the size of the file as SQLite has it.
    ///
    /// # Errors
    /// The first thing that is amiss, the worst first.
    pub fn look(&self, bytes_used: u64) -> Result<(), Amiss> {
        let folder = folder_of(&self.path);
        if self.stat(folder)?.is_none() {
            return Err(Amiss::FolderGone(folder.to_owned()));
        }
        let Some(file) = self.stat(&self.path)? else {
            return Err(Amiss::FileGone(self.path.clone()));
        };
        if identity(&file) != self.file {
            return Err(Amiss::FileReplaced(self.path.clone()));
        }
        self.same(&self.log, "-wal")?;
        self.same(&self.index, "-shm")?;
        // It grows when the log goes into it, and shrinks when unused pages are given back.
        let cut = file.len() < self.bytes.get().min(self.bytes_min.get());
        self.bytes.set(file.len());
        self.bytes_min.set(bytes_used);
        if cut {
            return Err(Amiss::FileCut(self.path.clone()));
        }
        if !self.has_its_lock() {
            return Err(Amiss::LockGone(with_suffix(&self.path, ".lock")));
        }
        rustix::fs::access(folder, Access::WRITE_OK).map_err(|_| Amiss::FolderReadOnly(folder.to_owned()))
    }

    /// Whether a file beside the spool is the one that it was, once it is there.
    fn same(&self, known: &Cell<Option<Identity>>, suffix: &str) -> Result<(), Amiss> {
        let path = with_suffix(&self.path, suffix);
        let now = self.stat(&path)?.map(|file| identity(&file));
        match (known.get(), now) {
            (None, now) => {
                known.set(now);
                Ok(())
            }
            (known, now) if known == now => Ok(()),
            _ => Err(Amiss::LogGone(path)),
        }
    }

    fn stat(&self, path: &Path) -> Result<Option<Metadata>, Amiss> {
        match fs::symlink_metadata(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(Amiss::Unseen { path: path.to_owned(), error: error.to_string() }),
        }
    }
}
