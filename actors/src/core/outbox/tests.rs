//! The outbox and the queue in a world of their own: a spool that is a map, a Blueflood that answers as it likes, late and in
//! any order, and a clock that jumps to the next thing that happens.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::core::{
    backoff::Backoff,
    blueflood::{RowError, Verdict},
    queue::Queue,
};

const LIMITS: Limits = Limits {
    payload_bytes_max: 1_048_576,
    payload_rows_max: 200,
    in_flight_max: 4,
    backoff: Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) },
    authenticates: false,
};

/// Bytes of each row.
const ROW_BYTES: u32 = 1_500;

/// A row: its number, and the series that it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    number: u32,
    series: u32,
}

/// Series of this number and more are poison.
const POISON: u32 = 1_000_000;

impl Row {
    fn is_poison(self) -> bool {
        self.series >= POISON
    }

    fn name(self) -> String {
        format!("s.{}", self.series)
    }
}

/// Something that was asked for, and is not answered.
#[derive(Debug)]
enum Asked {
    Lease { payloads: usize, bounds: Bounds, due: Due, apart: bool },
    Post { id: ParcelId, verdict: Verdict, took: Duration, whole: bool },
    Settle { parcel: ParcelId, chunks: Vec<ChunkId>, fate: Fate },
}

/// What Blueflood says to a POST: its verdict, and how long that takes.
type Answer<'a> = Box<dyn FnMut(&[Row], Now, &mut fastrand::Rng) -> (Verdict, Duration) + 'a>;

struct World<'a> {
    outbox: Outbox,
    limits: Limits,
    queue: Queue,
    file: BTreeMap<ChunkId, Vec<Row>>,
    last_chunk: ChunkId,
    last_row: u32,
    now: Now,
    tick_at: Now,
    asked: Vec<(Now, Asked)>,
    rng: fastrand::Rng,
    answer: Answer<'a>,
    /// How often Blueflood stored each row.
    stored: HashMap<u32, u32>,
    delivered: BTreeSet<u32>,
    refused: BTreeSet<Row>,
    dropped: BTreeSet<u32>,
    /// Rows of each POST that was made.
    posts: Vec<usize>,
    /// POSTs of whole payloads that passed.
    passed: usize,
    notices: Vec<Notice>,
    /// Whether the spool's disk is full: nothing can be settled.
    disk_is_full: bool,
    /// Of ten pokes, so many are lost.
    pokes_lost: u8,
    /// The longest that the spool takes, in ms.
    spool_ms: u64,
    newest_first: bool,
    /// Events since the clock last moved.
    at_once: u32,
}

fn stored(_: &[Row], _: Now, _: &mut fastrand::Rng) -> (Verdict, Duration) {
    (Verdict::Stored, Duration::from_millis(10))
}

fn failing(status: u16) -> Verdict {
    Verdict::Failing { status, cause: format!("HTTP {status}"), retry_after: None }
}

impl<'a> World<'a> {
    fn new(
        limits: Limits,
        answer: impl FnMut(&[Row], Now, &mut fastrand::Rng) -> (Verdict, Duration) + 'a,
    ) -> Self {
        Self {
            outbox: Outbox::new(limits),
            limits,
            queue: Queue::new(false, 0),
            file: BTreeMap::new(),
            last_chunk: 0,
            last_row: 0,
            now: Duration::from_secs(1000),
            tick_at: Duration::from_secs(1000),
            asked: Vec::new(),
            rng: fastrand::Rng::with_seed(7),
            answer: Box::new(answer),
            stored: HashMap::new(),
            delivered: BTreeSet::new(),
            refused: BTreeSet::new(),
            dropped: BTreeSet::new(),
            posts: Vec::new(),
            passed: 0,
            notices: Vec::new(),
            disk_is_full: false,
            pokes_lost: 0,
            spool_ms: 0,
            newest_first: false,
            at_once: 0,
        }
    }

    fn newest_first(mut self) -> Self {
        (self.newest_first, self.queue) = (true, Queue::new(true, 0));
        self
    }

    // === The spool ===

    /// A chunk of rows of these series.
    fn append_of(&mut self, series: impl IntoIterator<Item = u32>, due: bool) -> ChunkId {
        let rows: Vec<Row> = series
            .into_iter()
            .map(|series| {
                self.last_row += 1;
                Row { number: self.last_row, series }
            })
            .collect();
        // As the spool does it: rows of a series that is kept apart are sealed by themselves.
        let apart: BTreeSet<Vec<u8>> = self.queue.series_apart().map(|name| name.to_vec()).collect();
        let (bad, good): (Vec<Row>, Vec<Row>) =
            rows.into_iter().partition(|row| apart.contains(row.name().as_bytes()));
        for row in bad {
            self.store_apart(vec![row]);
        }
        if !good.is_empty() {
            let meta = self.store(good);
            self.queue.added(meta, due);
        }
        if self.rng.u8(0..10) >= self.pokes_lost {
            self.event(Event::Poke);
        }
        self.last_chunk
    }

    fn append(&mut self, rows: u32) -> ChunkId {
        self.append_of((0..rows).map(|i| i % 1_000), true)
    }

    fn append_many(&mut self, chunks: usize, rows: u32) {
        for _ in 0..chunks {
            self.append(rows);
        }
    }

    fn store(&mut self, rows: Vec<Row>) -> Meta {
        self.last_chunk += 1;
        let count = u32::try_from(rows.len()).unwrap();
        self.file.insert(self.last_chunk, rows);
        Meta { id: self.last_chunk, rows: count, raw_bytes: count * ROW_BYTES, lane: 0 }
    }

