//! Owns the chunks that are in memory. Some are not in the file yet: Blueflood's answer may come before they have to
//! be. Others are, and are kept for the load that usually follows at once. It never reads or writes the file.

use std::{collections::VecDeque, time::Instant};

use crate::core::{
    chunk::Chunk,
    queue::{ChunkId, LaneNumber, Meta},
};

/// Bytes of chunks that are not in the file, at most.
const HELD_BYTES_MAX: usize = 4 << 20;

/// Bytes of chunks that are in the file too, at most.
const WRITTEN_BYTES_MAX: usize = 2 << 20;

/// A chunk in memory.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) id: ChunkId,
    /// Whose it is.
    pub(super) lane: LaneNumber,
    pub(super) chunk: Chunk,
    /// When the oldest of its rows came, in milliseconds since 1970.
    pub(super) received_ms: i64,
    /// When it has to be in the file; `None` once it is there.
    pub(super) due: Option<Instant>,
    /// Whether it is on its way to Blueflood.
    pub(super) loaded: bool,
    /// Blueflood acknowledged it, and it was not read back; whether each row of it is to be looked for.
    pub(super) acknowledged: Option<bool>,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.chunk.body.len().saturating_add(size_of::<Self>())
    }

    pub(super) fn meta(&self) -> Meta {
        Meta { id: self.id, rows: self.chunk.rows, raw_bytes: self.chunk.raw_bytes, lane: self.lane }
    }
}

/// Chunks in memory, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    kept: VecDeque<Kept>,
    held_bytes: usize,
    written_bytes: usize,
}

impl Fresh {
    /// Keeps a chunk whose number is the highest so far.
    pub(super) fn keep(&mut self, kept: Kept) {
        let bytes = self.bytes_of(kept.due);
        *bytes = bytes.saturating_add(kept.bytes());
        self.kept.push_back(kept);
        self.forget_written();
    }

    fn position(&self, id: ChunkId) -> Option<usize> {
        self.kept.binary_search_by_key(&id, |kept| kept.id).ok()
    }

    fn bytes_of(&mut self, due: Option<Instant>) -> &mut usize {
        if due.is_some() { &mut self.held_bytes } else { &mut self.written_bytes }
    }

    /// Whether one more may be kept that is not in the file.
    pub(super) fn has_room(&self) -> bool {
        self.held_bytes < HELD_BYTES_MAX
    }

    /// Bytes that are not in the file.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// What is not in the file, the oldest first.
    pub(super) fn held(&self) -> impl DoubleEndedIterator<Item = &Kept> {
        self.kept.iter().filter(|kept| kept.due.is_some())
    }

    /// When the next one has to be in the file.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.held().filter_map(|kept| kept.due).min()
    }

    /// The numbers, rows and bytes of what is not in the file, and is not acknowledged.
    pub(super) fn held_metas(&self) -> impl Iterator<Item = Meta> {
        self.held().filter(|kept| kept.acknowledged.is_none()).map(Kept::meta)
    }

    /// Blueflood acknowledged a chunk that is held, or it waits again.
    pub(super) fn set_acknowledged(&mut self, id: ChunkId, acknowledged: Option<bool>) {
        let found = self.position(id).and_then(|at| self.kept.get_mut(at));
        if let Some(kept) = found.filter(|kept| kept.due.is_some()) {
            kept.acknowledged = acknowledged;
        }
    }

    /// A chunk that is not in the file.
    pub(super) fn get_held(&self, id: ChunkId) -> Option<&Kept> {
        self.kept.get(self.position(id)?).filter(|kept| kept.due.is_some())
    }

    /// A chunk to be sent. One that is in the file leaves: from then on it is there.
    pub(super) fn load(&mut self, id: ChunkId) -> Option<Kept> {
        let at = self.position(id)?;
        match self.kept.get_mut(at) {
            Some(kept) if kept.due.is_some() => {
                kept.loaded = true;
                Some(kept.clone())
            }
            _ => self.remove_at(at),
        }
    }

    pub(super) fn remove(&mut self, id: ChunkId) -> Option<Kept> {
        self.remove_at(self.position(id)?)
    }

    fn remove_at(&mut self, at: usize) -> Option<Kept> {
        let kept = self.kept.remove(at)?;
        let bytes = self.bytes_of(kept.due);
        debug_assert!(*bytes >= kept.bytes(), "{} bytes leave {bytes}", kept.bytes());
        *bytes = bytes.saturating_sub(kept.bytes());
        Some(kept)
    }

    /// It is in the file now. What is on its way to Blueflood has been loaded, and is not needed here any more.
    pub(super) fn written(&mut self, id: ChunkId) {
        let Some(at) = self.position(id) else { return };
        let Some(kept) = self.kept.get_mut(at).filter(|kept| kept.due.is_some()) else { return };
        let (bytes, loaded) = (kept.bytes(), kept.loaded);
        kept.due = None;
        debug_assert!(self.held_bytes >= bytes, "{bytes} bytes are written of {}", self.held_bytes);
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.written_bytes = self.written_bytes.saturating_add(bytes);
        if loaded {
            self.remove_at(at);
        }
        self.forget_written();
    }

    fn forget_written(&mut self) {
        while self.written_bytes > WRITTEN_BYTES_MAX
            && let Some(oldest) = self.kept.iter().position(|kept| kept.due.is_none())
        {
            self.remove_at(oldest);
        }
    }

    /// The file is another one: what was in the old one is forgotten, and the rest has to be in the new one at once,
    /// under new numbers.
    pub(super) fn renumber(&mut self, now: Instant, last_id: &mut ChunkId) {
        self.kept.retain(|kept| kept.due.is_some());
        self.written_bytes = 0;
        for kept in &mut self.kept {
            *last_id = last_id.saturating_add(1);
            (kept.id, kept.due, kept.loaded) = (*last_id, Some(now), false);
            kept.acknowledged = None;
        }
    }
}
