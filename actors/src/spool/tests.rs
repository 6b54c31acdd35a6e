//! The spool against a model of it, against its policies, and against every kind of damage.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

use super::{
    store::{Durability, Letters},
    *,
};
use crate::core::{
    blueflood::RowError,
    chunk::{Encoding, tests::rows},
    ledger::{Decoded, Ledger, sum},
    queue::{Bounds, Due, Meta},
    reason::Refused as Reason,
    row::Rows,
    settlement,
};

mod acknowledged;
mod damage;
mod guard;
mod held;
mod lanes;
mod leases;
mod policies;
mod room;
mod running;
mod versions;
mod whose;

/// A spool in a folder of its own, with all that it said.
struct World {
    folder: TempDir,
    options: Options,
    said: Arc<Mutex<Vec<Notice>>>,
    running: Option<(Spool, SpoolThread)>,
}

impl World {
    fn new(change: impl FnOnce(&mut Options)) -> Self {
        // In memory where that can be had: hundreds of starts and ends sync hundreds of times.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        let mut options = Options {
            place: Place::File(folder.path().join("spool.db")),
            sync: Durability::Normal,
            encoding: Encoding::Deflate,
            policy: Policy {
                bytes_max: 1 << 20,
                when_full: WhenFull::DropOldest,
                age_max: None,
                dead_letter_bytes_max: 1 << 20,
                hold: Duration::ZERO,
                room_wait: Duration::ZERO,
                unwritten_max: Duration::from_secs(3_600),
            },
            newest_first: false,
            tenant: "acme".into(),
        };
        change(&mut options);
        let mut world = Self { folder, options, said: Arc::default(), running: None };
        world.open();
        world
    }

    fn open(&mut self) {
        self.try_open().unwrap();
    }

    fn try_open(&mut self) -> Result<(), open::OpenError> {
        let said = self.said.clone();
        let say = move |notice| said.lock().unwrap().push(notice);
        self.running = Some(Spool::start(self.options.clone(), say)?);
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("spool.db")
    }

    fn spool(&self) -> &Spool {
        &self.running.as_ref().unwrap().0
    }

    fn close(&mut self) {
        let (spool, thread) = self.running.take().unwrap();
        wait(spool.close()).unwrap();
        assert!(thread.join());
    }

    /// Its end without a word: what is committed is all that is left of it.
    fn crash(&mut self) {
        let (spool, thread) = self.running.take().unwrap();
        drop(spool);
        assert!(thread.join());
    }

    /// Rows come in, as from the wire.
    fn decode(&self, n: u32, skipped: u64) {
        let decoded = Decoded { rows: n.into(), skipped: [skipped, 0, 0, 0, 0, 0, 0], names_replaced: 0 };
        self.spool().ledger().change(|ledger| ledger.decoded(&decoded));
    }

    fn append(&self, name: &str, n: u32) -> Meta {
        self.append_at(name, n, now_ms())
    }

    fn append_at(&self, name: &str, n: u32, received_ms: i64) -> Meta {
        self.decode(n, 0);
        wait(self.spool().append(Arc::new(Batch::new(rows(name, n), received_ms)))).unwrap();
        // The last one has the highest number; with a policy that drops it may be alone.
        self.metas().pop().unwrap()
    }

    /// The new chunks are given back at once.
    fn settle(&self, chunks: &[ChunkId], fate: Fate) -> Vec<Meta> {
        let pieces = wait(self.spool().settle(chunks.to_vec(), fate)).unwrap();
        pieces.iter().map(|lease| lease.meta).collect()
    }

    /// Every chunk that is here.
    fn metas(&self) -> Vec<Meta> {
        wait(self.spool().chunks()).unwrap()
    }

    fn lease(&self, payloads: usize, rows_max: u32) -> Granted {
        let bounds = Bounds { rows_max, bytes_max: 1 << 20 };
        wait(self.spool().lease(Ask { payloads, bounds, due: Due::All, apart: false })).unwrap()
    }

    fn ledger(&self) -> Ledger {
        let ledger = self.spool().ledger().snapshot();
        assert_eq!(ledger.unaccounted(), 0, "{ledger:#?}");
        ledger
    }

    /// A second connection, as the tools have it.
    fn beside(&self) -> Connection {
        let db = Connection::open(self.path()).unwrap();
        db.busy_timeout(Duration::from_secs(10)).unwrap();
        db
    }

    /// The ledger on disk; the law holds there too.
    fn ledger_on_disk(&self) -> Ledger {
        let db = self.beside();
        let ledger = store::read_ledger(&db).unwrap();
        assert_eq!(ledger.unaccounted(), 0, "{ledger:#?}");
        let rows: i64 =
            db.query_row("SELECT coalesce(sum(rows), 0) FROM chunk", [], |row| row.get(0)).unwrap();
        assert_eq!(u64::try_from(rows), Ok(ledger.spooled + ledger.acknowledged));
        ledger
    }

    fn dead_letters(&self) -> Vec<String> {
        let db = self.beside();
        let mut found = db.prepare("SELECT row FROM dead_letter ORDER BY id").unwrap();
        found.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn said(&self) -> Vec<Notice> {
        self.said.lock().unwrap().clone()
    }

    fn expect_said(&self, notice: &Notice) {
        self.expect("said", || self.said().last() == Some(notice));
    }

    fn expect(&self, what: &str, holds: impl Fn() -> bool) {
        for _ in 0..3_000 {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("never {what}: {:#?}", self.said());
    }
}

fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answer)
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

