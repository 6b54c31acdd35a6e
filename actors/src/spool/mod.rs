//! Owns the spool: every chunk from its sealing until Blueflood has answered for it, with the dead letters and
//! the ledger, in one SQLite file on a thread of its own. It never decides what is sent, and never waits for a
//! socket.
//!
//! Nobody else knows what waits: the thread owns the index of it ([`crate::core::queue`]), and hands out leases.
//!
//! A request is answered after the commit, and requests that wait together are one transaction. A new chunk is kept in
//! memory for up to [`Policy::hold`], at most until its oldest row is [`Policy::unwritten_max`] old. If Blueflood's answer
//! comes first, the chunk is never written; only the ledger is. In the file the ledger is changed in the same transaction
//! as the data, so that the law holds across `kill -9`.
//!
//! Every state that a chunk can be in, and what moves it on: `actors/DESIGN.md`, "The life of a chunk".

pub mod inspect;
pub mod open;
mod reserve;
pub mod store;
mod worker;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use self::{
    open::Place,
    store::{Letters, Sync},
};
use crate::core::{
    chunk::{Chunk, Encoding},
    confirm::{Given, GroupId},
    histogram::Histogram,
    ledger::Ledger,
    outbox::Fate,
    printable::printable,
    queue::{Bounds, ChunkId, Due, Lease, Waiting},
    reason::Dropped,
    row::{Array, Rows},
    settlement::DeadLetter,
};

/// Rows on their way into the spool. It stays in the sender's hand until the spool has it, so that it
/// can be sent again when an actor on the way fails: the spool takes each batch once.
#[derive(Debug)]
pub struct Batch {
    /// The rows; never empty.
    pub rows: Array,
    /// When the oldest of them came, in milliseconds since 1970.
    pub received_ms: i64,
    /// Whether it is due as soon as it is stored: the send interval ended with it.
    pub due: bool,
    /// Whose they are; empty: those of the first tenant that had this spool.
    pub tenant: Arc<str>,
    stored: AtomicBool,
}

impl Batch {
    /// Rows, the oldest of which came at `received_ms`.
    pub fn new(rows: impl Into<Array>, received_ms: i64) -> Self {
        let stored = AtomicBool::new(false);
        Self { rows: rows.into(), received_ms, due: false, tenant: Arc::default(), stored }
    }

    /// The same rows, of a tenant.
    pub fn of(self, tenant: Arc<str>) -> Self {
        Self { tenant, ..self }
    }

    /// The same rows, due at once if `due`.
    pub fn due(self, due: bool) -> Self {
        Self { due, ..self }
    }

    /// Whether the spool has it.
    pub fn is_stored(&self) -> bool {
        self.stored.load(Ordering::Acquire)
    }

    fn set_stored(&self) {
        self.stored.store(true, Ordering::Release);
    }
}

/// What to do when the spool is at its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Drop the oldest chunks, and count them.
    DropOldest,
    /// Let the senders wait.
    Block,
}

/// The settings of a spool.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it is.
    pub place: Place,
    /// What its writes survive.
    pub sync: Sync,
    /// How chunks are kept.
    pub encoding: Encoding,
    /// What may change while it is open.
    pub policy: Policy,
    /// Whether chunks are read newest first.
    pub newest_first: bool,
    /// Whose rows come in now. Each row keeps the tenant that it was taken for.
    pub tenant: String,
}

/// What of a spool's settings may change while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Its cap, in bytes of the file that are in use.
    pub bytes_max: u64,
    /// What to do at the cap.
    pub when_full: WhenFull,
    /// Older chunks are dropped and counted.
    pub age_max: Option<Duration>,
    /// The cap of the dead letters, in bytes of rows and messages. They never take more than a quarter of the spool.
    pub dead_letter_bytes_max: u64,
    /// How long a chunk may wait in memory for Blueflood's answer: one that is answered for in time is never written.
    /// With zero everything is written before it is sent.
    pub hold: Duration,
    /// How long batches may wait for room in memory while Blueflood owes answers, which make that room. Without this pause
    /// one moment in which nothing is answered would have everything written from then on: the writing keeps the
    /// answers waiting.
    pub room_wait: Duration,
    /// The longest that any row may wait for being written, counted from when it came.
    pub unwritten_max: Duration,
}

