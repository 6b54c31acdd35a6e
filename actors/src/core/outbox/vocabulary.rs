//! Owns the words that the outbox and the actor around it speak: what happened, what is to be done, what is worth
//! telling. It never decides anything.

use std::time::Duration;

pub use crate::core::queue::{Bounds, ChunkId, Due, Lease, Meta, Waiting};
use crate::core::{
    backoff::Backoff,
    blueflood::{RowError, Verdict},
    reason::Refused,
};

/// Time since some fixed moment of this process, on a clock that never jumps.
pub type Now = Duration;

/// A parcel's number, or a trial's, of this process only.
pub type ParcelId = u64;

/// What bounds the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest payload, in bytes before compression.
    pub payload_bytes_max: usize,
    /// The most rows in a payload.
    pub payload_rows_max: u32,
    /// The most payloads in flight.
    pub in_flight_max: u32,
    /// How long the gate, and a parcel set aside, wait.
    pub backoff: Backoff,
    /// Whether there are credentials, so that a 401 can be mended by a new token.
    pub authenticates: bool,
}

/// What was leased for one payload.
#[derive(Debug)]
pub struct Leased {
    /// Its chunks, in the order in which they are sent; never none.
    pub chunks: Vec<Lease>,
    /// If they hold rows of a series that is kept apart: whether the series is proven bad, so that its rows are judged
    /// together.
    pub apart: Option<bool>,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// Something may be due now. One that is lost costs a tick, for then the outbox asks anyway.
    Poke,
    /// What [`Action::Lease`] asked for, and what still waits.
    Leased {
        /// For how many was asked.
        asked: usize,
        /// The payloads; fewer than were asked for if no more is due.
        payloads: Vec<Leased>,
        /// What waits behind them.
        waiting: Waiting,
    },
    /// The spool could not be read: it is asked again at the next tick.
    NotLeased {
        /// For how many payloads was asked.
        asked: usize,
    },
    /// A POST came to an end.
    Answered {
        /// Which parcel, or which trial.
        parcel: ParcelId,
        /// What it came to.
        verdict: Verdict,
        /// From its start.
        took: Duration,
    },
    /// A POST was never made: there is no token for it.
    NotSent {
        /// Which parcel, or which trial.
        parcel: ParcelId,
        /// What stands in the way.
        cause: String,
        /// When there may be a token.
        retry_in: Duration,
    },
    /// The spool has carried out [`Action::Settle`]; these chunks are new, made of rows that need another try, and leased.
    Settled {
        /// Which.
        parcel: ParcelId,
        /// To be sent by themselves.
        pieces: Vec<Lease>,
    },
    /// The spool could not carry out [`Action::Settle`]: nothing has changed, and it is told again.
    NotSettled {
        /// Which.
        parcel: ParcelId,
    },
    /// The spool could not read the chunks for another try, or has them no more.
    NotLoaded {
        /// Which parcel, or which trial.
        parcel: ParcelId,
    },
    /// The daemon stops: all that is here is due.
    Drain,
    /// The time for deliveries is nearly over: nothing more leaves, and what is in flight is waited for.
    Halt,
    /// What kept payloads from leaving is gone, as where Keystone gives tokens again: nothing need wait for its time.
    Mended,
    /// The settings are others now.
    Configured(Limits),
    /// Whether what Blueflood acknowledges is read back, and whether it may be sent anything.
    Standing(Standing),
    /// Time has passed.
    Tick,
}

/// What those say who read back what Blueflood acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Whether an answer that takes a payload is not the end of it.
    pub confirms: bool,
    /// Whether its rows themselves are looked for, so that it does not matter whether the answer is sure.
    pub reads: bool,
    /// Nothing may be sent for now.
    pub holds: bool,
    /// Why, where it is Blueflood's fault: what it says cannot be believed.
    pub doubt: Option<String>,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask the spool for the next payloads.
    Lease {
        /// At most so many.
        payloads: usize,
        /// What bounds each.
        bounds: Bounds,
        /// What is due.
        due: Due,
        /// Of series that are kept apart, instead of all others.
        apart: bool,
    },
    /// POST these chunks as one payload.
    Send {
        /// To be named in the answer.
        parcel: ParcelId,
        /// In this order.
        chunks: Vec<ChunkId>,
        /// With a token newer than the one that was just refused.
        renew_token: bool,
    },
    /// POST a few rows only, to see whether Blueflood works. What is stored by it is stored again later, which is harmless.
    Try {
        /// To be named in the answer.
        trial: ParcelId,
        /// Rows at random out of these chunks; without any, a row that passed before.
        chunks: Vec<ChunkId>,
        /// How many rows.
        rows: u32,
    },
    /// Let the spool settle these chunks.
    Settle {
        /// To be named when it is done.
        parcel: ParcelId,
        /// Which.
        chunks: Vec<ChunkId>,
        /// How.
        fate: Fate,
    },
    /// Worth a line in the log.
    Say(Notice),
}

/// Where the rows of a parcel go.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// All are stored, as far as Blueflood says.
    Delivered,
    /// Likewise, and they stay until they were read back.
    Acknowledged {
        /// Whether each of them is to be looked for.
        whole_look: bool,
    },
    /// All are stored but those that the answer names.
    DeliveredExcept {
        /// The named rows.
        errors: Vec<RowError>,
        /// What the answer says beside them: some other rows are refused, and nobody knows which.
        unexplained: Option<String>,
        /// Whether those that are stored stay until they were read back.
        read_back: bool,
    },
    /// Those are refused; the others need another try.
    RefusedNamed(Vec<RowError>),
    /// All are refused for one reason.
    RefusedAll {
        /// Why, as it is counted.
        reason: Refused,
        /// Blueflood's words.
        message: String,
    },
    /// The rows of the one chunk need another try in two halves.
    Halved,
}

/// Who is ill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Blueflood, or the way to it.
    Blueflood,
    /// Keystone: there is no token.
    Keystone,
}

/// A change worth telling an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The gate closed.
    Closed {
        /// Who is the cause.
        who: Who,
        /// What was seen.
        cause: String,
        /// Until the first probe.
        wait: Duration,
    },
    /// The gate opened again.
    Opened {
        /// How long it was closed.
        after: Duration,
        /// How many tries failed.
        failures: u32,
    },
    /// Nothing will pass until somebody changes a setting.
    Misconfigured(String),
    /// A few rows of a payload pass, and the whole of it does not: it is examined.
    Examining {
        /// What was seen.
        cause: String,
    },
    /// A parcel fails while others pass, and is halved to find the rows that cause it.
    Halving {
        /// Rows in it.
        rows: u64,
        /// What was seen last.
        cause: String,
    },
    /// Payloads are smaller from now on.
    LimitLearned {
        /// Bytes before compression.
        payload_bytes_max: usize,
    },
}

/// What the outbox looks like from outside.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// Payloads in flight now.
    pub in_flight: usize,
    /// Payloads that may be in flight now.
    pub concurrency: u32,
    /// Payloads that wait by themselves for another try.
    pub set_aside: usize,
    /// POSTs that were a second or later try.
    pub retries: u64,
    /// POSTs of a few rows, to see whether Blueflood works.
    pub trials: u64,
    /// Until when the gate is closed, and why.
    pub closed: Option<(Now, String)>,
    /// What only a human can mend.
    pub misconfigured: Option<String>,
    /// The largest payload now, in bytes before compression.
    pub payload_bytes_max: usize,
    /// Whether a payload could leave now, if one were due.
    pub has_free_slot: bool,
}
