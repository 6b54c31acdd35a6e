//! Owns the way out of the spool: leases with the bodies of their chunks, and the fate of what was sent, which it carries
//! out. It never decides that fate.

use std::sync::Arc;

use super::{Added, After, Settle, Worker, fresh::Kept, now_ms};
use crate::{
    core::{
        chunk::Chunk,
        outbox::Fate,
        queue::{Bounds, ChunkId, Meta},
        reason,
        row::{self, Rows},
        settlement::{self, Settlement},
        tally::Place as Where,
    },
    spool::{
        Ask, Granted, Notice, Payload, Refused, SpoolError,
        store::{self, LaneNumber, Loaded},
    },
};

/// Chunks that are divided for one answer, at most, beside the payloads that it gives: what is left comes the next time.
const DIVIDED_MAX: usize = 8;

impl Worker {
    // === Leases ===

    /// Leases the next payloads.
    pub(super) fn grant(&mut self, ask: &Ask) -> Result<Granted, SpoolError> {
        self.bounds = ask.bounds;
        self.queue.take_back();
        if self.watch.shut.is_some() {
            return Ok(Granted { payloads: Vec::new(), waiting: self.queue.waiting(ask.bounds, ask.due) });
        }
        let mut payloads: Vec<Payload> = Vec::new();
        for _ in 0..ask.payloads.saturating_add(DIVIDED_MAX) {
            if payloads.len() >= ask.payloads {
                break;
            }
            let next = if ask.apart { self.next_apart(ask.bounds) } else { self.next_payload(ask) };
            match next {
                Ok(Next::Payload(payload)) => payloads.push(payload),
                Ok(Next::Again) => {}
                Ok(Next::Nothing) => break,
                // What is leased already is given; the error shows again.
                Err(_) if !payloads.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        if !payloads.is_empty() && !ask.apart {
            self.due_since = None;
        }
        Ok(Granted { payloads, waiting: self.queue.waiting(ask.bounds, ask.due) })
    }

    fn next_payload(&mut self, ask: &Ask) -> Result<Next, SpoolError> {
        self.fill()?;
        let metas = self.queue.next(ask.bounds, ask.due);
        if metas.is_empty() {
            return Ok(Next::Nothing);
        }
        let (mut ids, mut chunks) = (Vec::new(), Vec::new());
        let mut tenant = Arc::default();
        for meta in metas {
            let Some((lane, chunk)) = self.read(|worker| worker.load_one(meta.id))? else {
                // It is not there, which the audit tells too.
                self.queue.settled(meta.id);
                continue;
            };
            let divide = !ask.bounds.hold(&meta)
                || (self.queue.needs_sifting(meta.id) && self.holds_series_apart(&chunk));
            if !divide {
                tenant = self.tenant_of(meta, lane)?;
                ids.push(meta);
                chunks.push(chunk);
            } else if ids.is_empty() {
                return self.divide(&meta, lane, &chunk, ask.bounds);
            } else {
                break; // it is divided when it is the first
            }
        }
        if ids.is_empty() {
            return Ok(Next::Again);
        }
        let leases = ids.into_iter().map(|meta| self.queue.lease(meta)).collect();
        Ok(Next::Payload(Payload { leases, tenant, chunks, apart: None }))
    }

    fn next_apart(&mut self, bounds: Bounds) -> Result<Next, SpoolError> {
        let Some(apart) = self.queue.next_apart(bounds) else { return Ok(Next::Nothing) };
        let (mut leases, mut chunks) = (Vec::new(), Vec::new());
        let mut tenant = Arc::default();
        for meta in apart.chunks {
            match self.read(|worker| worker.load_one(meta.id))? {
                Some((lane, chunk)) => {
                    tenant = self.tenant_of(meta, lane)?;
                    leases.push(self.queue.lease(meta));
                    chunks.push(chunk);
                }
                None => drop(self.queue.settled(meta.id)),
            }
        }
        let payload = Payload { leases, tenant, chunks, apart: Some(apart.proven) };
        Ok(if payload.leases.is_empty() { Next::Again } else { Next::Payload(payload) })
    }

    /// Brings chunks into the index, if it has few.
    fn fill(&mut self) -> Result<(), SpoolError> {
        while let Some((edge, max)) = self.queue.wants() {
            let newest_first = self.options.newest_first;
            let mut metas = self.read(|worker| worker.store.scan(Some(edge), newest_first, max))?;
            let end = metas.len() < max;
            // Those that are held are in no file, and belong before what comes after them.
            let last = metas.last().map(|meta| meta.id).filter(|_| !end);
            let beyond = |id: ChunkId| {
                let after_edge = if newest_first { id < edge } else { id > edge };
                after_edge && last.is_none_or(|last| if newest_first { id > last } else { id < last })
            };
            metas.extend(self.fresh.held_metas().filter(|meta| beyond(meta.id)));
            metas.sort_unstable_by_key(|meta| if newest_first { meta.id.saturating_neg() } else { meta.id });
            self.queue.filled(&metas, end);
        }
        Ok(())
    }

    fn holds_series_apart(&self, chunk: &Chunk) -> bool {
        chunk.open().is_ok_and(|rows| !self.queue.sift(rows.as_ref()).apart.is_empty())
    }

    /// Divides a chunk that is larger than a payload may be, or holds rows of series that are kept apart. The first piece is
    /// leased, the others wait.
    fn divide(
        &mut self,
        meta: &Meta,
        lane: LaneNumber,
        chunk: &Chunk,
        bounds: Bounds,
    ) -> Result<Next, SpoolError> {
        let tenant = self.tenant_of(*meta, lane)?;
        let divided = self.write(|worker, after| {
            let damaged = |damaged| store::damage(format!("chunk {}: {damaged}", meta.id));
            let rows = chunk.open().map_err(damaged)?;
            let received_ms = worker.take_out(meta.id, after)?.unwrap_or_else(now_ms);
            let mut first = None;
            for (series, rows) in worker.queue.sift(rows.as_ref()).all() {
                let mut rest = rows.as_ref();
                while rest.count > 0 {
                    let bytes_max =
                        bounds.bytes_max.saturating_sub(crate::core::payload::punctuation_bytes(1));
                    let (mut piece, mut tail) = rest.split(bounds.rows_max.max(1), bytes_max);
                    if piece.count == 0 {
                        (piece, tail) = rest.split(1, usize::MAX);
                    }
                    rest = tail;
                    let sealed = worker.sealer.seal(&piece.into());
                    let meta =
                        worker.insert(lane, sealed.clone(), received_ms, true, series.clone(), after)?;
                    if series.is_none() && first.is_none() {
                        first = Some((meta, sealed));
                    }
                }
            }
            Ok(first)
        })?;
        Ok(match divided {
            Some((meta, chunk)) => {
                let leases = vec![self.queue.lease(meta)];
                Next::Payload(Payload { leases, tenant, chunks: vec![chunk], apart: None })
            }
            None => Next::Again,
        })
    }

    /// Every chunk that is here.
    #[cfg(test)]
    pub(super) fn chunks(&mut self) -> rusqlite::Result<Vec<Meta>> {
        let mut metas = self.store.scan(None, false, usize::MAX)?;
        metas.extend(self.fresh.held_metas());
        metas.sort_unstable_by_key(|meta| meta.id);
        Ok(metas)
    }

    pub(super) fn load(&mut self, ids: &[ChunkId]) -> rusqlite::Result<Vec<(LaneNumber, Chunk)>> {
        let mut chunks = Vec::with_capacity(ids.len());
        for &id in ids {
            chunks.extend(self.load_one(id)?);
        }
        Ok(chunks)
    }

    /// A chunk and its lane, out of memory or out of the file. One that does not read back as it was stored is a damaged file, whatever
    /// SQLite thinks of it.
    fn load_one(&mut self, id: ChunkId) -> rusqlite::Result<Option<(LaneNumber, Chunk)>> {
        if let Some(kept) = self.fresh.load(id) {
            return Ok(Some((kept.lane, kept.chunk)));
        }
        match self.store.load(id)? {
            Some(Loaded::Intact(meta, chunk)) => Ok(Some((meta.lane, chunk))),
            Some(Loaded::Damaged(_)) => {
                Err(store::damage(format!("chunk {id} does not read back as it was stored")))
            }
            None => Ok(None),
        }
    }

    // === Settling ===

    pub(super) fn settle_all(&mut self, settles: Vec<Settle>) {
        let (held, mut settles): (Vec<_>, Vec<_>) = settles.into_iter().partition(|(chunks, fate, _)| {
            matches!(fate, Fate::Delivered | Fate::Acknowledged { .. })
                && chunks.iter().all(|&id| self.fresh.get_held(id).is_some())
        });
        for (chunks, fate, reply) in held {
            self.settle_held(&chunks, &fate);
            let _ = reply.send(Ok(Vec::new()));
        }
        if settles.is_empty() {
            return;
        }
        let together = self.write(|worker, after| {
            settles
                .iter()
                .map(|(chunks, fate, _)| worker.settle(chunks, fate, after))
                .collect::<Result<Vec<_>, _>>()
        });
        match together {
            Ok(requeued) => {
                for ((_, _, reply), metas) in settles.drain(..).zip(requeued) {
                    let leases = metas.into_iter().map(|meta| self.queue.lease(meta)).collect();
                    let _ = reply.send(Ok(leases));
                }
            }
            Err(error) => {
                for (_, _, reply) in settles.drain(..) {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Blueflood has chunks that are not in the file: they need not be. They are counted there before long.
    fn settle_held(&mut self, ids: &[ChunkId], fate: &Fate) {
        let mut after = After::default();
        after.passed.extend(ids.iter().filter_map(|&id| self.queue.series_of(id)));
        if let Fate::Acknowledged { whole_look } = *fate {
            // All of them are held: the file is not touched.
            let _ = self.acknowledge(ids, whole_look, &mut after);
            self.follow(after);
            return;
        }
        for kept in ids.iter().filter_map(|&id| self.fresh.remove(id)) {
            let rows = u64::from(kept.chunk.rows);
            after.tally.add(Where::Held, Where::Delivered, rows);
            after.delivered.push((kept.received_ms, rows));
            after.settled.push(kept.id);
        }
        self.unwritten.merge(&after.tally);
        self.follow(after);
    }

    /// Takes a chunk out, wherever it is: when its oldest row came; `None` if it is gone. Its rows are `Spooled` then.
    fn take_out(&mut self, id: ChunkId, after: &mut After) -> rusqlite::Result<Option<i64>> {
        if let Some(kept) = self.fresh.get_held(id) {
            after.tally.add(Where::Held, Where::Spooled, kept.chunk.rows.into());
            let received_ms = kept.received_ms;
            after.settled.push(id);
            return Ok(Some(received_ms));
        }
        let mut received = None;
        self.store.remove_each(&[id], |_, received_ms| received = Some(received_ms))?;
        after.settled.push(id);
        Ok(received)
    }

    /// Carries out a fate, on the chunks that are still here.
    fn settle(&mut self, ids: &[ChunkId], fate: &Fate, after: &mut After) -> rusqlite::Result<Vec<Meta>> {
        let series = ids.iter().find_map(|&id| self.queue.series_of(id));
        if let Fate::Acknowledged { whole_look } = *fate {
            self.acknowledge(ids, whole_look, after)?;
            after.passed.extend(series);
            return Ok(Vec::new());
        }
        if *fate == Fate::Delivered {
            for &id in ids {
                let held = self.fresh.get_held(id).map(|kept| (kept.chunk.rows.into(), kept.received_ms));
                if let Some((held, received_ms)) = held {
                    after.tally.add(Where::Held, Where::Delivered, held);
                    after.delivered.push((received_ms, held));
                } else {
                    let removed = self
                        .store
                        .remove_each(&[id], |rows, received_ms| after.delivered.push((received_ms, rows)))?;
                    after.tally.add(Where::Spooled, Where::Delivered, removed);
                }
                after.settled.push(id);
            }
            after.passed.extend(series);
            return Ok(Vec::new());
        }
        let mut rows = Rows::default();
        let mut received_ms = now_ms();
        let mut of = None;
        for &id in ids {
            let Some((lane, chunk)) = self.load_one(id)? else { continue };
            // No parcel holds rows of two, or a piece of it could get to a stranger; one that did would wait again.
            if lane != *of.get_or_insert(lane) {
                continue;
            }
            let opened = chunk.open().map_err(|damaged| store::damage(format!("chunk {id}: {damaged}")))?;
            rows.append(opened.as_ref());
            received_ms = received_ms.min(self.take_out(id, after)?.unwrap_or(received_ms));
        }
        let lane = of.unwrap_or_default();
        let Settlement { mut delivered, acknowledged, refused, requeued, unmatched } =
            settlement::settle(rows.as_ref(), fate);
        if !acknowledged.is_empty() {
            // What is left of the parcel is a chunk of its own until it was read back.
            delivered = 0;
            let chunk = self.sealer.seal(&acknowledged.into());
            let id = self.next_id();
            let meta = self.store.insert_in(lane, id, &chunk, received_ms)?;
            self.acknowledge(&[meta.id], false, after)?;
            after.passed.extend(series.clone());
        }
        for letter in &refused {
            after.tally.add(Where::Spooled, Where::Refused(letter.reason), 1);
            if letter.reason == reason::Refused::AlwaysFails {
                after.refused_series.extend(row::name(&letter.row).map(<[u8]>::to_vec));
            }
        }
        let refused_ms = now_ms();
        self.store.add_dead_letters(lane, &refused, ids.first().copied().unwrap_or(0), refused_ms)?;
        after.refused.extend(Refused::last_of(&refused, refused_ms));
        after.tally.add(Where::Spooled, Where::Delivered, delivered);
        after.delivered.push((received_ms, delivered));
        after.passed.extend(series.clone().filter(|_| delivered > 0));
        if !refused.is_empty() {
            let letters = after.letters.get_or_insert(self.letters);
            refused
                .iter()
                .for_each(|letter| letters.add(letter.row.len().saturating_add(letter.message.len()) as u64));
        }
        self.bound_dead_letters(after)?;
        if unmatched > 0 {
            after.notices.push(Notice::Unattributed { errors: unmatched });
        }
        let mut metas = Vec::with_capacity(requeued.len());
        for rows in requeued {
            let chunk = self.sealer.seal(&rows.into());
            metas.push(self.insert(lane, chunk, received_ms, true, series.clone(), after)?);
        }
        Ok(metas)
    }

    /// Stores a chunk in the file. Its rows are counted by the caller.
    pub(super) fn insert(
        &mut self,
        lane: LaneNumber,
        chunk: Chunk,
        received_ms: i64,
        due: bool,
        series: Option<Arc<[u8]>>,
        after: &mut After,
    ) -> rusqlite::Result<Meta> {
        let id = self.next_id();
        let meta = self.store.insert_in(lane, id, &chunk, received_ms)?;
        after.added.push(Added { meta, due, series });
        after.fresh.push(Kept { id, lane, chunk, received_ms, due: None, loaded: false, acknowledged: None });
        Ok(meta)
    }

    fn bound_dead_letters(&self, after: &mut After) -> rusqlite::Result<()> {
        // In the same file as the chunks, they must not leave too little room for these.
        let bytes_max = self.options.policy.dead_letter_bytes_max.min(self.options.policy.bytes_max / 4);
        let mut letters = after.letters.unwrap_or(self.letters);
        while letters.bytes > bytes_max {
            let Some(bytes) = self.store.discard_oldest_dead_letter()? else { break };
            letters.take(bytes);
            after.letters = Some(letters);
            after.tally.dead_letters_discarded = after.tally.dead_letters_discarded.saturating_add(1);
        }
        Ok(())
    }
}

/// What comes next out of the queue.
enum Next {
    Payload(Payload),
    /// A chunk was divided, or is gone: look again.
    Again,
    Nothing,
}
