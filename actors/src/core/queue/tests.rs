//! The queue by itself, and against a model of what waits.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { rows_max: 100, bytes_max: 100_000 };

fn meta(id: ChunkId, rows: u32) -> Meta {
    Meta { id, rows, raw_bytes: rows * 100, lane: 0 }
}

/// A queue with a file that holds what the index does not.
struct World {
    queue: Queue,
    file: BTreeMap<ChunkId, Meta>,
    last: ChunkId,
    leases: Vec<Lease>,
    leased: BTreeSet<ChunkId>,
}

impl World {
    fn new(newest_first: bool, stored: u32) -> Self {
        Self::with_lanes(newest_first, stored, 1)
    }

    /// The same, of a file whose chunks are of so many lanes in turn, a dozen of each.
    fn with_lanes(newest_first: bool, stored: u32, lanes: u32) -> Self {
        let lane = |id: ChunkId| u32::try_from(id / 12).unwrap() % lanes;
        let file = (1..=stored.into()).map(|id| (id, Meta { lane: lane(id), ..meta(id, 10) })).collect();
        Self {
            queue: Queue::new(newest_first, stored.into()),
            file,
            last: stored.into(),
            leases: Vec::new(),
            leased: BTreeSet::new(),
        }
    }

    fn add(&mut self, rows: u32, due: bool) {
        self.add_in(0, rows, due);
    }

    fn add_in(&mut self, lane: LaneNumber, rows: u32, due: bool) {
        self.last += 1;
        let meta = Meta { lane, ..meta(self.last, rows) };
        self.file.insert(meta.id, meta);
        self.queue.added(meta, due);
    }

    fn fill(&mut self) {
        while let Some((edge, max)) = self.queue.wants() {
            let metas: Vec<Meta> = if self.queue.newest_first {
                self.file.range(..edge).rev().map(|(_, meta)| *meta).take(max).collect()
            } else {
                self.file.range(edge + 1..).map(|(_, meta)| *meta).take(max).collect()
            };
            self.queue.filled(&metas, metas.len() < max);
        }
    }

    fn lease(&mut self, due: Due) -> usize {
        self.queue.take_back();
        self.fill();
        let chunks = self.queue.next(BOUNDS, due);
        let waiting = self.queue.waiting(BOUNDS, due);
        assert!(chunks.is_empty() || waiting.due, "what can be leased is due");
        for meta in &chunks {
            assert_eq!(meta.lane, chunks[0].lane, "a payload is of one lane");
            assert!(self.file.contains_key(&meta.id), "{meta:?} is settled");
            assert!(self.leased.insert(meta.id), "{meta:?} is leased twice");
            self.leases.push(self.queue.lease(*meta));
        }
        if !chunks.is_empty() {
            assert!(self.queue.waiting(BOUNDS, due).any || self.leases.len() <= self.file.len());
        }
        chunks.len()
    }

    fn give_back(&mut self, index: usize) {
        let lease = self.leases.swap_remove(index);
        self.leased.remove(&lease.meta.id);
    }

    fn settle(&mut self, index: usize) {
        let lease = self.leases.swap_remove(index);
        self.leased.remove(&lease.meta.id);
        self.file.remove(&lease.meta.id);
        assert!(self.queue.settled(lease.meta.id));
        assert!(!self.queue.settled(lease.meta.id), "only the first counts");
    }

    /// Everything that waits is leased once, and nothing is left.
    fn drain(&mut self) {
        loop {
            if self.lease(Due::All) == 0 {
                break;
            }
        }
        let leased: BTreeSet<_> = self.leases.iter().map(|lease| lease.meta.id).collect();
        assert_eq!(leased.len(), self.leases.len());
        assert_eq!(leased, self.file.keys().copied().collect());
        assert!(!self.queue.waiting(BOUNDS, Due::All).any);
    }
}

#[test]
fn a_payload_is_leased_when_it_is_full_or_due() {
    let mut world = World::new(false, 0);
    (0..9).for_each(|_| world.add(10, false));
    assert_eq!(world.lease(Due::Flushed), 0, "90 rows are neither full nor due");
    world.add(10, false);
    assert_eq!(world.lease(Due::Flushed), 10, "100 rows are full");
    world.add(1, false);
    assert_eq!(world.lease(Due::Flushed), 0);
    world.queue.flushed(world.last);
    assert!(world.queue.waiting(BOUNDS, Due::Flushed).due);
    assert_eq!(world.lease(Due::Flushed), 1);
}

#[test]
fn what_was_in_the_file_is_due_at_once_and_comes_in_the_order_of_the_queue() {
    for newest_first in [false, true] {
        let mut world = World::new(newest_first, 50_000);
        assert_eq!(world.lease(Due::Flushed), 10);
        let first = world.leases[0].meta.id;
        assert_eq!(first, if newest_first { 50_000 } else { 1 });
        world.drain();
    }
}