/// Why the spool could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpoolError {
    /// The disk did not let it: to be tried again later.
    Disk(String),
    /// The disk is full: likewise.
    DiskFull(String),
    /// The file was damaged and has been replaced: all that was known of its chunks is void.
    Replaced,
    /// The spool is closed.
    Closed,
}

impl std::fmt::Display for SpoolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SpoolError::Disk(text) | SpoolError::DiskFull(text) => {
                write!(f, "the spool cannot be written: {text}")
            }
            SpoolError::Replaced => f.write_str("the spool was damaged and has been replaced"),
            SpoolError::Closed => f.write_str("the spool is closed"),
        }
    }
}

impl std::error::Error for SpoolError {}

/// What the spool looks like from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Bytes of the file that are in use.
    pub used_bytes: u64,
    /// When its oldest row came, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
    /// The dead letters.
    pub letters: Letters,
    /// Why it takes nothing now: a full disk, or the cap with `--spool_full block`.
    pub blocked: Option<String>,
    /// The cap in effect: lower than the policy's while the disk is full.
    pub bytes_cap: u64,
    /// While the disk is full: how many rows were dropped for that.
    pub disk_full: Option<u64>,
    /// What is amiss with its file, and could not be mended yet.
    pub amiss: Option<String>,
    /// Since when something is due, and nothing has been leased.
    pub due_since: Option<Instant>,
    /// Since when the oldest datapoint is acknowledged that was not read back.
    pub acknowledged_since: Option<Instant>,
    /// Whether anything waits, due or not.
    pub waits: bool,
    /// Series that were proven bad, whose rows are tried by themselves.
    pub series_apart: Vec<String>,
    /// How often the index of what waits was not what the file holds: anything but 0 is a bug.
    pub audit_failures: u64,
    /// When that was last so, in milliseconds since 1970.
    pub audit_failed_ms: Option<i64>,
    /// How old datapoints were when Blueflood had answered for them.
    pub delays: Histogram,
    /// The last row that Blueflood refused, by reason.
    pub refused: BTreeMap<String, Refused>,
}

/// For so long an index that was wrong, and was made anew, makes the daemon ill.
const AUDIT_AILS_FOR: Duration = Duration::from_secs(3_600);

impl Status {
    /// Whether the index of what waits was wrong of late. It is right again at once: one failure must not be said for
    /// ever.
    pub fn audit_ails(&self, now_ms: i64) -> bool {
        let for_ms = i64::try_from(AUDIT_AILS_FOR.as_millis()).unwrap_or(i64::MAX);
        self.audit_failed_ms.is_some_and(|at| now_ms.saturating_sub(at) < for_ms)
    }
}

/// A row that Blueflood refused, as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The row as it was sent: printable, and cut.
    pub row: String,
    /// Blueflood's words, likewise.
    pub message: String,
    /// When, in milliseconds since 1970.
    pub refused_ms: i64,
}

/// How much of a refused row is shown, in bytes, and how much of Blueflood's words.
const REFUSED_BYTES_SHOWN: usize = 320;

impl Refused {
    fn new(row: &[u8], message: &str, refused_ms: i64) -> Self {
        let message = printable(message.as_bytes(), REFUSED_BYTES_SHOWN);
        Self { row: printable(row, REFUSED_BYTES_SHOWN), message, refused_ms }
    }

    /// The last of each reason.
    fn last_of(letters: &[DeadLetter], refused_ms: i64) -> BTreeMap<String, Self> {
        let last: BTreeMap<_, _> = letters.iter().map(|letter| (letter.reason.label(), letter)).collect();
        let shown = |letter: &DeadLetter| Self::new(&letter.row, &letter.message, refused_ms);
        last.into_iter().map(|(reason, letter)| (reason.to_owned(), shown(letter))).collect()
    }
}

