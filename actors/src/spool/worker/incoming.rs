//! Owns the way into the spool: batches become chunks, which are written at once, or held in memory for as long as
//! Blueflood may answer for them first. It never reads a chunk back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{After, Room, Worker, fresh::Kept, now_ms};
use crate::{
    core::{
        ledger,
        queue::{ChunkId, Due},
        row::{self, RowsRef},
        tally::{Place as Where, Tally},
    },
    spool::{Batch, Notice, SpoolError, WhenFull},
};

/// New files in a row that turn out to be damaged as they are written, before others are served in between.
const REPLACED_MAX: u32 = 3;

impl Worker {
    /// Takes the batches that wait, as far as there is room.
    pub(super) fn append_waiting(&mut self, room: Room) {
        if !self.open_lanes() {
            return;
        }
        if self.options.policy.hold.is_zero() {
            self.write_waiting();
        } else {
            if self.blocked.is_some() {
                self.write_due();
            }
            self.hold_waiting(room);
            self.write_due();
        }
    }

    /// Seals the batches that wait, and answers for them: they are written when they have waited long enough here.
    fn hold_waiting(&mut self, room: Room) {
        while !self.waiting.is_empty() {
            if room == Room::MayCome && self.waits_for_room() {
                return;
            }
            self.crowded_since = None;
            // Those that Blueflood has already will be answered for soonest.
            if !self.fresh.has_room() {
                self.write_held(|kept| !kept.loaded);
            }
            if !self.fresh.has_room() && self.blocked.is_none() {
                self.write_held(|_| true);
            }
            if self.blocked.is_some() {
                return;
            }
            let Some((batch, reply)) = self.waiting.pop_front() else { return };
            // It may also wait here twice: once more for a collector that was started again.
            if !batch.is_stored() {
                let mut tally = Tally::default();
                let due = self.due(batch.received_ms);
                let lane = self.lanes.of(&batch.tenant);
                for (series, rows) in self.sift(&batch.rows) {
                    let chunk = self.sealer.seal(&rows);
                    let id = self.next_id();
                    let kept = Kept {
                        id,
                        lane,
                        chunk,
                        received_ms: batch.received_ms,
                        due: Some(due),
                        loaded: false,
                        acknowledged: None,
                    };
                    let meta = kept.meta();
                    self.fresh.keep(kept);
                    tally.add(Where::Open, Where::Held, meta.rows.into());
                    match series {
                        Some(series) => self.queue.added_apart(meta, series),
                        None => self.queue.added(meta, batch.due),
                    }
                }
                self.ledger.change(|ledger| ledger.apply(&tally));
                batch.set_stored();
            }
            let _ = reply.send(Ok(self.queue.waiting(self.bounds, Due::Flushed).due));
        }
    }

    /// Whether the batches should wait: memory is full, and what is on its way to Blueflood will be answered for soon.
    fn waits_for_room(&mut self) -> bool {
        if self.fresh.has_room() || self.blocked.is_some() || self.queue.leased() == 0 {
            return false;
        }
        let now = Instant::now();
        self.crowded_since.get_or_insert(now);
        self.crowded_until().is_some_and(|until| now < until)
    }

    /// When batches that wait for room in memory have waited long enough.
    pub(super) fn crowded_until(&self) -> Option<Instant> {
        self.crowded_since?.checked_add(self.options.policy.room_wait)
    }

    /// The rows of a batch, those of series that are kept apart by themselves.
    pub(super) fn sift(&self, rows: &row::Array) -> Vec<(Option<Arc<[u8]>>, row::Array)> {
        if self.queue.series_apart().len() == 0 {
            return vec![(None, rows.clone())];
        }
        let text = rows.text();
        let sifted = self.queue.sift(RowsRef { text: &text, count: rows.count() });
        match sifted.apart.is_empty() {
            true => vec![(None, rows.clone())],
            false => sifted.all().map(|(series, rows)| (series, rows.into())).collect(),
        }
    }

