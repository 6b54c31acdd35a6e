//! Owns what the spool's thread does when nothing is asked of it: chunks that are too old go, dead letters that a tool
//! marked come back, unused pages are given back. It never settles a chunk.

use super::*;

impl Worker {
    pub(super) fn upkeep(&mut self) {
        if let Some(age_max) = self.options.policy.age_max {
            let limit = now_ms().saturating_sub(i64::try_from(age_max.as_millis()).unwrap_or(i64::MAX));
            // An error shows in the requests too, and the next upkeep comes in a second.
            let _ = self.write(|worker, after| worker.drop_older_than(limit, after));
        }
        // Read before the marks are: a mark that is set meanwhile is seen the next time.
        let data_version = self.store.data_version().ok();
        if data_version != self.data_version && self.write(Self::replay).is_ok() {
            self.data_version = data_version;
            self.dead_letter_bytes = self.store.dead_letter_bytes().unwrap_or(self.dead_letter_bytes);
        }
        self.say_dropped_if_due();
        self.look_for_room_on_disk();
        self.append_waiting();
        if self.unwritten != Unwritten::default() {
            let _ = self.write(Self::write_counts);
        }
        // Some are kept, for the next chunks take them; on a full disk somebody else may need them more.
        let keep = if self.disk_full { 0 } else { GIVE_BACK_PAGES };
        let _ = self.store.give_back(keep, GIVE_BACK_PAGES);
        self.show_status();
    }

    fn drop_older_than(&mut self, limit_ms: i64, after: &mut After) -> rusqlite::Result<()> {
        let mut rows: u64 = 0;
        while let Some(id) = self.store.oldest_before(limit_ms)? {
            rows = rows.saturating_add(self.store.remove(&[id])?);
        }
        self.store.count("dropped", "max_age", rows)?;
        after.dropped("max_age", rows);
        Ok(())
    }

    /// Puts dead letters that a tool has marked back among the chunks.
    fn replay(&mut self, after: &mut After) -> rusqlite::Result<()> {
        loop {
            let letters = self.store.take_replays(REPLAY_ROWS_MAX)?;
            if letters.is_empty() {
                return Ok(());
            }
            let mut rows = Rows::default();
            let mut by_reason = ByReason::new();
            for (row, reason) in &letters {
                rows.append(RowsRef { text: row.as_bytes(), count: 1 });
                ledger::add(&mut by_reason, reason, 1);
            }
            let count = u64::from(rows.count);
            self.insert(rows, now_ms())?;
            for (reason, &n) in &by_reason {
                self.store.uncount("refused", reason, n)?;
            }
            after.changes.push(Box::new(move |ledger| ledger.replayed(&by_reason)));
            after.notices.push(Notice::Replayed { rows: count });
        }
    }
}
