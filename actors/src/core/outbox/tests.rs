//! The outbox against a model: a spool that is a map, and a Blueflood that answers by a script.

use std::collections::HashSet;

use proptest::prelude::*;

use super::{answers::UNCONFIRMED_TRIES, *};
use crate::core::{backoff::Backoff, blueflood::Verdict};

const LIMITS: Limits = Limits {
    payload_bytes_max: 1_048_576,
    payload_rows_max: 2_000,
    in_flight_max: 4,
    backoff: Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) },
    newest_first: false,
    authenticates: false,
};

/// An outbox with everything around it.
struct World {
    outbox: Outbox,
    now: Now,
    spool: BTreeMap<ChunkId, Meta>,
    dropped: HashSet<ChunkId>,
    next_chunk: ChunkId,
    in_flight: BTreeMap<ParcelId, Vec<ChunkId>>,
    refused_rows: u64,
    delivered_rows: u64,
    sent: Vec<Vec<ChunkId>>,
    notices: Vec<Notice>,
    newest_first: bool,
}

impl World {
    fn new(limits: Limits, stored: usize) -> Self {
        let mut world = Self {
            outbox: Outbox::new(limits, None),
            now: Duration::from_secs(1000),
            spool: BTreeMap::new(),
            dropped: HashSet::new(),
            next_chunk: 1,
            in_flight: BTreeMap::new(),
            refused_rows: 0,
            delivered_rows: 0,
            sent: Vec::new(),
            notices: Vec::new(),
            newest_first: limits.newest_first,
        };
        for _ in 0..stored {
            world.store(100);
        }
        world.outbox = Outbox::new(limits, world.spool.keys().next_back().copied());
        world.event(Event::Tick);
        world
    }

    fn store(&mut self, rows: u32) -> Meta {
        let meta = Meta { id: self.next_chunk, rows, raw_bytes: rows * 150 };
        self.next_chunk += 1;
        self.spool.insert(meta.id, meta);
        meta
    }

    fn append(&mut self, rows: u32) {
        let meta = self.store(rows);
        self.event(Event::Appended(meta));
    }

    fn event(&mut self, event: Event) {
        let actions = self.outbox.apply(event, self.now, 1.0);
        for action in actions {
            self.act(action);
        }
        assert!(self.in_flight.len() <= LIMITS.in_flight_max as usize);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { parcel, chunks, .. } => {
                let held: Vec<_> = chunks.iter().filter(|id| !self.dropped.contains(id)).collect();
                if held.is_empty() {
                    return self.event(Event::Gone { parcel });
                }
                for id in held {
                    assert!(self.spool.contains_key(id), "a settled chunk is never sent again");
                    assert!(
                        !self.in_flight.values().flatten().any(|other| other == id),
                        "{id} is in flight twice"
                    );
                }
                assert!(!chunks.is_empty());
                self.sent.push(chunks.clone());
                self.in_flight.insert(parcel, chunks);
            }
            Action::Settle { parcel, chunks, fate } => {
                let gone: Vec<Meta> = chunks.iter().filter_map(|id| self.spool.remove(id)).collect();
                let rows: u64 = gone.iter().map(|meta| u64::from(meta.rows)).sum();
                let mut requeued = Vec::new();
                match fate {
                    Fate::Delivered { .. } => self.delivered_rows += rows,
                    Fate::DeliveredExcept(errors) | Fate::RefusedNamed(errors) => {
                        self.refused_rows += errors.len() as u64;
                        self.delivered_rows += rows - errors.len() as u64;
                    }
                    Fate::RefusedAll { .. } => self.refused_rows += rows,
                    Fate::Halved if gone.is_empty() => {}
                    Fate::Halved => {
                        let left = gone[0].rows / 2;
                        requeued.push(self.store(left));
                        requeued.push(self.store(gone[0].rows - left));
                    }
                }
                self.event(Event::Settled { parcel, requeued });
            }
            Action::Refill { from, max } => {
                let mut metas: Vec<Meta> = if self.newest_first {
                    self.spool.range(..from.unwrap_or(ChunkId::MAX)).rev().map(|(_, meta)| *meta).collect()
                } else {
                    self.spool.range(from.map_or(0, |id| id + 1)..).map(|(_, meta)| *meta).collect()
                };
                let end = metas.len() <= max;
                metas.truncate(max);
                self.event(Event::Refilled { metas, end });
            }
            Action::Say(notice) => self.notices.push(notice),
        }
    }

    fn answer_one(&mut self, verdict: impl FnOnce(&[ChunkId]) -> Verdict) -> bool {
        let Some((parcel, chunks)) = self.in_flight.pop_first() else { return false };
        let verdict = verdict(&chunks);
        self.event(Event::Answered { parcel, verdict, took: Duration::from_millis(10) });
        true
    }

    fn answer_all(&mut self, verdict: impl Fn(&[ChunkId]) -> Verdict) {
        while self.answer_one(&verdict) {}
    }

    /// Answers and lets time pass until nothing is left.
    fn run_dry(&mut self, verdict: impl Fn(&[ChunkId]) -> Verdict) {
        for _ in 0..100_000 {
            self.event(Event::Flush);
            self.answer_all(&verdict);
            if self.outbox.is_empty() {
                return;
            }
            self.now = self.outbox.next_wake(self.now).unwrap_or(self.now + Duration::from_secs(1));
            self.event(Event::Tick);
        }
        panic!("never ends: {:?}", self.outbox);
    }
}

