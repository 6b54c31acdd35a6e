//! What follows from each answer, one story at a time.

use super::*;

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
    assert!(cause == "not there", "{cause}");
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
