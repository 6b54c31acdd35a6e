//! Owns what Blueflood acknowledged and nobody has read back: which chunks, in which groups, what of it is handed out, and
//! where its rows go. It never looks itself.
//!
//! A group is what one answer acknowledged, so it is of one lane. A chunk of one is out of the queue. In the file it is of state 1; one that is
//! still held in memory may be confirmed there, and is never written then. After a restart every group is looked for from
//! the start.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use super::{Added, After, Worker, now_ms};
use crate::{
    core::{
        confirm::{Given, GroupId},
        queue::{ChunkId, Meta},
        reason::Dropped,
        row::Rows,
        tally::Place as Where,
    },
    spool::{AskLooks, Confirmed, Looks, SpoolError, store::Answered},
};

#[derive(Debug)]
struct Group {
    chunks: Vec<Meta>,
    whole: bool,
    since: Instant,
    given: bool,
}

/// The index of it.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    groups: BTreeMap<GroupId, Group>,
    of: HashMap<ChunkId, GroupId>,
    last: GroupId,
}

impl Acknowledged {
    /// Another file holds this of it. No number of a group is given twice: a look at the old one may still be under way.
    pub(super) fn replace(&mut self, found: Vec<Answered>) {
        self.groups.clear();
        self.of.clear();
        let mut rest = found.as_slice();
        while let Some(first) = rest.first() {
            let of_one =
                |each: &&Answered| (each.acked_ms, each.meta.lane) == (first.acked_ms, first.meta.lane);
            let same = rest.iter().take_while(of_one).count();
            let (here, left) = rest.split_at(same.clamp(1, rest.len()));
            self.add(here.iter().map(|each| each.meta).collect(), here.iter().any(|each| each.looks > 0));
            rest = left;
        }
    }

    pub(super) fn add(&mut self, chunks: Vec<Meta>, whole: bool) {
        if chunks.is_empty() {
            return;
        }
        self.last = self.last.saturating_add(1);
        self.of.extend(chunks.iter().map(|meta| (meta.id, self.last)));
        self.groups.insert(self.last, Group { chunks, whole, since: Instant::now(), given: false });
    }

    /// A chunk of it is at an end, or waits again.
    pub(super) fn remove(&mut self, id: ChunkId) {
        let Some(of) = self.of.remove(&id) else { return };
        if let Some(group) = self.groups.get_mut(&of) {
            group.chunks.retain(|meta| meta.id != id);
            if group.chunks.is_empty() {
                self.groups.remove(&of);
            }
        }
    }

    /// All rows of it.
    pub(super) fn rows(&self) -> u64 {
        self.oldest().map(|meta| u64::from(meta.rows)).sum()
    }

    fn oldest(&self) -> impl Iterator<Item = Meta> {
        self.groups.values().flat_map(|group| group.chunks.iter().copied())
    }

    /// Since when the oldest is acknowledged.
    pub(super) fn since(&self) -> Option<Instant> {
        self.groups.values().map(|group| group.since).min()
    }
}

impl Worker {
    /// Hands groups out.
    pub(super) fn hand_out(&mut self, ask: &AskLooks) -> Looks {
        let now = Instant::now();
        let mut looks = Looks { groups: Vec::new(), left: 0, next_in: None };
        for (&id, group) in self.acknowledged.groups.iter_mut().filter(|(_, group)| !group.given) {
            let waits = ask.after.saturating_sub(now.saturating_duration_since(group.since));
            if !waits.is_zero() {
                let sooner = looks.next_in.is_none_or(|next| waits < next);
                looks.next_in = if sooner { Some(waits) } else { looks.next_in };
            } else if looks.groups.len() >= ask.groups {
                looks.left = looks.left.saturating_add(1);
            } else {
                group.given = true;
                let rows = group.chunks.iter().map(|meta| u64::from(meta.rows)).sum();
                let chunks = group.chunks.iter().map(|meta| meta.id).collect();
                looks.groups.push((Given { id, rows, whole: group.whole }, chunks));
            }
        }
        looks
    }

    /// Makes the index anew, of the file and of what is held.
    pub(super) fn index_acknowledged(&mut self) {
        let Ok(in_file) = self.store.acknowledged() else { return };
        self.acknowledged.replace(in_file);
        for kept in self.fresh.held().filter(|kept| kept.acknowledged.is_some()) {
            self.acknowledged.add(vec![kept.meta()], true);
        }
    }

    /// Nothing is handed out any more.
    pub(super) fn take_stock(&mut self) {
        self.acknowledged.groups.values_mut().for_each(|group| group.given = false);
    }

    /// Blueflood acknowledged these chunks: they leave the queue, and stay.
    pub(super) fn acknowledge(
        &mut self,
        ids: &[ChunkId],
        whole: bool,
        after: &mut After,
    ) -> rusqlite::Result<()> {
        let now = now_ms();
        let mut metas = Vec::with_capacity(ids.len());
        for &id in ids {
            if let Some(kept) = self.fresh.get_held(id) {
                if kept.acknowledged.is_none() {
                    after.tally.add(Where::Held, Where::HeldAcknowledged, kept.chunk.rows.into());
                    metas.push(kept.meta());
                }
            } else if let Some(meta) = self.store.acknowledge(id, now, whole)? {
                after.tally.add(Where::Spooled, Where::Acknowledged, meta.rows.into());
                metas.push(meta);
            }
        }
        after.acknowledged.push((metas, whole));
        Ok(())
    }

