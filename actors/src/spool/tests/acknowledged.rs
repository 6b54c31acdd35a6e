//! What Blueflood acknowledged stays until it was read back, through every end of the process.

use super::*;
use crate::core::confirm::GroupId;

const ACKNOWLEDGED: Fate = Fate::Acknowledged { whole_look: false };

impl World {
    fn looks(&self, groups: usize, after: Duration) -> Looks {
        wait(self.spool().looks(AskLooks { groups, after })).unwrap()
    }

    /// The next group: its number, its rows, and whether each of them is looked for.
    fn look(&self) -> Option<(GroupId, u64, bool)> {
        let looks = self.looks(1, Duration::ZERO);
        looks.groups.first().map(|(given, _)| (given.id, given.rows, given.whole))
    }

    fn confirm(&self, group: GroupId, confirmed: Confirmed) {
        wait(self.spool().confirm(group, confirmed)).unwrap();
    }

    /// Rows that wait, that are acknowledged, and that are delivered.
    fn places(&self) -> (u64, u64, u64) {
        let ledger = self.ledger();
        let waits = self.metas().iter().map(|meta| u64::from(meta.rows)).sum::<u64>();
        assert_eq!(waits, ledger.spooled + ledger.held);
        (waits, ledger.acknowledged(), ledger.delivered)
    }
}

/// Both ways: in the file before it is sent, and held in memory.
fn each_way(test: impl Fn(World)) {
    test(World::new(|_| {}));
    test(World::new(|options| options.policy.hold = Duration::from_secs(3_600)));
}

#[test]
fn it_is_out_of_the_queue_and_delivered_once_it_was_read_back() {
    each_way(|mut world| {
        let (a, b) = (world.append("a", 10), world.append("b", 5));
        world.settle(&[a.id, b.id], ACKNOWLEDGED);
        world.settle(&[a.id], ACKNOWLEDGED);
        assert_eq!(world.places(), (0, 15, 0), "twice is once");
        assert_eq!(world.lease(4, 100).payloads.len(), 0, "it is not sent again");
        let (group, rows, whole) = world.look().unwrap();
        assert_eq!((rows, whole, world.look()), (15, false, None), "it is handed out once");
        world.confirm(group, Confirmed::Stored);
        world.confirm(group, Confirmed::Stored);
        assert_eq!(world.places(), (0, 0, 15));
        world.close();
        world.open();
        assert_eq!((world.places(), world.look()), ((0, 0, 15), None));
    });
}

#[test]
fn after_an_end_of_any_kind_it_is_looked_for_again() {
    each_way(|mut world| {
        let meta = world.append("a", 10);
        world.settle(&[meta.id], Fate::Acknowledged { whole_look: true });
        assert!(world.look().is_some());
        world.close();
        world.open();
        assert_eq!(world.places(), (0, 10, 0));
        let (_, rows, whole) = world.look().unwrap();
        assert_eq!((rows, whole), (10, true), "and what was to be looked for in each row, still is");
        world.crash();
        world.open();
        let (group, ..) = world.look().unwrap();
        world.confirm(group, Confirmed::Stored);
        assert_eq!(world.places(), (0, 0, 10));
        world.crash();
        world.open();
        assert_eq!(world.places(), (0, 0, 10));
    });
}

#[test]
fn two_answers_are_two_groups_even_after_a_restart() {
    let mut world = World::new(|_| {});
    for name in ["a", "b"] {
        let meta = world.append(name, 10);
        world.settle(&[meta.id], ACKNOWLEDGED);
    }
    world.crash();
    // One answer, one time.
    world.beside().execute_batch("UPDATE acknowledged SET acked_ms = chunk").unwrap();
    world.open();
    let looks = world.looks(8, Duration::ZERO);
    assert_eq!(looks.groups.iter().map(|(given, _)| given.rows).collect::<Vec<_>>(), [10, 10]);
}

#[test]
fn what_was_absent_waits_again_and_the_rest_is_delivered() {
    each_way(|world| {
        let (a, b) = (world.append("a", 10), world.append("b", 5));
        world.settle(&[a.id, b.id], ACKNOWLEDGED);
        let (group, ..) = world.look().unwrap();
        world.confirm(group, Confirmed::StoredBut(rows("a", 3)));
        assert_eq!(world.places(), (3, 0, 12));
        let granted = world.lease(1, 100);
        let sent = granted.payloads[0].chunks[0].open().unwrap();
        assert_eq!(sent, rows("a", 3));
    });
}

#[test]
fn what_nobody_can_tell_of_waits_again_under_its_own_number() {
    each_way(|mut world| {
        let meta = world.append("a", 10);
        world.settle(&[meta.id], ACKNOWLEDGED);
        let (group, ..) = world.look().unwrap();
        world.confirm(group, Confirmed::Again);
        assert_eq!((world.places(), world.metas()), ((10, 0, 0), vec![meta]));
        world.settle(&[meta.id], ACKNOWLEDGED);
        assert_eq!(wait(world.spool().give_back()).unwrap(), 10);
        assert_eq!((world.places(), world.look()), ((10, 0, 0), None));
        world.close();
        world.open();
        assert_eq!(world.places(), (10, 0, 0));
    });
}

