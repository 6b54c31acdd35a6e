//! Owns the words in which the spool is spoken to: its settings, what it is asked, what it answers, and what it has to
//! say. It never does any of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    open::{Migrated, Place, Salvage},
    store::Durability,
};
use crate::core::{
    chunk::{Chunk, Encoding},
    confirm::{Given, GroupId},
    outbox::Fate,
    queue::{Bounds, ChunkId, Due, Lease, Waiting},
    reason::Dropped,
    row::{Array, Rows},
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

    pub(super) fn set_stored(&self) {
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
    pub sync: Durability,
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

/// Worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A damaged file was set aside.
    Salvaged(Salvage),
    /// A file of an older version was brought up to date.
    Migrated(Migrated),
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
    /// The groups, each with its chunks. They are not handed out again before [`super::Spool::take_stock`].
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

pub(super) type Reply<T> = oneshot::Sender<Result<T, SpoolError>>;

/// What the thread is asked, each with where the answer goes.
pub(super) enum Request {
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
