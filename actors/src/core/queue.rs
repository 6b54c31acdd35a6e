//! Owns the index of the queue: which chunks wait, which are leased, which are due, and which are tried by themselves.
//! It never reads or writes a chunk: the spool's thread, which owns the chunks, owns this index too, so that nobody else
//! keeps an idea of what waits.
//!
//! - A chunk *waits* until it is *leased*. A [`Lease`] is a thing: whoever drops it gives its chunk back, so a crash, a
//!   reload and a forgotten future all end in the same way, and no lease can be lost.
//! - A chunk is *settled* once. What is said of it later changes nothing.
//! - The index is bounded. What is beyond its *edge* is only in the file, and comes in by [`Queue::filled`].
//! - A chunk is of one *lane*, which is whose its rows are. A payload is too, or rows would get to a stranger.
//! - Rows of a series that was proven bad are kept *apart*: in chunks of their own, which are tried by themselves and
//!   rarely, so that the payloads of everybody else pass.
//!
//! Why it is so: `actors/DESIGN.md`, "The queue" and "Tried and dropped".

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    payload::punctuation_bytes,
    row::{self, Rows, RowsRef},
};

/// A chunk's number in the spool; a later chunk has a larger one.
pub type ChunkId = i64;

/// The number of a lane: for whom rows were taken.
pub type LaneNumber = u32;

/// Chunks that the index holds, at most; the rest of a long backlog is in the file only.
const INDEX_MAX: usize = 16_384;

/// With fewer chunks than this the index is filled again, if the file has more.
const INDEX_LOW: usize = 256;

/// Chunks that come in from the file at a time.
const FILL: usize = 2_048;

/// Series that are kept apart, at most; the one that was proven bad first makes room.
const SERIES_APART_MAX: usize = 64;

/// So many rows of a series, each tried alone and refused with none that passed, prove the series itself: from then on
/// its rows are tried many at a time.
const ROWS_PROVE_SERIES: u32 = 10;

/// What is known of a chunk without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Its number.
    pub id: ChunkId,
    /// Rows in it.
    pub rows: u32,
    /// Bytes of its rows before compression.
    pub raw_bytes: u32,
    /// Whose they are.
    pub lane: LaneNumber,
}

/// What bounds a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The most rows.
    pub rows_max: u32,
    /// The most bytes before compression.
    pub bytes_max: usize,
}

impl Bounds {
    /// Whether a chunk makes a payload by itself that is within these bounds. One of a single row is as small as it gets.
    pub fn hold(&self, meta: &Meta) -> bool {
        let bytes = (meta.raw_bytes as usize).saturating_add(punctuation_bytes(1));
        meta.rows <= 1 || (meta.rows <= self.rows_max && bytes <= self.bytes_max)
    }
}

/// Where dropped leases say that they are gone.
#[derive(Debug, Clone, Default)]
struct Returns(Arc<Mutex<Vec<ChunkId>>>);

/// A chunk that was handed out. Dropped, it waits again, unless it was settled meanwhile.
#[derive(Debug)]
pub struct Lease {
    /// Which chunk.
    pub meta: Meta,
    returns: Returns,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.returns.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.meta.id);
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// What was here at the last flush, and full payloads.
    Flushed,
    /// Everything: the daemon stops.
    All,
}

/// How many chunks wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Whether something may be leased now.
    pub due: bool,
    /// Whether anything waits, due or not, but for what is kept apart.
    pub any: bool,
    /// Whether rows of a series that was proven bad wait.
    pub apart: bool,
}

/// The next payload of a series that is kept apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Apart {
    /// Its chunks.
    pub chunks: Vec<Meta>,
    /// Whether enough of its rows were refused alone to refuse them together.
    pub proven: bool,
}

/// Rows, told apart by whether their series is kept apart.
#[derive(Debug, Default)]
pub struct Sifted {
    /// Rows like all others.
    pub others: Rows,
    /// Rows of each series that is kept apart.
    pub apart: BTreeMap<Arc<[u8]>, Rows>,
}

impl Sifted {
    /// Each group of rows, and the series that it is kept apart for.
    pub fn all(self) -> impl Iterator<Item = (Option<Arc<[u8]>>, Rows)> {
        let others = (!self.others.is_empty()).then_some((None, self.others));
        others.into_iter().chain(self.apart.into_iter().map(|(series, rows)| (Some(series), rows)))
    }
}

