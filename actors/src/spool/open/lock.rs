//! Owns the lock of a spool: one process at a time. The lock is a file beside the spool, held as long as it is open, and
//! only the file that has the name counts: one that was removed and made again is another lock.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use rustix::fs::OFlags;

use super::{
    OpenError,
    whose::{self, Found},
};

/// What is written into it begins so. A file that begins otherwise is another's, and is not written to.
const WORDS: &str = "process ";

/// How often somebody may exchange the file under our hands before we give up.
const TRIES_MAX: u32 = 100;

/// How often a lock that is held is tried again, and after how long.
const ASKED_TRIES: u32 = 3;
const ASKED_FOR: Duration = Duration::from_millis(20);

/// Takes the lock, and makes its file if there is none. Nothing is written into it yet: see [`sign`].
///
/// # Errors
/// [`OpenError`]; `Held` if another process has it.
pub(super) fn take(path: &Path) -> Result<File, OpenError> {
    let file = lock(path, OFlags::CREATE)?;
    file.ok_or_else(|| OpenError::Io { doing: doing("make the lock", path), error: not_found() })
}

/// Takes the lock if its file is there.
///
/// # Errors
/// [`OpenError`]; `Held` if another process has it.
pub(super) fn take_existing(path: &Path) -> Result<Option<File>, OpenError> {
    lock(path, OFlags::empty())
}

/// Who has the lock, if anybody has. It is not kept, and its file is not made.
pub(super) fn holder(path: &Path) -> Option<String> {
    match take_existing(path) {
        Ok(_) => None,
        Err(OpenError::Held { holder, .. }) => Some(holder),
        // Somebody may have it whom we may not ask.
        Err(_) => Some("another process".to_owned()),
    }
}

fn lock(path: &Path, create: OFlags) -> Result<Option<File>, OpenError> {
    for tries in 0..TRIES_MAX {
        let io = |what: &str, error| OpenError::Io { doing: doing(what, path), error };
        let opened = whose::open(path, OFlags::RDWR | create).map_err(|error| io("open the lock", error))?;
        let (mut file, metadata) = match opened {
            Some(Found::File(file, metadata)) => (file, metadata),
            Some(Found::Other(what)) => return Err(OpenError::not_ours(path, what)),
            None => return Ok(None),
        };
        // A second name of another's file is not our lock.
        if metadata.nlink() > 1 {
            return Err(OpenError::not_ours(path, "a second name of another file"));
        }
        let words = read(&mut file).map_err(|error| io("read the lock", error))?;
        if !(words.starts_with(WORDS) || WORDS.starts_with(&words)) {
            return Err(OpenError::not_ours(path, "a file of another kind"));
        }
        match file.try_lock() {
            Ok(()) => {}
            // A tool has it for a moment when it asks who has it.
            Err(TryLockError::WouldBlock) if tries < ASKED_TRIES => {
                std::thread::sleep(ASKED_FOR);
                continue;
            }
            Err(TryLockError::WouldBlock) => {
                let words = words.trim();
                let holder = if words.is_empty() { "another process" } else { words };
                return Err(OpenError::Held { lock: path.to_owned(), holder: holder.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(io("lock", error)),
        }
        // Another process may have made the file anew between our look and our lock.
        let named = fs::symlink_metadata(path);
        if !named.is_ok_and(|named| (named.dev(), named.ino()) == (metadata.dev(), metadata.ino())) {
            continue;
        }
        return Ok(Some(file));
    }
    Err(OpenError::Io { doing: doing("lock", path), error: not_found() })
}

fn doing(what: &str, path: &Path) -> String {
    format!("{what} {}", path.display())
}

/// It was there, and is gone again.
fn not_found() -> std::io::Error {
    rustix::io::Errno::NOENT.into()
}

fn read(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.take(200).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes into a lock who has it.
pub(super) fn sign(lock: &mut File) {
    let program = std::env::args().next().unwrap_or_else(|| "blueflood-forward".to_owned());
    let mut write = || {
        // Version 1 let every user read it.
        rustix::fs::fchmod(&*lock, whose::OWN)?;
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{WORDS}{} ({program})", std::process::id())
    };
    // The words are for a human only: a full disk must not keep us from starting.
    let _ = write();
}
