//! Owns the log file: whole records, one write each, put aside by size. Never loses a record because the
//! file can't be put aside, and never renames what is not a file of its own: a device, a pipe, what a link leads to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use file_rotate::compression::Compression;
use file_rotate::suffix::AppendCount;
use file_rotate::{ContentLimit, FileRotate};

/// Who may read a log file that is made: it names senders, tenants and what they sent. The umask may allow less.
const MODE: u32 = 0o600;

/// Collects what is written until the end of a record is said by a flush, then passes it on in one piece: so that no
/// record is cut in two by a rotation, or mixed with what another process writes to the same standard error.
pub struct WholeRecords<W> {
    to: W,
    record: Vec<u8>,
}

impl<W: Write> WholeRecords<W> {
    pub fn new(to: W) -> Self {
        Self { to, record: Vec::new() }
    }
}

impl<W: Write> Write for WholeRecords<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.record.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // A record that can't be written is given up, or the next ones would pile up behind it.
        let record = mem::take(&mut self.record);
        if record.is_empty() {
            return Ok(());
        }
        self.to.write_all(&record)?;
        self.to.flush()
    }
}

/// A file that is put aside as `NAME.1`, `NAME.2`, ... when it is full.
pub struct LogFile {
    path: PathBuf,
    bytes_max: usize,
    kept: usize,
    state: State,
    /// Set by whoever wants it to be opened again.
    reopen: Arc<AtomicBool>,
}

enum State {
    Rotating(FileRotate<AppendCount>),
    /// It could not be put aside: it grows past its size, and after so many more bytes that is tried again.
    Growing(File, usize),
    /// `/dev/stdout`, `/dev/null`, a pipe, a link: it is only ever written to.
    Foreign(File),
}

/// What a path is now.
#[derive(PartialEq, Eq)]
enum Place {
    /// Nothing: somebody has put it aside, logrotate for one.
    Empty,
    /// A regular file, which may be renamed.
    OwnFile,
    /// Anything else.
    Foreign,
}

impl Place {
    fn of(path: &Path) -> Self {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() => Self::OwnFile,
            Ok(_) if path.exists() => Self::Foreign,
            // A link to nothing is followed, and what it leads to made anew.
            _ => Self::Empty,
        }
    }
}

impl LogFile {
    /// Opens `path` to append to it, and makes it and its directory if they are not there.
    /// Before the next record it is opened again if `reopen` says so.
    pub fn open(path: &Path, bytes_max: u64, kept: u32, reopen: Arc<AtomicBool>) -> io::Result<Self> {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX).max(1);
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        let state = opened(path, bytes_max, kept)?;
        Ok(Self { path: path.to_owned(), bytes_max, kept, state, reopen })
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.reopen.swap(false, Ordering::Relaxed)
            && let Ok(state) = opened(&self.path, self.bytes_max, self.kept)
        {
            self.state = state;
        }
        let is_as_it_was = match (&self.state, Place::of(&self.path)) {
            (State::Growing(_, left), Place::OwnFile) => *left > 0,
            (State::Rotating(_), Place::OwnFile) | (State::Foreign(_), Place::Foreign) => true,
            _ => false,
        };
        if !is_as_it_was {
            self.state = opened(&self.path, self.bytes_max, self.kept)?;
        }
        if let State::Rotating(file) = &mut self.state {
            match unpanicked(|| file.write(bytes)) {
                Ok(written) => return Ok(written),
                Err(_) => self.state = State::Growing(append_to(&self.path)?, self.bytes_max),
            }
        }
        match &mut self.state {
            State::Growing(file, left) => {
                file.write_all(bytes)?;
                *left = left.saturating_sub(bytes.len());
            }
            State::Foreign(file) => file.write_all(bytes)?,
            State::Rotating(_) => {}
        }
        Ok(bytes.len())
    }

    /// Nothing waits here: a file is written to at once.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens it in the way that fits what it is.
fn opened(path: &Path, bytes_max: usize, kept: usize) -> io::Result<State> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    if is_link || Place::of(path) == Place::Foreign {
        append_to(path).map(State::Foreign)
    } else {
        rotating(path, bytes_max, kept)
    }
}

/// `FileRotate` panics where it can't make the directory, and writes to nowhere where it can't open the file: so both
/// are tried before.
fn rotating(path: &Path, bytes_max: usize, kept: usize) -> io::Result<State> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    append_to(path)?;
    let limit = ContentLimit::BytesSurpassed(bytes_max);
    unpanicked(|| {
        let suffix = AppendCount::new(kept);
        Ok(State::Rotating(FileRotate::new(path, suffix, limit, Compression::None, Some(appending()))))
    })
}

fn append_to(path: &Path) -> io::Result<File> {
    appending().open(path)
}

/// For reading too: a pipe that nobody reads yet could not be opened without waiting for who does.
fn appending() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(MODE);
    options
}

/// `FileRotate` asserts what the file system may make false at any time, such as that nobody else has made `NAME.1`.
fn unpanicked<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(io::Error::other("the log file can't be put aside")))
}
