//! Owns the window onto the spool: the next chunks to leave, so that memory does not grow with what waits behind them.
//! It never decides whether a payload may leave, only which chunks it would hold.

use std::collections::{BTreeMap, HashSet};

use super::vocabulary::{ChunkId, Meta};
use crate::core::payload::punctuation_bytes;

/// Chunks that the window holds at most.
const CHUNKS_MAX: usize = 512;

/// The window is filled again when fewer chunks are in it.
const CHUNKS_LOW: usize = 256;

/// The next chunks to leave, in the order of the catch-up.
#[derive(Debug)]
pub(super) struct Window {
    newest_first: bool,
    chunks: BTreeMap<ChunkId, Meta>,
    /// The spool holds chunks beyond the window.
    more: bool,
    /// The last chunk that was ever in the window, in the order of the catch-up.
    cursor: Option<ChunkId>,
    refilling: bool,
    /// The window's edge moved while a refill was under way, so its answer may be short of a chunk.
    refill_stale: bool,
    newest: ChunkId,
    /// A newer chunk that we were not told of.
    unknown: Option<ChunkId>,
}

/// What bounds a payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) rows_max: u32,
    pub(super) bytes_max: usize,
    /// Chunks up to this one leave even in a payload that is not full.
    pub(super) due_up_to: ChunkId,
}

impl Window {
    /// A window onto a spool whose newest chunk is `newest`, if it has any.
    pub(super) fn new(newest: Option<ChunkId>, newest_first: bool) -> Self {
        Self {
            newest_first,
            chunks: BTreeMap::new(),
            more: newest.is_some(),
            cursor: None,
            refilling: false,
            refill_stale: false,
            newest: newest.unwrap_or(0),
            unknown: None,
        }
    }

    /// The newest chunk that there is.
    pub(super) fn newest(&self) -> ChunkId {
        self.newest
    }

    /// Whether no chunk waits, here or beyond.
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && !self.more
    }

    /// The spool has a new chunk.
    pub(super) fn appended(&mut self, meta: Meta) {
        self.note(meta.id);
        if self.newest_first {
            self.chunks.insert(meta.id, meta);
            if self.chunks.len() > CHUNKS_MAX {
                self.chunks.pop_first();
                self.more = true;
                self.cursor = self.chunks.first_key_value().map(|(&id, _)| id);
                self.refill_stale = self.refilling;
            } else if self.cursor.is_none() {
                self.cursor = Some(meta.id);
            }
        } else if self.more || self.chunks.len() >= CHUNKS_MAX {
            self.more = true;
            self.refill_stale = self.refilling;
        } else {
            self.chunks.insert(meta.id, meta);
            self.cursor = Some(meta.id);
        }
    }

    /// There is a chunk that does not come by this window.
    pub(super) fn note(&mut self, id: ChunkId) {
        self.newest = self.newest.max(id);
    }

    /// The spool's newest chunk, whoever put it there; true if it is one that we were not told of.
    pub(super) fn seen(&mut self, newest: ChunkId) -> bool {
        // Once is no news: our own chunk may be seen there before we are told of it.
        if newest <= self.newest || self.unknown.replace(newest) != Some(newest) {
            return false;
        }
        self.newest = newest;
        self.more = true;
        self.refill_stale = self.refilling;
        if self.newest_first {
            self.chunks.clear();
            self.cursor = None;
        }
        true
    }

    /// What to ask the spool for, if it is time to: chunks beyond the first, at most the second.
    pub(super) fn wants(&mut self) -> Option<(Option<ChunkId>, usize)> {
        if !self.more || self.refilling || self.chunks.len() >= CHUNKS_LOW {
            return None;
        }
        self.refilling = true;
        self.refill_stale = false;
        Some((self.cursor, CHUNKS_MAX - CHUNKS_LOW))
    }

    /// What the spool answered; `held` are chunks that have left the window and are not settled.
    pub(super) fn refilled(&mut self, metas: Vec<Meta>, end: bool, held: &HashSet<ChunkId>) {
        self.refilling = false;
        if self.refill_stale && self.newest_first {
            return; // chunks between the new edge and the old one would be passed over: ask again
        }
        self.more = !end || self.refill_stale;
        for meta in metas {
            self.cursor = Some(meta.id);
            if !held.contains(&meta.id) {
                self.chunks.insert(meta.id, meta);
            }
        }
    }

    /// Takes the chunks of the next payload, if it is full or due.
    pub(super) fn take_payload(&mut self, bounds: Bounds) -> Option<Vec<Meta>> {
        let mut chunks: Vec<Meta> = Vec::new();
        let mut rows: u32 = 0;
        let mut bytes = punctuation_bytes(0);
        let mut full = false;
        let mut take = |meta: &Meta| {
            let rows_with = rows.saturating_add(meta.rows);
            let bytes_with = bytes.saturating_add(meta.raw_bytes as usize).saturating_add(1);
            // One comma less than chunks.
            let fits = rows_with <= bounds.rows_max && bytes_with <= bounds.bytes_max.saturating_add(1);
            if chunks.is_empty() || fits {
                (rows, bytes) = (rows_with, bytes_with);
                chunks.push(*meta);
            }
            full = !fits || rows_with == bounds.rows_max;
            !full
        };
        if self.newest_first {
            let _ = self.chunks.values().rev().all(&mut take);
        } else {
            let _ = self.chunks.values().all(&mut take);
        }
        let due = chunks.iter().any(|meta| meta.id <= bounds.due_up_to);
        if chunks.is_empty() || !(full || due) {
            return None;
        }
        for meta in &chunks {
            self.chunks.remove(&meta.id);
        }
        Some(chunks)
    }
}