impl Default for Status {
    fn default() -> Self {
        Self {
            used_bytes: 0,
            oldest_ms: None,
            letters: Letters::default(),
            blocked: None,
            bytes_cap: 0,
            disk_full: None,
            amiss: None,
            due_since: None,
            acknowledged_since: None,
            waits: false,
            series_apart: Vec::new(),
            audit_failures: 0,
            audit_failed_ms: None,
            delays: delays(),
            refused: BTreeMap::new(),
        }
    }
}

/// From a tenth of a second, which the shortest intervals allow, to a day's outage.
fn delays() -> Histogram {
    Histogram::new(&[0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0, 3_600.0, 21_600.0, 86_400.0])
}

/// Worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A damaged file was set aside.
    Salvaged(open::Salvage),
    /// A file of an older version was brought up to date.
    Migrated(open::Migrated),
    /// Something is amiss with the file, and cannot be mended for now.
    Amiss(String),
    /// Nothing is amiss any more.
    NotAmiss,
    /// The file or its log was deleted or replaced: all of it was written to a new one.
    Rescued {
        /// What had happened.
        what: String,
        /// Where another spool lies now that had its name.
        set_aside: Option<std::path::PathBuf>,
    },
    /// The lock was removed, and is taken again.
    Locked,
    /// It takes nothing for now.
    Blocked(String),
    /// It takes chunks again.
    Unblocked,
    /// Rows were dropped by a stated policy.
    Dropped {
        /// Which policy.
        reason: Dropped,
        /// How many rows.
        rows: u64,
    },
    /// The disk is full: the spool grows no more, and is treated as one that is at its cap.
    DiskFull,
    /// The disk has room again.
    DiskFree,
    /// An answer of Blueflood named rows that were not in the payload.
    Unattributed {
        /// How many.
        errors: usize,
    },
    /// Dead letters are on their way again.
    Replayed {
        /// How many rows.
        rows: u64,
    },
    /// Datapoints wait for another tenant than those that come in now. They go where they were taken for.
    OfAnotherTenant {
        /// Whose they are.
        tenant: Arc<str>,
        /// How many.
        rows: u64,
        /// Whose those are that come in now.
        now: Arc<str>,
    },
    /// The index of what waits is not what the file holds, or what is due is not sent: it is made anew.
    AuditFailed(String),
}

/// The ledger, shared by all who count: locked for one change at a time, never across a wait.
#[derive(Debug, Clone, Default)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Changes it.
    pub fn change(&self, change: impl FnOnce(&mut Ledger)) {
        // Each change is one step that cannot stop half-way, so a poisoned lock holds a whole ledger.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether it has what a change takes from it.
    fn covers(&self, tally: &crate::core::tally::Tally) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).covers(tally)
    }

    /// It, as it is at this instant.
    pub fn snapshot(&self) -> Ledger {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

type Reply<T> = oneshot::Sender<Result<T, SpoolError>>;

enum Request {
    Append(Arc<Batch>, Reply<bool>),
    Flush(Reply<()>),
    Lease(Ask, Reply<Granted>),
    Load(Vec<ChunkId>, Reply<Bodies>),
    Settle(Vec<ChunkId>, Fate, Reply<Vec<Lease>>),
    Configure(Policy, Reply<()>),
    Tenant(String, Reply<()>),
    Looks(AskLooks, Reply<Looks>),
    Confirm(GroupId, Confirmed, Reply<()>),
    GiveBack(Reply<u64>),
    TakeStock(Reply<()>),
    LastCall(Reply<()>),
    Reindex(String, Reply<()>),
    Close(Reply<()>),
    #[cfg(test)]
    Chunks(Reply<Vec<crate::core::queue::Meta>>),
}

/// What is asked of that which Blueflood acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct AskLooks {
    /// At most so many groups.
    pub groups: usize,
    /// Of those that were acknowledged so long ago.
    pub after: Duration,
}

/// What is to be looked for.
#[derive(Debug)]
pub struct Looks {
    /// The groups, each with its chunks. They are not handed out again before [`Spool::take_stock`].
    pub groups: Vec<(Given, Vec<ChunkId>)>,
    /// Groups beside them that may be looked for now.
    pub left: usize,
    /// When the next one may be.
    pub next_in: Option<Duration>,
}