    fn store_apart(&mut self, rows: Vec<Row>) -> Meta {
        let name = rows[0].name();
        let series = self.queue.series_apart().find(|known| ***known == *name.as_bytes()).cloned();
        let meta = self.store(rows);
        match series {
            Some(series) => self.queue.added_apart(meta, series),
            None => self.queue.added(meta, true),
        }
        meta
    }

    fn rows(&self, chunks: &[ChunkId]) -> Vec<Row> {
        chunks.iter().filter_map(|id| self.file.get(id)).flatten().copied().collect()
    }

    fn meta(&self, id: ChunkId) -> Meta {
        let rows = u32::try_from(self.file[&id].len()).unwrap();
        Meta { id, rows, raw_bytes: rows * ROW_BYTES, lane: 0 }
    }

    fn grant(&mut self, payloads: usize, bounds: Bounds, due: Due, apart: bool) -> Event {
        self.queue.take_back();
        while let Some((edge, max)) = self.queue.wants() {
            let ids: Vec<ChunkId> = if self.newest_first {
                self.file.range(..edge).rev().map(|(&id, _)| id).take(max).collect()
            } else {
                self.file.range(edge + 1..).map(|(&id, _)| id).take(max).collect()
            };
            let metas: Vec<Meta> = ids.into_iter().map(|id| self.meta(id)).collect();
            self.queue.filled(&metas, metas.len() < max);
        }
        let mut leased = Vec::new();
        for _ in 0..payloads + 8 {
            if leased.len() == payloads {
                break;
            }
            let (metas, proven) = if apart {
                match self.queue.next_apart(bounds) {
                    Some(apart) => (apart.chunks, Some(apart.proven)),
                    None => break,
                }
            } else {
                (self.queue.next(bounds, due), None)
            };
            let Some(first) = metas.first().copied() else { break };
            let names: BTreeSet<Vec<u8>> = self.queue.series_apart().map(|name| name.to_vec()).collect();
            let holds_bad = |world: &Self, id: ChunkId| {
                world.queue.needs_sifting(id)
                    && world.file[&id].iter().any(|row| names.contains(row.name().as_bytes()))
            };
            if !apart && (!bounds.hold(&first) || holds_bad(self, first.id)) {
                // It is divided: the rows of bad series by themselves, the rest within the bounds.
                let rows = self.file.remove(&first.id).unwrap();
                self.queue.settled(first.id);
                let (bad, good): (Vec<Row>, Vec<Row>) =
                    rows.into_iter().partition(|row| names.contains(row.name().as_bytes()));
                for row in bad {
                    self.store_apart(vec![row]);
                }
                let most = (bounds.rows_max as usize)
                    .min(bounds.bytes_max.saturating_sub(2) / ROW_BYTES as usize)
                    .max(1);
                for piece in good.chunks(most) {
                    let meta = self.store(piece.to_vec());
                    self.queue.added(meta, true);
                }
                continue;
            }
            let whole: Vec<Meta> =
                metas.into_iter().take_while(|meta| apart || !holds_bad(self, meta.id)).collect();
            for meta in &whole {
                assert!(!self.outbox.held().contains(&meta.id), "{meta:?} is leased twice");
            }
            let chunks = whole.into_iter().map(|meta| self.queue.lease(meta)).collect();
            leased.push(Leased { chunks, apart: proven });
        }
        Event::Leased { asked: payloads, payloads: leased, waiting: self.queue.waiting(bounds, due) }
    }

