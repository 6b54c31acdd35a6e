//! Chunks that wait for Blueflood's answer in memory: what is written of them, and when.

use std::collections::BTreeSet;

use super::*;

const LONG: Duration = Duration::from_secs(3_600);

fn holding() -> World {
    World::new(|options| options.policy.hold = LONG)
}

impl World {
    /// Rows in the file, whatever is held beside it.
    fn rows_on_disk(&self) -> u64 {
        self.ledger_on_disk().spooled
    }

    fn names(&self) -> BTreeSet<String> {
        let ids = self.metas().iter().map(|meta| meta.id).collect();
        let chunks = wait(self.spool().load(ids)).unwrap();
        let name = |row: &[u8]| {
            let row: serde_json::Value = serde_json::from_slice(row).unwrap();
            row["metricName"].as_str().unwrap().to_owned()
        };
        chunks
            .iter()
            .flat_map(|chunk| chunk.open().unwrap().as_ref().iter().map(name).collect::<Vec<_>>())
            .collect()
    }
}

#[test]
fn a_chunk_that_is_answered_for_in_time_is_never_written_but_counted() {
    let mut world = holding();
    let (first, second) = (world.append("a", 10), world.append("b", 20));
    assert_eq!(world.metas(), [first, second]);
    assert_eq!(world.names().len(), 30);
    world.settle(&[first.id], DELIVERED);
    world.settle(&[second.id], DELIVERED);
    assert_eq!(world.metas(), []);
    let ledger = world.ledger();
    assert_eq!((ledger.spooled, ledger.delivered), (0, 30));
    world.expect("counted in the file", || world.ledger_on_disk() == ledger);
    let db = world.beside();
    let number: i64 = db.query_row("SELECT max(seq) FROM sqlite_sequence", [], |row| row.get(0)).unwrap();
    assert_eq!(number, second.id, "its number is not given again");
    world.crash();
    world.open();
    assert_eq!(world.ledger(), ledger);
    assert!(world.append("c", 1).id > second.id);
}

#[test]
fn a_chunk_that_is_not_answered_for_is_written_when_its_time_is_over() {
    let world = World::new(|options| options.policy.hold = Duration::from_millis(20));
    let meta = world.append("a", 10);
    world.expect("written", || world.rows_on_disk() == 10);
    assert_eq!((world.metas(), world.names().len()), (vec![meta], 10));
    world.settle(&[meta.id], DELIVERED);
    assert_eq!(world.ledger_on_disk(), world.ledger());
}

#[test]
fn no_row_waits_longer_than_it_may_however_long_chunks_are_held() {
    let world = World::new(|options| {
        options.policy.hold = LONG;
        options.policy.unwritten_max = Duration::from_secs(60);
    });
    world.append_at("young", 3, now_ms());
    world.append_at("old", 5, now_ms() - 60_000);
    world.expect("written", || world.rows_on_disk() == 5);
}

#[test]
fn what_does_not_fit_in_memory_is_written_and_nothing_is_lost() {
    let world = World::new(|options| {
        options.policy.hold = LONG;
        options.encoding = Encoding::Plain;
        options.policy.bytes_max = 1 << 30;
    });
    let metas: Vec<_> = (0..60).map(|i| world.append(&format!("s{i}"), 900)).collect();
    let written = world.rows_on_disk();
    assert!((10 * 900..50 * 900).contains(&written), "{written} of 54,000 are written");
    assert_eq!((world.metas(), world.names().len()), (metas.clone(), 54_000));
    // Some of them are in the file, others are not.
    world.settle(&metas.iter().map(|meta| meta.id).collect::<Vec<_>>(), DELIVERED);
    assert_eq!((world.ledger().delivered, world.rows_on_disk()), (54_000, 0));
}

/// A world whose memory is full before all that is sent to it is in it; rows that are sent.
fn crowded(room_wait: Duration) -> (World, u64) {
    let world = World::new(|options| {
        options.policy.hold = LONG;
        options.policy.room_wait = room_wait;
        options.encoding = Encoding::Plain;
        options.policy.bytes_max = 1 << 30;
    });
    (world, 60 * 900)
}

#[test]
fn what_does_not_fit_in_memory_waits_for_the_answers_that_make_room() {
    let (world, rows_sent) = crowded(LONG);
    let owed = world.append("owed", 1);
    let lease = world.lease(1, 1);
    let (spool, ledger) = (world.spool().clone(), world.spool().ledger().clone());
    let sender = std::thread::spawn(move || {
        for i in 0..60 {
            ledger.change(|ledger| ledger.decoded(&Decoded { rows: 900, ..Decoded::default() }));
            wait(spool.append(Arc::new(Batch::new(rows(&format!("s{i}"), 900), now_ms())))).unwrap();
        }
    });
    let all_are_here = || world.ledger().delivered + world.ledger().held == rows_sent + 1;
    while !all_are_here() {
        world.expect("full", || world.spool().status().used_bytes >= 4 << 20 || all_are_here());
        let answered: Vec<_> = world.metas().iter().map(|meta| meta.id).filter(|&id| id != owed.id).collect();
        world.settle(&answered, DELIVERED);
    }
    sender.join().unwrap();
    assert_eq!(world.rows_on_disk(), 0);
    drop(lease);
}