/// What became of a group that was acknowledged.
#[derive(Debug, Clone)]
pub enum Confirmed {
    /// It is stored.
    Stored,
    /// It is, but for these rows, which wait to be sent again.
    StoredBut(Rows),
    /// All of it waits to be sent again.
    Again,
}

/// What is asked of the queue.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// At most so many payloads.
    pub payloads: usize,
    /// What bounds each. A chunk that is larger is divided.
    pub bounds: Bounds,
    /// What is due.
    pub due: Due,
    /// Of series that are kept apart, instead of all others.
    pub apart: bool,
}

/// Chunks of one tenant.
#[derive(Debug, Default)]
pub struct Bodies {
    /// Whose they are.
    pub tenant: Arc<str>,
    /// They, in the order in which they were asked for.
    pub chunks: Vec<Chunk>,
}

/// One payload that is leased, with the bodies of its chunks.
#[derive(Debug)]
pub struct Payload {
    /// The leases.
    pub leases: Vec<Lease>,
    /// Whose its rows are.
    pub tenant: Arc<str>,
    /// The chunks, in the same order.
    pub chunks: Vec<Chunk>,
    /// Of a series that is kept apart: whether it is proven bad.
    pub apart: Option<bool>,
}

/// What the queue gives.
#[derive(Debug)]
pub struct Granted {
    /// The payloads; fewer than were asked for if no more is due.
    pub payloads: Vec<Payload>,
    /// What waits behind them.
    pub waiting: Waiting,
}

/// Requests in the channel, at most. Its users have a few under way each, so it is never full unless one is wrong.
const REQUESTS_MAX: usize = 1_024;

/// The way to the spool's thread; cheap to clone.
#[derive(Clone)]
pub struct Spool {
    requests: mpsc::SyncSender<Request>,
    name: Arc<str>,
    ledger: SharedLedger,
    status: Arc<Mutex<Status>>,
}

/// The spool's thread.
pub struct SpoolThread(JoinHandle<()>);

impl SpoolThread {
    /// Waits for its end, which [`Spool::close`] brings about; false if it panicked.
    pub fn join(self) -> bool {
        self.0.join().is_ok()
    }
}

impl Spool {
    /// Opens the spool and starts its thread. `say` is called on that thread.
    ///
    /// # Errors
    /// [`open::OpenError`]; a damaged file is none.
    pub fn start(
        options: Options,
        say: impl Fn(Notice) + Send + 'static,
    ) -> Result<(Self, SpoolThread), open::OpenError> {
        let reserve = match &options.place {
            Place::Memory => None,
            Place::File(path) => Some(reserve::Reserve::new(path, options.policy.bytes_max)),
        };
        let open = || open::open(&options.place, options.sync, std::time::SystemTime::now());
        let opened = match open() {
            // A full disk may be all that is wrong.
            Err(open::OpenError::Sqlite { .. })
                if reserve.as_ref().is_some_and(reserve::Reserve::give_up) =>
            {
                open()
            }
            opened => opened,
        }?;
        // The first part of what no other spool is named tells a few daemons apart.
        let uuid = opened.store.uuid().unwrap_or_default();
        let name = uuid.split('-').next().unwrap_or_default().into();
        let (requests, inbox) = mpsc::sync_channel(REQUESTS_MAX);
        let ledger = SharedLedger::default();
        let status = Arc::new(Mutex::new(Status::default()));
        let worker =
            worker::Worker::new(options, opened, reserve, ledger.clone(), status.clone(), Box::new(say));
        let thread = std::thread::Builder::new().name("spool".into()).spawn(move || worker.run(&inbox));
        let thread = thread
            .map_err(|error| open::OpenError::Io { doing: "start the spool's thread".into(), error })?;
        Ok((Self { requests, name, ledger, status }, SpoolThread(thread)))
    }

    /// A short name that no other spool has, or hardly any.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ledger.
    pub fn ledger(&self) -> &SharedLedger {
        &self.ledger
    }