fn unavailable() -> Verdict {
    Verdict::Unavailable { cause: "HTTP 503".into(), retry_after: None }
}

#[test]
fn a_payload_leaves_when_it_is_full_or_due() {
    let mut world = World::new(LIMITS, 0);
    for _ in 0..19 {
        world.append(100);
    }
    assert!(world.sent.is_empty(), "1,900 rows are neither full nor due");
    world.append(100);
    assert_eq!(world.sent.len(), 1, "2,000 rows are full");
    world.answer_all(|_| Verdict::Stored);
    world.append(1);
    assert_eq!(world.sent.len(), 1);
    world.event(Event::Flush);
    assert_eq!(world.sent.len(), 2, "one row is due when the interval is over");
}

#[test]
fn payloads_are_bounded_in_bytes_and_rows() {
    let mut world = World::new(Limits { payload_bytes_max: 45_000, ..LIMITS }, 0);
    for _ in 0..10 {
        world.append(100); // 15,000 bytes: two fit with their punctuation, three do not
    }
    world.run_dry(|_| Verdict::Stored);
    assert!(world.sent.iter().all(|chunks| chunks.len() == 2), "{:?}", world.sent);
}

#[test]
fn what_was_in_the_spool_is_due_at_once_and_all_of_it_is_sent() {
    for newest_first in [false, true] {
        let mut world = World::new(Limits { newest_first, ..LIMITS }, 5_000);
        assert_eq!(world.sent[0].contains(&5_000), newest_first);
        world.answer_all(|_| Verdict::Stored);
        assert!(world.outbox.is_empty());
        assert_eq!(world.delivered_rows, 500_000);
    }
}

#[test]
fn during_an_outage_there_is_one_probe_at_a_time_and_afterwards_all_is_delivered() {
    let mut world = World::new(LIMITS, 3_000);
    for _ in 0..50 {
        world.answer_all(|_| unavailable());
        let (until, _) = world.outbox.status().closed.expect("the gate is closed");
        assert!(until > world.now && world.in_flight.is_empty());
        world.now = until;
        world.event(Event::Tick);
        assert_eq!(world.in_flight.len(), 1, "one probe");
    }
    let closed = world.notices.iter().filter(|notice| matches!(notice, Notice::Closed { .. })).count();
    assert_eq!(closed, 1, "an outage is said once: {:?}", world.notices);
    world.run_dry(|_| Verdict::Stored);
    assert!(matches!(world.notices.last(), Some(Notice::Opened { failures: 50, .. })), "{:?}", world.notices);
    assert_eq!(world.delivered_rows, 300_000);
}

#[test]
fn retry_after_is_obeyed() {
    let mut world = World::new(LIMITS, 1);
    let retry_after = Some(Duration::from_secs(120));
    world.answer_all(|_| Verdict::Unavailable { cause: "HTTP 429".into(), retry_after });
    assert_eq!(world.outbox.next_wake(world.now), Some(world.now + Duration::from_secs(120)));
}