fn error(name: String) -> RowError {
    RowError { name, time_ms: 1_700_000_000_000, field: "ttlInSeconds".into(), message: "no".into() }
}

fn refused(message: &str) -> Fate {
    Fate::RefusedAll { reason: Reason::Unnamed, message: message.into() }
}

const DELIVERED: Fate = Fate::Delivered;

// === The model ===

#[derive(Debug, Clone)]
enum Step {
    Append(u32),
    Skip(u64),
    Settle { chunks: Vec<prop::sample::Index>, fate: u8, named: Vec<u32> },
    Load(prop::sample::Index),
    Close,
    Crash,
}

fn any_step() -> impl Strategy<Value = Step> {
    let chunks = prop::collection::vec(any::<prop::sample::Index>(), 1..4);
    let named = prop::collection::vec(0u32..60, 0..10);
    prop_oneof![
        6 => (1u32..40).prop_map(Step::Append),
        1 => (1u64..9).prop_map(Step::Skip),
        6 => (chunks, 0u8..6, named).prop_map(|(chunks, fate, named)| Step::Settle { chunks, fate, named }),
        2 => any::<prop::sample::Index>().prop_map(Step::Load),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
    ]
}

/// What must be in the spool.
#[derive(Default)]
struct Model {
    chunks: BTreeMap<ChunkId, Rows>,
    ledger: Ledger,
    /// Skipped datapoints that were written, with the chunk that followed them.
    skipped_on_disk: u64,
    dead_letters: Vec<String>,
    /// Whether chunks are held in memory, and those that are.
    holds: bool,
    held: BTreeSet<ChunkId>,
}

impl Model {
    fn settle(&mut self, ids: &[ChunkId], fate: &Fate, requeued: &[Meta]) {
        let mut all = Rows::default();
        for id in ids {
            self.held.remove(id);
            if let Some(rows) = self.chunks.remove(id) {
                all.append(rows.as_ref());
            }
        }
        let settlement = settlement::settle(all.as_ref(), fate);
        self.ledger.delivered += settlement.delivered;
        for letter in settlement.refused {
            *self.ledger.refused.entry(letter.reason.label().to_owned()).or_default() += 1;
            self.dead_letters.push(String::from_utf8(letter.row).unwrap());
        }
        assert_eq!(requeued.len(), settlement.requeued.len());
        for (meta, rows) in requeued.iter().zip(settlement.requeued) {
            assert!(self.chunks.keys().all(|&id| id < meta.id), "numbers only grow");
            self.chunks.insert(meta.id, rows);
        }
    }

    /// What is in memory only is gone.
    fn crash(&mut self, on_disk: Ledger) {
        if self.holds {
            // What was answered for out of memory may not be counted yet. The file must be right about all it has.
            let held = std::mem::take(&mut self.held);
            self.chunks.retain(|id, _| !held.contains(id));
            assert!(on_disk.delivered <= self.ledger.delivered && on_disk.refused == self.ledger.refused);
            self.skipped_on_disk = sum(&on_disk.skipped);
            self.ledger = Ledger { received: 0, held: 0, spooled: 0, ..on_disk };
            return;
        }
        self.ledger.skipped.clear();
        if self.skipped_on_disk > 0 {
            self.ledger.skipped.insert("not_finite".to_owned(), self.skipped_on_disk);
        }
    }