    /// What becomes of rows: a model of its own.
    fn settle(&mut self, parcel: ParcelId, chunks: &[ChunkId], fate: &Fate) -> Event {
        if self.disk_is_full {
            return Event::NotSettled { parcel };
        }
        let here: Vec<ChunkId> = chunks.iter().copied().filter(|id| self.file.contains_key(id)).collect();
        let rows = self.rows(&here);
        let series = here.iter().find_map(|&id| self.queue.series_of(id));
        for id in &here {
            self.file.remove(id);
            self.queue.settled(*id);
        }
        let named = |errors: &[RowError]| {
            let names: BTreeSet<(String, i64)> =
                errors.iter().map(|error| (error.name.clone(), error.time_ms)).collect();
            move |row: &Row| names.contains(&(row.name(), i64::from(row.number)))
        };
        let mut pieces: Vec<Vec<Row>> = Vec::new();
        match fate {
            Fate::Delivered | Fate::Acknowledged { .. } => self.deliver(&rows),
            Fate::DeliveredExcept { errors, unexplained, .. } => {
                let is_named = named(errors);
                let (bad, good): (Vec<Row>, Vec<Row>) = rows.iter().partition(|row| is_named(row));
                self.refuse(&bad);
                if unexplained.is_some() || bad.len() < errors.len() {
                    self.refuse(&good)
                } else {
                    self.deliver(&good)
                }
            }
            Fate::RefusedNamed(errors) => {
                let is_named = named(errors);
                let (bad, good): (Vec<Row>, Vec<Row>) = rows.iter().partition(|row| is_named(row));
                match (bad.is_empty(), good.len()) {
                    (true, 0..=1) => self.refuse(&good),
                    (true, n) => pieces.extend([good[..n / 2].to_vec(), good[n / 2..].to_vec()]),
                    (false, _) => {
                        self.refuse(&bad);
                        pieces.push(good);
                    }
                }
            }
            Fate::RefusedAll { reason, .. } => {
                self.refuse(&rows);
                if *reason == Refused::AlwaysFails {
                    for row in &rows {
                        self.queue.refused(row.name().as_bytes(), self.last_chunk);
                    }
                }
            }
            Fate::Halved => {
                assert!(here.len() <= 1, "only one chunk is halved");
                pieces.extend([rows[..rows.len() / 2].to_vec(), rows[rows.len() / 2..].to_vec()]);
            }
        }
        if let Some(series) = &series
            && matches!(fate, Fate::Delivered | Fate::Acknowledged { .. })
        {
            self.queue.passed(series);
        }
        let mut leases = Vec::new();
        for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            let meta = if series.is_some() { self.store_apart(piece) } else { self.store(piece) };
            if series.is_none() {
                self.queue.added(meta, true);
            }
            leases.push(self.queue.lease(meta));
        }
        Event::Settled { parcel, pieces: leases }
    }

    fn deliver(&mut self, rows: &[Row]) {
        for row in rows {
            assert!(self.delivered.insert(row.number), "{row:?} is settled twice");
        }
    }

    fn refuse(&mut self, rows: &[Row]) {
        for row in rows {
            assert!(self.refused.insert(*row), "{row:?} is settled twice");
        }
    }

    /// The spool drops its oldest that waits, by a policy.
    fn drop_oldest(&mut self) {
        self.queue.take_back();
        let oldest = self.file.keys().copied().find(|&id| !self.queue.is_leased(id));
        if let Some(id) = oldest {
            self.dropped.extend(self.file.remove(&id).unwrap().iter().map(|row| row.number));
            self.queue.settled(id);
        }
    }

    /// The forwarder dies, and the next one begins with nothing.
    fn die(&mut self) {
        self.outbox = Outbox::new(self.limits);
        // What it asked for is answered to nobody, but the spool does what it was told.
        for (_, asked) in std::mem::take(&mut self.asked) {
            if let Asked::Settle { parcel, chunks, fate } = asked {
                self.settle(parcel, &chunks, &fate);
            }
        }
        self.event(Event::Tick);
    }

    // === What happens ===

    fn event(&mut self, event: Event) {
        let random = self.rng.f64();
        for action in self.outbox.apply(event, self.now, random) {
            let soon = self.now + Duration::from_millis(self.rng.u64(0..=self.spool_ms));
            match action {
                Action::Lease { payloads, bounds, due, apart } => {
                    assert!(payloads > 0);
                    self.asked.push((soon, Asked::Lease { payloads, bounds, due, apart }));
                }
                Action::Send { parcel, chunks, .. } => {
                    assert!(!chunks.is_empty());
                    self.post(parcel, chunks, None);
                }
                Action::Try { trial, chunks, rows } => {
                    let all = self.rows(&chunks);
                    let sample: Vec<Row> = match all.is_empty() {
                        true => vec![Row { number: 0, series: 0 }],
                        false => (0..rows).map(|_| all[self.rng.usize(0..all.len())]).collect(),
                    };
                    self.post(trial, chunks, Some(sample));
                }
                Action::Settle { parcel, chunks, fate } => {
                    self.asked.push((soon, Asked::Settle { parcel, chunks, fate }));
                }
                Action::Say(notice) => self.notices.push(notice),
            }
        }
        let most = self.limits.in_flight_max.max(2) as usize;
        assert!(self.outbox.status(self.now).in_flight <= most, "{:?}", self.outbox.status(self.now));
    }

    fn post(&mut self, id: ParcelId, chunks: Vec<ChunkId>, few: Option<Vec<Row>>) {
        let whole = few.is_none();
        let rows = few.unwrap_or_else(|| self.rows(&chunks));
        if rows.is_empty() {
            self.event(Event::NotLoaded { parcel: id });
            return;
        }
        self.posts.push(rows.len());
        // What is answered is decided as the POST arrives.
        let (verdict, took) = (self.answer)(&rows, self.now, &mut self.rng);
        let named: BTreeSet<(String, i64)> = match &verdict {
            Verdict::StoredExcept { errors, .. } => {
                errors.iter().map(|error| (error.name.clone(), error.time_ms)).collect()
            }
            _ => BTreeSet::new(),
        };
        if verdict.took_payload() {
            for row in
                rows.iter().filter(|row| row.number > 0 && !named.contains(&(row.name(), row.number.into())))
            {
                *self.stored.entry(row.number).or_default() += 1;
            }
        }
        self.asked.push((self.now + took, Asked::Post { id, verdict, took, whole }));
    }

    /// Lets the next thing happen; false if that is after `until`.
    fn step(&mut self, until: Now) -> bool {
        let wake = self.outbox.next_wake(self.now);
        let answered = self.asked.iter().map(|(at, _)| *at).min();
        let at = [Some(self.tick_at), wake, answered].into_iter().flatten().min().unwrap();
        if at > until {
            self.now = until;
            return false;
        }
        self.at_once = if at > self.now { 0 } else { self.at_once + 1 };
        assert!(self.at_once < 20_000, "it is busy for ever: {:?} {:#?}", self.asked, self.outbox);
        self.now = self.now.max(at);
        let due: Vec<usize> =
            (0..self.asked.len()).filter(|&index| self.asked[index].0 <= self.now).collect();
        if due.is_empty() {
            if self.tick_at <= self.now {
                self.tick_at = self.now + Duration::from_secs(1);
            }
            self.event(Event::Tick);
            return true;
        }
        // What is due at once comes in any order.
        let index = due[self.rng.usize(0..due.len())];
        let event = match self.asked.swap_remove(index).1 {
            Asked::Lease { payloads, bounds, due, apart } => self.grant(payloads, bounds, due, apart),
            Asked::Post { id, verdict, took, whole } => {
                if whole && verdict.took_payload() {
                    self.passed += 1;
                }
                if verdict == Verdict::Stored && self.outbox.wants_control() {
                    self.outbox.set_control();
                }
                Event::Answered { parcel: id, verdict, took }
            }
            Asked::Settle { parcel, chunks, fate } => self.settle(parcel, &chunks, &fate),
        };
        self.event(event);
        true
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Runs until nothing waits, for at most so long.
    fn drain(&mut self, within: Duration) {
        let until = self.now + within;
        self.queue.flushed(self.last_chunk);
        while !self.file.is_empty() {
            assert!(
                self.step(until),
                "{} chunks are left of which {} are leased: {:#?}",
                self.file.len(),
                self.queue.leased(),
                self.outbox
            );
        }
    }

    /// Every row is in one place, nothing good is refused, and what is delivered was stored.
    fn check(&self) {
        let waiting: BTreeSet<u32> = self.file.values().flatten().map(|row| row.number).collect();
        let refused: BTreeSet<u32> = self.refused.iter().map(|row| row.number).collect();
        let places = [&waiting, &self.delivered, &refused, &self.dropped];
        let all: usize = places.iter().map(|place| place.len()).sum();
        let each: BTreeSet<u32> = places.into_iter().flatten().copied().collect();
        assert_eq!(
            (all, each.len()),
            (self.last_row as usize, self.last_row as usize),
            "each row is in one place"
        );
        for number in &self.delivered {
            assert!(self.stored.contains_key(number), "row {number} is delivered, and was never stored");
        }
    }

    fn good_refused(&self) -> usize {
        self.refused.iter().filter(|row| !row.is_poison()).count()
    }
}