#[test]
fn one_poison_row_is_found_by_halving_and_costs_nobody_else_anything() {
    let mut world = World::new(LIMITS, 0);
    world.append(1);
    world.append(1024);
    // The poison is in whatever piece of chunk 2 has the largest number: the last row.
    let poisoned = |world: &World, chunks: &[ChunkId]| {
        let last = world.spool.keys().next_back().copied();
        chunks.iter().any(|id| Some(*id) == last)
    };
    world.event(Event::Flush);
    let mut posts = 0;
    while let Some((parcel, chunks)) = world.in_flight.pop_first() {
        posts += 1;
        let verdict = if poisoned(&world, &chunks) {
            Verdict::RefusedWhole("Cannot parse content".into())
        } else {
            Verdict::Stored
        };
        world.event(Event::Answered { parcel, verdict, took: Duration::ZERO });
    }
    assert_eq!((world.delivered_rows, world.refused_rows), (1024, 1));
    assert!(posts <= 2 * 11 + 2, "log2(n) halvings, two posts each: {posts}");
}

#[test]
fn a_payload_that_always_fails_does_not_stop_the_others_and_is_halved_after_a_few_tries() {
    let mut world = World::new(LIMITS, 0);
    world.append(2_000);
    world.answer_all(|_| unavailable());
    // Metrics keep coming; whatever holds the first chunk fails for ever.
    let mut minutes = 0;
    while world.spool.contains_key(&1) {
        world.append(2_000);
        world.now += Duration::from_secs(60);
        world.event(Event::Tick);
        world.answer_all(|chunks| if chunks.contains(&1) { unavailable() } else { Verdict::Stored });
        minutes += 1;
    }
    assert!((4..10).contains(&minutes), "a few tries, then it is halved: {minutes}");
    assert!(world.notices.iter().any(|notice| matches!(notice, Notice::Halving { rows: 2_000, .. })));
    world.run_dry(|_| Verdict::Stored);
    assert_eq!(world.delivered_rows, 2_000 * (1 + minutes), "nobody else lost anything by it");
}

#[test]
fn a_payload_that_only_times_out_while_others_pass_is_halved_and_its_size_learned() {
    let mut world = World::new(LIMITS, 0);
    for _ in 0..20 {
        world.append(2_000);
    }
    world.run_dry(|chunks| {
        if chunks.contains(&1) {
            Verdict::NoAnswer { cause: "no answer".into(), may_be_size: true }
        } else {
            Verdict::Stored
        }
    });
    assert_eq!(world.delivered_rows, 40_000);
    assert_eq!(world.outbox.status().payload_bytes_max, (2_000 * 150 + 2) / 2);
}

#[test]
fn payloads_that_are_all_too_large_to_be_answered_are_halved_until_one_passes() {
    let mut world = World::new(LIMITS, 0);
    for _ in 0..20 {
        world.append(2_000); // 300,000 bytes each, and no smaller one is there
    }
    let spool = std::cell::Cell::new(0);
    for _ in 0..1_000 {
        let sizes = world.spool.clone();
        world.event(Event::Flush);
        world.answer_all(|chunks| {
            let bytes: u32 = chunks.iter().filter_map(|id| sizes.get(id)).map(|meta| meta.raw_bytes).sum();
            // A chunk that is made while we answer is not in `sizes`, and left for the next round.
            if bytes > 0 && bytes <= 100_000 {
                Verdict::Stored
            } else {
                Verdict::NoAnswer { cause: "no answer".into(), may_be_size: true }
            }
        });
        spool.set(world.spool.len());
        if world.outbox.is_empty() {
            break;
        }
        world.now = world.outbox.next_wake(world.now).unwrap_or(world.now + Duration::from_secs(1));
        world.event(Event::Tick);
    }
    assert_eq!((world.delivered_rows, world.refused_rows, spool.get()), (40_000, 0, 0));
}