    fn check(&self, world: &World) {
        let spooled: u64 = self.chunks.values().map(|rows| u64::from(rows.count)).sum();
        let places = spooled + self.ledger.delivered + sum(&self.ledger.refused);
        let received = places + sum(&self.ledger.skipped);
        let ledger = world.ledger();
        let held: u64 = self.held.iter().map(|id| u64::from(self.chunks[id].count)).sum();
        let expected = Ledger { received, held, spooled: spooled - held, ..self.ledger.clone() };
        // The names of reasons are the ledger's own affair.
        let skipped = ledger.skipped.clone();
        assert_eq!(sum(&skipped), sum(&expected.skipped));
        assert_eq!(ledger, Ledger { skipped, ..expected });
        let on_disk = world.ledger_on_disk();
        if self.holds {
            assert_eq!(on_disk.spooled, ledger.spooled);
        } else {
            assert_eq!((on_disk.spooled, on_disk.delivered), (ledger.spooled, ledger.delivered));
            assert_eq!(sum(&on_disk.skipped), self.skipped_on_disk);
        }
        assert_eq!(on_disk.refused, ledger.refused);
        assert_eq!(world.dead_letters(), self.dead_letters);
        world.expect("its dead letters are counted", || {
            world.spool().status().letters.count == self.dead_letters.len() as u64
        });
        let mut ids: Vec<_> = world.metas().iter().map(|meta| (meta.id, meta.rows)).collect();
        ids.sort_unstable();
        let expected: Vec<_> = self.chunks.iter().map(|(&id, rows)| (id, rows.count)).collect();
        assert_eq!(ids, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_done_the_ledger_and_the_rows_are_those_of_the_model(
        deflate: bool,
        newest_first: bool,
        holds: bool,
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let mut world = World::new(|options| {
            options.encoding = if deflate { Encoding::Deflate } else { Encoding::Plain };
            options.newest_first = newest_first;
            options.policy.bytes_max = 4 << 20;
            options.policy.hold = if holds { options.policy.unwritten_max } else { Duration::ZERO };
        });
        let mut model = Model { holds, ..Model::default() };
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append(n) => {
                    let meta = world.append(&format!("s{i}"), n);
                    model.chunks.insert(meta.id, rows(&format!("s{i}"), n));
                    if holds {
                        model.held.insert(meta.id);
                    }
                    model.skipped_on_disk = sum(&model.ledger.skipped);
                }
                Step::Skip(n) => {
                    world.decode(0, n);
                    *model.ledger.skipped.entry("not_finite".to_owned()).or_default() += n;
                }
                Step::Settle { chunks, fate, named } => {
                    let here: Vec<_> = model.chunks.keys().copied().collect();
                    if here.is_empty() {
                        continue;
                    }
                    let mut ids: Vec<_> = chunks.iter().map(|index| here[index.index(here.len())]).collect();
                    ids.sort_unstable();
                    ids.dedup();
                    // One that was settled long ago changes nothing.
                    ids.push(0);
                    let errors = named.iter().map(|n| error(format!("s{}.{n}", i.saturating_sub(1)))).collect();
                    let fate = match fate {
                        0 => DELIVERED,
                        1 | 2 => Fate::DeliveredExcept { errors, unexplained: None, read_back: false },
                        3 => Fate::RefusedNamed(errors),
                        4 => refused("no"),
                        _ => Fate::Halved,
                    };
                    let requeued = world.settle(&ids, fate.clone());
                    model.settle(&ids, &fate, &requeued);
                    prop_assert_eq!(world.settle(&ids[..1], Fate::Halved).len(), 0, "settled twice");
                }
                Step::Load(index) => {
                    let here: Vec<_> = model.chunks.keys().copied().collect();
                    if !here.is_empty() {
                        let id = here[index.index(here.len())];
                        let loaded = wait(world.spool().load(vec![id, 0])).unwrap();
                        prop_assert_eq!(loaded.len(), 1);
                        prop_assert_eq!(&loaded[0].open().unwrap(), &model.chunks[&id]);
                    }
                }
                Step::Close => {
                    world.close();
                    model.skipped_on_disk = sum(&model.ledger.skipped);
                    model.held.clear();
                    world.open();
                }
                Step::Crash => {
                    world.crash();
                    model.crash(world.ledger_on_disk());
                    world.open();
                }
            }
            model.check(&world);
        }
        prop_assert_eq!(world.said().iter().filter(|notice| !matches!(notice, Notice::Unattributed { .. })).count(), 0);
    }
}

#[test]
fn a_batch_that_is_sent_again_is_stored_once() {
    let world = World::new(|_| {});
    world.decode(7, 0);
    let batch = Arc::new(Batch::new(rows("a", 7), now_ms()));
    wait(world.spool().append(batch.clone())).unwrap();
    assert!(batch.is_stored());
    wait(world.spool().append(batch)).unwrap();
    assert_eq!((world.ledger().spooled, world.metas().len()), (7, 1));
}

#[test]
fn a_spool_in_memory_does_the_same_and_keeps_nothing() {
    let mut world = World::new(|options| options.place = Place::Memory);
    let meta = world.append("a", 10);
    world.settle(&[meta.id], DELIVERED);
    world.append("b", 5);
    assert_eq!((world.ledger().delivered, world.ledger().spooled), (10, 5));
    world.close();
    world.open();
    assert_eq!(world.ledger(), Ledger::default());
    assert!(!Path::new(&world.path()).exists());
}
