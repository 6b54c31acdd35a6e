//! Owns what the spool's thread does when nothing is asked of it: chunks that are too old go, dead letters that a tool
//! marked come back, unused pages are given back, and what the file counts is counted again. It never settles a chunk.

use std::{collections::BTreeMap, time::Instant};

use super::{AUDIT_EVERY, After, Room, Worker, now_ms};
use crate::{
    core::{
        queue::ChunkId,
        reason::{self, Dropped},
        row::{Rows, RowsRef},
        tally::{Place as Where, Tally},
    },
    spool::{Notice, SpoolError, store::LaneNumber},
};

/// Dead letters put back in one chunk.
const REPLAY_ROWS_MAX: u32 = 1_000;

impl Worker {
    pub(super) fn upkeep(&mut self) {
        self.watch();
        self.queue.take_back();
        if let Some(age_max) = self.options.policy.age_max {
            let limit = now_ms().saturating_sub(i64::try_from(age_max.as_millis()).unwrap_or(i64::MAX));
            // An error shows in the requests too, and the next upkeep comes in a second.
            let _ = self.write(|worker, after| worker.drop_older_than(limit, after));
        }
        // Read before the marks are: a mark that is set meanwhile is seen the next time.
        let data_version = self.store.data_version().ok();
        if data_version != self.data_version && self.write(Self::replay).is_ok() {
            self.data_version = data_version;
            self.letters = self.store.letters().unwrap_or(self.letters);
        }
        self.say_dropped_if_due();
        self.look_for_room_on_disk();
        self.append_waiting(Room::MayCome);
        if !self.unwritten.is_empty() {
            let _ = self.write(Self::write_counts);
        }
        self.say_if_unblocked();
        if self.watch.shut.is_none() {
            self.give_back();
            self.look_at_log();
            if Instant::now() >= self.audit_at {
                self.audit();
            }
        }
        self.show_status();
    }

    /// Counts again what the index should hold, and what the file should. The index must always be right, for what it
    /// does not hold is never sent.
    fn audit(&mut self) {
        let started = Instant::now();
        let newest_first = self.options.newest_first;
        let (indexed, edge) = self.queue.count();
        let beyond_edge =
            |id: ChunkId| edge.is_some_and(|edge| if newest_first { id < edge } else { id > edge });
        // An error shows in the requests too.
        if let Ok((all, beyond)) = self.read(|worker| worker.store.count_chunks(edge, newest_first)) {
            let held = self.fresh.held_metas().count();
            let held_beyond = self.fresh.held_metas().filter(|meta| beyond_edge(meta.id)).count();
            let here = all.saturating_add(held);
            let not_indexed =
                beyond.saturating_add(held_beyond).saturating_sub(self.queue.counted_beyond_edge());
            if indexed.saturating_add(not_indexed) != here {
                let why =
                    format!("{here} chunks are here, {indexed} in the index and {not_indexed} beyond it");
                // A chunk whose number is damaged is counted, and not found.
                if self.read(|worker| worker.store.quick_check()) != Err(SpoolError::Replaced) {
                    self.reindex(why);
                }
            } else {
                let ledger = self.ledger.snapshot();
                if self.acknowledged.rows() != ledger.acknowledged() {
                    let why = format!(
                        "{} rows are acknowledged, and {} in the index of these",
                        ledger.acknowledged(),
                        self.acknowledged.rows()
                    );
                    self.reindex(why);
                }
                // Of a file in which a number was damaged the ledger in memory knows better.
                let known = (ledger.spooled, ledger.acknowledged);
                let _ = self.read(|worker| worker.store.check_counts(known));
            }
        }
        self.audit_at = Instant::now() + AUDIT_EVERY.max(started.elapsed().saturating_mul(1_000));
    }

    /// Makes the index anew.
    pub(super) fn reindex(&mut self, why: String) {
        self.audit_failures = self.audit_failures.saturating_add(1);
        self.audit_failed_ms = Some(now_ms());
        self.queue.forget(self.last_id);
        self.index_acknowledged();
        self.due_since = None;
        (self.say)(Notice::AuditFailed(why));
    }

    fn drop_older_than(&mut self, limit_ms: i64, after: &mut After) -> rusqlite::Result<()> {
        let mut rows: u64 = 0;
        loop {
            // What is leased stays: it is dropped when it waits again.
            let oldest = self.store.oldest(self.queue.leased().saturating_add(64))?;
            let old: Vec<ChunkId> = oldest
                .into_iter()
                .filter(|&(id, received_ms)| received_ms < limit_ms && !self.queue.is_leased(id))
                .map(|(id, _)| id)
                .collect();
            if old.is_empty() {
                break;
            }
            rows = rows.saturating_add(self.store.remove(&old)?);
            after.settled.extend(old);
        }
        after.dropped(Dropped::MaxAge, rows);
        Ok(())
    }

    /// Puts dead letters that a tool has marked back among the chunks.
    fn replay(&mut self, after: &mut After) -> rusqlite::Result<()> {
        loop {
            let letters = self.store.take_replays(REPLAY_ROWS_MAX)?;
            if letters.is_empty() {
                return Ok(());
            }
            let mut of_each: BTreeMap<LaneNumber, Rows> = BTreeMap::new();
            for (row, label, lane) in &letters {
                of_each.entry(*lane).or_default().append(RowsRef { text: row.as_bytes(), count: 1 });
                let from = self.refused_as(label, &after.tally);
                after.tally.add(from, Where::Spooled, 1);
            }
            for (lane, rows) in of_each {
                let chunk = self.sealer.seal(&rows.into());
                self.insert(lane, chunk, now_ms(), true, None, after)?;
            }
            after.notices.push(Notice::Replayed { rows: letters.len() as u64 });
        }
    }

    /// Where a dead letter was counted. Its reason may be damaged: then it is one that some are counted under.
    fn refused_as(&self, label: &str, tally: &Tally) -> Where {
        let ledger = self.ledger.snapshot();
        let named = reason::Refused::of_label(label).unwrap_or(reason::Refused::Other);
        std::iter::once(named)
            .chain(reason::Refused::ALL)
            .map(Where::Refused)
            .find(|&place| ledger.at(place) > tally.moved(place, Where::Spooled))
            .unwrap_or(Where::Wire)
    }
}
