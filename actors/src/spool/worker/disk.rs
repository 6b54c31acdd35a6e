//! Owns what the spool's thread does about a disk that is full: the reserve is given up, the cap in effect is lower, and
//! both come back with the room. It never drops anything itself.

use super::Worker;
use crate::{
    core::reason::Dropped,
    spool::{Notice, SpoolError, WhenFull, open, reserve::FullDisk, store},
};

/// What a file needs beside its chunks: tables, indexes, the ends of pages.
const OVERHEAD_BYTES: u64 = 128 << 10;

/// A write-ahead log that is so long is not moved into the file any more, in bytes.
const LONG_LOG_BYTES: u64 = 4 << 20;

/// On a full disk, room in the file that is left for what is not a chunk, in bytes.
const SLACK_BYTES: u64 = 64 << 10;

/// Bytes of batches in one transaction, before compression, beyond its first batch.
const GROUP_BYTES_MAX: usize = 2 << 20;

/// Pages given back to the file system at a time, so that no request waits long for it.
const GIVE_BACK_PAGES: u32 = 512;

impl Worker {
    /// The disk is full: gives the reserve up, and moves the log into the file in the room that this makes.
    pub(super) fn disk_is_full(&mut self) {
        let Some(reserve) = &self.reserve else { return };
        let news = self.full.is_none();
        if news {
            reserve.give_up();
        }
        // The log may be all that fills the disk. It keeps its size, for what is given back another program takes, and
        // nothing leaves a spool without one. If this fails, so will what comes next, and say so.
        let _ = self.store.restart_log();
        if news {
            self.full = Some(FullDisk::new(self.store.file_bytes().unwrap_or(0), reserve));
        }
        if self.disk_said.begins() {
            self.dropped_for_disk = 0;
            (self.say)(Notice::DiskFull);
        }
    }

    pub(super) fn look_for_room_on_disk(&mut self) {
        if self.full.is_some() {
            self.cut_log_for_reserve();
        }
        if self.full.is_some() && self.reserve.as_ref().is_some_and(|reserve| reserve.take(true)) {
            self.full = None;
            self.disk_said.pauses();
        }
        if self.disk_said.is_over() {
            (self.say)(Notice::DiskFree);
        }
    }

    /// Cuts the log, and with it the file, where their room is all that the reserve lacks, as on a small disk.
    fn cut_log_for_reserve(&self) {
        let (Some(reserve), Some(guard)) = (&self.reserve, self.store.guard()) else { return };
        let Some(free) = reserve.disk_free_bytes() else { return };
        let unused =
            guard.file_bytes().unwrap_or(0).saturating_sub(self.store.file_bytes().unwrap_or(u64::MAX));
        let after = free.saturating_add(unused).saturating_add(guard.log_bytes().unwrap_or(0));
        if free < reserve.ample_bytes() && after >= reserve.ample_bytes() {
            // An error shows in the requests too.
            let _ = self.store.checkpoint();
        }
    }

    /// The cap in effect, and why rows are dropped there.
    pub(super) fn cap(&self) -> rusqlite::Result<(u64, Dropped)> {
        let policy = &self.options.policy;
        let mut bytes_max = policy.bytes_max.saturating_add(OVERHEAD_BYTES);
        if self.last_call {
            // What is in hand ends with the process, and is little beside what the cap keeps the disk for.
            bytes_max = u64::MAX;
        }
        // At the end what cannot wait any more takes what was the reserve, if it may not take the place of the oldest.
        let waits = policy.when_full == WhenFull::Block;
        if let (Some(full), Some(reserve), false) = (&self.full, &self.reserve, self.last_call && waits) {
            let cap = full.cap(self.store.file_bytes()?, reserve.disk_free_bytes());
            // A file that was still empty when another program filled the disk has some of the reserve.
            let cap = cap.saturating_sub(SLACK_BYTES).max(reserve.bytes() / 4);
            if cap < bytes_max {
                return Ok((cap, Dropped::DiskFull));
            }
        }
        Ok((bytes_max, Dropped::SpoolFull))
    }

    /// The cap in effect, as it is shown.
    pub(super) fn cap_shown(&self) -> u64 {
        let bytes_max = self.options.policy.bytes_max;
        let cap = if self.full.is_some() { self.cap().ok() } else { None };
        cap.map_or(bytes_max, |(cap, _)| cap.min(bytes_max))
    }

    /// Gives unused pages back to the disk. Some are kept: the next chunks take them.
    pub(super) fn give_back(&mut self) {
        let (Some(full), Some(reserve)) = (&self.full, &self.reserve) else {
            // An error shows in the requests too.
            let _ = self.store.give_back(GIVE_BACK_PAGES, GIVE_BACK_PAGES);
            return;
        };
        let pages = |bytes: u64| {
            u32::try_from(bytes / u64::from(store::PAGE_BYTES.unsigned_abs())).unwrap_or(u32::MAX)
        };
        // Pages that are in use move to where the others were, through the log, and that must not outgrow the reserve.
        let (keep, step) = (pages(full.keep_bytes()), pages(reserve.bytes() / 16).clamp(1, GIVE_BACK_PAGES));
        for _ in 0..GIVE_BACK_PAGES / step {
            match self.store.give_back(keep, step) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    if matches!(self.failed(&error), SpoolError::DiskFull(_)) {
                        self.disk_is_full();
                    }
                    return;
                }
            }
        }
    }

    /// Bytes of batches in one transaction, before compression, beyond its first batch: what the reserve has room for.
    pub(super) fn group_bytes_max(&self) -> usize {
        let Some(reserve) = &self.reserve else { return GROUP_BYTES_MAX };
        let share = if self.full.is_some() { reserve.bytes() / 16 } else { reserve.bytes() / 2 };
        GROUP_BYTES_MAX.min(usize::try_from(share).unwrap_or(GROUP_BYTES_MAX))
    }

    /// Sets how long the log may grow between two checkpoints: within a quarter of the reserve.
    pub(super) fn bound_log(&self) {
        if let Some(reserve) = &self.reserve {
            // An error shows in the requests too.
            let _ = self.store.checkpoint_each(reserve.bytes() / 4);
        }
    }

    /// SQLite tells nobody that its own checkpoints fail. If they do, the log grows.
    pub(super) fn look_at_log(&mut self) {
        let log = self.store.guard().and_then(open::Guard::log_bytes);
        if log.is_some_and(|bytes| bytes >= LONG_LOG_BYTES)
            && let Err(error) = self.store.restart_log()
            && error.sqlite_error_code() != Some(rusqlite::ErrorCode::DatabaseBusy)
        {
            self.failed(&error);
        }
    }
}
