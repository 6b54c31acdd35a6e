//! Owns the spool's thread: which requests share a transaction, what follows a commit, and what is done when the
//! disk is full or the file is damaged. It never decides what is sent.
//!
//! | module | holds |
//! | --- | --- |
//! | `incoming` | batches become chunks, in the file or held; `drop-oldest` and `block` when there is no room |
//! | `fresh` | the chunks in memory, those that are held among them |
//! | `outgoing` | leases with their bodies, and the fate of what was sent |
//! | `acknowledged` | what Blueflood acknowledged and nobody has read back |
//! | `lanes` | whose the rows are |
//! | `upkeep` | each second: `--max_age`, dead letters that come back, unused pages, the audit |
//! | `disk` | a full disk |
//! | `watch` | a file that has lost its name, or cannot be read or written |
//! | `episode` | whether something that comes and goes was said already |

mod acknowledged;
mod disk;
mod episode;
mod fresh;
mod incoming;
mod lanes;
mod outgoing;
mod upkeep;
mod watch;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use self::{
    acknowledged::Acknowledged,
    episode::Episode,
    fresh::{Fresh, Kept},
    lanes::Lanes,
    watch::Watch,
};
use super::{
    Batch, Notice, Options, Refused, SharedLedger, SpoolError, Status,
    open::{self, Opened},
    reserve::{FullDisk, Reserve},
    store::{self, Letters, Store},
    vocabulary::{Reply, Request},
};
use crate::core::{
    chunk::Sealer,
    histogram::Histogram,
    ledger::Ledger,
    outbox::Fate,
    printable::printable,
    queue::{Bounds, ChunkId, Due, Lease, Meta, Queue},
    reason::Dropped,
    tally::{Place as Where, Tally},
};

/// How often it looks after itself when nothing is asked of it.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// Requests in one transaction, at most: each waits for the commit of all.
const GROUP_MAX: usize = 64;

/// What is dropped by a policy is said at once, and then summed up for so long.
const SAY_DROPPED_EVERY: Duration = Duration::from_secs(60);

/// How often a transaction is run again on a disk that is full.
const FULL_TRIES: u32 = 2;

/// How often the index of what waits is counted again, at most: it may take a thousandth of the time. A test has no minute
/// to wait.
const AUDIT_EVERY: Duration = Duration::from_secs(if cfg!(feature = "faults") { 1 } else { 60 });

/// How much of the name of a series is shown, in bytes.
const SERIES_BYTES_SHOWN: usize = 200;

pub(super) struct Worker {
    options: Options,
    store: Store,
    /// Held for as long as the spool is ours.
    lock: Option<File>,
    sealer: Sealer,
    lanes: Lanes,
    ledger: SharedLedger,
    /// What the file has of the counts that do not come with a chunk.
    written: Ledger,
    status: Arc<Mutex<Status>>,
    letters: Letters,
    /// Batches that wait for room.
    waiting: VecDeque<(Arc<Batch>, Reply<bool>)>,
    /// Since when they wait for room in memory.
    crowded_since: Option<Instant>,
    blocked: Option<String>,
    reserve: Option<Reserve>,
    /// The reserve is given up: until the disk has room for it again, the file does not grow.
    full: Option<FullDisk>,
    /// Rows that were dropped since the disk was said to be full.
    dropped_for_disk: u64,
    disk_said: Episode,
    blocked_said: Episode,
    watch: Watch,
    data_version: Option<i64>,
    delays: Histogram,
    /// Dropped, by policy, and not yet said.
    dropped: BTreeMap<Dropped, u64>,
    said_dropped: Option<Instant>,
    /// The last of each reason.
    refused: BTreeMap<String, Refused>,
    fresh: Fresh,
    /// What waits, and what is leased.
    queue: Queue,
    /// What waits to be read back.
    acknowledged: Acknowledged,
    /// The bounds that were asked with last.
    bounds: Bounds,
    /// Since when something is due, and nothing has been leased.
    due_since: Option<Instant>,
    audit_at: Instant,
    audit_failures: u64,
    audit_failed_ms: Option<i64>,
    /// The highest number that a chunk has.
    last_id: ChunkId,
    /// What was settled out of memory, and is not yet counted in the file.
    unwritten: Tally,
    /// The daemon stops: the cap does not count any more.
    last_call: bool,
    /// What the file looked like, and whether it has changed since.
    file: FileStatus,
    changed: bool,
    say: Box<dyn Fn(Notice) + Send>,
}

