//! Owns the room on the spool's disk: how much there is, and a reserve of it, which is a file beside the spool that only
//! takes up room. When the disk is full the reserve is given up, and in its place there is room for the write-ahead log,
//! without which nothing could leave the spool either. It never holds anything.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{fs::FallocateFlags, io::Errno};

use super::open;

/// Its size, at most: the write-ahead log between two checkpoints, and the largest transaction after that.
const BYTES_MAX: u64 = 4 << 20;

/// Its share of a small disk: one in so many bytes.
const SHARE_OF_DISK: u64 = 4;

/// What is written at once, where room cannot be had otherwise.
const BLOCK_BYTES: usize = 64 << 10;

/// How long to wait after the room was refused that the system said was there, as a quota does: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DiskRoom {
    /// What this process may still take.
    pub free_bytes: u64,
    /// Its size.
    pub total_bytes: u64,
}

/// The room on the disk on which a file or folder lies, or will lie once it is made; `None` if the system does not say,
/// or it is none that has a size.
pub(super) fn disk_room(path: &Path) -> Option<DiskRoom> {
    let there = path.ancestors().map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    let disk = there.into_iter().find_map(|path| rustix::fs::statvfs(path).ok())?;
    // A part of many disks is for root alone.
    let free = if rustix::process::geteuid().is_root() { disk.f_bfree } else { disk.f_bavail };
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    let room = DiskRoom { free_bytes: bytes(free), total_bytes: bytes(disk.f_blocks) };
    Some(room).filter(|room| room.total_bytes > 0)
}

pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    /// When it was last refused, and how long to wait from then.
    refused: Cell<Option<(Instant, Duration)>>,
}

impl Reserve {
    /// That of a spool at `path` that may grow to `bytes_max`.
    pub(super) fn new(path: &Path, bytes_max: u64) -> Self {
        // The spool itself says what is wrong with a path that leads nowhere.
        let path = open::resolve(path).unwrap_or_else(|_| path.to_owned());
        let disk = disk_room(open::folder_of(&path)).map_or(u64::MAX, |disk| disk.total_bytes);
        let bytes = BYTES_MAX.min(bytes_max / 4).min(disk / SHARE_OF_DISK);
        Self { path: open::with_suffix(&path, ".reserve"), bytes, refused: Cell::new(None) }
    }

    /// Its size, once it is taken.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is free on the disk now, beside the reserve; `None` if the system does not say.
    pub(super) fn disk_free_bytes(&self) -> Option<u64> {
        disk_room(open::folder_of(&self.path)).map(|room| room.free_bytes)
    }

    /// What must be free for it to be taken again.
    pub(super) fn ample_bytes(&self) -> u64 {
        self.bytes.saturating_mul(2)
    }

    /// Takes the room; false if the disk does not have it. `amply`: only if as much again is free, so that a disk at its
    /// limit is not found full and free by turns. As long as the system says that there is no room, nothing is written
    /// to find out.
    pub(super) fn take(&self, amply: bool) -> bool {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.is_file() && file.len() == self.bytes) {
            return true;
        }
        let needed = if amply { self.ample_bytes() } else { self.bytes };
        if self.disk_free_bytes().is_some_and(|free| free < needed) {
            return false;
        }
        let refused = self.refused.get();
        if amply && refused.is_some_and(|(at, pause)| at.elapsed() < pause) {
            return false;
        }
        if self.write().is_ok() {
            self.refused.set(None);
            return true;
        }
        self.give_up();
        let pause = refused.map_or(PAUSE.0, |(_, pause)| pause.saturating_mul(2).min(PAUSE.1));
        self.refused.set(Some((Instant::now(), pause)));
        false
    }

    /// Gives the room back; false if there was none.
    pub(super) fn give_up(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }

    /// Always a new file: what has the name already may be a link, or be half of it.
    fn write(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = open::make(&self.path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => fill(file, self.bytes),
            taken => Ok(taken?),
        }
    }
}

/// Random bytes: zeros take no room on a file system that compresses, or that knows holes.
fn fill(mut file: File, bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    let mut block = vec![0; BLOCK_BYTES];
    while left > 0 {
        fastrand::fill(&mut block);
        let now = block.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(&block);
        file.write_all(now)?;
        left = left.saturating_sub(now.len() as u64);
    }
    Ok(())
}

/// The cap of a spool while its disk is full.
///
/// It is the size that the file had when the disk filled. Pages that are given back since then lower it only where they
/// are not free any more: another program has them. So it never creeps down by what the spool itself does, and is back
/// as soon as there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FullDisk {
    /// How large the file was.
    bytes_at_first: u64,
    /// What must stay free for the write-ahead log.
    reserve_bytes: u64,
}

impl FullDisk {
    /// The disk is full, the file has this size, and the reserve was given up.
    pub(super) fn new(file_bytes: u64, reserve: &Reserve) -> Self {
        Self { bytes_at_first: file_bytes, reserve_bytes: reserve.bytes() }
    }

    /// The cap, where the file has this size now, and so much is free on its disk.
    pub(super) fn cap(&self, file_bytes: u64, free_bytes: Option<u64>) -> u64 {
        let room = free_bytes.unwrap_or(0).saturating_sub(self.reserve_bytes);
        file_bytes.max(file_bytes.saturating_add(room).min(self.bytes_at_first))
    }

    /// Bytes of unused pages that are not given back meanwhile: those of a few chunks come and go all the time, and
    /// each time that they are given back another program may take them. All that is beyond them is given back, or a
    /// spool that is empty again would keep the disk full for ever.
    pub(super) fn keep_bytes(&self) -> u64 {
        (self.bytes_at_first / 8).max(self.reserve_bytes / 4)
    }
}
