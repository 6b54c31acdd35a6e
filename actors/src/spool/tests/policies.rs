//! What the spool does at its bounds.

use super::*;

/// Fills the spool with plain chunks of about 100 KiB until `n` are appended.
fn fill(world: &World, n: usize) -> Vec<Meta> {
    (0..n).map(|i| world.append(&format!("fill{i}"), 900)).collect()
}

fn plain(options: &mut Options) {
    options.encoding = Encoding::Plain;
}

#[test]
fn at_its_cap_the_oldest_are_dropped_and_counted_and_their_room_is_used_again() {
    let mut world = World::new(plain);
    let metas = fill(&world, 60);
    let ledger = world.ledger();
    let held = world.metas();
    assert_eq!(held, metas[metas.len() - held.len()..], "the newest are here");
    assert!((8..13).contains(&held.len()), "1 MiB holds {} of 100 KiB", held.len());
    assert_eq!(ledger.dropped["spool_full"], 900 * (60 - held.len() as u64));
    assert_eq!(world.ledger_on_disk().dropped, ledger.dropped);
    assert!(std::fs::metadata(world.path()).unwrap().len() < 2 << 20, "the file is bounded");
    world.close();
    let lines = world.said().len();
    assert_eq!(lines, 2, "said at once, and then summed up");
    let said: u64 = world
        .said()
        .iter()
        .map(|notice| if let Notice::Dropped { rows, .. } = notice { *rows } else { 0 })
        .sum();
    assert_eq!(said, ledger.dropped["spool_full"]);
}

#[test]
fn with_block_an_append_waits_until_something_is_settled() {
    let world = World::new(|options| {
        plain(options);
        options.policy.when_full = WhenFull::Block;
    });
    let metas = fill(&world, 8);
    let (spool, ledger) = (world.spool().clone(), world.spool().ledger().clone());
    let blocked = std::thread::spawn(move || {
        for i in 0..8 {
            ledger.change(|ledger| ledger.decoded(&Decoded { rows: 900, ..Decoded::default() }));
            wait(spool.append(Arc::new(Batch::new(rows(&format!("b{i}"), 900), now_ms())))).unwrap();
        }
    });
    world.expect("blocked", || world.spool().status().blocked.is_some());
    assert_eq!(world.said().iter().filter(|notice| matches!(notice, Notice::Blocked(_))).count(), 1);
    assert_eq!(world.ledger().open, 900, "it is in its sender's hand");
    for meta in metas {
        world.settle(&[meta.id], DELIVERED);
    }
    blocked.join().unwrap();
    world.expect_said(&Notice::Unblocked);
    assert_eq!(
        (world.ledger().open, world.ledger().received, sum(&world.ledger().dropped)),
        (0, 900 * 16, 0)
    );
    assert_eq!(world.spool().status().blocked, None);
}

#[test]
fn a_batch_that_waits_twice_is_stored_once() {
    let world = World::new(|options| {
        plain(options);
        options.policy.when_full = WhenFull::Block;
    });
    fill(&world, 8);
    world.decode(4_500, 0);
    world.decode(900, 0);
    let spool = world.spool().clone();
    let waiting = std::thread::spawn(move || {
        let batch = |name, n| Arc::new(Batch::new(rows(name, n), now_ms()));
        let (first, second) = (batch("first", 4_500), batch("second", 900));
        let twice =
            async { tokio::join!(spool.append(first), spool.append(second.clone()), spool.append(second)) };
        wait(twice)
    });
    world.expect("blocked", || world.spool().status().blocked.is_some());
    world.settle(&world.metas().iter().map(|meta| meta.id).collect::<Vec<_>>(), DELIVERED);
    let (first, second, again) = waiting.join().unwrap();
    assert!(first.is_ok() && second.is_ok() && again.is_ok());
    let ledger = world.ledger();
    assert_eq!((ledger.received, ledger.open, ledger.delivered + ledger.spooled), (12_600, 0, 12_600));
    world.ledger_on_disk();
}

#[test]
fn a_chunk_that_is_larger_than_the_cap_never_waits_for_ever() {
    for when_full in [WhenFull::Block, WhenFull::DropOldest] {
        let world = World::new(|options| {
            plain(options);
            options.policy.when_full = when_full;
            options.policy.bytes_max = 10_000;
        });
        let meta = world.append("large", 5_000);
        world.settle(&[meta.id], DELIVERED);
        world.append("large", 5_000);
        assert_eq!(sum(&world.ledger().dropped), 0);
    }
}

