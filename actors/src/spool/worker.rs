//! Owns the spool's thread: which requests share a transaction, what follows a commit, and what is done when the
//! disk is full or the file is damaged. It never decides what is sent.

use std::{
    collections::VecDeque,
    fs::File,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Batch, Notice, Options, Reply, Request, SharedLedger, SpoolError, Status, WhenFull,
    open::{self, Opened, Place},
    store::{Loaded, Store},
};
use crate::core::{
    chunk::{Chunk, Sealer},
    ledger::{self, ByReason, Ledger, Settled},
    outbox::{ChunkId, Fate, Meta},
    row::{Rows, RowsRef},
    settlement::{self, Settlement},
};

/// How often it looks after itself when nothing is asked of it.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// Requests in one transaction, at most: each waits for the commit of all.
const GROUP_MAX: usize = 64;

/// Pages given back to the file system at a time, so that no request waits long for it.
const GIVE_BACK_PAGES: u32 = 512;

/// Dead letters put back in one chunk.
const REPLAY_ROWS_MAX: u32 = 1_000;

/// What a file needs beside its chunks: tables, indexes, the ends of pages.
const OVERHEAD_BYTES: u64 = 128 << 10;

/// Bodies of chunks just stored that are kept for the load that usually follows at once, in bytes. They are in the
/// file all the same.
const FRESH_BYTES_MAX: usize = 2 << 20;

pub(super) struct Worker {
    options: Options,
    store: Store,
    /// Held for as long as the spool is ours.
    _lock: Option<File>,
    sealer: Sealer,
    ledger: SharedLedger,
    /// What the file has of the counts that do not come with a chunk.
    written: Ledger,
    status: Arc<Mutex<Status>>,
    dead_letter_bytes: u64,
    /// Batches that wait for room.
    waiting: VecDeque<(Arc<Batch>, Reply<Option<Meta>>)>,
    blocked: Option<String>,
    /// Chunks were dropped for a full disk, and nothing was stored since: dropping more would not help.
    dropped_for_disk: bool,
    data_version: Option<i64>,
    /// Chunks just stored, the oldest first: see [`FRESH_BYTES_MAX`].
    fresh: VecDeque<(ChunkId, Chunk)>,
    say: Box<dyn Fn(Notice) + Send>,
}

/// A change to the ledger in memory, made once the same change is committed.
type Change = Box<dyn FnOnce(&mut Ledger)>;

/// What one transaction leads to once it is committed.
#[derive(Default)]
struct After {
    changes: Vec<Change>,
    notices: Vec<Notice>,
    stored: Vec<Arc<Batch>>,
    fresh: Vec<(ChunkId, Chunk)>,
    written: Option<Ledger>,
    dead_letter_bytes: i64,
}

impl After {
    fn settled(&mut self, settled: Settled) {
        self.changes.push(Box::new(move |ledger| ledger.settled(&settled)));
    }

    fn dropped(&mut self, reason: &'static str, rows: u64) {
        if rows > 0 {
            let dropped = ByReason::from([(reason.to_owned(), rows)]);
            self.settled(Settled { dropped, ..Settled::default() });
            self.notices.push(Notice::Dropped { reason, rows });
        }
    }
}

impl Worker {
    pub(super) fn new(
        options: Options,
        opened: Opened,
        ledger: SharedLedger,
        status: Arc<Mutex<Status>>,
        say: Box<dyn Fn(Notice) + Send>,
    ) -> Self {
        let Opened { store, lock, salvage } = opened;
        let sealer = Sealer::new(options.encoding);
        let mut worker = Self {
            options,
            store,
            _lock: lock,
            sealer,
            ledger,
            written: Ledger::default(),
            status,
            dead_letter_bytes: 0,
            waiting: VecDeque::new(),
            blocked: None,
            dropped_for_disk: false,
            data_version: None,
            fresh: VecDeque::new(),
            say,
        };
        worker.read_counts();
        if let Some(salvage) = salvage {
            (worker.say)(Notice::Salvaged(salvage));
        }
        worker
    }

