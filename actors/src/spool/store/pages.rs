//! The pages of the file and of its log: how many there are, whether they are in order, and giving them back.

use rusqlite::Result;

use super::{CHECKPOINT_PAGES, PAGE_BYTES, Store, damage, failure};

impl Store {
    /// Moves the write-ahead log into the file, and cuts it to nothing.
    ///
    /// # Errors
    /// SQLite's; `SQLITE_BUSY` if another process that reads kept it from doing so.
    pub fn checkpoint(&self) -> Result<()> {
        let busy: i64 = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy == 0 {
            Ok(())
        } else {
            Err(failure(rusqlite::ffi::SQLITE_BUSY, "a reader keeps the log".to_owned()))
        }
    }

    /// Moves the write-ahead log into the file, and begins it again at its start; its room on the disk stays ours.
    pub fn restart_log(&self) -> Result<()> {
        self.db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
    }

    /// Moves the log into the file whenever it has grown by so many bytes, or sooner.
    pub fn checkpoint_each(&self, bytes: u64) -> Result<()> {
        let pages = i32::try_from(bytes / u64::from(PAGE_BYTES.unsigned_abs())).unwrap_or(CHECKPOINT_PAGES);
        self.db.pragma_update(None, "wal_autocheckpoint", pages.clamp(1, CHECKPOINT_PAGES))
    }

    /// Whether the pages of the file are in order; all of it is read.
    ///
    /// # Errors
    /// SQLite's; `SQLITE_CORRUPT` if they are not.
    pub fn quick_check(&self) -> Result<()> {
        let found: String = self.db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found == "ok" { Ok(()) } else { Err(damage(found)) }
    }

    /// Bytes of the file that are in use, whatever its size.
    pub fn used_bytes(&self) -> Result<u64> {
        let (pages, free, bytes) = self.pages()?;
        Ok(pages.saturating_sub(free).saturating_mul(bytes))
    }

    /// Bytes of the file, with what is still in the write-ahead log.
    pub fn file_bytes(&self) -> Result<u64> {
        let (pages, _, bytes) = self.pages()?;
        Ok(pages.saturating_mul(bytes))
    }

    /// Gives unused pages back to the file system, all but `keep` and at most `max` at once; false if there was none.
    pub fn give_back(&self, keep: u32, max: u32) -> Result<bool> {
        let (_, free, _) = self.pages()?;
        let max = free.saturating_sub(keep.into()).min(max.into());
        if max == 0 {
            return Ok(false);
        }
        let mut statement = self.db.prepare(&format!("PRAGMA incremental_vacuum({max})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        if let Some(guard) = &self.guard {
            guard.may_shrink_to(self.file_bytes()?);
        }
        Ok(true)
    }

    /// Pages of the file, those of them that are unused, and the bytes of one.
    fn pages(&self) -> Result<(u64, u64, u64)> {
        let get = |name| self.pragma::<i64>(name).map(|n| u64::try_from(n).unwrap_or(0));
        Ok((get("page_count")?, get("freelist_count")?, get("page_size")?))
    }

    /// Changes when another process writes to the file.
    pub fn data_version(&self) -> Result<i64> {
        self.pragma("data_version")
    }
}