const SOON: Duration = Duration::from_millis(10);

/// Whatever holds a poison fails in this way, everything else is stored.
fn poison(
    how: impl Fn() -> (Verdict, Duration),
) -> impl Fn(&[Row], Now, &mut fastrand::Rng) -> (Verdict, Duration) {
    move |rows, _, _| if rows.iter().any(|row| row.is_poison()) { how() } else { (Verdict::Stored, SOON) }
}

fn silence() -> (Verdict, Duration) {
    (Verdict::NoAnswer { cause: "no answer".into(), may_be_size: true }, Duration::from_secs(5))
}

fn reset() -> (Verdict, Duration) {
    (Verdict::NoAnswer { cause: "reset".into(), may_be_size: true }, SOON)
}

// === Payloads ===

#[test]
fn a_payload_leaves_when_it_is_full_or_due() {
    let mut world = World::new(LIMITS, stored);
    for _ in 0..19 {
        world.append_of(0..10, false);
    }
    world.run_for(Duration::from_secs(5));
    assert!(world.posts.is_empty(), "190 rows are neither full nor due");
    world.append_of(0..10, false);
    world.run_for(SOON);
    assert_eq!(world.posts, [200], "200 rows are full");
    world.append_of(0..1, false);
    world.queue.flushed(world.last_chunk);
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.posts, [200, 1], "one row is due when the interval is over");
}

#[test]
fn payloads_are_bounded_in_bytes_and_rows_whatever_was_sealed_before() {
    let mut world =
        World::new(Limits { payload_bytes_max: 450_000, payload_rows_max: 250, ..LIMITS }, stored);
    for _ in 0..10 {
        world.append(100);
    }
    world.append(10_000);
    world.drain(Duration::from_secs(60));
    assert!(world.posts.iter().all(|&rows| rows <= 250), "{:?}", world.posts);
    world.check();
    assert_eq!(world.delivered.len(), 11_000);
}

#[test]
fn what_was_in_the_spool_is_sent_in_the_order_that_is_set() {
    for newest_first in [false, true] {
        let world = World::new(LIMITS, stored);
        let mut world = if newest_first { world.newest_first() } else { world };
        for _ in 0..5_000 {
            let meta = world.store(vec![Row { number: world.last_row + 1, series: 1 }; 1]);
            world.last_row += 1;
            world.queue.added(meta, true);
        }
        world.queue.forget(world.last_chunk);
        world.limits.payload_rows_max = 10;
        world.outbox = Outbox::new(world.limits);
        world.event(Event::Tick);
        world.run_for(Duration::ZERO);
        assert_eq!(world.outbox.held().contains(&5_000), newest_first);
        world.drain(Duration::from_secs(60));
        world.check();
        assert_eq!(world.delivered.len(), 5_000);
    }
}

#[test]
fn concurrency_climbs_from_one_while_all_is_well_and_is_halved_by_a_failure() {
    let fail_next = std::cell::Cell::new(false);
    let mut world =
        World::new(LIMITS, |_, _, _| (if fail_next.take() { failing(500) } else { Verdict::Stored }, SOON));
    world.append_many(100, 200);
    assert_eq!(world.outbox.status(world.now).concurrency, 1);
    world.run_for(Duration::from_millis(80));
    assert_eq!(world.outbox.status(world.now).in_flight, 4);
    fail_next.set(true);
    while fail_next.get() {
        world.run_for(Duration::from_millis(1));
    }
    world.run_for(SOON);
    assert!(world.outbox.status(world.now).concurrency < 4);
}

// === Answers ===

fn confirming(holds: bool) -> Event {
    Event::Standing(Standing {
        confirms: true,
        reads: true,
        holds,
        doubt: holds.then(|| "not there".to_owned()),
    })
}

#[test]
fn a_202_that_nobody_looks_behind_is_sent_again_for_ever_and_never_refused() {
    let better = std::rc::Rc::new(std::cell::Cell::new(false));
    let is_better = better.clone();
    let answer = move || if is_better.get() { Verdict::Stored } else { Verdict::Unconfirmed };
    let mut world = World::new(LIMITS, move |_, _, _| (answer(), SOON));
    world.append(10);
    world.run_for(Duration::from_secs(3_000));
    assert!(world.posts.len() > 20 && world.delivered.is_empty(), "{}", world.posts.len());
    assert!(world.outbox.status(world.now).closed.is_some());
    better.set(true);
    world.drain(Duration::from_secs(7_200));
    assert_eq!(world.delivered.len(), 10);
}