/// Chunks, their fate, and who asked.
type Settle = (Vec<ChunkId>, Fate, Reply<Vec<Lease>>);

/// What the status says of the file.
#[derive(Debug, Clone, Copy, Default)]
struct FileStatus {
    used_bytes: u64,
    oldest_ms: Option<i64>,
}

/// A chunk that is new in the queue.
struct Added {
    meta: Meta,
    /// Whether it is due at once.
    due: bool,
    /// The series that it is kept apart for.
    series: Option<Arc<[u8]>>,
}

/// Whether batches may wait for room in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    MayCome,
    /// No longer: they are taken at once.
    Waited,
}

/// What one transaction leads to once it is committed.
#[derive(Default)]
struct After {
    /// What changes in the ledger, in the file and in memory.
    tally: Tally,
    /// What changes in the file only, for memory knows it already.
    late: Tally,
    notices: Vec<Notice>,
    dropped: Vec<(Dropped, u64)>,
    stored: Vec<Arc<Batch>>,
    fresh: Vec<Kept>,
    added: Vec<Added>,
    /// Chunks whose way has ended.
    settled: Vec<ChunkId>,
    /// Chunks that Blueflood acknowledged, in groups, and whether each row of them is to be looked for.
    acknowledged: Vec<(Vec<Meta>, bool)>,
    /// Of those that were acknowledged, the ones that wait again.
    waits_again: Vec<ChunkId>,
    /// Series of which a row passed.
    passed: Vec<Arc<[u8]>>,
    /// Series of which a row was proven bad.
    refused_series: Vec<Vec<u8>>,
    /// Chunks that were held, and are in the file now.
    written_chunks: Vec<ChunkId>,
    written: Option<Ledger>,
    /// The dead letters, if they are others now.
    letters: Option<Letters>,
    /// Rows that Blueflood stored, and when they came.
    delivered: Vec<(i64, u64)>,
    refused: BTreeMap<String, Refused>,
}