/// A series that was proven bad.
#[derive(Debug)]
struct Series {
    name: Arc<[u8]>,
    /// Rows of it that were refused one by one.
    refused: u32,
}

/// The index. See the module.
#[derive(Debug)]
pub struct Queue {
    newest_first: bool,
    /// Chunks that wait, as far as the index goes.
    waiting: BTreeMap<ChunkId, Meta>,
    /// Rows of these.
    rows: u64,
    /// Bytes of these, before compression.
    bytes: u64,
    /// How many of these there are in each lane.
    lanes: BTreeMap<LaneNumber, usize>,
    /// The last chunk of the index, in the order of the queue; `None` if nothing lies beyond.
    edge: Option<ChunkId>,
    leased: HashMap<ChunkId, Meta>,
    returns: Returns,
    /// Chunks up to this one leave even in a payload that is not full.
    due_up_to: ChunkId,
    series_apart: VecDeque<Series>,
    /// Chunks of such a series, whether they wait or are leased.
    apart_of: HashMap<ChunkId, Arc<[u8]>>,
    /// Those of them that wait.
    apart: BTreeMap<ChunkId, Meta>,
    /// Later chunks hold no row of a series that is kept apart: it was taken out as they were sealed.
    sifted_after: ChunkId,
}

impl Queue {
    /// The index of a spool that may hold chunks up to `last`. What is in it is due at once.
    pub fn new(newest_first: bool, last: ChunkId) -> Self {
        let mut queue = Self {
            newest_first,
            waiting: BTreeMap::new(),
            rows: 0,
            bytes: 0,
            lanes: BTreeMap::new(),
            edge: None,
            leased: HashMap::new(),
            returns: Returns::default(),
            due_up_to: last,
            series_apart: VecDeque::new(),
            apart_of: HashMap::new(),
            apart: BTreeMap::new(),
            sifted_after: last,
        };
        queue.forget(last);
        queue
    }

    /// Forgets every chunk, for the spool has others now, up to `last`: they come in from the file. Leases that are out
    /// mean nothing any more.
    pub fn forget(&mut self, last: ChunkId) {
        self.waiting.clear();
        (self.rows, self.bytes) = (0, 0);
        self.lanes.clear();
        self.leased.clear();
        self.apart.clear();
        self.apart_of.clear();
        self.returns = Returns::default();
        self.edge = Some(if self.newest_first { ChunkId::MAX } else { 0 });
        self.due_up_to = self.due_up_to.max(last);
        self.sifted_after = self.sifted_after.max(last);
    }

    // === What waits ===

    /// Whether a chunk of this number would be in the index, if it waited.
    fn covers(&self, id: ChunkId) -> bool {
        self.edge.is_none_or(|edge| if self.newest_first { id >= edge } else { id <= edge })
    }

    fn wait(&mut self, meta: Meta) {
        if self.apart_of.contains_key(&meta.id) {
            self.apart.insert(meta.id, meta);
            return;
        }
        if !self.covers(meta.id) {
            return; // it comes in from the file
        }
        if self.waiting.insert(meta.id, meta).is_none() {
            self.rows = self.rows.saturating_add(meta.rows.into());
            self.bytes = self.bytes.saturating_add(meta.raw_bytes.into());
            let count = self.lanes.entry(meta.lane).or_default();
            *count = count.saturating_add(1);
        }
        while self.waiting.len() > INDEX_MAX {
            let last = if self.newest_first { self.waiting.pop_first() } else { self.waiting.pop_last() };
            last.into_iter().for_each(|(_, meta)| self.left(&meta));
            let edge = if self.newest_first {
                self.waiting.first_key_value()
            } else {
                self.waiting.last_key_value()
            };
            self.edge = edge.map(|(&id, _)| id);
        }
    }

