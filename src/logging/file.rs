//! Owns the log file: whole records, one write each, put aside by size. Never loses a record because the
//! file can't be put aside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use file_rotate::compression::Compression;
use file_rotate::suffix::AppendCount;
use file_rotate::{ContentLimit, FileRotate};

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
}

impl LogFile {
    /// Opens `path` to append to it, and makes it and its directory if they are not there.
    /// Before the next record it is opened again if `reopen` says so.
    pub fn open(path: &Path, bytes_max: u64, kept: u32, reopen: Arc<AtomicBool>) -> io::Result<Self> {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX).max(1);
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        let state = rotating(path, bytes_max, kept)?;
        Ok(Self { path: path.to_owned(), bytes_max, kept, state, reopen })
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.reopen.swap(false, Ordering::Relaxed)
            && let Ok(state) = rotating(&self.path, self.bytes_max, self.kept)
        {
            self.state = state;
        }
        // It is gone when somebody else has put it aside, logrotate for one.
        if matches!(self.state, State::Growing(_, 0)) || !self.path.exists() {
            self.state = rotating(&self.path, self.bytes_max, self.kept)?;
        }
        if let State::Rotating(file) = &mut self.state {
            match unpanicked(|| file.write(bytes)) {
                Ok(written) => return Ok(written),
                Err(_) => self.state = State::Growing(append_to(&self.path)?, self.bytes_max),
            }
        }
        if let State::Growing(file, left) = &mut self.state {
            file.write_all(bytes)?;
            *left = left.saturating_sub(bytes.len());
        }
        Ok(bytes.len())
    }

    /// Nothing waits here: a file is written to at once.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
        Ok(State::Rotating(FileRotate::new(path, AppendCount::new(kept), limit, Compression::None, None)))
    })
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

/// `FileRotate` asserts what the file system may make false at any time, such as that nobody else has made `NAME.1`.
fn unpanicked<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(io::Error::other("the log file can't be put aside")))
}
