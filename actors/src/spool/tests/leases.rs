//! What is leased, in which pieces, and what becomes of a lease that nobody holds any more.

use super::*;
use crate::core::row;

fn names(chunk: &Chunk) -> Vec<String> {
    let rows = chunk.open().unwrap();
    rows.as_ref().iter().map(|row| String::from_utf8(row::name(row).unwrap().to_vec()).unwrap()).collect()
}

fn always_fails() -> Fate {
    Fate::RefusedAll { reason: Reason::AlwaysFails, message: "HTTP 500".into() }
}

#[test]
fn a_lease_that_is_dropped_waits_again_and_none_is_given_twice() {
    for hold in [Duration::ZERO, Duration::from_secs(3_600)] {
        let world = World::new(|options| options.policy.hold = hold);
        world.append("a", 10);
        let first = world.lease(4, 100);
        assert_eq!(first.payloads.len(), 1);
        assert_eq!(names(&first.payloads[0].chunks[0]).len(), 10);
        assert!(world.lease(4, 100).payloads.is_empty(), "it is leased");
        drop(first);
        assert_eq!(world.lease(4, 100).payloads.len(), 1, "it waits again");
    }
}

#[test]
fn what_was_sealed_larger_than_a_payload_may_be_is_divided() {
    for hold in [Duration::ZERO, Duration::from_secs(3_600)] {
        let world = World::new(|options| options.policy.hold = hold);
        world.append("a", 1_000);
        let mut rows = 0;
        loop {
            let granted = world.lease(1, 300);
            let Some(payload) = granted.payloads.first() else { break };
            let ids: Vec<_> = payload.leases.iter().map(|lease| lease.meta.id).collect();
            assert!(payload.leases.iter().map(|lease| lease.meta.rows).sum::<u32>() <= 300);
            rows += payload.leases.iter().map(|lease| u64::from(lease.meta.rows)).sum::<u64>();
            world.settle(&ids, DELIVERED);
        }
        assert_eq!((rows, world.ledger().delivered, world.ledger().buffered()), (1_000, 1_000, 0));
        world.expect("counted", || world.ledger_on_disk().delivered == 1_000);
    }
}

#[test]
fn a_full_spool_drops_what_waits_and_never_what_is_leased() {
    let world = World::new(|options| options.encoding = Encoding::Plain);
    world.append("first", 900);
    let leased = world.lease(1, 900);
    for i in 0..40 {
        world.append(&format!("fill{i}"), 900);
    }
    assert!(world.ledger().dropped["spool_full"] > 0);
    let id = leased.payloads[0].leases[0].meta.id;
    assert!(world.metas().iter().any(|meta| meta.id == id), "it is on its way");
    world.settle(&[id], DELIVERED);
    assert_eq!(world.ledger().delivered, 900);
}

#[test]
fn rows_of_a_series_that_was_proven_bad_are_taken_out_of_what_waits_and_of_what_comes() {
    for hold in [Duration::ZERO, Duration::from_secs(3_600)] {
        let world = World::new(|options| options.policy.hold = hold);
        world.append("bad", 1); // bad.0
        world.append("bad", 4); // bad.0 to bad.3, sealed before anybody knows
        let granted = world.lease(1, 1);
        world.settle(&[granted.payloads[0].leases[0].meta.id], always_fails());
        drop(granted);
        world.append("bad", 3);
        let granted = world.lease(4, 100);
        let mut seen = Vec::new();
        granted
            .payloads
            .iter()
            .flat_map(|payload| &payload.chunks)
            .for_each(|chunk| seen.extend(names(chunk)));
        assert_eq!(seen, ["bad.1", "bad.2", "bad.3", "bad.1", "bad.2"]);
        assert!(granted.waiting.apart);
        let bounds = Bounds { rows_max: 100, bytes_max: 1 << 20 };
        let apart =
            wait(world.spool().lease(Ask { payloads: 1, bounds, due: Due::All, apart: true })).unwrap();
        assert_eq!(
            (names(&apart.payloads[0].chunks[0]), apart.payloads[0].apart),
            (vec!["bad.0".to_owned()], Some(false))
        );
        world.expect("shown", || world.spool().status().series_apart == ["bad.0"]);
        // One of them passes, so the series is like any other again.
        world.settle(&[apart.payloads[0].leases[0].meta.id], DELIVERED);
        assert_eq!(world.lease(4, 100).payloads.iter().map(|payload| payload.leases.len()).sum::<usize>(), 1);
        world.expect("forgotten", || world.spool().status().series_apart.is_empty());
    }
}