#[test]
fn with_a_look_behind_it_a_200_is_acknowledged_and_a_202_likewise_with_every_row_looked_for() {
    for (verdict, took, whole_look) in [
        (Verdict::Stored, SOON, false),
        (Verdict::Stored, Duration::from_secs(3), true),
        (Verdict::Unconfirmed, SOON, true),
    ] {
        let mut outbox = Outbox::new(LIMITS);
        outbox.apply(confirming(false), Duration::ZERO, 0.5);
        let mut queue = crate::core::queue::Queue::new(false, 0);
        queue.filled(&[], true);
        let lease = queue.lease(Meta { id: 1, rows: 5, raw_bytes: 500, lane: 0 });
        let payloads = vec![Leased { chunks: vec![lease], apart: None }];
        outbox.apply(Event::Leased { asked: 1, payloads, waiting: Waiting::default() }, SOON, 0.5);
        let actions = outbox.apply(Event::Answered { parcel: 1, verdict, took }, SOON, 0.5);
        let fate = Fate::Acknowledged { whole_look };
        assert!(actions.contains(&Action::Settle { parcel: 1, chunks: vec![1], fate }), "{actions:?}");
    }
}

#[test]
fn nothing_is_sent_while_blueflood_cannot_be_believed() {
    let mut world = World::new(LIMITS, stored);
    world.event(confirming(true));
    world.append(100);
    world.run_for(Duration::from_secs(600));
    assert_eq!((world.posts.len(), world.outbox.status(world.now).has_free_slot), (0, false));
    let (_, cause) = world.outbox.status(world.now).closed.unwrap();
    assert!(cause.starts_with(NOT_READ_BACK) && cause.ends_with("not there"), "{cause}");
    world.event(confirming(false));
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.delivered.len(), 100);
}

#[test]
fn a_401_renews_the_token_once_and_sends_at_once_then_backs_off() {
    let answers = std::cell::RefCell::new(vec![Verdict::Unauthorized, Verdict::Unauthorized]);
    let mut world = World::new(Limits { authenticates: true, ..LIMITS }, |_, _, _| {
        (answers.borrow_mut().pop().unwrap_or(Verdict::Stored), SOON)
    });
    world.append(10);
    world.run_for(Duration::from_millis(25));
    assert_eq!(world.posts.len(), 2, "sent again at once");
    assert!(world.outbox.status(world.now).closed.is_some(), "the second is a backoff");
    world.drain(Duration::from_secs(60));
    assert_eq!(world.delivered.len(), 10);
}

#[test]
fn a_retry_after_is_obeyed_and_one_of_years_is_not_believed() {
    for (asked, waited) in [(120, 120), (99_999_999_999, 60)] {
        let retry_after = Some(Duration::from_secs(asked));
        let mut world = World::new(LIMITS, |_, _, _| {
            (Verdict::Failing { status: 429, cause: "HTTP 429".into(), retry_after }, SOON)
        });
        world.append(10);
        world.run_for(Duration::from_secs(1));
        let (until, _) = world.outbox.status(world.now).closed.unwrap();
        assert_eq!((until - Duration::from_secs(1000)).as_secs(), waited);
        assert_eq!(world.posts.len(), 1);
    }
}

#[test]
fn a_wrong_setting_is_said_once_and_keeps_everything() {
    let wrong = std::cell::Cell::new(true);
    let mut world = World::new(LIMITS, |_, _, _| {
        (if wrong.get() { Verdict::Misconfigured("HTTP 404".into()) } else { Verdict::Stored }, SOON)
    });
    world.append_many(30, 100);
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.notices, [Notice::Misconfigured("HTTP 404".into())]);
    assert!(world.posts.len() < 15, "now and then: {}", world.posts.len());
    wrong.set(false);
    world.drain(Duration::from_secs(120));
    assert_eq!((world.delivered.len(), world.outbox.status(world.now).misconfigured), (3_000, None));
}

#[test]
fn what_is_mended_is_probed_at_once_and_not_before_its_time_otherwise() {
    let mut world = World::new(LIMITS, stored);
    world.append(10);
    let Some(Asked::Lease { payloads, bounds, due, apart }) = world.asked.pop().map(|(_, asked)| asked)
    else {
        panic!()
    };
    let granted = world.grant(payloads, bounds, due, apart);
    world.event(granted);
    let Some((_, Asked::Post { id, .. })) = world.asked.pop() else { panic!() };
    world.posts.clear();
    let (cause, retry_in) = ("no token".to_owned(), Duration::from_secs(60));
    world.event(Event::NotSent { parcel: id, cause, retry_in });
    assert!(matches!(world.notices[..], [Notice::Closed { who: Who::Keystone, .. }]), "{:?}", world.notices);
    world.run_for(Duration::from_secs(30));
    assert!(world.posts.is_empty());
    world.event(Event::Mended);
    world.run_for(SOON);
    assert_eq!(world.posts.len(), 1);
}

/// A 207 that names each poison, and says `unexplained` beside it the first `times`.
fn a_207(unexplained: u32) -> impl FnMut(&[Row], Now, &mut fastrand::Rng) -> (Verdict, Duration) {
    let mut left = unexplained;
    move |rows, _, _| {
        let bad = rows.iter().filter(|row| row.is_poison());
        let errors: Vec<RowError> = bad
            .map(|row| RowError {
                name: row.name(),
                time_ms: row.number.into(),
                field: "metricName".into(),
                message: "no".into(),
            })
            .collect();
        let unexplained = (left > 0).then(|| "Persisted failed".to_owned());
        left = left.saturating_sub(1);
        (Verdict::StoredExcept { errors, unexplained }, SOON)
    }
}