#[test]
fn a_long_silence_makes_no_crumbs_and_refuses_nothing() {
    let mut world = World::new(LIMITS, 0);
    for _ in 0..20 {
        world.append(2_000);
    }
    for _ in 0..2_000 {
        world.event(Event::Flush);
        world.answer_all(|_| Verdict::NoAnswer { cause: "no answer".into(), may_be_size: true });
        world.now = world.outbox.next_wake(world.now).unwrap();
        world.event(Event::Tick);
    }
    assert!(world.spool.values().all(|meta| meta.raw_bytes > 32_768), "{:?}", world.spool);
    world.run_dry(|_| Verdict::Stored);
    assert_eq!((world.delivered_rows, world.refused_rows), (40_000, 0));
}

#[test]
fn finding_a_poison_does_not_close_the_gate_for_everybody() {
    let mut world = World::new(LIMITS, 0);
    world.append(1_024);
    world.answer_all(|_| unavailable());
    // The poison is in the largest piece of chunk 1 that was made last.
    for _ in 0..500 {
        let poisoned =
            |spool: &BTreeMap<ChunkId, Meta>| spool.keys().rev().find(|id| spool[id].rows != 7).copied();
        let poison = poisoned(&world.spool);
        if poison.is_none() {
            break;
        }
        world.append(7);
        world.event(Event::Flush);
        while let Some((parcel, chunks)) = world.in_flight.pop_first() {
            let bad = chunks.iter().any(|id| Some(*id) == poisoned(&world.spool));
            let verdict = if bad { unavailable() } else { Verdict::Stored };
            world.event(Event::Answered { parcel, verdict, took: Duration::ZERO });
        }
        world.now += Duration::from_secs(61);
        world.event(Event::Tick);
    }
    assert_eq!(world.refused_rows, 1);
    let closed = world.notices.iter().filter(|notice| matches!(notice, Notice::Closed { .. })).count();
    assert_eq!(closed, 1, "{:?}", world.notices);
}

#[test]
fn too_large_is_halved_at_once_and_the_limit_is_kept() {
    let mut world = World::new(LIMITS, 0);
    for _ in 0..20 {
        world.append(100);
    }
    world.run_dry(|chunks| if chunks.len() > 4 { Verdict::TooLarge } else { Verdict::Stored });
    assert_eq!(world.delivered_rows, 2_000);
    let before = world.sent.len();
    for _ in 0..20 {
        world.append(100);
    }
    world.run_dry(|chunks| if chunks.len() > 4 { Verdict::TooLarge } else { Verdict::Stored });
    assert!(world.sent[before..].iter().all(|chunks| chunks.len() <= 4), "the limit is learned");
}

#[test]
fn a_202_is_sent_again_a_few_times_and_then_counts_as_delivered() {
    let mut world = World::new(LIMITS, 0);
    world.append(10);
    world.run_dry(|_| Verdict::Unconfirmed);
    assert_eq!(world.sent.len(), 1 + UNCONFIRMED_TRIES as usize);
    assert_eq!(world.delivered_rows, 10);
}

#[test]
fn a_401_renews_the_token_once_and_sends_at_once_then_backs_off() {
    let mut world = World::new(Limits { authenticates: true, ..LIMITS }, 0);
    world.append(10);
    world.event(Event::Flush);
    assert!(world.answer_one(|_| Verdict::Unauthorized));
    assert_eq!((world.sent.len(), world.in_flight.len()), (2, 1), "sent again at once");
    assert!(world.answer_one(|_| Verdict::Unauthorized));
    assert!(world.in_flight.is_empty() && world.outbox.status().closed.is_some(), "the second is a backoff");
    world.run_dry(|_| Verdict::Stored);
    assert_eq!(world.delivered_rows, 10);
}

#[test]
fn a_wrong_setting_is_said_once_and_keeps_everything() {
    let mut world = World::new(LIMITS, 30);
    for _ in 0..5 {
        world.answer_all(|_| Verdict::Misconfigured("HTTP 404".into()));
        assert_eq!(world.outbox.status().misconfigured.as_deref(), Some("HTTP 404"));
        world.now = world.outbox.next_wake(world.now).unwrap();
        world.event(Event::Tick);
    }
    assert_eq!(world.notices, [Notice::Misconfigured("HTTP 404".into())]);
    world.run_dry(|_| Verdict::Stored);
    assert_eq!((world.delivered_rows, world.outbox.status().misconfigured), (3_000, None));
}

