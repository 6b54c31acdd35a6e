//! Owns the way out of the spool: what is there, reading it, and carrying out the fate of what was sent. It never
//! decides that fate.

use super::*;

impl Worker {
    /// Chunks beyond `from` in the order of the catch-up, those that are held among them.
    pub(super) fn scan(&self, from: Option<ChunkId>, max: usize) -> rusqlite::Result<Vec<Meta>> {
        let newest_first = self.options.newest_first;
        let mut metas = self.store.scan(from, newest_first, max)?;
        let beyond = |id: ChunkId| from.is_none_or(|from| if newest_first { id < from } else { id > from });
        metas.extend(self.fresh.held_metas().filter(|meta| beyond(meta.id)));
        metas.sort_unstable_by_key(|meta| if newest_first { meta.id.saturating_neg() } else { meta.id });
        metas.truncate(max);
        Ok(metas)
    }

    pub(super) fn newest(&self) -> rusqlite::Result<Option<ChunkId>> {
        let held = self.fresh.held().next_back().map(|kept| kept.id);
        Ok(self.store.newest()?.max(held))
    }

    pub(super) fn load(&mut self, ids: &[ChunkId]) -> rusqlite::Result<Vec<Chunk>> {
        let mut chunks = Vec::with_capacity(ids.len());
        for &id in ids {
            match self.fresh.load(id) {
                // One that is in the file may have been dropped by policy meanwhile.
                Some(kept) if kept.due.is_some() || self.store.has(id)? => chunks.push(kept.chunk),
                Some(_) => {}
                None => chunks.extend(self.load_one(id)?),
            }
        }
        Ok(chunks)
    }

    /// A chunk that does not read back as it was stored is a damaged file, whatever SQLite thinks of it.
    fn load_one(&self, id: ChunkId) -> rusqlite::Result<Option<Chunk>> {
        match self.store.load(id)? {
            Some(Loaded::Intact(_, chunk)) => Ok(Some(chunk)),
            Some(Loaded::Damaged(_)) => {
                Err(store::damage(format!("chunk {id} does not read back as it was stored")))
            }
            None => Ok(None),
        }
    }

    pub(super) fn settle_all(&mut self, settles: &mut Vec<Settle>) {
        let (held, mut settles): (Vec<_>, Vec<_>) = settles.drain(..).partition(|(chunks, fate, _)| {
            matches!(fate, Fate::Delivered { .. })
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
                    let _ = reply.send(Ok(metas));
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
        let mut delivered: u64 = 0;
        for kept in ids.iter().filter_map(|&id| self.fresh.remove(id)) {
            delivered = delivered.saturating_add(kept.chunk.rows.into());
            after.delivered.push((kept.received_ms, kept.chunk.rows.into()));
        }
        let unconfirmed = if matches!(fate, Fate::Delivered { unconfirmed: true }) { delivered } else { 0 };
        self.unwritten.delivered = self.unwritten.delivered.saturating_add(delivered);
        self.unwritten.unconfirmed = self.unwritten.unconfirmed.saturating_add(unconfirmed);
        after.settled(Settled { delivered, unconfirmed, ..Settled::default() });
        self.follow(after);
    }

    /// Carries out a fate, on the chunks that are still here.
    fn settle(&mut self, ids: &[ChunkId], fate: &Fate, after: &mut After) -> rusqlite::Result<Vec<Meta>> {
        if let Fate::Delivered { unconfirmed } = *fate {
            let (held, written): (Vec<_>, Vec<_>) =
                ids.iter().partition(|&&id| self.fresh.get_held(id).is_some());
            let mut rows = self
                .store
                .remove_each(&written, |rows, received_ms| after.delivered.push((received_ms, rows)))?;
            for kept in held.iter().filter_map(|&id| self.fresh.get_held(id)) {
                let held = u64::from(kept.chunk.rows);
                rows = rows.saturating_add(held);
                self.store.count("received", "", held)?;
                after.delivered.push((kept.received_ms, held));
                after.forgotten.push(kept.id);
            }
            self.store.count("delivered", "", rows)?;
            let unconfirmed = if unconfirmed { rows } else { 0 };
            self.store.count("unconfirmed", "", unconfirmed)?;
            after.settled(Settled { delivered: rows, unconfirmed, ..Settled::default() });
            return Ok(Vec::new());
        }
        let mut rows = Rows::default();
        let mut received_ms = now_ms();
        for &id in ids {
            if let Some(kept) = self.fresh.get_held(id) {
                self.write_one(kept, after)?;
                after.forgotten.push(id);
            }
            let Some(chunk) = self.load_one(id)? else { continue };
            let opened = chunk.open().map_err(|damaged| store::damage(format!("chunk {id}: {damaged}")))?;
            rows.append(opened.as_ref());
            received_ms = received_ms.min(self.store.received_ms(id)?.unwrap_or(received_ms));
            self.store.remove(&[id])?;
        }
        let Settlement { delivered, refused, requeued, unmatched } = settlement::settle(rows.as_ref(), fate);
        let mut by_reason = ByReason::new();
        for letter in &refused {
            ledger::add(&mut by_reason, letter.reason, 1);
        }
        let refused_ms = now_ms();
        self.store.add_dead_letters(&refused, ids.first().copied().unwrap_or(0), refused_ms)?;
        after.refused.extend(Refused::last_of(&refused, refused_ms));
        self.store.count("delivered", "", delivered)?;
        after.delivered.push((received_ms, delivered));
        self.store.count_by_reason("refused", &by_reason)?;
        let bytes: usize =
            refused.iter().map(|letter| letter.row.len().saturating_add(letter.message.len())).sum();
        after.dead_letter_bytes = after.dead_letter_bytes.saturating_add_unsigned(bytes as u64);
        self.bound_dead_letters(after)?;
        after.settled(Settled { delivered, refused: by_reason, ..Settled::default() });
        if unmatched > 0 {
            after.notices.push(Notice::Unattributed { errors: unmatched });
        }
        requeued.into_iter().map(|rows| self.insert(rows, received_ms)).collect()
    }

    /// Stores rows as a chunk of their own.
    pub(super) fn insert(&mut self, rows: Rows, received_ms: i64) -> rusqlite::Result<Meta> {
        let chunk = self.sealer.seal(&rows.into());
        let id = self.next_id();
        self.store.insert(id, &chunk, received_ms)
    }

    fn bound_dead_letters(&self, after: &mut After) -> rusqlite::Result<()> {
        let mut discarded: u64 = 0;
        // In the same file as the chunks, they must not leave too little room for these.
        let bytes_max = self.options.policy.dead_letter_bytes_max.min(self.options.policy.bytes_max / 4);
        while self.dead_letter_bytes.saturating_add_signed(after.dead_letter_bytes) > bytes_max {
            let Some(bytes) = self.store.discard_oldest_dead_letter()? else { break };
            after.dead_letter_bytes = after.dead_letter_bytes.saturating_sub_unsigned(bytes);
            discarded = discarded.saturating_add(1);
        }
        after.changes.push(Box::new(move |ledger| {
            ledger.dead_letters_discarded = ledger.dead_letters_discarded.saturating_add(discarded);
        }));
        Ok(())
    }
}