#[test]
fn a_207_settles_exactly_what_it_names() {
    let mut world = World::new(LIMITS, a_207(0));
    world.append_of([1, 2, POISON, 3], true);
    world.drain(Duration::from_secs(10));
    assert_eq!((world.refused.len(), world.delivered.len(), world.posts.len()), (1, 3, 1));
}

#[test]
fn what_a_207_does_not_explain_is_sent_again_and_never_called_delivered() {
    for (times, refused) in [(1, 1), (2, 1), (100, 4)] {
        let mut world = World::new(LIMITS, a_207(times));
        world.append_of([1, 2, POISON, 3], true);
        world.drain(Duration::from_secs(300));
        assert_eq!((world.refused.len(), world.delivered.len()), (refused, 4 - refused), "{times} times");
    }
}

#[test]
fn too_large_is_halved_at_once_and_the_limit_is_kept() {
    let mut world = World::new(LIMITS, |rows, _, _| {
        (if rows.len() > 400 { Verdict::TooLarge } else { Verdict::Stored }, SOON)
    });
    world.append_many(20, 100);
    world.drain(Duration::from_secs(60));
    assert_eq!(world.delivered.len(), 2_000);
    let before = world.posts.len();
    world.append_many(20, 100);
    world.drain(Duration::from_secs(60));
    assert!(world.posts[before..].iter().all(|&rows| rows <= 400), "{:?}", world.posts);
}

#[test]
fn one_row_that_blueflood_refuses_without_a_name_is_found_by_halving() {
    let mut world =
        World::new(LIMITS, poison(|| (Verdict::RefusedWhole("Cannot parse content".into()), SOON)));
    world.append_of((0..1_024).chain([POISON]), true);
    world.drain(Duration::from_secs(60));
    world.check();
    assert_eq!((world.delivered.len(), world.refused.len()), (1_024, 1));
    assert!(world.posts.len() <= 2 * 11 + 2, "log2(n) halvings, two posts each: {}", world.posts.len());
}

// === Outages ===

#[test]
fn during_an_outage_there_is_one_probe_at_a_time_it_is_said_once_and_afterwards_all_is_delivered() {
    let away = std::cell::Cell::new(true);
    for verdict in
        [Verdict::Unreachable { cause: "refused connection".into() }, failing(503), failing(500), reset().0]
    {
        away.set(true);
        let mut world =
            World::new(LIMITS, |_, _, _| (if away.get() { verdict.clone() } else { Verdict::Stored }, SOON));
        world.append_many(300, 100);
        world.run_for(Duration::from_secs(3_600));
        assert!(world.posts.len() < 200, "{verdict:?}: {} POSTs in an hour", world.posts.len());
        assert!(
            matches!(world.notices[..], [Notice::Closed { who: Who::Blueflood, .. }]),
            "{:?}",
            world.notices
        );
        assert_eq!(world.refused.len(), 0);
        away.set(false);
        world.drain(Duration::from_secs(200));
        world.check();
        assert!(matches!(world.notices.last(), Some(Notice::Opened { .. })), "{:?}", world.notices);
        assert!(world.posts.iter().all(|&rows| rows == 200 || rows <= 8), "nothing was halved");
    }
}

#[test]
fn a_long_silence_makes_no_crumbs_and_refuses_nothing() {
    let away = std::cell::Cell::new(true);
    let mut world =
        World::new(LIMITS, |_, _, _| if away.get() { silence() } else { (Verdict::Stored, SOON) });
    world.append_many(20, 200);
    world.run_for(Duration::from_secs(24 * 3_600));
    assert_eq!(world.file.len(), 20, "nothing is halved");
    away.set(false);
    world.drain(Duration::from_secs(200));
    assert_eq!((world.delivered.len(), world.refused.len()), (4_000, 0));
}

#[test]
fn payloads_that_are_all_too_large_to_be_answered_are_halved_until_they_pass_and_the_limit_is_tried_again() {
    let small = std::cell::Cell::new(true);
    let mut world = World::new(LIMITS, |rows, _, _| {
        let bytes = rows.len() * ROW_BYTES as usize;
        if small.get() && bytes > 100_000 { silence() } else { (Verdict::Stored, SOON) }
    });
    world.append_many(20, 200); // 300,000 bytes each, and no smaller one is there
    world.drain(Duration::from_secs(1_200));
    world.check();
    assert_eq!((world.delivered.len(), world.refused.len()), (4_000, 0));
    assert!(world.outbox.status(world.now).payload_bytes_max < 160_000);
    small.set(false);
    world.run_for(Duration::from_secs(3_000));
    assert_eq!(world.outbox.status(world.now).payload_bytes_max, LIMITS.payload_bytes_max);
}

// === Poison ===

/// How a poison is answered: its name, the answer, and minutes within which the first good row must be there.
type Poison = (&'static str, fn() -> (Verdict, Duration), u64);

fn poisons() -> [Poison; 4] {
    [
        ("500", || (failing(500), SOON), 1),
        ("503", || (failing(503), SOON), 3),
        ("reset", reset, 1),
        ("silence", silence, 3),
    ]
}

#[test]
fn a_poison_among_other_payloads_is_found_soon_and_costs_few_posts() {
    for (how, answer, _) in poisons() {
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(5) };
        let mut world = World::new(Limits { backoff, ..LIMITS }, poison(answer));
        let mut payloads = 0;
        world.append_of((0..199).chain([POISON]), true);
        let minutes = if how == "silence" { 6 } else { 2 };
        for _ in 0..minutes * 60 {
            world.append(200);
            payloads += 1;
            world.run_for(Duration::from_secs(1));
        }
        world.check();
        assert_eq!((world.refused.len(), world.good_refused()), (1, 0), "{how}: {:#?}", world.outbox);
        world.drain(Duration::from_secs(60));
        assert!(world.posts.len() <= payloads + 200, "{how}: {} POSTs for {payloads}", world.posts.len());
    }
}