#[test]
fn an_index_that_is_made_anew_leases_everything_again_and_says_why() {
    let world = World::new(|_| {});
    world.append("a", 10);
    let lost = world.lease(1, 100);
    wait(world.spool().reindex("a test asked for it".into())).unwrap();
    assert_eq!(world.lease(1, 100).payloads.len(), 1);
    drop(lost);
    assert!(world.said().contains(&Notice::AuditFailed("a test asked for it".into())));
    world.expect("shown", || world.spool().status().audit_failures == 1);
}

#[test]
fn an_index_that_was_wrong_makes_the_daemon_ill_for_an_hour_and_stays_counted() {
    let world = World::new(|_| {});
    assert!(!world.spool().status().audit_ails(now_ms()));
    wait(world.spool().reindex("a test asked for it".into())).unwrap();
    world.expect("shown", || world.spool().status().audit_failures == 1);
    let status = world.spool().status();
    let at = status.audit_failed_ms.unwrap();
    assert!((now_ms() - 60_000..=now_ms()).contains(&at), "{at}");
    assert!(status.audit_ails(at) && status.audit_ails(at + 3_599_999));
    assert!(!status.audit_ails(at + 3_600_000));
    // A clock that goes back makes nothing of it.
    assert!(status.audit_ails(at - 1));
    wait(world.spool().reindex("and again".into())).unwrap();
    world.expect("the last counts", || {
        let status = world.spool().status();
        status.audit_failures == 2 && status.audit_failed_ms >= Some(at)
    });
}

/// The model asks for one thing at a time; the daemon's actors do not. What they ask together is carried out in one turn,
/// and settlements before the rest.
#[test]
fn whatever_is_asked_together_no_lease_is_given_twice_and_every_row_is_settled_once() {
    proptest!(ProptestConfig::with_cases(24), |(held: bool, steps in prop::collection::vec((1u32..40, 0u8..6), 1..40))| {
        let hold = if held { Duration::from_secs(3_600) } else { Duration::ZERO };
        let world = World::new(|options| options.policy.hold = hold);
        let spool = world.spool();
        let (mut given, mut received) = (Vec::<Granted>::new(), 0);
        let ask = || Ask { payloads: 2, bounds: Bounds { rows_max: 30, bytes_max: 1 << 20 }, due: Due::All, apart: false };
        let ids = |granted: &Granted| -> Vec<ChunkId> {
            granted.payloads.iter().flat_map(|payload| &payload.leases).map(|lease| lease.meta.id).collect()
        };
        for (i, (n, kind)) in steps.into_iter().enumerate() {
            world.decode(n, 0);
            received += u64::from(n);
            let batch = Arc::new(Batch::new(rows(&format!("r{i}"), n), now_ms()));
            let settled = given.pop();
            let fate = match kind {
                0 => always_fails(),
                1 => Fate::Acknowledged { whole_look: false },
                _ => DELIVERED,
            };
            let chunks = settled.as_ref().map(&ids).unwrap_or_default();
            // One thread: all of them are asked before it waits for any answer.
            let (before, appended, settling, after) = wait(async {
                tokio::join!(
                    spool.lease(ask()),
                    spool.append(batch),
                    spool.settle(chunks, fate),
                    async {
                        if kind == 5 { spool.give_back().await.map(drop)?; }
                        spool.lease(ask()).await
                    },
                )
            });
            prop_assert!(appended.is_ok() && settling.is_ok());
            drop(settled);
            given.extend([before.unwrap(), after.unwrap()]);
            let mut leased: Vec<_> = given.iter().flat_map(ids).collect();
            let all = leased.len();
            leased.sort_unstable();
            leased.dedup();
            prop_assert_eq!(leased.len(), all, "one chunk is on its way twice");
            prop_assert_eq!(world.ledger().received, received);
        }
        drop(given);
        wait(spool.give_back()).unwrap();
        loop {
            let granted = world.lease(4, 30);
            let rest = ids(&granted);
            if rest.is_empty() { break }
            world.settle(&rest, DELIVERED);
        }
        let ledger = world.ledger();
        prop_assert_eq!(ledger.delivered + sum(&ledger.refused), received);
        prop_assert_eq!(ledger.buffered(), 0);
    });
}