impl After {
    fn dropped(&mut self, reason: Dropped, rows: u64) {
        if rows > 0 {
            self.tally.add(Where::Spooled, Where::Dropped(reason), rows);
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
        let queue = Queue::new(options.newest_first, 0);
        let lanes = Lanes::read(&store, &options.tenant);
        let mut worker = Self {
            options,
            store,
            lock,
            sealer,
            lanes,
            ledger,
            written: Ledger::default(),
            status,
            letters: Letters::default(),
            waiting: VecDeque::new(),
            crowded_since: None,
            blocked: None,
            reserve,
            full: None,
            dropped_for_disk: 0,
            disk_said: Episode::default(),
            blocked_said: Episode::default(),
            watch: Watch::default(),
            data_version: None,
            delays: super::status::delays(),
            dropped: BTreeMap::new(),
            said_dropped: None,
            refused: BTreeMap::new(),
            fresh: Fresh::default(),
            queue,
            acknowledged: Acknowledged::default(),
            bounds: Bounds { rows_max: u32::MAX, bytes_max: usize::MAX },
            due_since: None,
            audit_at: Instant::now() + AUDIT_EVERY,
            audit_failures: 0,
            audit_failed_ms: None,
            last_id: 0,
            unwritten: Tally::default(),
            last_call: false,
            file: FileStatus::default(),
            changed: true,
            say,
        };
        // `open` has read all of it before, so an error here can only pass.
        worker.read_counts();
        let written = worker.written.clone();
        worker.ledger.change(|ledger| *ledger = written);
        worker.queue.forget(worker.last_id);
        worker.acknowledged.replace(worker.store.acknowledged().unwrap_or_default());
        worker.refused = worker.store.last_dead_letters().unwrap_or_default();
        if let Some(migrated) = worker.store.migrated() {
            (worker.say)(Notice::Migrated(migrated.clone()));
        }
        if let Some(salvage) = salvage {
            (worker.say)(Notice::Salvaged(salvage));
        }
        worker.bound_log();
        if worker.reserve.as_ref().is_some_and(|reserve| !reserve.take(false)) {
            worker.disk_is_full();
        }
        worker.say_of_other_tenants();
        worker
    }

    /// Reads what the file counts.
    fn read_counts(&mut self) {
        self.letters = self.store.letters().unwrap_or_default();
        self.written = self.store.ledger().unwrap_or_default();
        self.last_id = self.last_id.max(self.store.last_id().unwrap_or(0));
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
            let crowded = self.crowded_until();
            if crowded.is_some_and(|until| now >= until) {
                self.crowded_since = None;
                self.append_waiting(Room::Waited);
            }
            let wake_at = due.into_iter().chain(crowded).fold(upkeep_at, Instant::min);
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
        // First, and in one transaction: what is read or leased must not be older than what was asked before it.
        let mut settles = Vec::new();
        let others: Vec<_> = group
            .into_iter()
            .filter_map(|request| match request {
                Request::Settle(chunks, fate, reply) => {
                    settles.push((chunks, fate, reply));
                    None
                }
                other => Some(other),
            })
            .collect();
        self.settle_all(settles);
        for request in others {
            match request {
                Request::Append(batch, reply) => self.waiting.push_back((batch, reply)),
                // See above.
                Request::Settle(..) => {}
                Request::Flush(reply) => {
                    self.append_waiting(Room::Waited);
                    self.queue.flushed(self.last_id);
                    let _ = reply.send(Ok(()));
                }
                Request::Lease(ask, reply) => {
                    // Not after the batches that came with it: Blueflood must not wait until they are sealed and written.
                    let _ = reply.send(self.grant(&ask));
                }
                Request::Load(chunks, reply) => {
                    let loaded = self.read(|worker| worker.load(&chunks));
                    let _ = reply.send(loaded.and_then(|chunks| self.of_one_tenant(chunks)));
                }
                Request::Looks(ask, reply) => {
                    let _ = reply.send(Ok(self.hand_out(&ask)));
                }
                Request::Confirm(group, confirmed, reply) => {
                    let _ = reply.send(self.confirm(group, &confirmed));
                }
                Request::GiveBack(reply) => {
                    let _ = reply.send(self.all_waits_again());
                }
                Request::TakeStock(reply) => {
                    self.take_stock();
                    let _ = reply.send(Ok(()));
                }
                Request::Configure(policy, reply) => {
                    self.options.policy = policy;
                    if policy.hold.is_zero() {
                        self.write_held(|_| true);
                    }
                    let _ = reply.send(Ok(()));
                }
                Request::Tenant(tenant, reply) => {
                    self.set_tenant(tenant);
                    let _ = reply.send(Ok(()));
                }
                Request::LastCall(reply) => {
                    self.last_call = true;
                    self.append_waiting(Room::Waited);
                    let _ = reply.send(Ok(()));
                }
                Request::Reindex(why, reply) => {
                    self.reindex(why);
                    let _ = reply.send(Ok(()));
                }
                #[cfg(test)]
                Request::Chunks(reply) => {
                    self.append_waiting(Room::MayCome);
                    let _ = reply.send(self.read(Self::chunks));
                }
                Request::Close(reply) => close = Some(reply),
            }
        }
        self.append_waiting(Room::MayCome);
        self.show_status();
        let Some(reply) = close else { return false };
        self.last_call = true;
        self.append_waiting(Room::Waited);
        self.write_held(|_| true);
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
        if let Some(shut) = &self.watch.shut {
            return Err(SpoolError::Disk(shut.clone()));
        }
        let mut tries: u32 = 0;
        loop {
            let mut after = After::default();
            // As `Store::transaction`, but the work may use the sealer too.
            let done = self.store.db().execute_batch("BEGIN IMMEDIATE").and_then(|()| work(self, &mut after));
            let done = done.and_then(|done| {
                if !self.ledger.covers(&after.tally) {
                    return Err(store::damage("a number of rows is not what was stored"));
                }
                self.store.apply(&after.tally)?;
                self.store.apply(&after.late)?;
                self.store.db().execute_batch("COMMIT").map(|()| done)
            });
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
            if !matches!(error, SpoolError::DiskFull(_)) || tries >= FULL_TRIES || self.reserve.is_none() {
                return Err(error);
            }
            tries = tries.saturating_add(1);
            self.disk_is_full();
        }
    }

    /// Runs `work`, which only reads the file.
    fn read<T>(&mut self, mut work: impl FnMut(&mut Self) -> rusqlite::Result<T>) -> Result<T, SpoolError> {
        work(self).map_err(|error| self.failed(&error))
    }

    fn follow(&mut self, after: After) {
        self.ledger.change(|ledger| ledger.apply(&after.tally));
        for id in after.settled {
            self.queue.settled(id);
            self.fresh.remove(id);
            self.acknowledged.remove(id);
        }
        for (metas, whole) in after.acknowledged {
            for meta in &metas {
                self.queue.settled(meta.id);
                self.fresh.set_acknowledged(meta.id, Some(whole));
            }
            self.acknowledged.add(metas, whole);
        }
        for id in after.waits_again {
            self.fresh.set_acknowledged(id, None);
            self.acknowledged.remove(id);
        }
        after.passed.iter().for_each(|series| self.queue.passed(series));
        after.refused_series.iter().for_each(|series| self.queue.refused(series, self.last_id));
        for Added { meta, due, series } in after.added {
            match series {
                Some(series) => self.queue.added_apart(meta, series),
                None => self.queue.added(meta, due),
            }
        }
        after.stored.iter().for_each(|batch| batch.set_stored());
        after.fresh.into_iter().for_each(|kept| self.fresh.keep(kept));
        after.written_chunks.into_iter().for_each(|id| self.fresh.written(id));
        if let Some(written) = after.written {
            self.written = written;
            self.lanes.first_is_written = true;
            self.unwritten = Tally::default();
        }
        self.letters = after.letters.unwrap_or(self.letters);
        let now = now_ms();
        for (received_ms, rows) in after.delivered {
            self.delays.observe(now.saturating_sub(received_ms).max(0) as f64 / 1000.0, rows);
        }
        self.refused.extend(after.refused);
        after.notices.into_iter().for_each(|notice| (self.say)(notice));
        for (reason, rows) in after.dropped {
            let sum = self.dropped.entry(reason).or_default();
            *sum = sum.saturating_add(rows);
            if reason == Dropped::DiskFull {
                self.dropped_for_disk = self.dropped_for_disk.saturating_add(rows);
            }
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
        if open::is_damage(error) {
            return self.damaged(error.to_string());
        }
        self.watch.disk_failed(error.to_string());
        SpoolError::Disk(error.to_string())
    }

    fn show_status(&mut self) {
        let bytes_cap = self.cap_shown();
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut self.changed) {
            self.file = FileStatus {
                used_bytes: self.store.used_bytes().unwrap_or(0),
                oldest_ms: self.store.oldest_ms().unwrap_or(None),
            };
        }
        let FileStatus { used_bytes, oldest_ms } = self.file;
        let waiting = self.queue.waiting(self.bounds, Due::Flushed);
        self.due_since = if waiting.due { self.due_since.or_else(|| Some(Instant::now())) } else { None };
        *status = Status {
            used_bytes: used_bytes.saturating_add(self.fresh.held_bytes() as u64),
            oldest_ms: oldest_ms.or(self.fresh.held().next().map(|kept| kept.received_ms)),
            letters: self.letters,
            blocked: self.blocked.clone(),
            bytes_cap,
            disk_full: self.full.map(|_| self.dropped_for_disk),
            amiss: self.watch.amiss(),
            due_since: self.due_since,
            acknowledged_since: self.acknowledged.since(),
            waits: waiting.any,
            series_apart: self.queue.series_apart().map(|name| printable(name, SERIES_BYTES_SHOWN)).collect(),
            audit_failures: self.audit_failures,
            audit_failed_ms: self.audit_failed_ms,
            delays: self.delays.clone(),
            refused: self.refused.clone(),
        };
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
