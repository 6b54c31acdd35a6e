//! Whose the rows are: each keeps the tenant that it was taken for, whatever is done with it, and whatever the settings
//! become.

use super::*;
use crate::core::row;

const HOLDS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(3_600)];

impl World {
    fn append_of(&self, tenant: &str, name: &str, n: u32) {
        self.decode(n, 0);
        let batch = Batch::new(rows(name, n), now_ms()).of(tenant.into());
        wait(self.spool().append(Arc::new(batch))).unwrap();
    }

    /// All that waits, by tenant: the first part of each name.
    fn waiting(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut leases = Vec::new();
        loop {
            let granted = self.lease(8, 100);
            if granted.payloads.is_empty() {
                return found;
            }
            for Payload { leases: more, tenant, chunks, .. } in granted.payloads {
                let ids: Vec<_> = more.iter().map(|lease| lease.meta.id).collect();
                // For another try they are read again.
                assert_eq!(wait(self.spool().load_bodies(ids)).unwrap().tenant, tenant);
                leases.extend(more);
                found.entry(tenant.to_string()).or_default().extend(chunks.iter().flat_map(first_parts));
            }
        }
    }

    fn said_of_others(&self) -> Vec<(String, u64, String)> {
        let said = self.said().into_iter().filter_map(|notice| match notice {
            Notice::OfAnotherTenant { tenant, rows, now } => {
                Some((tenant.to_string(), rows, now.to_string()))
            }
            _ => None,
        });
        said.collect()
    }
}

fn first_parts(chunk: &Chunk) -> Vec<String> {
    let rows = chunk.open().unwrap();
    let names = rows.as_ref().iter().map(|row| String::from_utf8(row::name(row).unwrap().to_vec()).unwrap());
    names.map(|name| name.split('.').next().unwrap().to_owned()).collect()
}

fn expected(of: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    of.iter().map(|(tenant, names)| ((*tenant).to_owned(), owned(names))).collect()
}

#[test]
fn rows_keep_their_tenant_through_a_change_and_an_end_of_any_kind() {
    for (hold, newest_first) in HOLDS.into_iter().flat_map(|hold| [(hold, false), (hold, true)]) {
        let mut world = World::new(|options| {
            options.policy.hold = hold;
            options.newest_first = newest_first;
        });
        world.append_of("acme", "a", 30);
        wait(world.spool().set_tenant("other".into())).unwrap();
        assert_eq!(world.said_of_others(), [("acme".into(), 30, "other".into())]);
        world.append_of("other", "b", 30);
        // One that was on its way as the settings changed.
        world.append_of("acme", "c", 30);
        world.append_of("other", "d", 30);
        let all = expected(&[("acme", &["a", "c"]), ("other", &["b", "d"])]);
        assert_eq!(world.waiting(), all);
        world.close();

        world.options.tenant = "third".into();
        world.open();
        assert_eq!(world.waiting(), all);
        let said = world.said_of_others();
        assert_eq!(said[1..], [("acme".into(), 60, "third".into()), ("other".into(), 60, "third".into())]);
        world.append_of("third", "e", 10);
        world.crash();

        world.options.tenant = "acme".into();
        world.open();
        let mut all = all;
        if hold.is_zero() {
            all.extend(expected(&[("third", &["e"])]));
        }
        assert_eq!(world.waiting(), all);
        world.ledger_on_disk();
    }
}

#[test]
fn a_group_that_was_acknowledged_is_of_one_tenant_and_what_was_absent_goes_back_to_it() {
    let mut world = World::new(|_| ());
    let of_a = {
        world.append_of("acme", "a", 4);
        world.metas().pop().unwrap()
    };
    wait(world.spool().set_tenant("other".into())).unwrap();
    world.append_of("other", "b", 4);
    let of_b = world.metas().pop().unwrap();
    for id in [of_a.id, of_b.id] {
        world.settle(&[id], Fate::Acknowledged { whole_look: false });
    }
    world.close();
    // As two answers within one millisecond.
    world.beside().execute_batch("UPDATE acknowledged SET acked_ms = 1000").unwrap();
    world.open();
    let ask = crate::spool::AskLooks { groups: 8, after: Duration::ZERO };
    let looks = wait(world.spool().looks(ask)).unwrap();
    let mut tenants = BTreeSet::new();
    for (given, chunks) in looks.groups {
        let bodies = wait(world.spool().load_bodies(chunks)).unwrap();
        let mut absent = Rows::default();
        let rows = bodies.chunks[0].open().unwrap();
        rows.as_ref().iter().take(1).for_each(|text| absent.append(row::RowsRef { text, count: 1 }));
        wait(world.spool().confirm(given.id, crate::spool::Confirmed::StoredBut(absent))).unwrap();
        tenants.insert(bodies.tenant.to_string());
    }
    assert_eq!(tenants, BTreeSet::from(["acme".to_owned(), "other".to_owned()]));
    assert_eq!(world.waiting(), expected(&[("acme", &["a"]), ("other", &["b"])]));
    assert_eq!((world.ledger().delivered, world.ledger().spooled), (6, 2));
}

