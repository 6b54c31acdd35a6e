//! Owns the spool's thread: which requests share a transaction, what follows a commit, and what is done when the
//! disk is full or the file is damaged. It never decides what is sent.

mod upkeep;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Batch, Notice, Options, Policy, Refused, Reply, Request, SharedLedger, SpoolError, Status, WhenFull,
    open::{self, Opened, Place},
    reserve::Reserve,
    store::{self, Loaded, Store},
};
use crate::core::{
    chunk::{Chunk, Sealer},
    histogram::Histogram,
    ledger::{self, ByReason, Ledger, Settled},
    outbox::{ChunkId, Fate, Meta},
    row::{Rows, RowsRef},
    settlement::{self, Settlement},
};

/// How often it looks after itself when nothing is asked of it.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// Requests in one transaction, at most: each waits for the commit of all.
const GROUP_MAX: usize = 64;

/// What is dropped by a policy is said at once, and then summed up for so long.
const SAY_DROPPED_EVERY: Duration = Duration::from_secs(60);

/// Pages given back to the file system at a time, so that no request waits long for it.
const GIVE_BACK_PAGES: u32 = 512;

/// Bytes of batches in one transaction, before compression, beyond its first batch: what the reserve has room for.
const GROUP_BYTES_MAX: usize = 2 << 20;

/// On a full disk, room in the file that is left for what is not a chunk, in bytes.
const SLACK_BYTES: u64 = 64 << 10;

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
    reserve: Option<Reserve>,
    /// The reserve is given up: until the disk has room for it again, the file does not grow.
    disk_full: bool,
    data_version: Option<i64>,
    delays: Histogram,
    /// Dropped, by policy, and not yet said.
    dropped: BTreeMap<&'static str, u64>,
    said_dropped: Option<Instant>,
    /// The last of each reason.
    refused: BTreeMap<String, Refused>,
    /// Chunks just stored, the oldest first: see [`FRESH_BYTES_MAX`].
    fresh: VecDeque<(ChunkId, Chunk)>,
    say: Box<dyn Fn(Notice) + Send>,
}

/// A change to the ledger in memory, made once the same change is committed.
type Change = Box<dyn FnOnce(&mut Ledger)>;

/// Chunks, their fate, and who asked.
type Settle = (Vec<ChunkId>, Fate, Reply<Vec<Meta>>);

/// What one transaction leads to once it is committed.
#[derive(Default)]
struct After {
    changes: Vec<Change>,
    notices: Vec<Notice>,
    dropped: Vec<(&'static str, u64)>,
    stored: Vec<Arc<Batch>>,
    fresh: Vec<(ChunkId, Chunk)>,
    written: Option<Ledger>,
    dead_letter_bytes: i64,
    /// Rows that Blueflood stored, and when they came.
    delivered: Vec<(i64, u64)>,
    refused: BTreeMap<String, Refused>,
}

impl After {
    fn settled(&mut self, settled: Settled) {
        self.changes.push(Box::new(move |ledger| ledger.settled(&settled)));
    }

