//! Owns the reserve: a file beside the spool that only takes up room on its disk. When the disk is full it is given
//! up, and in its place there is room for the write-ahead log, without which nothing could leave the spool either.
//! It never holds anything.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::open::with_suffix;

/// Its size, at most: the write-ahead log between two checkpoints, and the largest transaction after that.
const BYTES_MAX: u64 = 4 << 20;

/// What is written at once.
const BLOCK_BYTES: usize = 64 << 10;

pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// That of a spool at `path` that may grow to `bytes_max`.
    pub(super) fn new(path: &Path, bytes_max: u64) -> Self {
        Self { path: with_suffix(path, ".reserve"), bytes: BYTES_MAX.min(bytes_max / 4) }
    }

    /// Takes the room; false if the disk does not have it. `amply`: only if there is room to spare, so that a disk
    /// at its limit is not found full and free by turns.
    pub(super) fn take(&self, amply: bool) -> bool {
        if fs::metadata(&self.path).is_ok_and(|file| file.len() == self.bytes) {
            return true;
        }
        let taken = self.write(if amply { self.bytes.saturating_mul(2) } else { self.bytes });
        if taken.is_err() {
            self.give_up();
        }
        taken.is_ok()
    }

    /// Gives the room back; false if there was none.
    pub(super) fn give_up(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }

    fn write(&self, bytes: u64) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        let mut left = bytes;
        // Random bytes: zeros take no room on a file system that compresses, or that knows holes.
        let mut block = vec![0; BLOCK_BYTES];
        while left > 0 {
            fastrand::fill(&mut block);
            let now = block.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(&block);
            file.write_all(now)?;
            left = left.saturating_sub(now.len() as u64);
        }
        file.set_len(self.bytes)
    }
}