#[test]
fn concurrency_climbs_from_one_while_all_is_well() {
    let mut world = World::new(LIMITS, 1_000);
    assert_eq!(world.in_flight.len(), 1);
    for _ in 0..8 {
        world.answer_one(|_| Verdict::Stored);
    }
    assert_eq!(world.in_flight.len(), 4);
    world.answer_one(|_| unavailable());
    assert_eq!(world.outbox.status().concurrency, 2);
}

#[test]
fn chunks_that_somebody_else_put_into_the_spool_are_sent_too() {
    for newest_first in [false, true] {
        let mut world = World::new(Limits { newest_first, ..LIMITS }, 3);
        world.answer_all(|_| Verdict::Stored);
        let replayed = world.store(7).id;
        world.event(Event::Seen(replayed));
        world.event(Event::Seen(replayed));
        world.answer_all(|_| Verdict::Stored);
        assert_eq!(world.delivered_rows, 307);
        assert!(world.outbox.is_empty());
    }
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    let no_answer =
        any::<bool>().prop_map(|may_be_size| Verdict::NoAnswer { cause: "reset".into(), may_be_size });
    prop_oneof![
        4 => Just(Verdict::Stored),
        1 => Just(Verdict::Unconfirmed),
        1 => Just(Verdict::StoredExceptUnknown),
        1 => Just(Verdict::RefusedWhole("Cannot parse content".into())),
        1 => Just(Verdict::Unauthorized),
        1 => Just(Verdict::TooLarge),
        1 => Just(Verdict::Misconfigured("HTTP 403".into())),
        1 => Just(Verdict::Unexpected("HTTP 415".into())),
        2 => Just(unavailable()),
        1 => no_answer,
    ]
}

#[test]
fn what_is_mended_is_probed_at_once_and_not_before_its_time_otherwise() {
    let mut world = World::new(LIMITS, 3);
    let away = |cause: &str| Verdict::Unavailable {
        cause: cause.into(),
        retry_after: Some(Duration::from_secs(60)),
    };
    while let Some((&parcel, _)) = world.in_flight.first_key_value() {
        world.in_flight.remove(&parcel);
        let verdict = away("no token");
        world.event(Event::Answered { parcel, verdict, took: Duration::ZERO });
    }
    let sent = world.sent.len();
    world.now += Duration::from_secs(5);
    world.event(Event::Tick);
    assert_eq!(world.sent.len(), sent);
    world.event(Event::Mended);
    assert_eq!(world.sent.len(), sent + 1, "one probe, and the gate is closed until it has passed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_happens_every_row_is_settled_once(
        stored in 0usize..1_200,
        newest_first: bool,
        authenticates: bool,
        steps in prop::collection::vec((0u8..8, 1u32..2_000, any_verdict()), 0..300),
    ) {
        let mut world = World::new(Limits { newest_first, authenticates, ..LIMITS }, stored);
        let mut rows = stored as u64 * 100;
        for (what, n, verdict) in steps {
            match what {
                0..=2 => {
                    world.append(n);
                    rows += u64::from(n);
                }
                3 => world.event(Event::Flush),
                4 => {
                    world.now += Duration::from_millis(u64::from(n) * 20);
                    world.event(Event::Tick);
                }
                5 if n % 7 == 0 => {
                    // The spool drops its oldest, in flight or not: it counts what it still has when it settles.
                    if let Some((id, meta)) = world.spool.pop_first() {
                        rows -= u64::from(meta.rows);
                        world.dropped.insert(id);
                    }
                }
                6 if n % 5 == 0 => {
                    if let Some((parcel, _)) = world.in_flight.pop_first() {
                        world.event(Event::SpoolFailed { parcel });
                    }
                }
                _ => {
                    world.answer_one(|_| verdict);
                }
            }
        }
        world.run_dry(|_| Verdict::Stored);
        prop_assert!(world.spool.is_empty());
        prop_assert_eq!(world.delivered_rows + world.refused_rows, rows);
    }
}