#[test]
fn what_waits_for_room_in_memory_is_written_if_no_answer_comes() {
    let (world, rows_sent) = crowded(Duration::from_millis(20));
    world.append("owed", 1);
    let lease = world.lease(1, 1);
    for i in 0..60 {
        world.append(&format!("s{i}"), 900);
    }
    let ledger = world.ledger();
    assert_eq!((ledger.spooled + ledger.held, ledger.spooled > 0), (rows_sent + 1, true), "{ledger:?}");
    drop(lease);
}

#[test]
fn a_full_spool_that_blocks_takes_no_more_into_memory_than_there_is_room_for() {
    let world = World::new(|options| {
        options.policy.hold = Duration::from_millis(1);
        options.encoding = Encoding::Plain;
        options.policy.when_full = WhenFull::Block;
    });
    let (spool, ledger) = (world.spool().clone(), world.spool().ledger().clone());
    let sender = std::thread::spawn(move || {
        for i in 0..80 {
            ledger.change(|ledger| ledger.decoded(&Decoded { rows: 900, ..Decoded::default() }));
            wait(spool.append(Arc::new(Batch::new(rows(&format!("b{i}"), 900), now_ms())))).unwrap();
        }
    });
    world.expect("blocked", || world.spool().status().blocked.is_some());
    let held = world.ledger().spooled - world.rows_on_disk();
    assert!(held <= 50 * 900, "{held} rows are in memory");
    let mut delivered = 0;
    while delivered < 80 * 900 {
        for meta in world.metas() {
            world.settle(&[meta.id], DELIVERED);
        }
        delivered = world.ledger().delivered;
    }
    sender.join().unwrap();
    world.expect("free", || world.spool().status().blocked.is_none());
    world.expect_said(&Notice::Unblocked);
}

#[test]
fn holding_may_be_turned_off_while_chunks_are_held() {
    let world = holding();
    world.append("a", 10);
    assert_eq!(world.rows_on_disk(), 0);
    let policy = Policy {
        bytes_max: 1 << 20,
        when_full: WhenFull::DropOldest,
        age_max: None,
        dead_letter_bytes_max: 0,
        hold: Duration::ZERO,
        room_wait: Duration::ZERO,
        unwritten_max: LONG,
    };
    wait(world.spool().configure(policy)).unwrap();
    assert_eq!(world.rows_on_disk(), 10);
    world.append("b", 5);
    assert_eq!(world.rows_on_disk(), 15);
}

#[test]
fn a_damaged_file_takes_nothing_of_what_is_held() {
    let mut world = World::new(|options| options.encoding = Encoding::Plain);
    for i in 0..20 {
        world.append(&format!("written{i}"), 100);
    }
    world.close();
    world.options.policy.hold = LONG;
    world.open();
    let held = world.append("held", 9);
    world.append("answered", 4);
    world.settle(&[held.id + 1], DELIVERED);
    let file = std::fs::OpenOptions::new().write(true).open(world.path()).unwrap();
    for at in (9 * 8_192..file.metadata().unwrap().len()).step_by(9 * 8_192) {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 8_192], at).unwrap();
    }
    let ids = world.metas().iter().map(|meta| meta.id).collect();
    assert_eq!(wait(world.spool().load(ids)), Err(SpoolError::Replaced));
    let ledger = world.ledger();
    assert_eq!((ledger.received, ledger.delivered), (2_013, 4));
    assert_eq!(ledger.spooled + ledger.dropped["damaged"] + ledger.held, 2_009);
    assert!(
        world.metas().iter().all(|meta| meta.id > held.id),
        "an answer to an old chunk is for none of these"
    );
    assert_eq!(world.names().iter().filter(|name| name.starts_with("held")).count(), 9);
    world.expect("written", || world.ledger_on_disk() == world.ledger());
}

#[test]
fn a_full_spool_takes_what_is_in_memory_at_its_end() {
    let mut world = World::new(|options| {
        options.policy.hold = LONG;
        options.encoding = Encoding::Plain;
        options.policy.when_full = WhenFull::Block;
    });
    for i in 0..20 {
        world.append(&format!("s{i}"), 900);
    }
    let ledger = world.spool().ledger().clone();
    world.close();
    let ledger = ledger.snapshot();
    assert_eq!((ledger.unaccounted(), ledger.spooled), (0, world.rows_on_disk()));
    assert_eq!((ledger.spooled, ledger.held, ledger.open), (18_000, 0, 0));
}