    fn read_counts(&mut self) {
        // `open` has read both before, so an error here can only pass.
        self.dead_letter_bytes = self.store.dead_letter_bytes().unwrap_or(0);
        self.written = self.store.ledger().unwrap_or_default();
        let written = self.written.clone();
        self.ledger.change(|ledger| *ledger = written);
    }

    pub(super) fn run(mut self, inbox: &mpsc::Receiver<Request>) {
        let mut upkeep_at = Instant::now();
        loop {
            let now = Instant::now();
            if now >= upkeep_at {
                self.upkeep();
                upkeep_at = now + UPKEEP_EVERY;
            }
            match inbox.recv_timeout(upkeep_at.saturating_duration_since(now)) {
                Ok(first) => {
                    let group = std::iter::once(first).chain(inbox.try_iter()).take(GROUP_MAX).collect();
                    if self.serve(group) {
                        return;
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Serves requests that came together; true when it was told to close.
    fn serve(&mut self, group: Vec<Request>) -> bool {
        let mut close = None;
        let mut settles = Vec::new();
        for request in group {
            match request {
                Request::Append(batch, reply) => self.waiting.push_back((batch, reply)),
                Request::Settle(chunks, fate, reply) => settles.push((chunks, fate, reply)),
                // What is read must not be older than what was asked before it.
                Request::Load(chunks, reply) => {
                    self.settle_all(&mut settles);
                    let chunks = self.write(|worker, after| worker.load(&chunks, after));
                    let _ = reply.send(chunks);
                }
                Request::Scan(from, max, reply) => {
                    self.settle_all(&mut settles);
                    self.append_waiting();
                    let newest_first = self.options.newest_first;
                    let _ = reply.send(self.write(|worker, _| worker.store.scan(from, newest_first, max)));
                }
                Request::Newest(reply) => {
                    self.settle_all(&mut settles);
                    self.append_waiting();
                    let _ = reply.send(self.write(|worker, _| worker.store.newest()));
                }
                Request::Close(reply) => close = Some(reply),
            }
        }
        self.settle_all(&mut settles);
        self.append_waiting();
        self.show_status();
        let Some(reply) = close else { return false };
        let written = self.write(|worker, after| worker.write_counts(after));
        let _ = reply.send(written);
        true
    }

    // === Transactions ===

    /// Runs `work` as one transaction, and what follows from it once it is committed.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &mut After) -> rusqlite::Result<T>,
    ) -> Result<T, SpoolError> {
        let mut after = After::default();
        // As `Store::transaction`, but the work may use the sealer too.
        let done = self.store.db().execute_batch("BEGIN IMMEDIATE").and_then(|()| work(self, &mut after));
        let done = done.and_then(|done| self.store.db().execute_batch("COMMIT").map(|()| done));
        match done {
            Ok(done) => {
                self.follow(after);
                Ok(done)
            }
            Err(error) => {
                // An error may have rolled it back already; then this one says so, and there is nothing to do.
                let _ = self.store.db().execute_batch("ROLLBACK");
                Err(self.failed(&error))
            }
        }
    }

    fn follow(&mut self, after: After) {
        self.ledger.change(|ledger| after.changes.into_iter().for_each(|change| change(ledger)));
        after.stored.iter().for_each(|batch| batch.set_stored());
        self.fresh.extend(after.fresh);
        let mut bytes: usize = self.fresh.iter().map(|(_, chunk)| chunk.body.len()).sum();
        while bytes > FRESH_BYTES_MAX
            && let Some((_, oldest)) = self.fresh.pop_front()
        {
            bytes = bytes.saturating_sub(oldest.body.len());
        }
        if let Some(written) = after.written {
            self.written = written;
        }
        self.dead_letter_bytes = self.dead_letter_bytes.saturating_add_signed(after.dead_letter_bytes);
        after.notices.into_iter().for_each(|notice| (self.say)(notice));
    }

    fn failed(&mut self, error: &rusqlite::Error) -> SpoolError {
        if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) {
            return SpoolError::DiskFull(error.to_string());
        }
        if !open::is_damage(error) {
            return SpoolError::Disk(error.to_string());
        }
        let Place::File(path) = self.options.place.clone() else {
            return SpoolError::Disk(error.to_string());
        };
        match open::set_aside(&path, self.options.sync, SystemTime::now(), error.to_string()) {
            Ok((store, salvage)) => {
                self.store = store;
                // The new file gives the same numbers again.
                self.fresh.clear();
                let open_rows = self.ledger.snapshot().open;
                self.read_counts();
                // What is in hand was counted as received in memory only.
                self.ledger.change(|ledger| {
                    ledger.open = open_rows;
                    ledger.received = ledger.received.saturating_add(open_rows);
                });
                salvage.into_iter().for_each(|salvage| (self.say)(Notice::Salvaged(salvage)));
                SpoolError::Replaced
            }
            Err(error) => SpoolError::Disk(error.to_string()),
        }
    }

    // === In ===

    /// Stores the batches that wait, as far as there is room.
    fn append_waiting(&mut self) {
        while !self.waiting.is_empty() {
            let group: Vec<_> = self.waiting.iter().map(|(batch, _)| batch.clone()).collect();
            let stored = self.write(|worker, after| worker.append(&group, after));
            match stored {
                Ok(metas) => {
                    if metas.is_empty() {
                        return self.block("it is at its cap (--spool_max)".to_owned());
                    }
                    for meta in metas {
                        if let Some((_, reply)) = self.waiting.pop_front() {
                            let _ = reply.send(Ok(meta));
                        }
                    }
                    self.dropped_for_disk = false;
                    if self.blocked.take().is_some() {
                        (self.say)(Notice::Unblocked);
                    }
                }
                Err(SpoolError::DiskFull(_)) if self.make_room_on_disk() => {}
                Err(SpoolError::Disk(text) | SpoolError::DiskFull(text)) => return self.block(text),
                Err(error) => {
                    for (_, reply) in self.waiting.drain(..) {
                        let _ = reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    fn block(&mut self, cause: String) {
        if self.blocked.is_none() {
            (self.say)(Notice::Blocked(cause.clone()));
        }
        self.blocked = Some(cause);
    }

    /// Stores as many of `batches` as there is room for.
    fn append(&mut self, batches: &[Arc<Batch>], after: &mut After) -> rusqlite::Result<Vec<Option<Meta>>> {
        let mut metas = Vec::new();
        for batch in batches {
            if batch.is_stored() {
                metas.push(None);
                continue;
            }
            let chunk = self.sealer.seal(batch.rows.as_ref());
            if !self.make_room(chunk.body.len(), after)? {
                break;
            }
            let meta = self.store.insert(&chunk, batch.received_ms)?;
            metas.push(Some(meta));
            let rows = u64::from(chunk.rows);
            self.store.count("received", "", rows)?;
            after.changes.push(Box::new(move |ledger| ledger.spooled(rows)));
            after.stored.push(batch.clone());
            after.fresh.push((meta.id, chunk));
        }
        self.write_counts(after)?;
        Ok(metas)
    }

    /// Makes room for a chunk by the policy; false if it has to wait.
    fn make_room(&mut self, bytes: usize, after: &mut After) -> rusqlite::Result<bool> {
        let bytes_max = self.options.bytes_max.saturating_add(OVERHEAD_BYTES);
        let fits = |used: u64| used.saturating_add(bytes as u64) <= bytes_max;
        if fits(self.store.used_bytes()?) {
            return Ok(true);
        }
        if self.options.when_full == WhenFull::Block {
            return Ok(false);
        }
        let mut rows: u64 = 0;
        while !fits(self.store.used_bytes()?) {
            let oldest = self.store.scan(None, false, 1)?;
            // One chunk larger than the cap is still taken: there is nothing left to drop for it.
            let Some(oldest) = oldest.first() else { break };
            rows = rows.saturating_add(self.store.remove(&[oldest.id])?);
        }
        self.store.count("dropped", "spool_full", rows)?;
        after.dropped("spool_full", rows);
        Ok(true)
    }

    /// A full disk is a full spool: with `drop-oldest` old chunks go, and their pages take the new ones.
    fn make_room_on_disk(&mut self) -> bool {
        if self.options.when_full == WhenFull::Block || self.dropped_for_disk {
            return false;
        }
        self.dropped_for_disk = true;
        let dropped = self.write(|worker, after| {
            let wanted: u64 = worker.waiting.iter().map(|(batch, _)| batch.rows.text.len() as u64).sum();
            let (mut rows, mut raw_bytes) = (0, 0);
            for oldest in worker.store.scan(None, false, GROUP_MAX)? {
                if raw_bytes > wanted.saturating_mul(2) {
                    break;
                }
                rows += worker.store.remove(&[oldest.id])?;
                raw_bytes += u64::from(oldest.raw_bytes);
            }
            worker.store.count("dropped", "disk_full", rows)?;
            after.dropped("disk_full", rows);
            Ok(rows)
        });
        matches!(dropped, Ok(rows) if rows > 0)
    }

    /// Writes the counts that do not come with a chunk: what was skipped and malformed since the last time.
    fn write_counts(&mut self, after: &mut After) -> rusqlite::Result<()> {
        let now = self.ledger.snapshot();
        let skipped = since(&now.skipped, &self.written.skipped);
        self.store.count("received", "", ledger::sum(&skipped))?;
        self.store.count_by_reason("skipped", &skipped)?;
        self.store.count_by_reason("malformed", &since(&now.malformed, &self.written.malformed))?;
        let names = now.names_replaced.saturating_sub(self.written.names_replaced);
        self.store.count("names_replaced", "", names)?;
        after.written = Some(now);
        Ok(())
    }

    // === Out ===

    fn load(&mut self, ids: &[ChunkId], after: &mut After) -> rusqlite::Result<Vec<Chunk>> {
        let mut chunks = Vec::with_capacity(ids.len());
        for &id in ids {
            if let Some(at) = self.fresh.iter().position(|&(fresh, _)| fresh == id)
                && let Some((_, chunk)) = self.fresh.remove(at)
            {
                // It may have been dropped by policy meanwhile.
                if self.store.has(id)? {
                    chunks.push(chunk);
                }
                continue;
            }
            match self.store.load(id)? {
                Some(Loaded::Intact(_, chunk)) => chunks.push(chunk),
                Some(Loaded::Damaged(meta)) => self.drop_damaged(meta, after)?,
                None => {}
            }
        }
        Ok(chunks)
    }

    fn drop_damaged(&self, meta: Meta, after: &mut After) -> rusqlite::Result<()> {
        let rows = self.store.remove(&[meta.id])?;
        self.store.count("dropped", "damaged", rows)?;
        after.dropped("damaged", rows);
        after.notices.push(Notice::DamagedChunk { rows });
        Ok(())
    }

    fn settle_all(&mut self, settles: &mut Vec<(Vec<ChunkId>, Fate, Reply<Vec<Meta>>)>) {
        if settles.is_empty() {
            return;
        }
        let together = self.write(|worker, after| {
            settles
                .iter()
                .map(|(chunks, fate, _)| worker.settle(chunks, fate, after))
                .collect::<Result<Vec<_>, _>>()
        });
        match together {
            Ok(requeued) => {
                for ((_, _, reply), metas) in settles.drain(..).zip(requeued) {
                    let _ = reply.send(Ok(metas));
                }
            }
            Err(error) => {
                for (_, _, reply) in settles.drain(..) {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Carries out a fate, on the chunks that are still here.
    fn settle(&mut self, ids: &[ChunkId], fate: &Fate, after: &mut After) -> rusqlite::Result<Vec<Meta>> {
        if let Fate::Delivered { unconfirmed } = *fate {
            let rows = self.store.remove(ids)?;
            self.store.count("delivered", "", rows)?;
            let unconfirmed = if unconfirmed { rows } else { 0 };
            self.store.count("unconfirmed", "", unconfirmed)?;
            after.settled(Settled { delivered: rows, unconfirmed, ..Settled::default() });
            return Ok(Vec::new());
        }
        let mut rows = Rows::default();
        let received_ms = self.store.oldest_ms()?.unwrap_or_else(now_ms);
        for &id in ids {
            match self.store.load(id)? {
                Some(Loaded::Intact(meta, chunk)) => match chunk.open() {
                    Ok(more) => {
                        rows.append(more.as_ref());
                        self.store.remove(&[id])?;
                    }
                    Err(_) => self.drop_damaged(meta, after)?,
                },
                Some(Loaded::Damaged(meta)) => self.drop_damaged(meta, after)?,
                None => {}
            }
        }
        let Settlement { delivered, refused, requeued, unmatched } = settlement::settle(rows.as_ref(), fate);
        let mut by_reason = ByReason::new();
        for letter in &refused {
            ledger::add(&mut by_reason, letter.reason, 1);
        }
        self.store.add_dead_letters(&refused, ids.first().copied().unwrap_or(0), now_ms())?;
        self.store.count("delivered", "", delivered)?;
        self.store.count_by_reason("refused", &by_reason)?;
        let bytes: usize =
            refused.iter().map(|letter| letter.row.len().saturating_add(letter.message.len())).sum();
        after.dead_letter_bytes = after.dead_letter_bytes.saturating_add_unsigned(bytes as u64);
        self.bound_dead_letters(after)?;
        after.settled(Settled { delivered, refused: by_reason, ..Settled::default() });
        if unmatched > 0 {
            after.notices.push(Notice::Unattributed { errors: unmatched });
        }
        requeued.iter().map(|rows| self.store.insert(&self.sealer.seal(rows.as_ref()), received_ms)).collect()
    }

    fn bound_dead_letters(&self, after: &mut After) -> rusqlite::Result<()> {
        let mut discarded: u64 = 0;
        while self.dead_letter_bytes.saturating_add_signed(after.dead_letter_bytes)
            > self.options.dead_letter_bytes_max
        {
            let Some(bytes) = self.store.discard_oldest_dead_letter()? else { break };
            after.dead_letter_bytes = after.dead_letter_bytes.saturating_sub_unsigned(bytes);
            discarded = discarded.saturating_add(1);
        }
        after.changes.push(Box::new(move |ledger| {
            ledger.dead_letters_discarded = ledger.dead_letters_discarded.saturating_add(discarded);
        }));
        Ok(())
    }

    // === Upkeep ===

    fn upkeep(&mut self) {
        if let Some(age_max) = self.options.age_max {
            let limit = now_ms().saturating_sub(i64::try_from(age_max.as_millis()).unwrap_or(i64::MAX));
            // An error shows in the requests too, and the next upkeep comes in a second.
            let _ = self.write(|worker, after| worker.drop_older_than(limit, after));
        }
        if self.store.data_version().ok() != self.data_version {
            let _ = self.write(Self::replay);
            self.data_version = self.store.data_version().ok();
            self.dead_letter_bytes = self.store.dead_letter_bytes().unwrap_or(self.dead_letter_bytes);
        }
        self.append_waiting();
        let _ = self.store.give_back(GIVE_BACK_PAGES);
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
            self.store.insert(&self.sealer.seal(rows.as_ref()), now_ms())?;
            for (reason, &n) in &by_reason {
                self.store.uncount("refused", reason, n)?;
            }
            let count = u64::from(rows.count);
            after.changes.push(Box::new(move |ledger| ledger.replayed(&by_reason)));
            after.notices.push(Notice::Replayed { rows: count });
        }
    }

    fn show_status(&mut self) {
        let status = Status {
            used_bytes: self.store.used_bytes().unwrap_or(0),
            newest: self.store.newest().unwrap_or(None),
            oldest_ms: self.store.oldest_ms().unwrap_or(None),
            dead_letter_bytes: self.dead_letter_bytes,
            blocked: self.blocked.clone(),
        };
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

fn since(now: &ByReason, before: &ByReason) -> ByReason {
    let grown = |(reason, &n): (&String, &u64)| {
        (reason.clone(), n.saturating_sub(before.get(reason).copied().unwrap_or(0)))
    };
    now.iter().map(grown).filter(|&(_, n)| n > 0).collect()
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