#[test]
fn what_is_older_than_the_maximum_is_dropped_and_halving_makes_nothing_older() {
    let world = World::new(|options| options.policy.age_max = Some(Duration::from_secs(3600)));
    let hour_ago = now_ms() - 3_600_000;
    let old = world.append_at("nearly", 6, hour_ago + 600_000);
    let fresh = world.append("fresh", 10);
    world.settle(&[fresh.id], Fate::Halved);
    world.settle(&[old.id], DELIVERED);
    let ages: Vec<i64> = {
        let db = world.beside();
        let mut found = db.prepare("SELECT received_ms FROM chunk").unwrap();
        found.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert!(
        ages.iter().all(|&ms| ms > now_ms() - 60_000),
        "the halves are as old as the whole was: {ages:?}"
    );
    for meta in world.metas() {
        world.settle(&[meta.id], DELIVERED);
    }
    world.append_at("old", 5, hour_ago - 1);
    world.append_at("young", 3, now_ms());
    world.expect("dropped", || world.ledger().dropped.get("max_age") == Some(&5));
    assert_eq!(world.metas().iter().map(|meta| meta.rows).sum::<u32>(), 3);
    assert_eq!(world.ledger_on_disk().dropped, world.ledger().dropped);
}

#[test]
fn dead_letters_are_bounded_the_oldest_go_first_and_are_counted() {
    let mut world = World::new(|options| options.policy.dead_letter_bytes_max = 10_000);
    for i in 0..40 {
        let meta = world.append(&format!("bad{i}"), 5);
        world.settle(&[meta.id], refused("Cannot parse content"));
    }
    let letters = world.dead_letters();
    assert!(letters.last().unwrap().contains("bad39.4") && !letters[0].contains("bad0."));
    let ledger = world.ledger();
    assert_eq!(ledger.refused["unnamed"], 200);
    assert_eq!(ledger.dead_letters_discarded, 200 - letters.len() as u64);
    assert!((50..200).contains(&letters.len()), "{}", letters.len());
    world.expect("shown", || {
        let shown = world.spool().status().letters;
        shown.count == letters.len() as u64 && (5_000..=10_000).contains(&shown.bytes)
    });
    let shown = world.spool().status().letters;
    world.crash();
    world.open();
    assert_eq!(world.ledger(), ledger);
    world.expect("shown again", || world.spool().status().letters == shown);
}

#[test]
fn dead_letters_are_counted_whoever_takes_some_away() {
    let mut world = World::new(|_| {});
    let count = |world: &World, n: u64| {
        world.expect(&format!("{n} are shown"), || world.spool().status().letters.count == n);
    };
    for _ in 0..2 {
        let meta = world.append("bad", 6);
        world.settle(&[meta.id], refused("für immer"));
    }
    count(&world, 12);
    world.beside().execute("DELETE FROM dead_letter WHERE row LIKE '%bad.2%'", []).unwrap();
    count(&world, 10);
    world.beside().execute("UPDATE dead_letter SET replay = 1 WHERE row LIKE '%bad.4%'", []).unwrap();
    count(&world, 8);
    let shown = world.spool().status().letters;
    world.close();
    world.open();
    world.expect("the same after a start", || world.spool().status().letters == shown);
    world.beside().execute("DELETE FROM dead_letter", []).unwrap();
    world.expect("none", || world.spool().status().letters == Letters::default());
}

#[test]
fn dead_letters_never_take_the_room_of_what_is_to_be_delivered() {
    let world = World::new(|options| {
        plain(options);
        options.policy.when_full = WhenFull::Block;
        options.policy.dead_letter_bytes_max = 1 << 30;
    });
    for i in 0..40 {
        let meta = world.append(&format!("bad{i}"), 900);
        world.settle(&[meta.id], refused("no"));
    }
    assert_eq!((world.ledger().open, world.ledger().spooled), (0, 0));
    assert!(world.ledger().dead_letters_discarded > 0);
}

#[test]
fn marks_of_another_process_put_dead_letters_back_among_the_chunks() {
    let world = World::new(|_| {});
    let meta = world.append("bad", 6);
    world.settle(&[meta.id], Fate::RefusedNamed((0..6).map(|i| error(format!("bad.{i}"))).collect()));
    assert_eq!(world.ledger().refused["ttlInSeconds"], 6);
    world
        .beside()
        .execute("UPDATE dead_letter SET replay = 1 WHERE row LIKE '%bad.2%' OR row LIKE '%bad.4%'", [])
        .unwrap();
    world.expect("replayed", || world.ledger().spooled == 2);
    assert_eq!((world.ledger().refused["ttlInSeconds"], world.dead_letters().len()), (4, 4));
    assert_eq!(world.ledger_on_disk(), world.ledger());
    let [meta] = world.metas()[..] else { panic!("{:?}", world.metas()) };
    let chunk = wait(world.spool().load(vec![meta.id])).unwrap().remove(0);
    let text = String::from_utf8(chunk.open().unwrap().text).unwrap();
    assert!(text.contains("bad.2") && text.contains("bad.4") && !text.contains("bad.3"), "{text}");
    assert!(world.said().contains(&Notice::Replayed { rows: 2 }));
}

#[test]
fn marks_that_were_set_while_nobody_ran_are_found_at_the_start() {
    let mut world = World::new(|_| {});
    let meta = world.append("bad", 6);
    world.settle(&[meta.id], refused("no"));
    world.close();
    world.beside().execute("UPDATE dead_letter SET replay = 1", []).unwrap();
    world.open();
    world.expect("replayed", || world.ledger().spooled == 6);
}

#[test]
fn room_is_given_back_after_an_outage() {
    let world = World::new(|options| {
        plain(options);
        options.policy.bytes_max = 64 << 20;
    });
    let metas = fill(&world, 200);
    let ids: Vec<_> = metas.iter().map(|meta| meta.id).collect();
    world.settle(&ids, DELIVERED);
    let bytes = || std::fs::metadata(world.path()).unwrap().len();
    world.expect("small again", || bytes() < 6 << 20);
}

#[test]
fn a_spool_that_another_has_says_who() {
    let mut world = World::new(|_| {});
    let first = world.running.take();
    let Err(error) = world.try_open() else { panic!("two on one spool") };
    let text = error.to_string();
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
    assert!(text.contains("--spool"), "{text}");
    let (spool, thread) = first.unwrap();
    wait(spool.close()).unwrap();
    assert!(thread.join());
    world.open();
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    // Not even root can make a folder in a file.
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let path = folder.path().join("file/spool.db");
    let options = Options { place: Place::File(path.clone()), ..World::new(|_| {}).options.clone() };
    let Err(error) = Spool::start(options, |_| {}) else { panic!("opened {}", path.display()) };
    let text = error.to_string();
    assert!(
        text.contains(&folder.path().join("file").display().to_string()) && text.contains("--spool"),
        "{text}"
    );
}