    /// When a chunk has to be written: soon, and at once if its oldest row has waited for as long as any row may.
    fn due(&self, received_ms: i64) -> Instant {
        let waited = Duration::from_millis(u64::try_from(now_ms().saturating_sub(received_ms)).unwrap_or(0));
        let hold = self.options.policy.hold.min(self.options.policy.unwritten_max.saturating_sub(waited));
        let now = Instant::now();
        now.checked_add(hold).unwrap_or(now)
    }

    /// Writes the chunks that have waited long enough.
    pub(super) fn write_due(&mut self) {
        let now = Instant::now();
        self.write_held(|kept| kept.due.is_some_and(|due| due <= now));
    }

    /// Writes chunks that are held; false if the spool does not take them.
    pub(super) fn write_held(&mut self, which: impl Fn(&Kept) -> bool) -> bool {
        let mut replaced: u32 = 0;
        while replaced < REPLACED_MAX {
            let bytes_max = self.group_bytes_max();
            let mut bytes: usize = 0;
            let mut fits = |kept: &&Kept| {
                let first = bytes == 0;
                bytes = bytes.saturating_add(kept.chunk.body.len());
                first || bytes <= bytes_max
            };
            let group: Vec<_> =
                self.fresh.held().filter(|kept| which(kept)).take_while(|kept| fits(kept)).cloned().collect();
            if group.is_empty() {
                self.unblock();
                return true;
            }
            match self.write(|worker, after| worker.write_group(&group, after)) {
                Ok(0) => {
                    self.block(self.no_room());
                    return false;
                }
                Ok(_) => self.unblock(),
                Err(SpoolError::Disk(text) | SpoolError::DiskFull(text)) => {
                    self.block(text);
                    return false;
                }
                // They are due in the new file, under new numbers.
                Err(SpoolError::Replaced) => replaced = replaced.saturating_add(1),
                Err(SpoolError::Closed) => return false,
            }
        }
        false
    }

    /// Writes as many of `group` as there is room for; how many.
    fn write_group(&mut self, group: &[Kept], after: &mut After) -> rusqlite::Result<usize> {
        let mut written: usize = 0;
        for kept in group {
            if !self.make_room(kept.chunk.body.len(), after)? {
                break;
            }
            self.write_one(kept, after)?;
            written = written.saturating_add(1);
        }
        self.write_counts(after)?;
        Ok(written)
    }

    /// Writes a chunk that is held.
    pub(super) fn write_one(&self, kept: &Kept, after: &mut After) -> rusqlite::Result<()> {
        self.store.insert_in(kept.lane, kept.id, &kept.chunk, kept.received_ms)?;
        match kept.acknowledged {
            None => after.tally.add(Where::Held, Where::Spooled, kept.chunk.rows.into()),
            Some(whole) => {
                self.store.acknowledge(kept.id, now_ms(), whole)?;
                after.tally.add(Where::HeldAcknowledged, Where::Acknowledged, kept.chunk.rows.into());
            }
        }
        after.written_chunks.push(kept.id);
        Ok(())
    }

    fn no_room(&self) -> String {
        let cause = if self.full.is_some() { "the disk is full" } else { "it is at its cap (--spool_max)" };
        cause.to_owned()
    }

    fn unblock(&mut self) {
        if self.blocked.take().is_some() {
            self.blocked_said.pauses();
        }
    }

    /// Says that it takes chunks again, once it has done so for a while: at the edge it is full and free by turns.
    pub(super) fn say_if_unblocked(&mut self) {
        if self.blocked_said.is_over() {
            (self.say)(Notice::Unblocked);
        }
    }

    /// The number of the next chunk. None is used twice, even if the one before is never written, or the file is lost.
    pub(super) fn next_id(&mut self) -> ChunkId {
        self.last_id = self.last_id.saturating_add(1);
        self.last_id
    }