#[test]
fn a_lease_that_is_dropped_waits_again_and_one_that_is_settled_does_not() {
    let mut world = World::new(false, 1);
    assert_eq!(world.lease(Due::Flushed), 1);
    assert_eq!(world.lease(Due::All), 0, "it is leased");
    world.give_back(0);
    assert_eq!(world.lease(Due::Flushed), 1, "it waits again");
    world.settle(0);
    assert_eq!(world.lease(Due::All), 0);
    assert!(!world.queue.waiting(BOUNDS, Due::All).any);
}

#[test]
fn a_lease_of_a_file_that_was_replaced_gives_nothing_back() {
    let mut world = World::new(false, 1);
    world.lease(Due::Flushed);
    world.queue.forget(1);
    let stale = std::mem::take(&mut world.leases);
    world.leased.clear();
    world.lease(Due::Flushed);
    drop(stale);
    assert_eq!(world.lease(Due::All), 0, "it is leased, whoever else had it before");
}

#[test]
fn rows_of_a_bad_series_wait_apart_until_one_of_them_passes() {
    let mut world = World::new(false, 0);
    world.queue.refused(b"bad", 0);
    world.last += 1;
    let bad = meta(world.last, 2);
    world.file.insert(bad.id, bad);
    let series = world.queue.series_apart().next().unwrap().clone();
    world.queue.added_apart(bad, series);
    assert_eq!(world.lease(Due::All), 0, "not among the others");
    assert_eq!(world.queue.next_apart(BOUNDS), Some(Apart { chunks: vec![bad], proven: false }));
    for _ in 1..ROWS_PROVE_SERIES {
        world.queue.refused(b"bad", world.last);
    }
    assert!(world.queue.next_apart(BOUNDS).unwrap().proven);
    world.queue.passed(b"bad");
    assert_eq!((world.queue.next_apart(BOUNDS), world.lease(Due::All)), (None, 1));
}

#[test]
fn a_payload_ends_where_another_lane_begins_and_does_not_wait_to_be_full() {
    for newest_first in [false, true] {
        let mut world = World::new(newest_first, 0);
        world.add_in(0, 10, false);
        world.add_in(0, 10, false);
        assert_eq!(world.lease(Due::Flushed), 0, "neither full nor due");
        world.add_in(7, 10, false);
        world.add_in(0, 10, false);
        let sizes = if newest_first { [1, 1, 0] } else { [2, 1, 0] };
        assert_eq!(sizes.map(|_| world.lease(Due::Flushed)), sizes, "the last may still grow");
        world.drain();
    }
}

#[test]
fn rows_of_one_bad_series_leave_by_lane_too() {
    let mut world = World::new(false, 0);
    (0..=ROWS_PROVE_SERIES).for_each(|_| world.queue.refused(b"bad", 0));
    let series = world.queue.series_apart().next().unwrap().clone();
    for lane in [1, 2, 1] {
        world.last += 1;
        world.queue.added_apart(Meta { lane, ..meta(world.last, 2) }, series.clone());
    }
    let next: Vec<_> = world.queue.next_apart(BOUNDS).unwrap().chunks.iter().map(|meta| meta.id).collect();
    assert_eq!(next, [1, 3]);
}

#[test]
fn the_series_that_are_kept_apart_are_bounded() {
    let mut world = World::new(false, 0);
    for i in 0..200 {
        world.queue.refused(format!("bad.{i}").as_bytes(), 0);
    }
    assert_eq!(world.queue.series_apart().len(), SERIES_APART_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn whatever_happens_every_chunk_is_leased_once_at_a_time_and_settled_once(
        newest_first: bool,
        stored in prop_oneof![0u32..50, 15_000u32..20_000],
        lanes in 1u32..4,
        steps in prop::collection::vec((0u8..9, 1u32..120, any::<prop::sample::Index>()), 0..200),
    ) {
        let mut world = World::with_lanes(newest_first, stored, lanes);
        for (what, n, index) in steps {
            match what {
                0..=2 => world.add_in(u32::try_from(index.index(9)).unwrap() % lanes, n, n % 5 == 0),
                3 => world.queue.flushed(world.last),
                4..=5 => {
                    world.lease(if n % 9 == 0 { Due::All } else { Due::Flushed });
                }
                6 if !world.leases.is_empty() => world.settle(index.index(world.leases.len())),
                7 if !world.leases.is_empty() => world.give_back(index.index(world.leases.len())),
                8 => {
                    // A policy takes the oldest that waits.
                    world.queue.take_back();
                    let oldest = world.file.keys().copied().find(|&id| !world.queue.is_leased(id));
                    if let Some(id) = oldest {
                        world.file.remove(&id);
                        world.queue.settled(id);
                    }
                }
                _ => {}
            }
            world.queue.take_back();
            let (count, edge) = world.queue.count();
            let beyond = edge.map_or(0, |edge| world.file.keys().filter(|&&id| {
                if newest_first { id < edge } else { id > edge }
            }).count());
            prop_assert_eq!(count + beyond - world.queue.counted_beyond_edge(), world.file.len());
        }
        world.drain();
    }
}
