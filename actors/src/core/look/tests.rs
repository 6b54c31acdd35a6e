//! Looks against a store that keeps some points.

use proptest::prelude::*;

use super::*;
use crate::core::row::Rows;

const NOW_MS: i64 = 1_700_000_000_000;

fn text(name: &str, ms: i64, ttl_s: i64) -> String {
    let name = serde_json::to_string(name).unwrap();
    format!(r#"{{"collectionTime":{ms},"ttlInSeconds":{ttl_s},"metricValue":1.0,"metricName":{name}}}"#)
}

fn of(points: &[(String, i64)]) -> Rows {
    let mut rows = Rows::default();
    for (name, ms) in points {
        rows.append(RowsRef { text: text(name, *ms, 86_400).as_bytes(), count: 1 });
    }
    rows
}

/// An answer as Blueflood gives it to `query`, of a store that keeps some points.
fn answer(query: &Query, kept: &[(String, i64)], prefix: &str) -> Vec<u8> {
    let names: Vec<String> = serde_json::from_slice(&query.body).unwrap();
    let metric = |name: &String| {
        let here = kept.iter().filter(|(kept, ms)| kept == name && (query.from..=query.to).contains(ms));
        let data: Vec<_> = here
            .map(|(_, ms)| serde_json::json!({"numPoints": 1, "average": 2.0, "timestamp": ms}))
            .collect();
        serde_json::json!({"unit": "unknown", "data": data, "metric": format!("{prefix}{name}"), "type": "number"})
    };
    serde_json::to_vec(&serde_json::json!({ "metrics": names.iter().rev().map(metric).collect::<Vec<_>>() }))
        .unwrap()
}

fn missing(rows: &Rows, wanted: &[u32], kept: &[(String, i64)], tenant: &str, prefix: &str) -> Vec<u32> {
    let rows = super::rows([rows.as_ref()].into_iter(), NOW_MS);
    let queries = queries(&rows, wanted);
    let mut all: Vec<u32> = queries
        .iter()
        .flat_map(|query| absent(&rows, query, &answer(query, kept, prefix), tenant).unwrap())
        .collect();
    all.sort_unstable();
    all
}

proptest! {
    #[test]
    fn exactly_what_is_not_stored_is_absent(
        points in prop::collection::vec(("[a-c\"\\\\/ü\n]{1,3}", 0i64..2_000_000, any::<bool>()), 1..250),
    ) {
        let all: Vec<_> = points.iter().map(|(name, ago, _)| (name.clone(), NOW_MS - ago)).collect();
        let kept: Vec<_> =
            all.iter().zip(&points).filter(|(_, (_, _, kept))| *kept).map(|(point, _)| point.clone()).collect();
        let wanted: Vec<u32> = (0..all.len() as u32).collect();
        let lost: Vec<u32> =
            wanted.iter().copied().filter(|&at| !kept.contains(&all[at as usize])).collect();
        prop_assert_eq!(missing(&of(&all), &wanted, &kept, "t", ""), lost);
    }

    #[test]
    fn a_query_has_few_names_and_a_short_time_and_every_row_is_in_one(
        times in prop::collection::vec(0i64..900_000, 1..400),
    ) {
        let all: Vec<_> = times.iter().enumerate().map(|(i, ago)| (format!("m.{i}"), NOW_MS - ago)).collect();
        let rows = of(&all);
        let rows = super::rows([rows.as_ref()].into_iter(), NOW_MS);
        let wanted: Vec<u32> = (0..all.len() as u32).collect();
        let queries = queries(&rows, &wanted);
        for query in &queries {
            let names: Vec<String> = serde_json::from_slice(&query.body).unwrap();
            prop_assert!(names.len() <= NAMES_MAX && query.to > query.from);
            prop_assert!(query.to - query.from <= SPAN_MS_MAX + 1);
        }
        let mut asked: Vec<u32> = queries.into_iter().flat_map(|query| query.wanted).collect();
        asked.sort_unstable();
        prop_assert_eq!(asked, wanted);
    }

    #[test]
    fn a_sample_is_one_query_with_some_of_each_batch(n in 1usize..5_000, far: bool, seed: u64) {
        let ms = |i: usize| if far { NOW_MS - i as i64 * 60_000 } else { NOW_MS - i as i64 };
        let all: Vec<_> = (0..n).map(|i| (format!("m.{i}"), ms(i))).collect();
        let rows = of(&all);
        let mut state = seed;
        let now_ms = NOW_MS - 50 * 86_400_000;
        let picked = sample([rows.as_ref()].into_iter(), now_ms, |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u32 % below
        });
        let numbers: Vec<usize> = picked.iter().map(|row| (all[0].1 - row.ms) as usize).collect();
        prop_assert!(!picked.is_empty() && picked.len() <= NAMES_MAX);
        if n > NAMES_MAX {
            let wanted: Vec<u32> = (0..).take(picked.len()).collect();
            prop_assert_eq!(queries(&picked, &wanted).len(), 1);
        }
        if !far {
            prop_assert!(numbers.contains(&(n - 1)));
            let batches: HashSet<usize> = numbers.iter().map(|at| at / 100).collect();
            prop_assert!(batches.len() >= n.div_ceil(100).min(98));
        }
    }

    #[test]
    fn no_answer_is_taken_for_one_that_is_none(bytes: Vec<u8>) {
        let rows = of(&[("a".into(), NOW_MS)]);
        let rows = super::rows([rows.as_ref()].into_iter(), NOW_MS);
        let query = &queries(&rows, &[0])[0];
        prop_assert!(absent(&rows, query, &bytes, "t").is_none_or(|absent| absent == [0]));
    }
}

