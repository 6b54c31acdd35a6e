//! A spool whose file, lock or numbers are taken from it while it runs: it goes on, and the law holds.

use std::fs;

use super::*;
use crate::spool::open::OpenError;

impl World {
    /// What was done, and whether it was said.
    fn says(&self, said: impl Fn(&Notice) -> bool) -> bool {
        self.said().iter().any(said)
    }

    /// The names in the file that has the name now.
    fn rows_there(&self) -> u64 {
        self.ledger_on_disk().spooled
    }
}

#[test]
fn a_file_that_is_deleted_replaced_or_loses_its_log_while_the_spool_runs_is_written_anew_with_the_same_chunks()
 {
    for gone in ["spool.db", "spool.db-wal", "all", "folder", "replaced"] {
        let mut world = World::new(|_| {});
        let folder = world.folder.path().join("volume");
        world.close();
        world.options.place = Place::File(folder.join("spool.db"));
        world.open();
        let metas = [world.append("a", 50), world.append("b", 7)];
        let leased = world.lease(1, 50);
        match gone {
            "folder" => fs::remove_dir_all(&folder).unwrap(),
            "all" => fs::read_dir(&folder)
                .unwrap()
                .for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap()),
            "replaced" => {
                drop(open::open(
                    &Place::File(folder.join("other.db")),
                    store::Durability::Normal,
                    std::time::SystemTime::now(),
                ));
                fs::rename(folder.join("other.db"), folder.join("spool.db")).unwrap();
            }
            name => fs::remove_file(folder.join(name)).unwrap(),
        }
        world.expect("rescued", || world.says(|notice| matches!(notice, Notice::Rescued { .. })));
        assert_eq!(world.said().len(), 1, "{gone}: one line is enough: {:#?}", world.said());
        assert_eq!(world.spool().status().amiss, None, "{gone}");
        // What was leased before is settled after.
        world.settle(&[leased.payloads[0].leases[0].meta.id], DELIVERED);
        assert_eq!(world.metas(), metas[1..], "{gone}");
        world.append("c", 3);
        let ledger = world.ledger();
        assert_eq!((ledger.spooled, ledger.delivered, sum(&ledger.dropped)), (10, 50, 0), "{gone}");
        // As after `kill -9`: what the file says by itself.
        let db = Connection::open(folder.join("spool.db")).unwrap();
        assert_eq!(store::read_ledger(&db).unwrap().spooled, 10, "{gone}");
        drop(db);
        world.close();
        world.said.lock().unwrap().clear();
        world.open();
        assert_eq!((world.ledger(), world.said()), (ledger, vec![]), "{gone}");
    }
}

#[test]
fn what_was_acknowledged_is_still_so_in_a_file_that_is_written_anew_and_waits_again_in_one_that_is_salvaged()
{
    let world = World::new(|_| {});
    let acknowledged = Fate::Acknowledged { whole_look: false };
    let looks = || {
        let ask = crate::spool::AskLooks { groups: 8, after: Duration::ZERO };
        let looks = wait(world.spool().looks(ask)).unwrap();
        looks.groups.into_iter().map(|(given, chunks)| (given.id, chunks)).collect::<Vec<_>>()
    };
    let (a, b) = (world.append("a", 50), world.append("b", 7));
    world.settle(&[a.id], acknowledged.clone());
    world.settle(&[b.id], acknowledged.clone());
    let handed_out = looks();
    assert_eq!(handed_out.len(), 2);
    fs::remove_file(world.path()).unwrap();
    world.expect("rescued", || world.says(|notice| matches!(notice, Notice::Rescued { .. })));
    wait(world.spool().confirm(handed_out[0].0, crate::spool::Confirmed::Stored)).unwrap();
    let ledger = world.ledger();
    assert_eq!((ledger.acknowledged, ledger.delivered), (7, 50));

    let damage = "UPDATE chunk SET body = x'00'; PRAGMA wal_checkpoint(TRUNCATE)";
    let c = world.append("c", 3);
    // Until it was read once it is in memory too.
    wait(world.spool().load(vec![b.id])).unwrap();
    world.beside().execute_batch(damage).unwrap();
    let granted = wait(world.spool().load(vec![b.id]));
    assert_eq!(granted.unwrap_err(), SpoolError::Replaced);
    let ledger = world.ledger();
    assert_eq!(
        (ledger.acknowledged, ledger.spooled, ledger.dropped["damaged"]),
        (0, 0, 7 + u64::from(c.rows))
    );
    // A look at the old file that comes late means nothing in the new one.
    let d = world.append("d", 9);
    world.settle(&[d.id], acknowledged);
    for (old, _) in handed_out {
        wait(world.spool().confirm(old, crate::spool::Confirmed::Stored)).unwrap();
    }
    assert_eq!((world.ledger().acknowledged, looks().len()), (9, 1));
}

