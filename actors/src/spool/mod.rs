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
mod status;
pub mod store;
mod vocabulary;
mod worker;

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};

use tokio::sync::oneshot;

use self::{
    open::Place,
    vocabulary::{Reply, Request},
};
pub use self::{
    status::{Refused, SharedLedger, Status},
    vocabulary::{
        Ask, AskLooks, Batch, Bodies, Confirmed, Granted, Looks, Notice, Options, Payload, Policy,
        SpoolError, WhenFull,
    },
};
#[cfg(test)]
use crate::core::chunk::Chunk;
use crate::core::{
    confirm::GroupId,
    outbox::Fate,
    queue::{ChunkId, Lease},
};

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