    /// Carries out what became of a group.
    pub(super) fn confirm(&mut self, id: GroupId, confirmed: &Confirmed) -> Result<(), SpoolError> {
        let Some(group) = self.acknowledged.groups.get(&id) else { return Ok(()) };
        let chunks = group.chunks.clone();
        let all_held = chunks.iter().all(|meta| self.fresh.get_held(meta.id).is_some());
        if all_held && matches!(confirmed, Confirmed::Stored) {
            // Not in the file: it need not be. It is counted there before long.
            let mut after = After::default();
            for kept in chunks.iter().filter_map(|meta| self.fresh.get_held(meta.id)) {
                let rows = u64::from(kept.chunk.rows);
                after.tally.add(Where::HeldAcknowledged, Where::Delivered, rows);
                after.delivered.push((kept.received_ms, rows));
                after.settled.push(kept.id);
            }
            self.unwritten.merge(&after.tally);
            self.follow(after);
            return Ok(());
        }
        self.write(|worker, after| match confirmed {
            Confirmed::Stored => worker.confirm_all_but(&chunks, None, after),
            Confirmed::StoredBut(absent) => worker.confirm_all_but(&chunks, Some(absent), after),
            Confirmed::Again => worker.again(&chunks, after),
        })
    }

    /// All rows of these chunks are stored but those that are `absent`, which wait to be sent again.
    fn confirm_all_but(
        &mut self,
        chunks: &[Meta],
        absent: Option<&Rows>,
        after: &mut After,
    ) -> rusqlite::Result<()> {
        let Some(lane) = chunks.first().map(|meta| meta.lane) else { return Ok(()) };
        let mut rows: u64 = 0;
        let mut received_ms = now_ms();
        for &Meta { id, .. } in chunks {
            let held = self.fresh.get_held(id).map(|kept| (u64::from(kept.chunk.rows), kept.received_ms));
            if let Some((held, received)) = held {
                after.tally.add(Where::HeldAcknowledged, Where::Acknowledged, held);
                rows = rows.saturating_add(held);
                received_ms = received_ms.min(received);
            } else {
                let removed =
                    self.store.remove_each(&[id], |_, received| received_ms = received_ms.min(received))?;
                self.store.forget_acknowledged(id)?;
                rows = rows.saturating_add(removed);
            }
            after.settled.push(id);
        }
        let again = absent.map_or(0, |absent| u64::from(absent.count));
        debug_assert!(again <= rows, "{again} of {rows} rows are absent");
        let again = again.min(rows);
        after.tally.add(Where::Acknowledged, Where::Delivered, rows.saturating_sub(again));
        after.delivered.push((received_ms, rows.saturating_sub(again)));
        after.tally.add(Where::Acknowledged, Where::Spooled, again);
        if let Some(absent) = absent.filter(|_| again > 0) {
            for (series, rows) in self.sift(&absent.clone().into()) {
                let chunk = self.sealer.seal(&rows);
                self.insert(lane, chunk, received_ms, true, series, after)?;
            }
        }
        Ok(())
    }

    /// These chunks wait to be sent again.
    fn again(&mut self, chunks: &[Meta], after: &mut After) -> rusqlite::Result<()> {
        for &meta in chunks {
            if self.fresh.get_held(meta.id).is_some() {
                after.tally.add(Where::HeldAcknowledged, Where::Held, meta.rows.into());
            } else if self.store.wait_again(meta.id)? {
                after.tally.add(Where::Acknowledged, Where::Spooled, meta.rows.into());
            } else {
                after.settled.push(meta.id);
                continue;
            }
            after.waits_again.push(meta.id);
            after.added.push(Added { meta, due: true, series: None });
        }
        Ok(())
    }

    /// All that is acknowledged waits to be sent again; how many rows.
    pub(super) fn all_waits_again(&mut self) -> Result<u64, SpoolError> {
        let all: Vec<Meta> = self.acknowledged.oldest().collect();
        if !all.is_empty() {
            self.write(|worker, after| worker.again(&all, after))?;
        }
        Ok(all.iter().map(|meta| u64::from(meta.rows)).sum())
    }

    /// Makes room by what is acknowledged, where nothing else is left: it is probably stored. False if there is nothing of
    /// it in the file.
    pub(super) fn drop_acknowledged(&self, reason: Dropped, after: &mut After) -> rusqlite::Result<bool> {
        let in_file =
            |meta: &Meta| self.fresh.get_held(meta.id).is_none() && !after.settled.contains(&meta.id);
        let Some(meta) = self.acknowledged.oldest().find(in_file) else { return Ok(false) };
        let rows = self.store.remove(&[meta.id])?;
        self.store.forget_acknowledged(meta.id)?;
        after.tally.add(Where::Acknowledged, Where::Dropped(reason), rows);
        after.dropped.push((reason, rows));
        after.settled.push(meta.id);
        Ok(true)
    }
}
