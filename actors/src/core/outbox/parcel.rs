//! Owns what is known of one parcel, from its lease to the end of its rows, and of what it was a piece of. It never decides
//! what follows from that.

use super::{
    ChunkId, Fate, Lease, Now, ParcelId,
    evidence::{self, Witness},
};
use crate::core::payload::punctuation_bytes;

/// A payload that was leased, and is not settled.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) leases: Vec<Lease>,
    pub(super) evidence: Witness,
    /// Failures since it was leased, or made.
    pub(super) tries: u32,
    pub(super) sent_at: Now,
    pub(super) not_before: Now,
    /// How often it was answered with a 207 that does not say which rows are refused.
    pub(super) unexplained: u32,
    /// Whether this try already asked for a new token.
    pub(super) renewed: bool,
    /// Whether its last failure may come of its size.
    pub(super) may_be_size: bool,
    /// The parcel that it is a piece of, which was halved on evidence.
    pub(super) root: Option<ParcelId>,
    /// See [`super::Leased::apart`].
    pub(super) apart: Option<bool>,
    pub(super) cause: String,
}

impl Parcel {
    pub(super) fn new(leases: Vec<Lease>, apart: Option<bool>, now: Now) -> Self {
        Self {
            leases,
            evidence: Witness::new(if apart.is_some() { evidence::APART } else { 1.0 }),
            tries: 0,
            sent_at: now,
            not_before: now,
            unexplained: 0,
            renewed: false,
            may_be_size: false,
            root: None,
            apart,
            cause: String::new(),
        }
    }

    pub(super) fn rows(&self) -> u64 {
        self.leases.iter().map(|lease| u64::from(lease.meta.rows)).sum()
    }

    /// Whether a few rows should be tried before it is sent again: it failed, and nothing has passed since that could be
    /// held against it. Not each time, for where most requests fail this would double them.
    pub(super) fn wants_trial(&self) -> bool {
        self.evidence.is_open()
            && (self.apart.is_some() || self.root.is_some() || self.tries.is_multiple_of(3))
    }

    pub(super) fn raw_bytes(&self) -> usize {
        let rows: usize = self.leases.iter().map(|lease| lease.meta.raw_bytes as usize).sum();
        rows.saturating_add(punctuation_bytes(self.leases.len()))
    }

    pub(super) fn ids(&self) -> Vec<ChunkId> {
        self.leases.iter().map(|lease| lease.meta.id).collect()
    }
}

/// A parcel whose fate the spool carries out.
#[derive(Debug)]
pub(super) struct Settling {
    pub(super) parcel: Parcel,
    pub(super) fate: Fate,
    /// When the spool is told again, if it could not.
    pub(super) again_at: Option<Now>,
}

/// What is known of a parcel that was halved on evidence, until all pieces of it are settled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root {
    /// The smallest piece that failed, in bytes before compression.
    pub(super) failed_bytes: usize,
    /// Whether its failures may come of its size.
    pub(super) may_be_size: bool,
    /// Whether a row of it was refused: then that row was the cause.
    pub(super) refused: bool,
}