#[test]
fn the_tail_of_a_dotted_tenant_may_stand_before_a_name() {
    let all = [("c.d".to_owned(), NOW_MS)];
    assert_eq!(missing(&of(&all), &[0], &all, "a.b", "b."), [0; 0]);
    assert_eq!(missing(&of(&all), &[0], &all, "a", "b."), [0]);
}

#[test]
fn a_sample_is_of_rows_that_last_though_most_are_over() {
    let mut rows = Rows::default();
    for i in 0..2_000 {
        let ttl_s = if i % 100 == 7 { 3_600 } else { 30 };
        rows.append(RowsRef { text: text(&format!("m.{i}"), NOW_MS, ttl_s).as_bytes(), count: 1 });
    }
    for first in 0..50 {
        let picked = sample([rows.as_ref()].into_iter(), NOW_MS, |below| first % below);
        assert!(!picked.is_empty() && picked.iter().all(|row| row.ttl_s == 3_600));
    }
}

#[test]
fn what_is_over_or_nearly_is_not_looked_for() {
    let mut rows = Rows::default();
    for (ms, ttl_s) in [(NOW_MS, 59), (NOW_MS, 61), (NOW_MS - 3_600_000, 3_000), (NOW_MS - 3_600_000, 3_700)]
    {
        rows.append(RowsRef { text: text("a", ms, ttl_s).as_bytes(), count: 1 });
    }
    let ttls: Vec<i64> =
        super::rows([rows.as_ref()].into_iter(), NOW_MS).iter().map(|row| row.ttl_s).collect();
    assert_eq!(ttls, [61, 3_700]);
}

#[test]
fn a_witness_uses_no_slot_again_within_half_a_minute_no_time_twice_and_none_that_blueflood_refuses() {
    let mut used: HashMap<i64, i64> = HashMap::new();
    let mut times = HashSet::new();
    // Over an hour, in which three slots begin.
    for turn in 0..3_600_000 / TURN_MS {
        let now_ms = NOW_MS + turn * TURN_MS + turn % TURN_MS;
        let ms = witness_ms(now_ms);
        assert!(times.insert(ms), "{ms} comes twice");
        assert!(ms <= now_ms - LATE_MS && ms > now_ms - 3 * 86_400_000, "{}", now_ms - ms);
        if let Some(before) = used.insert(ms.div_euclid(SLOT_MS), now_ms) {
            assert!(now_ms - before > 31_000, "used again after {} ms", now_ms - before);
        }
    }
    assert!(used.len() >= 200);
}

#[test]
fn the_query_side_is_known_by_its_words() {
    assert!(is_query_side(400, br#"{"errors":[{"message":"No query parameters present."}]}"#));
    assert!(!is_query_side(404, b""));
    assert!(!is_query_side(400, b"Bad Request"));
}
