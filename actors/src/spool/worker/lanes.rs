//! Owns whose the rows of the spool are: each chunk is of one lane, and each lane of one tenant. Rows never change their
//! tenant, whatever the settings become: only whoever sent them knew whom they were for.

use std::{collections::BTreeMap, sync::Arc};

use super::Worker;
use crate::{
    core::{chunk::Chunk, queue::Meta},
    spool::{
        Batch, Bodies, Notice, SpoolError,
        store::{self, LANE_DEFAULT, LaneNumber, Store},
    },
};

/// The tenants whose rows are here, or come in.
#[derive(Debug)]
pub(super) struct Lanes {
    tenants: BTreeMap<LaneNumber, Arc<str>>,
    /// Whether the file says who was the first.
    pub(super) first_is_written: bool,
    /// Whose rows come in now.
    now: Arc<str>,
}

impl Lanes {
    /// What the file knows of them; `now` is the first if there was none.
    pub(super) fn read(store: &Store, now: &str) -> Self {
        let first = store.first_tenant(now);
        let first_is_written = first.is_ok();
        let first = first.map_or_else(|_| now.into(), Arc::from);
        // `open` has read all of the file before.
        let others = store.tenants().unwrap_or_default();
        let others = others.into_iter().map(|(lane, tenant)| (lane, tenant.into()));
        let tenants = std::iter::once((LANE_DEFAULT, first)).chain(others).collect();
        Self { tenants, first_is_written, now: now.into() }
    }

    /// Every lane and its tenant.
    pub(super) fn all(&self) -> Vec<(LaneNumber, String)> {
        self.tenants.iter().map(|(&lane, tenant)| (lane, tenant.to_string())).collect()
    }

    fn find(&self, tenant: &str) -> Option<LaneNumber> {
        if tenant.is_empty() {
            return Some(LANE_DEFAULT);
        }
        self.tenants.iter().find(|(_, known)| ***known == *tenant).map(|(&lane, _)| lane)
    }

    /// The lane of a tenant that has one (see [`Worker::open_lanes`]).
    pub(super) fn of(&self, tenant: &str) -> LaneNumber {
        self.find(tenant).unwrap_or(LANE_DEFAULT)
    }
}

impl Worker {
    /// Makes a lane for each tenant whose batches wait; false if the disk does not let it, and they have to go on waiting.
    /// It comes before their transaction: a lane must not be taken back with it.
    pub(super) fn open_lanes(&mut self) -> bool {
        loop {
            let known = |batch: &Arc<Batch>| self.lanes.find(&batch.tenant).is_some();
            let Some(tenant) =
                self.waiting.iter().find(|(batch, _)| !known(batch)).map(|(batch, _)| batch.tenant.clone())
            else {
                return true;
            };
            match self.write(|worker, _| worker.store.lane_of(&tenant)) {
                Ok(lane) => drop(self.lanes.tenants.insert(lane, tenant)),
                Err(SpoolError::Disk(text) | SpoolError::DiskFull(text)) => {
                    self.block(text);
                    return false;
                }
                // The upkeep tries again.
                Err(SpoolError::Replaced | SpoolError::Closed) => return false,
            }
        }
    }

    /// Whose a chunk is, by the lane that it was loaded with: the checksum of the chunk vouches for that one.
    pub(super) fn tenant_of(&mut self, meta: Meta, lane: LaneNumber) -> Result<Arc<str>, SpoolError> {
        match self.lanes.tenants.get(&lane).filter(|_| lane == meta.lane) {
            Some(tenant) => Ok(tenant.clone()),
            // To send it to anybody would be to guess.
            None => Err(self.failed(&store::damage(format!("nobody knows whose chunk {} is", meta.id)))),
        }
    }

    /// Chunks that are sent as one payload, with whose they are.
    pub(super) fn of_one_tenant(&self, chunks: Vec<(LaneNumber, Chunk)>) -> Result<Bodies, SpoolError> {
        let Some(&(lane, _)) = chunks.first() else { return Ok(Bodies::default()) };
        match self.lanes.tenants.get(&lane) {
            Some(tenant) if chunks.iter().all(|(other, _)| *other == lane) => {
                let chunks = chunks.into_iter().map(|(_, chunk)| chunk).collect();
                Ok(Bodies { tenant: tenant.clone(), chunks })
            }
            _ => Err(SpoolError::Disk("these chunks are not all of one tenant that is known".to_owned())),
        }
    }

    /// The file has to say who was the first, or a later start would take its own tenant for it.
    pub(super) fn write_first_tenant(&self) -> rusqlite::Result<()> {
        match self.lanes.tenants.get(&LANE_DEFAULT).filter(|_| !self.lanes.first_is_written) {
            Some(first) => self.store.first_tenant(first).map(drop),
            None => Ok(()),
        }
    }

    pub(super) fn set_tenant(&mut self, tenant: String) {
        let before = std::mem::replace(&mut self.lanes.now, tenant.into());
        if before != self.lanes.now {
            // What is on its way into the spool was taken before.
            self.say_of_others(&before, self.ledger.snapshot().open);
        }
    }

    /// Says which datapoints were taken for another tenant than that of the settings.
    pub(super) fn say_of_other_tenants(&self) {
        if self.lanes.tenants.values().any(|tenant| *tenant != self.lanes.now) {
            self.say_of_others(&self.lanes.now, 0);
        }
    }

    /// The same, with `more` that are of one tenant and on their way here.
    fn say_of_others(&self, whose: &Arc<str>, more: u64) {
        let mut rows: BTreeMap<Arc<str>, u64> = BTreeMap::from([(whose.clone(), more)]);
        let mut add = |lane: LaneNumber, n: u64| {
            if let Some(tenant) = self.lanes.tenants.get(&lane) {
                let rows = rows.entry(tenant.clone()).or_default();
                *rows = rows.saturating_add(n);
            }
        };
        // An error shows in the requests too.
        self.store.rows_by_lane().unwrap_or_default().into_iter().for_each(|(lane, n)| add(lane, n));
        self.fresh.held_metas().for_each(|meta| add(meta.lane, meta.rows.into()));
        for (tenant, rows) in rows.into_iter().filter(|(tenant, rows)| *rows > 0 && *tenant != self.lanes.now)
        {
            (self.say)(Notice::OfAnotherTenant { tenant, rows, now: self.lanes.now.clone() });
        }
    }
}