    /// What it looks like from outside.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Seals and stores a batch; answered when it is committed or, with [`Policy::hold`], safe in this thread's hand,
    /// however long the spool is full: whether something may be due now.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn append(&self, batch: Arc<Batch>) -> Result<bool, SpoolError> {
        self.ask(|reply| Request::Append(batch, reply)).await
    }

    /// The send interval is over: what is here is due.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn flush(&self) -> Result<(), SpoolError> {
        self.ask(Request::Flush).await
    }

    /// The next payloads, leased to the caller: who drops a lease gives its chunk back.
    ///
    /// # Errors
    /// [`SpoolError`]; nothing is leased then.
    pub async fn lease(&self, ask: Ask) -> Result<Granted, SpoolError> {
        self.ask(|reply| Request::Lease(ask, reply)).await
    }

    /// Carries out the fate of chunks; the new ones, of rows that need another try, are leased to the caller.
    ///
    /// # Errors
    /// [`SpoolError`]; nothing has changed then.
    pub async fn settle(&self, chunks: Vec<ChunkId>, fate: Fate) -> Result<Vec<Lease>, SpoolError> {
        self.ask(|reply| Request::Settle(chunks, fate, reply)).await
    }

    /// Reads chunks that are leased, in the order given. Those that are gone are left out.
    ///
    /// # Errors
    /// [`SpoolError`]; it is one too if they are not all of one tenant.
    pub async fn load_bodies(&self, chunks: Vec<ChunkId>) -> Result<Bodies, SpoolError> {
        self.ask(|reply| Request::Load(chunks, reply)).await
    }

    #[cfg(test)]
    async fn load(&self, chunks: Vec<ChunkId>) -> Result<Vec<Chunk>, SpoolError> {
        self.load_bodies(chunks).await.map(|bodies| bodies.chunks)
    }

    /// Hands out what Blueflood acknowledged, and what was not read back.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn looks(&self, ask: AskLooks) -> Result<Looks, SpoolError> {
        self.ask(|reply| Request::Looks(ask, reply)).await
    }

    /// Carries out what became of a group that was acknowledged.
    ///
    /// # Errors
    /// [`SpoolError`]; nothing has changed then.
    pub async fn confirm(&self, group: GroupId, confirmed: Confirmed) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Confirm(group, confirmed, reply)).await
    }

    /// All that Blueflood acknowledged waits to be sent again; how many rows.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn give_back(&self) -> Result<u64, SpoolError> {
        self.ask(Request::GiveBack).await
    }

    /// Nobody has any of what was handed out by [`Spool::looks`].
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn take_stock(&self) -> Result<(), SpoolError> {
        self.ask(Request::TakeStock).await
    }

    /// The daemon stops: from now on the cap does not count, so that what is in hand is kept.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn last_call(&self) -> Result<(), SpoolError> {
        self.ask(Request::LastCall).await
    }

    /// The index of what waits is wrong, for the reason that is given: it is made anew out of the file.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn reindex(&self, why: String) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Reindex(why, reply)).await
    }

    /// Every chunk that is here.
    #[cfg(test)]
    async fn chunks(&self) -> Result<Vec<crate::core::queue::Meta>, SpoolError> {
        self.ask(Request::Chunks).await
    }

    /// Goes on by other rules.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn configure(&self, policy: Policy) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Configure(policy, reply)).await
    }

    /// Rows that come in from now on are another tenant's. It says how many wait for others.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn set_tenant(&self, tenant: String) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Tenant(tenant, reply)).await
    }

    /// Writes what is not written yet, and ends the thread.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn close(&self) -> Result<(), SpoolError> {
        self.ask(Request::Close).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        match self.requests.try_send(request(reply)) {
            Ok(()) => answer.await.unwrap_or(Err(SpoolError::Closed)),
            Err(mpsc::TrySendError::Full(_)) => Err(SpoolError::Disk("too many requests wait for it".into())),
            Err(mpsc::TrySendError::Disconnected(_)) => Err(SpoolError::Closed),
        }
    }
}

#[cfg(test)]
mod tests;