    /// Writes the batches that wait, as far as there is room.
    fn write_waiting(&mut self) {
        while !self.waiting.is_empty() {
            let bytes_max = self.group_bytes_max();
            let mut bytes: usize = 0;
            let mut fits = |batch: &Arc<Batch>| {
                let first = bytes == 0;
                bytes = bytes.saturating_add(batch.rows.json().len());
                first || bytes <= bytes_max
            };
            let group: Vec<_> =
                self.waiting.iter().map(|(batch, _)| batch.clone()).take_while(|batch| fits(batch)).collect();
            let stored = self.write(|worker, after| worker.append(&group, after));
            match stored {
                Ok(0) => return self.block(self.no_room()),
                Ok(taken) => {
                    let due = self.queue.waiting(self.bounds, Due::Flushed).due;
                    for (_, reply) in self.waiting.drain(..taken.min(self.waiting.len())) {
                        let _ = reply.send(Ok(due));
                    }
                    self.unblock();
                }
                Err(SpoolError::Disk(text) | SpoolError::DiskFull(text)) => return self.block(text),
                Err(error) => {
                    for (_, reply) in self.waiting.drain(..) {
                        let _ = reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    pub(super) fn block(&mut self, cause: String) {
        if self.blocked_said.begins() {
            (self.say)(Notice::Blocked(cause.clone()));
        }
        self.blocked = Some(cause);
    }

    /// Stores as many of `batches` as there is room for; how many.
    fn append(&mut self, batches: &[Arc<Batch>], after: &mut After) -> rusqlite::Result<usize> {
        let mut taken: usize = 0;
        for batch in batches {
            // It may also wait here twice: once more for a collector that was started again.
            if !batch.is_stored() && !after.stored.iter().any(|stored| Arc::ptr_eq(stored, batch)) {
                let sealed: Vec<_> = self
                    .sift(&batch.rows)
                    .into_iter()
                    .map(|(series, rows)| (series, self.sealer.seal(&rows)))
                    .collect();
                let bytes = sealed.iter().map(|(_, chunk)| chunk.body.len()).sum();
                if !self.make_room(bytes, after)? {
                    break;
                }
                let lane = self.lanes.of(&batch.tenant);
                for (series, chunk) in sealed {
                    let meta = self.insert(lane, chunk, batch.received_ms, batch.due, series, after)?;
                    after.tally.add(Where::Open, Where::Spooled, meta.rows.into());
                }
                after.stored.push(batch.clone());
            }
            taken = taken.saturating_add(1);
        }
        self.write_counts(after)?;
        Ok(taken)
    }

    /// Makes room for a chunk by the policy; false if it has to wait. What is leased stays.
    fn make_room(&self, bytes: usize, after: &mut After) -> rusqlite::Result<bool> {
        let (bytes_max, reason) = self.cap()?;
        let fits = |used: u64| used.saturating_add(bytes as u64) <= bytes_max;
        let mut rows: u64 = 0;
        while !fits(self.store.used_bytes()?) {
            let here = self.store.oldest(self.queue.leased().saturating_add(1))?;
            // One chunk larger than the cap is still taken: nothing could leave to make room for it.
            if here.is_empty() && self.acknowledged.since().is_none() {
                break;
            }
            if self.options.policy.when_full == WhenFull::Block {
                return Ok(false);
            }
            if here.is_empty() {
                if self.drop_acknowledged(reason, after)? {
                    continue;
                }
                break;
            }
            // With everything on its way the cap is passed by what is in flight, until that is answered.
            let Some((oldest, _)) = here.into_iter().find(|(id, _)| !self.queue.is_leased(*id)) else {
                break;
            };
            rows = rows.saturating_add(self.store.remove(&[oldest])?);
            after.settled.push(oldest);
        }
        after.dropped(reason, rows);
        Ok(true)
    }

    /// Writes the counts that do not come with a chunk: what was skipped and malformed since the last time.
    pub(super) fn write_counts(&mut self, after: &mut After) -> rusqlite::Result<()> {
        self.write_first_tenant()?;
        let now = self.ledger.snapshot();
        let skipped = ledger::since(&now.skipped, &self.written.skipped);
        self.store.count("received", "", ledger::sum(&skipped))?;
        self.store.count_by_reason("skipped", &skipped)?;
        self.store.count_by_reason("malformed", &ledger::since(&now.malformed, &self.written.malformed))?;
        let names = now.names_replaced.saturating_sub(self.written.names_replaced);
        self.store.count("names_replaced", "", names)?;
        after.late.merge(&self.unwritten);
        self.store.set_last_id(self.last_id)?;
        after.written = Some(now);
        Ok(())
    }
}
