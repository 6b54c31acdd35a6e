//! Owns the words that the outbox and the actor around it speak: what happened, what is to be done, what is worth
//! telling. It never decides anything.

use std::time::Duration;

use crate::core::{
    backoff::Backoff,
    blueflood::{RowError, Verdict},
};

/// Time since some fixed moment of this process, on a clock that never jumps.
pub type Now = Duration;

/// A chunk's number in the spool; a later chunk has a larger one.
pub type ChunkId = i64;

/// A parcel's number, of this process only.
pub type ParcelId = u64;

/// What is known of a chunk without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Its number.
    pub id: ChunkId,
    /// Rows in it.
    pub rows: u32,
    /// Bytes of its rows before compression.
    pub raw_bytes: u32,
}

/// What bounds the outbox.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest payload, in bytes before compression.
    pub payload_bytes_max: usize,
    /// The most rows in a payload.
    pub payload_rows_max: u32,
    /// The most payloads in flight.
    pub in_flight_max: u32,
    /// How long the gate, and a parcel set aside, wait.
    pub backoff: Backoff,
    /// Whether new chunks go before old ones.
    pub newest_first: bool,
    /// Whether there are credentials, so that a 401 can be mended by a new token.
    pub authenticates: bool,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The spool has a new chunk.
    Appended(Meta),
    /// The send interval is over: all that is here is due.
    Flush,
    /// What [`Action::Refill`] asked for; `end` if the spool holds no more in that direction.
    Refilled {
        /// The chunks, in the order of the catch-up.
        metas: Vec<Meta>,
        /// Whether there is none beyond them.
        end: bool,
    },
    /// A POST came to an end.
    Answered {
        /// Which.
        parcel: ParcelId,
        /// What it came to.
        verdict: Verdict,
        /// From its start.
        took: Duration,
    },
    /// The spool has carried out [`Action::Settle`]; these chunks are new, made of rows that need another try.
    Settled {
        /// Which.
        parcel: ParcelId,
        /// To be sent by themselves.
        requeued: Vec<Meta>,
    },
    /// The spool could not carry out [`Action::Settle`], or load the chunks: try again later.
    SpoolFailed {
        /// Which.
        parcel: ParcelId,
    },
    /// The spool has none of these chunks any more: it dropped them by its policy.
    Gone {
        /// Which.
        parcel: ParcelId,
    },
    /// The spool's newest chunk, whoever put it there: a replay of dead letters does it without us.
    Seen(ChunkId),
    /// The daemon stops: all that is here is due.
    Drain,
    /// What kept payloads from leaving is gone, as where Keystone gives tokens again: nothing need wait for its time.
    Mended,
    /// Time has passed.
    Tick,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// POST these chunks as one payload.
    Send {
        /// To be named in the answer.
        parcel: ParcelId,
        /// In this order.
        chunks: Vec<ChunkId>,
        /// With a token newer than the one that was just refused.
        renew_token: bool,
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
    /// Ask the spool for more chunks, beyond `from` in the order of the catch-up.
    Refill {
        /// `None`: from the start.
        from: Option<ChunkId>,
        /// At most so many.
        max: usize,
    },
    /// Worth a line in the log.
    Say(Notice),
}

/// Where the rows of a parcel go.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// All are stored; `unconfirmed` if Blueflood only ever answered 202.
    Delivered {
        /// See there.
        unconfirmed: bool,
    },
    /// All are stored but those.
    DeliveredExcept(Vec<RowError>),
    /// Those are refused; the others need another try.
    RefusedNamed(Vec<RowError>),
    /// All are refused for one reason.
    RefusedAll {
        /// The `reason` under which they are counted.
        reason: &'static str,
        /// Blueflood's words.
        message: String,
    },
    /// The rows of the one chunk need another try in two halves.
    Halved,
}

/// A change worth telling an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The gate closed.
    Closed {
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
    /// Until when the gate is closed, and why.
    pub closed: Option<(Now, String)>,
    /// What only a human can mend.
    pub misconfigured: Option<String>,
    /// The largest payload now, in bytes before compression.
    pub payload_bytes_max: usize,
}