#[test]
fn a_look_waits_for_as_long_as_it_is_told_to() {
    let world = World::new(|_| {});
    let meta = world.append("a", 10);
    world.settle(&[meta.id], ACKNOWLEDGED);
    let looks = world.looks(8, Duration::from_secs(3_600));
    assert_eq!((looks.groups.len(), looks.left), (0, 0));
    assert!(looks.next_in.is_some_and(|wait| wait > Duration::from_secs(3_000)));
    assert_eq!(world.looks(0, Duration::ZERO).left, 1);
    world.look().unwrap();
    wait(world.spool().take_stock()).unwrap();
    assert!(world.look().is_some(), "nobody had it");
}

#[test]
fn one_that_is_held_is_written_as_acknowledged_when_its_time_is_over() {
    let mut world = World::new(|options| options.policy.hold = Duration::from_millis(30));
    let meta = world.append("a", 10);
    world.settle(&[meta.id], ACKNOWLEDGED);
    world.expect("written", || world.ledger_on_disk().acknowledged == 10);
    assert_eq!(world.places(), (0, 10, 0));
    world.crash();
    world.open();
    let (group, ..) = world.look().unwrap();
    world.confirm(group, Confirmed::Again);
    assert_eq!((world.places(), world.metas()), ((10, 0, 0), vec![meta]));
}

#[test]
fn of_a_207_those_that_are_not_refused_are_read_back() {
    each_way(|world| {
        let meta = world.append("a", 10);
        let errors = vec![error("a.1".to_owned()), error("a.2".to_owned())];
        world.settle(&[meta.id], Fate::DeliveredExcept { errors, unexplained: None, read_back: true });
        assert_eq!(world.places(), (0, 8, 0));
        assert_eq!(world.dead_letters().len(), 2);
        let (group, rows, _) = world.look().unwrap();
        assert_eq!(rows, 8);
        world.confirm(group, Confirmed::Stored);
        assert_eq!(world.places(), (0, 0, 8));
    });
}

#[test]
fn a_full_spool_drops_what_waits_before_what_is_acknowledged() {
    let world = World::new(|options| {
        options.encoding = Encoding::Plain;
        options.policy.bytes_max = 256 << 10;
    });
    let first = world.append("a", 500);
    world.settle(&[first.id], ACKNOWLEDGED);
    let many = 40;
    for _ in 0..many {
        world.append("b", 500);
    }
    let ledger = world.ledger();
    assert!(ledger.dropped["spool_full"] >= 500, "{ledger:#?}");
    assert_eq!(ledger.acknowledged, 500);
    // When nothing else is left it goes too, and the law holds.
    for meta in world.metas() {
        world.settle(&[meta.id], ACKNOWLEDGED);
    }
    for _ in 0..many {
        let meta = world.append("c", 500);
        world.settle(&[meta.id], ACKNOWLEDGED);
    }
    assert!(world.ledger().acknowledged < 500 * u64::from(many as u32), "{:#?}", world.ledger());
    assert_eq!(world.ledger_on_disk().acknowledged, world.ledger().acknowledged);
}

#[test]
fn a_damaged_file_sends_again_what_was_acknowledged() {
    let mut world = World::new(|_| {});
    let meta = world.append("a", 10);
    world.append("b", 20);
    world.settle(&[meta.id], ACKNOWLEDGED);
    world.close();
    let db = world.beside();
    db.execute_batch("UPDATE chunk SET body = x'00' WHERE id = 2; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(db);
    world.open();
    // The damage shows when it is read.
    let lease = wait(world.spool().lease(Ask {
        payloads: 1,
        bounds: Bounds { rows_max: 100, bytes_max: 1 << 20 },
        due: Due::All,
        apart: false,
    }));
    assert_eq!(lease.unwrap_err(), SpoolError::Replaced);
    let ledger = world.ledger();
    assert_eq!((ledger.acknowledged, ledger.spooled, ledger.dropped["damaged"]), (0, 10, 20));
    assert_eq!(world.look(), None);
}

#[test]
fn the_index_of_what_waits_is_right_beside_what_is_acknowledged() {
    each_way(|world| {
        for i in 0..20 {
            let meta = world.append("a", 10);
            if i % 2 == 0 {
                world.settle(&[meta.id], ACKNOWLEDGED);
            }
        }
        wait(world.spool().reindex("a test".to_owned())).unwrap();
        let granted = world.lease(30, 10);
        assert_eq!(granted.payloads.len(), 10);
        assert_eq!(world.places(), (100, 100, 0));
    });
}