#[test]
fn a_file_that_is_cut_while_the_spool_runs_costs_what_was_cut_off_and_the_law_holds() {
    let world = World::new(|options| options.encoding = Encoding::Plain);
    for i in 0..20 {
        world.append(&format!("c{i}"), 120);
    }
    world.beside().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    // A look that finds the lock gone has seen how long the file is.
    fs::remove_file(world.folder.path().join("spool.db.lock")).unwrap();
    world.expect("looked at", || world.says(|notice| *notice == Notice::Locked));
    let file = fs::OpenOptions::new().write(true).open(world.path()).unwrap();
    let bytes = file.metadata().unwrap().len();
    file.set_len(bytes / 2 / 8_192 * 8_192).unwrap();
    world.expect("salvaged", || world.says(|notice| matches!(notice, Notice::Salvaged(_))));
    let ledger = world.ledger();
    let lost = ledger.dropped["damaged"];
    assert!(lost > 0 && ledger.spooled > 0 && lost + ledger.spooled == 20 * 120, "{ledger:#?}");
    assert_eq!(world.rows_there(), ledger.spooled);
}

#[test]
fn a_lock_that_is_removed_is_taken_again_and_nobody_else_can_start() {
    let world = World::new(|_| {});
    world.append("a", 5);
    fs::remove_file(world.folder.path().join("spool.db.lock")).unwrap();
    world.expect("locked again", || world.says(|notice| *notice == Notice::Locked));
    let again = Spool::start(world.options.clone(), |_| {});
    assert!(matches!(again, Err(OpenError::Held { .. })));
    world.append("b", 5);
    assert_eq!(world.spool().status().amiss, None);
}

#[test]
fn where_a_second_daemon_has_the_spool_the_first_sends_and_writes_nothing_and_goes_on_after_it() {
    let world = World::new(|_| {});
    let first = world.append("first", 5);
    // Both at once: between the two there is no second for the first to look.
    fs::remove_file(world.folder.path().join("spool.db.lock")).unwrap();
    let (second, thread) = Spool::start(world.options.clone(), |_| {}).unwrap();
    let held =
        |world: &World| world.spool().status().amiss.is_some_and(|amiss| amiss.contains("another daemon"));
    world.expect("seen", || held(&world));
    assert_eq!(world.lease(1, 50).payloads.len(), 0, "the second sends it");
    world.decode(3, 1);
    let (spool, batch) = (world.spool().clone(), Arc::new(Batch::new(rows("later", 3), now_ms())));
    let waits = std::thread::spawn(move || wait(spool.append(batch)));
    // The second sends what was there, and takes something itself.
    second.ledger().change(|ledger| ledger.decoded(&Decoded { rows: 7, ..Decoded::default() }));
    wait(second.append(Arc::new(Batch::new(rows("second", 7), now_ms())))).unwrap();
    wait(second.settle(vec![first.id], DELIVERED)).unwrap();
    wait(second.close()).unwrap();
    assert!(thread.join());
    drop(second);
    waits.join().unwrap().unwrap();
    world.expect("alone again", || !held(&world));
    let ledger = world.ledger();
    assert_eq!((ledger.spooled, ledger.delivered, ledger.received), (10, 5, 16), "{ledger:#?}");
    assert_eq!(world.rows_there(), 10);
    assert_eq!(world.lease(9, 50).payloads.iter().map(|payload| payload.leases.len()).sum::<usize>(), 2);
}

/// Numbers that no checksum of a chunk covers where they are only counted.
#[test]
fn a_number_that_is_damaged_while_the_spool_runs_is_found_and_the_ledger_in_memory_wins() {
    for sql in [
        "UPDATE chunk SET rows = 2000000000 WHERE id = 1",
        "UPDATE chunk SET rows = 1 WHERE id = 2",
        "UPDATE ledger SET n = n + 1 WHERE place = 'spooled'",
        "UPDATE ledger SET n = n - 1 WHERE place = 'delivered'",
        "UPDATE ledger SET place = 'spoolee' WHERE place = 'spooled'",
        "UPDATE dead_letter SET reason = 'metricVa1ue', replay = 1",
        "DELETE FROM ledger",
    ] {
        let mut world = World::new(|options| options.policy.bytes_max = 300 << 10);
        for i in 0..3 {
            world.append(&format!("c{i}"), 20);
        }
        let bad = world.append("bad", 5);
        world.settle(&[bad.id], refused("no"));
        let good = world.append("good", 7);
        world.settle(&[good.id], DELIVERED);
        world.beside().execute_batch(sql).unwrap();
        // All of it is settled, or dropped for new ones: each way out counts.
        for i in 0..40 {
            world.decode(900, 0);
            let batch = Arc::new(Batch::new(rows(&format!("more{i}"), 900), now_ms()));
            // As the collector does it: what was not stored is sent again.
            let stored = (0..3).any(|_| wait(world.spool().append(batch.clone())).is_ok());
            assert!(stored, "{sql}: {:#?}", world.said());
            assert_eq!(world.ledger().unaccounted(), 0, "{sql}");
        }
        if sql.contains("replay = 1") {
            // Marks are looked for once a second: a quick machine is here before that.
            world.expect("the marked rows wait again", || world.spool().status().letters.count == 0);
        }
        for meta in world.metas() {
            for _ in 0..3 {
                if wait(world.spool().settle(vec![meta.id], DELIVERED)).is_ok() {
                    break;
                }
            }
            assert_eq!(world.ledger().unaccounted(), 0, "{sql}");
        }
        let ledger = world.ledger();
        assert_eq!(ledger.received, 40 * 900 + 72, "{sql}: {ledger:#?}");
        world.close();
        world.open();
        let again = world.ledger();
        assert_eq!((again.unaccounted(), again.spooled), (0, 0), "{sql}: {again:#?}");
    }
}