    fn dropped(&mut self, reason: &'static str, rows: u64) {
        if rows > 0 {
            let dropped = ByReason::from([(reason.to_owned(), rows)]);
            self.settled(Settled { dropped, ..Settled::default() });
            self.dropped.push((reason, rows));
        }
    }
}

impl Worker {
    pub(super) fn new(
        options: Options,
        opened: Opened,
        reserve: Option<Reserve>,
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
            reserve,
            disk_full: false,
            data_version: None,
            delays: super::delays(),
            dropped: BTreeMap::new(),
            said_dropped: None,
            refused: BTreeMap::new(),
            fresh: VecDeque::new(),
            say,
        };
        worker.read_counts();
        worker.refused = worker.store.last_dead_letters().unwrap_or_default();
        if let Some(salvage) = salvage {
            (worker.say)(Notice::Salvaged(salvage));
        }
        if worker.reserve.as_ref().is_some_and(|reserve| !reserve.take(false)) {
            worker.disk_is_full();
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
                    let chunks = self.write(|worker, _| worker.load(&chunks));
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
                Request::Configure(policy, reply) => {
                    let Policy { bytes_max, when_full, age_max, dead_letter_bytes_max } = policy;
                    self.options = Options {
                        bytes_max,
                        when_full,
                        age_max,
                        dead_letter_bytes_max,
                        ..self.options.clone()
                    };
                    let _ = reply.send(Ok(()));
                }
                Request::Close(reply) => close = Some(reply),
            }
        }
        self.settle_all(&mut settles);
        self.append_waiting();
        self.show_status();
        let Some(reply) = close else { return false };
        let written = self.write(|worker, after| worker.write_counts(after));
        self.say_dropped();
        let _ = reply.send(written);
        true
    }

    // === Transactions ===

    /// Runs `work` as one transaction, and what follows from it once it is committed. On a disk that turns out to be
    /// full it runs again, in the room that is kept for that.
    fn write<T>(
        &mut self,
        mut work: impl FnMut(&mut Self, &mut After) -> rusqlite::Result<T>,
    ) -> Result<T, SpoolError> {
        loop {
            let mut after = After::default();
            // As `Store::transaction`, but the work may use the sealer too.
            let done = self.store.db().execute_batch("BEGIN IMMEDIATE").and_then(|()| work(self, &mut after));
            let done = done.and_then(|done| self.store.db().execute_batch("COMMIT").map(|()| done));
            let error = match done {
                Ok(done) => {
                    self.follow(after);
                    return Ok(done);
                }
                Err(error) => error,
            };
            // An error may have rolled it back already; then this one says so, and there is nothing to do.
            let _ = self.store.db().execute_batch("ROLLBACK");
            let error = self.failed(&error);
            if !(matches!(error, SpoolError::DiskFull(_)) && self.disk_is_full()) {
                return Err(error);
            }
        }
    }

    /// Gives the reserve up; false if it was given up before.
    fn disk_is_full(&mut self) -> bool {
        let Some(reserve) = self.reserve.as_ref().filter(|_| !self.disk_full) else { return false };
        reserve.give_up();
        // The log may be all that fills the disk. If this fails, so will what comes next, and say so.
        let _ = self.store.checkpoint();
        self.disk_full = true;
        (self.say)(Notice::DiskFull);
        true
    }

    fn look_for_room_on_disk(&mut self) {
        if self.disk_full && self.reserve.as_ref().is_some_and(|reserve| reserve.take(true)) {
            self.disk_full = false;
            (self.say)(Notice::DiskFree);
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
        let now = now_ms();
        for (received_ms, rows) in after.delivered {
            self.delays.observe(now.saturating_sub(received_ms).max(0) as f64 / 1000.0, rows);
        }
        self.refused.extend(after.refused);
        after.notices.into_iter().for_each(|notice| (self.say)(notice));
        for (reason, rows) in after.dropped {
            let sum = self.dropped.entry(reason).or_default();
            *sum = sum.saturating_add(rows);
        }
        self.say_dropped_if_due();
    }

    fn say_dropped_if_due(&mut self) {
        if self.said_dropped.is_none_or(|at| at.elapsed() >= SAY_DROPPED_EVERY) {
            self.say_dropped();
        }
    }

    fn say_dropped(&mut self) {
        for (reason, rows) in std::mem::take(&mut self.dropped) {
            (self.say)(Notice::Dropped { reason, rows });
            self.said_dropped = Some(Instant::now());
        }
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
        // It equals what the file has, or should have, but for the rows in hand, which are in memory only.
        let mut known = self.ledger.snapshot();
        let in_hand = std::mem::take(&mut known.open);
        known.received = known.received.saturating_sub(in_hand);
        match open::set_aside(&path, self.options.sync, SystemTime::now(), error.to_string(), Some(known)) {
            Ok((store, salvage)) => {
                self.store = store;
                // The new file gives the same numbers again.
                self.fresh.clear();
                self.read_counts();
                self.ledger.change(|ledger| {
                    ledger.open = in_hand;
                    ledger.received = ledger.received.saturating_add(in_hand);
                });
                (self.say)(Notice::Salvaged(salvage));
                SpoolError::Replaced
            }
            Err(error) => SpoolError::Disk(error.to_string()),
        }
    }

    // === In ===

    /// Stores the batches that wait, as far as there is room.
    fn append_waiting(&mut self) {
        while !self.waiting.is_empty() {
            let mut bytes: usize = 0;
            let mut fits = |batch: &Arc<Batch>| {
                let first = bytes == 0;
                bytes = bytes.saturating_add(batch.rows.text.len());
                first || bytes <= GROUP_BYTES_MAX
            };
            let group: Vec<_> =
                self.waiting.iter().map(|(batch, _)| batch.clone()).take_while(|batch| fits(batch)).collect();
            let stored = self.write(|worker, after| worker.append(&group, after));
            match stored {
                Ok(metas) => {
                    if metas.is_empty() {
                        let cause = if self.disk_full {
                            "the disk is full"
                        } else {
                            "it is at its cap (--spool_max)"
                        };
                        return self.block(cause.to_owned());
                    }
                    for meta in metas {
                        if let Some((_, reply)) = self.waiting.pop_front() {
                            let _ = reply.send(Ok(meta));
                        }
                    }
                    if self.blocked.take().is_some() {
                        (self.say)(Notice::Unblocked);
                    }
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
            // It may also wait here twice: once more for a collector that was started again.
            if batch.is_stored() || after.stored.iter().any(|stored| Arc::ptr_eq(stored, batch)) {
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
    fn make_room(&self, bytes: usize, after: &mut After) -> rusqlite::Result<bool> {
        let mut bytes_max = self.options.bytes_max.saturating_add(OVERHEAD_BYTES);
        let mut reason = "spool_full";
        if self.disk_full {
            bytes_max = bytes_max.min(self.store.file_bytes()?.saturating_sub(SLACK_BYTES));
            reason = "disk_full";
        }
        let fits = |used: u64| used.saturating_add(bytes as u64) <= bytes_max;
        let mut rows: u64 = 0;
        while !fits(self.store.used_bytes()?) {
            // One chunk larger than the cap is still taken: nothing could leave to make room for it.
            let Some(oldest) = self.store.scan(None, false, 1)?.pop() else { break };
            if self.options.when_full == WhenFull::Block {
                return Ok(false);
            }
            rows = rows.saturating_add(self.store.remove(&[oldest.id])?);
        }
        self.store.count("dropped", reason, rows)?;
        after.dropped(reason, rows);
        Ok(true)
    }

    /// Writes the counts that do not come with a chunk: what was skipped and malformed since the last time.
    fn write_counts(&mut self, after: &mut After) -> rusqlite::Result<()> {
        let now = self.ledger.snapshot();
        let skipped = ledger::since(&now.skipped, &self.written.skipped);
        self.store.count("received", "", ledger::sum(&skipped))?;
        self.store.count_by_reason("skipped", &skipped)?;
        self.store.count_by_reason("malformed", &ledger::since(&now.malformed, &self.written.malformed))?;
        let names = now.names_replaced.saturating_sub(self.written.names_replaced);
        self.store.count("names_replaced", "", names)?;
        after.written = Some(now);
        Ok(())
    }

    // === Out ===

    fn load(&mut self, ids: &[ChunkId]) -> rusqlite::Result<Vec<Chunk>> {
        let mut chunks = Vec::with_capacity(ids.len());
        for &id in ids {
            let fresh =
                self.fresh.iter().position(|&(fresh, _)| fresh == id).and_then(|at| self.fresh.remove(at));
            match fresh {
                // It may have been dropped by policy meanwhile.
                Some((_, chunk)) if self.store.has(id)? => chunks.push(chunk),
                Some(_) => {}
                None => chunks.extend(self.load_one(id)?),
            }
        }
        Ok(chunks)
    }

    /// A chunk that does not read back as it was stored is a damaged file, whatever SQLite thinks of it.
    fn load_one(&self, id: ChunkId) -> rusqlite::Result<Option<Chunk>> {
        match self.store.load(id)? {
            Some(Loaded::Intact(_, chunk)) => Ok(Some(chunk)),
            Some(Loaded::Damaged(_)) => {
                Err(store::damage(format!("chunk {id} does not read back as it was stored")))
            }
            None => Ok(None),
        }
    }

    fn settle_all(&mut self, settles: &mut Vec<Settle>) {
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
            let rows =
                self.store.remove_each(ids, |rows, received_ms| after.delivered.push((received_ms, rows)))?;
            self.store.count("delivered", "", rows)?;
            let unconfirmed = if unconfirmed { rows } else { 0 };
            self.store.count("unconfirmed", "", unconfirmed)?;
            after.settled(Settled { delivered: rows, unconfirmed, ..Settled::default() });
            return Ok(Vec::new());
        }
        let mut rows = Rows::default();
        let mut received_ms = now_ms();
        for &id in ids {
            let Some(chunk) = self.load_one(id)? else { continue };
            let opened = chunk.open().map_err(|damaged| store::damage(format!("chunk {id}: {damaged}")))?;
            rows.append(opened.as_ref());
            received_ms = received_ms.min(self.store.received_ms(id)?.unwrap_or(received_ms));
            self.store.remove(&[id])?;
        }
        let Settlement { delivered, refused, requeued, unmatched } = settlement::settle(rows.as_ref(), fate);
        let mut by_reason = ByReason::new();
        for letter in &refused {
            ledger::add(&mut by_reason, letter.reason, 1);
        }
        let refused_ms = now_ms();
        self.store.add_dead_letters(&refused, ids.first().copied().unwrap_or(0), refused_ms)?;
        after.refused.extend(Refused::last_of(&refused, refused_ms));
        self.store.count("delivered", "", delivered)?;
        after.delivered.push((received_ms, delivered));
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
        // In the same file as the chunks, they must not leave too little room for these.
        let bytes_max = self.options.dead_letter_bytes_max.min(self.options.bytes_max / 4);
        while self.dead_letter_bytes.saturating_add_signed(after.dead_letter_bytes) > bytes_max {
            let Some(bytes) = self.store.discard_oldest_dead_letter()? else { break };
            after.dead_letter_bytes = after.dead_letter_bytes.saturating_sub_unsigned(bytes);
            discarded = discarded.saturating_add(1);
        }
        after.changes.push(Box::new(move |ledger| {
            ledger.dead_letters_discarded = ledger.dead_letters_discarded.saturating_add(discarded);
        }));
        Ok(())
    }

    fn show_status(&mut self) {
        let status = Status {
            used_bytes: self.store.used_bytes().unwrap_or(0),
            newest: self.store.newest().unwrap_or(None),
            oldest_ms: self.store.oldest_ms().unwrap_or(None),
            dead_letter_bytes: self.dead_letter_bytes,
            blocked: self.blocked.clone(),
            delays: self.delays.clone(),
            refused: self.refused.clone(),
        };
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