#[test]
fn a_poison_in_every_payload_stops_nobody_else() {
    for (how, answer, minutes) in poisons() {
        let mut world = World::new(LIMITS, poison(answer));
        for second in 0..600 {
            world.append_of((0..19).chain([POISON]), true);
            world.run_for(Duration::from_secs(1));
            if second == minutes * 60 {
                assert!(world.stored.len() >= 19, "{how}: nothing is there after {minutes} minutes");
            }
        }
        world.check();
        assert_eq!(world.good_refused(), 0, "{how}");
        let good = world.delivered.len();
        assert!(good >= 19 * 590, "{how}: {good} of {} good ones are delivered", 19 * 600);
        let before = world.posts.len();
        for _ in 0..300 {
            world.append_of((0..19).chain([POISON]), true);
            world.run_for(Duration::from_secs(1));
        }
        let posts = world.posts.len() - before;
        assert!(posts <= 360, "{how}: {posts} POSTs for 300 payloads");
        // Nothing stays for ever: when nothing else flows, what is kept apart is tried too.
        world.drain(Duration::from_secs(1_200));
        assert_eq!((world.good_refused(), world.refused.len()), (0, 900), "{how}");
    }
}

#[test]
fn many_poisons_that_end_a_flow_do_not_stay_for_ever() {
    let mut world = World::new(LIMITS, poison(|| (failing(500), SOON)));
    for second in 0..60 {
        world.append_of((0..200).chain((second < 22).then_some(POISON + second)), true);
        world.run_for(Duration::from_secs(1));
    }
    world.drain(Duration::from_secs(1_200));
    world.check();
    assert_eq!((world.refused.len(), world.good_refused()), (22, 0));
}

#[test]
fn a_series_that_is_good_again_is_like_any_other_again() {
    let bad = std::cell::Cell::new(true);
    let mut world = World::new(LIMITS, |rows, _, _| {
        let poisoned = bad.get() && rows.iter().any(|row| row.is_poison());
        (if poisoned { failing(500) } else { Verdict::Stored }, SOON)
    });
    for _ in 0..120 {
        world.append_of((0..19).chain([POISON]), true);
        world.run_for(Duration::from_secs(1));
    }
    assert_eq!(world.queue.series_apart().len(), 1);
    bad.set(false);
    for _ in 0..60 {
        world.append_of((0..19).chain([POISON]), true);
        world.run_for(Duration::from_secs(1));
    }
    assert_eq!(world.queue.series_apart().len(), 0);
    world.drain(Duration::from_secs(60));
    world.check();
}

// === Brown-outs ===

#[test]
fn in_a_brown_out_nothing_good_is_refused_and_few_posts_are_made_in_vain() {
    for status in [503, 500] {
        for percent in [50, 80, 90, 99] {
            let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(2) };
            let mut world = World::new(Limits { backoff, ..LIMITS }, move |_, _, rng: &mut fastrand::Rng| {
                (if rng.u32(0..100) < percent { failing(status) } else { Verdict::Stored }, SOON)
            });
            world.append_many(300, 200);
            // So many tries that each payload would pass about once.
            world.run_for(Duration::from_secs(u64::from(300 * 100 / (100 - percent))));
            world.check();
            assert_eq!(world.refused.len(), 0, "{percent} % of {status}");
            let needed = 100.0 / f64::from(100 - percent);
            let posts = world.posts.len() as f64 / world.passed.max(1) as f64;
            assert!(world.passed >= 20, "{percent} % of {status}: {} payloads passed", world.passed);
            assert!(
                posts <= 1.5 * needed,
                "{percent} % of {status}: {posts} POSTs for each of {} payloads, {} trials",
                world.passed,
                world.outbox.status(world.now).trials
            );
        }
    }
}

#[test]
fn a_limited_capacity_is_used_and_not_attacked() {
    for (status, burst) in [(503, 1.0), (429, 1.0), (429, 10.0)] {
        for capacity in [0.5, 1.0, 3.0, 10.0, 50.0] {
            let (mut left, mut at) = (burst, Duration::from_secs(1000));
            let mut world = World::new(LIMITS, move |_, now: Now, _| {
                left = (left + (now - at).as_secs_f64() * capacity).min(burst);
                at = now;
                if left < 1.0 {
                    return (failing(status), SOON);
                }
                left -= 1.0;
                (Verdict::Stored, SOON)
            });
            let seconds = (200.0 / capacity).max(30.0);
            world.append_many((2.0 * seconds * capacity + burst) as usize, 200);
            world.run_for(Duration::from_secs_f64(seconds));
            world.check();
            assert_eq!(world.refused.len(), 0, "{status} beyond {capacity}/s");
            let used = world.passed as f64 / (seconds * capacity);
            let posts = world.posts.len() as f64 / world.passed as f64;
            let what = format!(
                "{status} beyond {capacity}/s, {burst} at once: {used:.2} is used, {posts:.2} POSTs each"
            );
            assert!(used >= 0.7 && posts <= 2.0, "{what}");
        }
    }
}

#[test]
fn an_outage_each_second_of_a_fast_flow_refuses_nothing_and_is_made_up_for() {
    let mut world = World::new(LIMITS, |_, now: Now, _| {
        (if now.as_secs().is_multiple_of(2) { failing(503) } else { Verdict::Stored }, SOON)
    });
    for _ in 0..60 * 25 {
        world.append(200);
        world.run_for(Duration::from_millis(40));
    }
    assert_eq!(world.refused.len(), 0);
    world.answer = Box::new(stored);
    world.drain(Duration::from_secs(60));
    world.check();
}

