//! Owns the spool: every chunk from its sealing until Blueflood has answered for it, with the dead letters and
//! the ledger, in one SQLite file on a thread of its own. It never decides what is sent, and never waits for a
//! socket.
//!
//! A request is answered after the commit, and requests that wait together are one transaction. Only a new chunk may
//! be held in memory for a moment ([`Policy::hold`]), never longer than a row may wait unwritten anyway: Blueflood
//! often answers first, and then it is only counted. In the file the ledger is changed in the same transaction as the
//! data, so that the law holds across `kill -9`.

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
    time::Duration,
};

use tokio::sync::oneshot;

use self::{open::Place, store::Sync};
use crate::core::{
    chunk::{Chunk, Encoding},
    histogram::Histogram,
    ledger::Ledger,
    outbox::{ChunkId, Fate, Meta},
    printable::printable,
    row::Array,
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
    stored: AtomicBool,
}

impl Batch {
    /// Rows, the oldest of which came at `received_ms`.
    pub fn new(rows: impl Into<Array>, received_ms: i64) -> Self {
        Self { rows: rows.into(), received_ms, stored: AtomicBool::new(false) }
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
    /// Its newest chunk.
    pub newest: Option<ChunkId>,
    /// When its oldest row came, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
    /// Bytes of rows and messages in the dead letters.
    pub dead_letter_bytes: u64,
    /// Why it takes nothing now: a full disk, or the cap with `--spool_full block`.
    pub blocked: Option<String>,
    /// How old datapoints were when Blueflood had answered for them.
    pub delays: Histogram,
    /// The last row that Blueflood refused, by reason.
    pub refused: BTreeMap<String, Refused>,
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
        let last: BTreeMap<_, _> = letters.iter().map(|letter| (letter.reason, letter)).collect();
        let shown = |letter: &DeadLetter| Self::new(&letter.row, &letter.message, refused_ms);
        last.into_iter().map(|(reason, letter)| (reason.to_owned(), shown(letter))).collect()
    }
}

impl Default for Status {
    fn default() -> Self {
        Self {
            used_bytes: 0,
            newest: None,
            oldest_ms: None,
            dead_letter_bytes: 0,
            blocked: None,
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
    /// It takes nothing for now.
    Blocked(String),
    /// It takes chunks again.
    Unblocked,
    /// Rows were dropped by a stated policy.
    Dropped {
        /// Which policy: the `reason` in the ledger.
        reason: &'static str,
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

    /// It, as it is at this instant.
    pub fn snapshot(&self) -> Ledger {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

type Reply<T> = oneshot::Sender<Result<T, SpoolError>>;

enum Request {
    Append(Arc<Batch>, Reply<Option<Meta>>),
    Settle(Vec<ChunkId>, Fate, Reply<Vec<Meta>>),
    Load(Vec<ChunkId>, Reply<Vec<Chunk>>),
    Scan(Option<ChunkId>, usize, Reply<Vec<Meta>>),
    Newest(Reply<Option<ChunkId>>),
    Configure(Policy, Reply<()>),
    Close(Reply<()>),
}

/// Requests in the channel, at most. Its users have a few under way each, so it is never full unless one is wrong.
const REQUESTS_MAX: usize = 1_024;

/// The way to the spool's thread; cheap to clone.
#[derive(Clone)]
pub struct Spool {
    requests: mpsc::SyncSender<Request>,
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
        let (requests, inbox) = mpsc::sync_channel(REQUESTS_MAX);
        let ledger = SharedLedger::default();
        let status = Arc::new(Mutex::new(Status::default()));
        let worker =
            worker::Worker::new(options, opened, reserve, ledger.clone(), status.clone(), Box::new(say));
        let thread = std::thread::Builder::new().name("spool".into()).spawn(move || worker.run(&inbox));
        let thread = thread
            .map_err(|error| open::OpenError::Io { doing: "start the spool's thread".into(), error })?;
        Ok((Self { requests, ledger, status }, SpoolThread(thread)))
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
    /// however long the spool is full. `None` if it was stored before.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn append(&self, batch: Arc<Batch>) -> Result<Option<Meta>, SpoolError> {
        self.ask(|reply| Request::Append(batch, reply)).await
    }

    /// Carries out the fate of chunks; the new ones, of rows that need another try.
    ///
    /// # Errors
    /// [`SpoolError`]; nothing has changed then.
    pub async fn settle(&self, chunks: Vec<ChunkId>, fate: Fate) -> Result<Vec<Meta>, SpoolError> {
        self.ask(|reply| Request::Settle(chunks, fate, reply)).await
    }

    /// Reads chunks, in the order given. Those that are gone or damaged are left out.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn load(&self, chunks: Vec<ChunkId>) -> Result<Vec<Chunk>, SpoolError> {
        self.ask(|reply| Request::Load(chunks, reply)).await
    }

    /// Chunks beyond `from` in the order of the catch-up, at most `max`.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn scan(&self, from: Option<ChunkId>, max: usize) -> Result<Vec<Meta>, SpoolError> {
        self.ask(|reply| Request::Scan(from, max, reply)).await
    }

    /// The newest chunk.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn newest(&self) -> Result<Option<ChunkId>, SpoolError> {
        self.ask(Request::Newest).await
    }

    /// Goes on by other rules.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn configure(&self, policy: Policy) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Configure(policy, reply)).await
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