#[test]
fn nothing_is_said_where_nobody_elses_rows_wait() {
    let mut world = World::new(|_| ());
    world.append_of("acme", "a", 3);
    let ids: Vec<_> = world.metas().iter().map(|meta| meta.id).collect();
    world.settle(&ids, DELIVERED);
    wait(world.spool().set_tenant("other".into())).unwrap();
    world.append_of("other", "b", 3);
    world.close();
    world.options.tenant = "other".into();
    world.open();
    assert_eq!(world.said_of_others(), []);
}

#[test]
fn the_pieces_of_a_payload_are_whose_it_was_and_so_are_dead_letters_that_come_back() {
    for hold in HOLDS {
        let world = World::new(|options| options.policy.hold = hold);
        wait(world.spool().set_tenant("other".into())).unwrap();
        world.append_of("acme", "a", 10);
        world.append_of("other", "b", 10);
        let others = world.metas().pop().unwrap();
        let pieces = world.settle(&[others.id], Fate::Halved);
        assert_eq!(pieces.iter().map(|meta| meta.lane).collect::<Vec<_>>(), [others.lane; 2]);
        world.settle(&[pieces[0].id], refused("no"));
        // Larger than a payload may be now.
        assert_eq!(
            world.lease(9, 2).payloads.iter().filter(|payload| *payload.tenant == *"other").count(),
            3
        );

        world.beside().execute("UPDATE dead_letter SET replay = 1", []).unwrap();
        world.expect("the dead letters back", || world.ledger().spooled + world.ledger().held == 20);
        assert_eq!(world.waiting(), expected(&[("acme", &["a"]), ("other", &["b"])]));
    }
}

#[test]
fn what_an_older_version_left_belongs_to_the_first_tenant_that_starts_on_it_and_stays_its_own() {
    let mut world = World::new(|options| options.tenant = "acme".into());
    world.close();
    std::fs::remove_file(world.path()).unwrap();
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/spools/v1.db");
    std::fs::copy(old, world.path()).unwrap();
    world.open();
    assert_eq!(world.waiting(), expected(&[("acme", &["waits"])]));
    world.close();
    world.options.tenant = "other".into();
    world.open();
    assert_eq!(world.said_of_others(), [("acme".into(), 200, "other".into())]);
    world.append_of("other", "new", 3);
    assert_eq!(world.waiting(), expected(&[("acme", &["waits"]), ("other", &["new"])]));
}

#[test]
fn rows_of_which_nobody_can_tell_whose_they_are_are_sent_to_nobody() {
    let mut world = World::new(|_| ());
    world.append_of("acme", "a", 5);
    world.append_of("other", "b", 7);
    world.close();
    world.beside().execute("DELETE FROM lane WHERE id > 0", []).unwrap();
    world.open();
    let granted = wait(world.spool().lease(Ask {
        payloads: 9,
        bounds: Bounds { rows_max: 100, bytes_max: 1 << 20 },
        due: Due::All,
        apart: false,
    }));
    // The first payload may be given before the damage is met.
    drop(granted);
    world.expect("the damage met", || world.said().iter().any(|said| matches!(said, Notice::Salvaged(_))));
    assert_eq!(world.waiting(), expected(&[("acme", &["a"])]));
    assert_eq!(world.ledger().dropped["damaged"], 7, "they lie in the file that was set aside");
}

#[test]
fn a_damaged_file_is_replaced_without_a_row_that_changes_its_tenant() {
    for hold in HOLDS {
        let mut world = World::new(|options| options.policy.hold = hold);
        world.append_of("acme", "a", 5);
        world.append_of("other", "b", 7);
        world.close();
        world.open();
        world.append_of("third", "c", 9);
        // What the file knows of lanes is lost, and the daemon knows it still.
        world
            .beside()
            .execute_batch("DELETE FROM lane WHERE id > 0; UPDATE chunk SET crc = 0 WHERE rows = 5")
            .unwrap();
        while wait(world.spool().load(vec![1])) != Err(SpoolError::Replaced) {}
        assert_eq!(world.waiting(), expected(&[("other", &["b"]), ("third", &["c"])]));
        world.close();
        world.open();
        assert_eq!(world.waiting(), expected(&[("other", &["b"]), ("third", &["c"])]));
    }
}
