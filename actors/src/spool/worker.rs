//! Owns the spool's thread: which requests share a transaction, what follows a commit, and what is done when the
//! disk is full or the file is damaged. It never decides what is sent.

mod fresh;
mod incoming;
mod outgoing;
mod upkeep;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use self::fresh::{Fresh, Kept};
use super::{
    Batch, Notice, Options, Refused, Reply, Request, SharedLedger, SpoolError, Status, WhenFull,
    open::{self, Known, Opened, Place},
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
    fresh: Fresh,
    /// The highest number that a chunk has.
    last_id: ChunkId,
    /// What was delivered out of memory, and is not yet counted in the file.
    unwritten: Unwritten,
    /// What the file looked like, and whether it has changed since.
    file: FileStatus,
    changed: bool,
    say: Box<dyn Fn(Notice) + Send>,
}

/// A change to the ledger in memory, made once the same change is committed.
type Change = Box<dyn FnOnce(&mut Ledger)>;

/// Chunks, their fate, and who asked.
type Settle = (Vec<ChunkId>, Fate, Reply<Vec<Meta>>);

/// Rows of chunks that Blueflood had answered for before they had to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Unwritten {
    delivered: u64,
    unconfirmed: u64,
}

/// What the status says of the file.
#[derive(Debug, Clone, Copy, Default)]
struct FileStatus {
    used_bytes: u64,
    newest: Option<ChunkId>,
    oldest_ms: Option<i64>,
}

/// What one transaction leads to once it is committed.
#[derive(Default)]
struct After {
    changes: Vec<Change>,
    notices: Vec<Notice>,
    dropped: Vec<(&'static str, u64)>,
    stored: Vec<Arc<Batch>>,
    fresh: Vec<Kept>,
    /// Chunks that were held, and are in the file now.
    written_chunks: Vec<ChunkId>,
    /// Chunks that were held, and need not be.
    forgotten: Vec<ChunkId>,
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
            fresh: Fresh::default(),
            last_id: 0,
            unwritten: Unwritten::default(),
            file: FileStatus::default(),
            changed: true,
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
        self.last_id = self.last_id.max(self.store.last_id().unwrap_or(0));
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
            // What cannot be written now is tried again by the upkeep.
            let due = self.fresh.next_due().filter(|_| self.blocked.is_none());
            if due.is_some_and(|due| now >= due) {
                self.write_due();
            }
            let wake_at = due.map_or(upkeep_at, |due| due.min(upkeep_at));
            match inbox.recv_timeout(wake_at.saturating_duration_since(now)) {
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
                    let held = chunks.iter().all(|&id| self.fresh.get_held(id).is_some());
                    let load = |worker: &mut Self| worker.load(&chunks);
                    // Without a transaction what is held costs nothing but this.
                    let chunks = match held.then(|| load(self)) {
                        Some(Ok(chunks)) => Ok(chunks),
                        _ => self.write(|worker, _| load(worker)),
                    };
                    let _ = reply.send(chunks);
                }
                Request::Scan(from, max, reply) => {
                    self.settle_all(&mut settles);
                    self.append_waiting();
                    let _ = reply.send(self.write(|worker, _| worker.scan(from, max)));
                }
                Request::Newest(reply) => {
                    self.settle_all(&mut settles);
                    self.append_waiting();
                    let _ = reply.send(self.write(|worker, _| worker.newest()));
                }
                Request::Configure(policy, reply) => {
                    self.options.policy = policy;
                    if policy.hold.is_zero() {
                        self.write_held(|_| true);
                    }
                    let _ = reply.send(Ok(()));
                }
                Request::Close(reply) => close = Some(reply),
            }
        }
        self.settle_all(&mut settles);
        self.append_waiting();
        self.show_status();
        let Some(reply) = close else { return false };
        self.write_last();
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
                    self.changed = true;
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
        after.fresh.into_iter().for_each(|kept| self.fresh.keep(kept));
        after.written_chunks.into_iter().for_each(|id| self.fresh.written(id));
        for id in after.forgotten {
            self.fresh.remove(id);
        }
        if let Some(written) = after.written {
            self.written = written;
            self.unwritten = Unwritten::default();
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
        // It equals what the file has, or should have, but for the rows in hand and the chunks that are held, which
        // are in memory only.
        let mut known = self.ledger.snapshot();
        let in_hand = std::mem::take(&mut known.open);
        let held = self.fresh.held_rows();
        known.spooled = known.spooled.saturating_sub(held);
        known.received = known.received.saturating_sub(in_hand).saturating_sub(held);
        let known = Known { ledger: known, last_id: self.last_id };
        match open::set_aside(&path, self.options.sync, SystemTime::now(), error.to_string(), Some(known)) {
            Ok((store, salvage)) => {
                self.store = store;
                self.unwritten = Unwritten::default();
                self.read_counts();
                self.fresh.renumber(Instant::now(), &mut self.last_id);
                self.ledger.change(|ledger| {
                    ledger.open = in_hand;
                    ledger.spooled = ledger.spooled.saturating_add(held);
                    ledger.received = ledger.received.saturating_add(in_hand).saturating_add(held);
                });
                (self.say)(Notice::Salvaged(salvage));
                SpoolError::Replaced
            }
            Err(error) => SpoolError::Disk(error.to_string()),
        }
    }

    fn show_status(&mut self) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut self.changed) {
            self.file = FileStatus {
                used_bytes: self.store.used_bytes().unwrap_or(0),
                newest: self.store.newest().unwrap_or(None),
                oldest_ms: self.store.oldest_ms().unwrap_or(None),
            };
        }
        let FileStatus { used_bytes, newest, oldest_ms } = self.file;
        let held = |kept: Option<&Kept>| kept.map(|kept| (kept.id, kept.received_ms));
        *status = Status {
            used_bytes: used_bytes.saturating_add(self.fresh.held_bytes() as u64),
            newest: newest.max(held(self.fresh.held().next_back()).map(|(id, _)| id)),
            oldest_ms: oldest_ms.or(held(self.fresh.held().next()).map(|(_, received_ms)| received_ms)),
            dead_letter_bytes: self.dead_letter_bytes,
            blocked: self.blocked.clone(),
            delays: self.delays.clone(),
            refused: self.refused.clone(),
        };
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
