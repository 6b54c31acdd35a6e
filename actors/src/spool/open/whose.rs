//! Owns the question whose a file is, before anything is done with it: a spool of ours, one of a later program, nobody's,
//! or another's. It only looks: it makes, changes and renames nothing, and takes no lock of SQLite's.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::{OpenError, with_suffix};
use crate::spool::store::{APPLICATION_ID, PAGE_BYTES};

/// Links that are followed one after the other, at most, as Linux does.
const LINKS_MAX: usize = 40;

/// The header of an SQLite file, in bytes.
const HEADER_BYTES: usize = 100;

/// Frames of a write-ahead log that are looked through, at most: far more than one of ours ever has.
const FRAMES_MAX: u64 = 1 << 20;

/// A file without a table is taken for a new spool only up to this size, in bytes: SQLite makes one page.
const UNFINISHED_BYTES_MAX: u64 = 4 * PAGE_BYTES as u64;

/// Versions beyond this one are not believed: the number itself must be damaged.
const VERSION_BELIEVED_MAX: i32 = 9_999;

/// Whose a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::spool) enum Whose {
    /// Nobody's: there is none, or it has nothing in it. A new spool may be made there.
    Nobodys,
    /// Ours, of this version. With `None` the file says that it is ours, and its version cannot be believed.
    Ours(Option<i32>),
    /// Only its write-ahead log is there, and that is ours: the file itself is gone, or cut to nothing.
    OnlyTheLog,
    /// Not ours, and this is what it is instead.
    Anothers(String),
}

/// Where the spool's file really lies. A link to it is followed to its end, for the log, the lock and the reserve must
/// lie beside the file itself: beside the link they would be on another disk, and another process that uses another
/// link would not see the lock.
///
/// # Errors
/// [`OpenError`] if a link leads nowhere, or was put there by another user.
pub(in crate::spool) fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    let io = |path: &Path, error| OpenError::Io { doing: format!("look at {}", path.display()), error };
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let name = path.file_name().ok_or_else(|| OpenError::not_ours(&path, "a folder"))?;
        let folder = fs::canonicalize(folder_of(&path)).map_err(|error| io(&path, error))?;
        let here = folder.join(name);
        match fs::symlink_metadata(&here) {
            Ok(file) if file.is_symlink() => {
                // Who may write to the folder must not choose which file root opens.
                let user = rustix::process::geteuid().as_raw();
                if ![0, user].contains(&file.uid()) {
                    return Err(OpenError::not_ours(&here, "a link that another user put there"));
                }
                path = folder.join(fs::read_link(&here).map_err(|error| io(&here, error))?);
            }
            Ok(_) => return Ok(here),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(here),
            Err(error) => return Err(io(&here, error)),
        }
    }
    Err(OpenError::not_ours(&path, "a link that leads to itself"))
}

/// The folder in which a path lies.
pub(in crate::spool) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whose the file at a path is, which is no link.
///
/// It must not be asked of a spool that this process has open: to close any file is to give up the locks that SQLite
/// has on it.
///
/// # Errors
/// Those of reading it.
pub(in crate::spool) fn look(path: &Path) -> io::Result<Whose> {
    look_beside(path, Some(&with_suffix(path, "-wal")))
}

/// The same of a file alone: the log that has its name is of another.
///
/// # Errors
/// As [`look`].
pub(in crate::spool) fn look_alone(path: &Path) -> io::Result<Whose> {
    look_beside(path, None)
}

fn look_beside(path: &Path, log: Option<&Path>) -> io::Result<Whose> {
    let log = || match log {
        Some(log) => log_header(log).map(|log| log.filter(Header::is_ours)),
        None => Ok(None),
    };
    let Some(file) = open(path, OFlags::RDONLY)? else {
        return Ok(if log()?.is_some() { Whose::OnlyTheLog } else { Whose::Nobodys });
    };
    let metadata = match file {
        Found::File(_, ref metadata) => metadata,
        Found::Other(what) => return Ok(Whose::Anothers(what.to_owned())),
    };
    if metadata.len() == 0 {
        return Ok(if log()?.is_some() { Whose::OnlyTheLog } else { Whose::Nobodys });
    }
    let bytes = metadata.len();
    let header = match file {
        Found::File(file, _) => header_at(&file, 0)?,
        Found::Other(_) => None,
    };
    // Until a checkpoint the log alone may know whose the file is: one that was made by version 1, say.
    let header = match header {
        Some(header) if header.is_ours() => log()?.or(Some(header)),
        header => log()?.or(header),
    };
    Ok(match header {
        Some(header) if header.is_ours() => {
            let believed = 0..=VERSION_BELIEVED_MAX;
            Whose::Ours(Some(header.version).filter(|version| believed.contains(version)))
        }
        Some(header) if header.is_unfinished() && bytes <= UNFINISHED_BYTES_MAX => Whose::Nobodys,
        Some(Header { is_sqlite: true, application, .. }) => {
            Whose::Anothers(format!("an SQLite file of another program (application {application:#x})"))
        }
        _ => Whose::Anothers("a file of another kind".to_owned()),
    })
}