// === Stop ===

#[test]
fn a_stop_delivers_what_can_be_delivered_and_waits_for_nothing_else() {
    let mut world = World::new(LIMITS, stored);
    world.append_of(0..100, false);
    world.run_for(Duration::from_secs(2));
    assert!(world.posts.is_empty());
    world.event(Event::Drain);
    assert!(!world.outbox.is_drained(true));
    world.run_for(Duration::from_secs(1));
    assert!(world.outbox.is_drained(true) && world.outbox.is_drained(false) && world.delivered.len() == 100);

    world.append_many(100, 200);
    world.event(Event::Poke);
    world.run_for(SOON / 2);
    world.event(Event::Halt);
    assert!(!world.outbox.is_drained(true), "what is in flight is waited for");
    let posts = world.posts.len();
    world.run_for(Duration::from_secs(5));
    assert!(world.outbox.is_drained(true) && world.posts.len() == posts, "and nothing more leaves");

    let mut world = World::new(LIMITS, |_, _, _| (Verdict::Unreachable { cause: "refused".into() }, SOON));
    world.append(100);
    world.run_for(Duration::from_secs(2));
    world.event(Event::Drain);
    world.run_for(SOON);
    assert!(world.outbox.is_drained(true), "it is kept, and nothing can be delivered");
    assert!(!world.outbox.is_drained(false), "it would be lost");
}

// === Whatever happens ===

fn any_verdict(rows: &[Row], rng: &mut fastrand::Rng, authenticates: bool) -> (Verdict, Duration) {
    let took = Duration::from_millis(rng.u64(0..3_000));
    let error = |row: &Row| RowError {
        name: row.name(),
        time_ms: row.number.into(),
        field: "metricName".into(),
        message: "no".into(),
    };
    let some: Vec<RowError> = rows.iter().take(rng.usize(0..3)).map(error).collect();
    let nobody = RowError { name: "nobody".into(), time_ms: 1, field: String::new(), message: "no".into() };
    let verdict = match rng.u8(0..24) {
        0..=9 => Verdict::Stored,
        10 => Verdict::Unconfirmed,
        11 => Verdict::StoredExcept { errors: some, unexplained: None },
        12 => Verdict::StoredExcept { errors: some, unexplained: Some("Persisted failed".into()) },
        13 if !some.is_empty() => Verdict::Refused(some),
        13 | 14 => Verdict::Refused(vec![nobody]),
        15 => Verdict::RefusedWhole("Cannot parse content".into()),
        16 if authenticates => Verdict::Unauthorized,
        17 => Verdict::TooLarge,
        18 => Verdict::Misconfigured("HTTP 403".into()),
        19 => Verdict::Unexpected("HTTP 415".into()),
        20 => Verdict::Unreachable { cause: "refused connection".into() },
        21 => Verdict::NoAnswer { cause: "reset".into(), may_be_size: rng.bool() },
        22 => Verdict::Failing { status: 429, cause: "HTTP 429".into(), retry_after: Some(took * 10) },
        _ => failing(*rng.choice([500, 502, 503].iter()).unwrap()),
    };
    (verdict, took)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    /// The seed is printed with a failure, as the value of `seed`.
    #[test]
    fn whatever_happens_every_row_is_settled_once_and_none_waits_for_ever(
        seed: u64,
        newest_first: bool,
        authenticates: bool,
        pokes_lost in 0u8..11,
        spool_ms in prop_oneof![Just(0u64), 0u64..2_000],
        rows_max in prop_oneof![Just(1u32), 1u32..200],
        steps in prop::collection::vec((0u8..16, 1u32..120), 0..100),
    ) {
        let limits = Limits { authenticates, payload_rows_max: rows_max, ..LIMITS };
        let mut world = World::new(limits, |rows, _, rng| any_verdict(rows, rng, authenticates));
        if newest_first {
            world = world.newest_first();
        }
        world.rng = fastrand::Rng::with_seed(seed);
        (world.pokes_lost, world.spool_ms) = (pokes_lost, spool_ms);
        for (what, n) in steps {
            match what {
                0..=3 => drop(world.append_of(0..n, n % 3 == 0)),
                4 => {
                    // Somebody else puts a chunk into the spool: a replay of dead letters.
                    let rows = (0..n % 50 + 1).map(|i| { world.last_row += 1; Row { number: world.last_row, series: i } }).collect();
                    let meta = world.store(rows);
                    world.queue.added(meta, true);
                }
                5 => world.queue.flushed(world.last_chunk),
                6 => world.drop_oldest(),
                7 if n % 3 == 0 => world.die(),
                8 => world.event(Event::Configured(limits)),
                9 => world.disk_is_full = n % 2 == 0,
                10 => {
                    // The file was damaged, and is another one: chunks have the same rows, and other numbers.
                    if n % 5 == 0 {
                        let chunks = std::mem::take(&mut world.file);
                        for rows in chunks.into_values() {
                            world.store(rows);
                        }
                        world.queue.forget(world.last_chunk);
                        // What is answered of the old ones is for none of these.
                    }
                }
                11 => world.event(Event::Mended),
                12 if n % 3 == 0 => world.event(confirming(n % 2 == 0)),
                _ => world.run_for(Duration::from_millis(u64::from(n) * 10)),
            }
        }
        world.disk_is_full = false;
        world.answer = Box::new(stored);
        world.event(confirming(false));
        world.drain(Duration::from_secs(100_000));
        world.check();
    }
}