    fn left(&mut self, meta: &Meta) {
        debug_assert!(
            self.rows >= meta.rows.into() && self.bytes >= meta.raw_bytes.into(),
            "{meta:?} never waited"
        );
        self.rows = self.rows.saturating_sub(meta.rows.into());
        self.bytes = self.bytes.saturating_sub(meta.raw_bytes.into());
        if let Some(count) = self.lanes.get_mut(&meta.lane) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.lanes.remove(&meta.lane);
            }
        }
    }

    fn wait_no_more(&mut self, id: ChunkId) -> Option<Meta> {
        let meta = self.waiting.remove(&id);
        meta.iter().for_each(|meta| self.left(meta));
        meta.or_else(|| self.apart.remove(&id))
    }

    /// There is a new chunk, with a number that is the highest so far; `due`: with all before it.
    pub fn added(&mut self, meta: Meta, due: bool) {
        if due {
            self.due_up_to = self.due_up_to.max(meta.id);
        }
        self.wait(meta);
    }

    /// The same, of rows of a series that is kept apart.
    pub fn added_apart(&mut self, meta: Meta, series: Arc<[u8]>) {
        if self.series_apart.iter().any(|known| known.name == series) {
            self.apart_of.insert(meta.id, series);
        }
        self.added(meta, true);
    }

    /// The send interval is over: what is here, up to `last`, is due.
    pub fn flushed(&mut self, last: ChunkId) {
        self.due_up_to = self.due_up_to.max(last);
    }

    /// A chunk's way has ended, by an answer or by a policy. True the first time.
    pub fn settled(&mut self, id: ChunkId) -> bool {
        self.apart_of.remove(&id);
        self.leased.remove(&id).or_else(|| self.wait_no_more(id)).is_some()
    }

    /// What to read from the file, if it is time to: chunks beyond the first, at most the second.
    pub fn wants(&self) -> Option<(ChunkId, usize)> {
        self.edge.filter(|_| self.waiting.len() < INDEX_LOW).map(|edge| (edge, FILL))
    }

    /// What the file holds beyond the edge, in the order of the queue; `end` if there is no more.
    pub fn filled(&mut self, metas: &[Meta], end: bool) {
        if let Some(last) = metas.last() {
            self.edge = Some(last.id);
        }
        if end {
            self.edge = None;
        }
        for meta in metas {
            if !self.leased.contains_key(&meta.id) && !self.apart.contains_key(&meta.id) {
                self.wait(*meta);
            }
        }
    }

    // === Leases ===

    /// Takes back what was dropped since the last time.
    pub fn take_back(&mut self) {
        let returned = std::mem::take(&mut *self.returns.0.lock().unwrap_or_else(PoisonError::into_inner));
        for id in returned {
            if let Some(meta) = self.leased.remove(&id) {
                self.wait(meta);
            }
        }
    }

    /// The chunks of the next payload, if it is full or due. The first may be beyond the bounds by itself, and says of which
    /// lane they are: one of another lane ends the payload, which is as good as full. Nothing is leased yet.
    pub fn next(&self, bounds: Bounds, due: Due) -> Vec<Meta> {
        let mut chunks: Vec<Meta> = Vec::new();
        let (mut rows, mut bytes) = (0u32, punctuation_bytes(0));
        let mut full = false;
        let mut take = |meta: &Meta| {
            if chunks.first().is_some_and(|first| first.lane != meta.lane) {
                full = true;
                return false;
            }
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
        let _ = if self.newest_first {
            self.waiting.values().rev().all(&mut take)
        } else {
            self.waiting.values().all(&mut take)
        };
        let due = due == Due::All || chunks.iter().any(|meta| meta.id <= self.due_up_to);
        if full || due { chunks } else { Vec::new() }
    }

    /// The next payload of a series that is kept apart: one chunk, or many once the series is proven bad.
    pub fn next_apart(&self, bounds: Bounds) -> Option<Apart> {
        let (first, meta) = self.apart.first_key_value()?;
        let name = self.apart_of.get(first)?;
        let proven = self
            .series_apart
            .iter()
            .any(|series| series.name == *name && series.refused >= ROWS_PROVE_SERIES);
        let (mut chunks, lane) = (vec![*meta], meta.lane);
        if proven {
            let mut rows = meta.rows;
            let mut bytes = (meta.raw_bytes as usize).saturating_add(punctuation_bytes(1));
            for (id, meta) in self.apart.iter().skip(1) {
                rows = rows.saturating_add(meta.rows);
                bytes = bytes.saturating_add(meta.raw_bytes as usize).saturating_add(1);
                if rows > bounds.rows_max || bytes > bounds.bytes_max {
                    break;
                }
                if self.apart_of.get(id) == Some(name) && meta.lane == lane {
                    chunks.push(*meta);
                } else {
                    rows = rows.saturating_sub(meta.rows);
                    bytes = bytes.saturating_sub(meta.raw_bytes as usize).saturating_sub(1);
                }
            }
        }
        Some(Apart { chunks, proven })
    }

    /// Leases a chunk that waits, or one that was just made.
    pub fn lease(&mut self, meta: Meta) -> Lease {
        self.wait_no_more(meta.id);
        let before = self.leased.insert(meta.id, meta);
        debug_assert!(before.is_none(), "{meta:?} is leased twice");
        Lease { meta, returns: self.returns.clone() }
    }

    /// Whether a chunk is leased.
    pub fn is_leased(&self, id: ChunkId) -> bool {
        self.leased.contains_key(&id)
    }

    /// How many chunks are leased.
    pub fn leased(&self) -> usize {
        self.leased.len()
    }

    /// Whether a chunk is kept apart, and of which series.
    pub fn series_of(&self, id: ChunkId) -> Option<Arc<[u8]>> {
        self.apart_of.get(&id).cloned()
    }

    /// What waits. `due` may be true though nothing can be leased, and is never false if something can.
    pub fn waiting(&self, bounds: Bounds, due: Due) -> Waiting {
        let any = !self.waiting.is_empty() || self.edge.is_some();
        let full = self.rows >= bounds.rows_max.into()
            || self.bytes >= bounds.bytes_max as u64
            || self.lanes.len() > 1;
        // In either order: a payload that does not get as far as the oldest is full.
        let flushed = || self.waiting.first_key_value().is_some_and(|(&id, _)| id <= self.due_up_to);
        let due = any && (full || due == Due::All || self.edge.is_some() || flushed());
        Waiting { due, any, apart: !self.apart.is_empty() }
    }

    // === Series that are kept apart ===

    /// A row of this series was refused alone, and proven to be bad: the series is kept apart from now on, and what was
    /// sealed up to `last` has to be sifted.
    pub fn refused(&mut self, name: &[u8], last: ChunkId) {
        if let Some(known) = self.series_apart.iter_mut().find(|series| *series.name == *name) {
            known.refused = known.refused.saturating_add(1);
            return;
        }
        if self.series_apart.len() >= SERIES_APART_MAX
            && let Some(oldest) = self.series_apart.pop_front()
        {
            self.mingle(&oldest.name);
        }
        self.series_apart.push_back(Series { name: name.into(), refused: 1 });
        self.sifted_after = last;
    }

    /// A row of this series passed: it is like any other again.
    pub fn passed(&mut self, name: &[u8]) {
        let before = self.series_apart.len();
        self.series_apart.retain(|series| *series.name != *name);
        if self.series_apart.len() < before {
            self.mingle(name);
        }
    }

    fn mingle(&mut self, name: &[u8]) {
        self.apart_of.retain(|_, of| **of != *name);
        let (apart, apart_of) = (std::mem::take(&mut self.apart), &self.apart_of);
        let (stay, go): (BTreeMap<_, _>, BTreeMap<_, _>) =
            apart.into_iter().partition(|(id, _)| apart_of.contains_key(id));
        self.apart = stay;
        go.into_values().for_each(|meta| self.wait(meta));
    }

    /// The series that are kept apart.
    pub fn series_apart(&self) -> impl ExactSizeIterator<Item = &Arc<[u8]>> {
        self.series_apart.iter().map(|series| &series.name)
    }

    /// Whether a chunk may hold rows of a series that is kept apart.
    pub fn needs_sifting(&self, id: ChunkId) -> bool {
        !self.series_apart.is_empty() && id <= self.sifted_after && !self.apart_of.contains_key(&id)
    }

    /// Takes the rows of series that are kept apart out of others.
    pub fn sift(&self, rows: RowsRef<'_>) -> Sifted {
        let mut sifted = Sifted::default();
        let series = self.series_apart.iter().map(|series| (&*series.name, &series.name));
        let series: HashMap<&[u8], &Arc<[u8]>> = series.collect();
        for text in rows.iter() {
            let row = RowsRef { text, count: 1 };
            match row::name(text).and_then(|name| series.get(name)) {
                Some(&name) => sifted.apart.entry(name.clone()).or_default().append(row),
                None => sifted.others.append(row),
            }
        }
        sifted
    }

    // === The audit ===

    /// How many chunks are in the index, waiting and leased, and the edge beyond which there may be more.
    pub fn count(&self) -> (usize, Option<ChunkId>) {
        let count = self.waiting.len().saturating_add(self.apart.len()).saturating_add(self.leased.len());
        (count, self.edge)
    }

    /// How many of the chunks that are leased or kept apart lie beyond the edge: the file counts them there too.
    pub fn counted_beyond_edge(&self) -> usize {
        let beyond = |id: &&ChunkId| !self.covers(**id);
        self.leased.keys().chain(self.apart.keys()).filter(beyond).count()
    }
}

#[cfg(test)]
mod tests;