/// What there is under a name.
pub(in crate::spool) enum Found {
    /// A regular file, open.
    File(File, Metadata),
    /// Something else, which was not opened.
    Other(&'static str),
}

/// Opens a regular file without following a link, and nothing else; `None` if there is none.
///
/// # Errors
/// The system's.
pub(in crate::spool) fn open(path: &Path, how: OFlags) -> io::Result<Option<Found>> {
    match fs::symlink_metadata(path) {
        // A device may do something when it is opened.
        Ok(file) => {
            if let Some(what) = not_regular(&file) {
                return Ok(Some(Found::Other(what)));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !how.contains(OFlags::CREATE) => {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // It may have been exchanged meanwhile: a link is not followed, and a pipe not waited for.
    let how = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, how, OWN) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Ok(Some(Found::Other("a link"))),
        Err(rustix::io::Errno::NOENT) if !how.contains(OFlags::CREATE) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    Ok(Some(match not_regular(&metadata) {
        Some(what) => Found::Other(what),
        None => Found::File(file, metadata),
    }))
}

/// Who may read and write a file of ours: the daemon's user. It holds all metrics, and Blueflood's words on some.
pub(super) const OWN: Mode = Mode::RUSR.union(Mode::WUSR);

/// Makes an empty file of ours that is not there yet.
///
/// # Errors
/// The system's, `AlreadyExists` among them.
pub(in crate::spool) fn make(path: &Path) -> io::Result<File> {
    let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, how, OWN)?.into())
}

fn not_regular(file: &Metadata) -> Option<&'static str> {
    let kind = file.file_type();
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a folder")
    } else if kind.is_symlink() {
        Some("a link")
    } else if kind.is_fifo() {
        Some("a named pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

/// What the first page of an SQLite file says of it.
#[derive(Debug, Clone, Copy)]
struct Header {
    /// Whether it begins as such a file does.
    is_sqlite: bool,
    page_bytes: u32,
    /// Changes with each table that is made: 0 if there never was one.
    tables: u32,
    version: i32,
    application: i32,
}

impl Header {
    fn is_ours(&self) -> bool {
        self.application == APPLICATION_ID
    }

    /// As our own program leaves it when it is killed in the first moment of a new spool.
    fn is_unfinished(&self) -> bool {
        let nothing = (self.application, self.version, self.tables) == (0, 0, 0);
        self.is_sqlite && nothing && i64::from(self.page_bytes) == i64::from(PAGE_BYTES)
    }
}

/// Reads the header of a first page that begins there; `None` if the file ends before it does.
fn header_at(file: &File, at: u64) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER_BYTES];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled = filled.saturating_add(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let number = |at: usize| number(bytes.get(..filled)?, at);
    let Some(application) = number(68) else { return Ok(None) };
    let page_bytes = number(16).map_or(0, |both| both >> 16);
    Ok(Some(Header {
        is_sqlite: bytes.starts_with(b"SQLite format 3\0"),
        page_bytes: if page_bytes == 1 { 65_536 } else { page_bytes },
        tables: number(40).unwrap_or(0),
        version: number(60).unwrap_or(0).cast_signed(),
        application: application.cast_signed(),
    }))
}

/// The header in the last first page that a write-ahead log has committed.
fn log_header(path: &Path) -> io::Result<Option<Header>> {
    let Some(Found::File(log, _)) = open(path, OFlags::RDONLY)? else { return Ok(None) };
    let mut head = [0; 32];
    if log.read_exact_at(&mut head, 0).is_err() {
        return Ok(None);
    }
    let (Some(magic), Some(page_bytes)) = (number(&head, 0), number(&head, 8)) else { return Ok(None) };
    if magic & !1 != 0x377f_0682 {
        return Ok(None);
    }
    let salts = head.get(16..24);
    let (mut found, mut committed) = (None, None);
    for frame in 0..FRAMES_MAX {
        let at = frame.saturating_mul(u64::from(page_bytes).saturating_add(24)).saturating_add(32);
        let mut head = [0; 24];
        // Frames of an earlier round have other salts.
        if log.read_exact_at(&mut head, at).is_err() || head.get(8..16) != salts {
            break;
        }
        if number(&head, 0) == Some(1) {
            found = Some(at.saturating_add(24));
        }
        if number(&head, 4).is_some_and(|pages| pages > 0) {
            committed = found;
        }
    }
    committed.map_or(Ok(None), |at| header_at(&log, at))
}

/// The number that stands there, as SQLite writes it.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    four.try_into().ok().map(u32::from_be_bytes)
}
