//! The outbox and the queue in a world of their own: a spool that is a map, a Blueflood that answers as it likes, late and in
//! any order, and a clock that jumps to the next thing that happens.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

mod answers;
mod weather;

use super::*;
use crate::core::{
    backoff::Backoff,
    blueflood::{RowError, Verdict},
    queue::Queue,
    reason::Refused,
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

fn confirming(holds: bool) -> Event {
    Event::Standing(Standing {
        confirms: true,
        reads: true,
        holds,
        doubt: holds.then(|| "not there".to_owned()),
    })
}
