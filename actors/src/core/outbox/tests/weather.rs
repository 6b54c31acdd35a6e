//! Bad weather of every kind: nothing good is refused, few POSTs are made in vain, and nothing waits for ever.

use super::*;

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
