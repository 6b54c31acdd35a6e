//! What each answer of Blueflood comes to (`actors/DESIGN.md`, "What an answer means"), row by row, with the bodies that the
//! real one sends. After each of them nothing is lost, the ledger is whole, and all goes on.

use std::time::{Duration, SystemTime};

use blueflood_forward::sink::{Act, Answer, Script, Step};

use crate::world::*;

/// A daemon with `n` lines on their way, `line.0` and so on, to a Blueflood that answers by `script`.
fn answered(script: Script, n: usize, more: &[&str]) -> (World, Daemon) {
    let world = World::new();
    world.blueflood.script(script);
    let daemon = world.daemon(more);
    daemon.send_lines("line", n);
    (world, daemon)
}

fn script(text: &str) -> Script {
    Script::parse(text).unwrap()
}

/// Blueflood's list of refused rows: their names, at the second `time`.
fn list(status: u16, names: &[&str], time: u64) -> Script {
    let entry = |name: &&str| {
        format!(
            r#"{{"tenantId":"acme","timestamp":{time}000,"metricName":"{name}","source":"ttlInSeconds","message":"must be between 1 and 2147483647"}}"#
        )
    };
    let entries: Vec<_> = names.iter().map(entry).collect();
    let body = format!(r#"{{"errors":[{}]}}"#, entries.join(","));
    Script::new().then(Act::Answer(Answer::with_body(status, body)))
}

#[test]
fn a_success_in_any_form_is_a_delivery() {
    each(&["200", "201/stored", "204/stored"], |status| {
        let (world, daemon) = answered(script(status), 5, &[]);
        daemon.expect_delivered(5);
        world.expect_points(5);
        assert_eq!(world.posts(), 1, "{status}");
    });
}

/// It was given up after three tries, and counted as delivered.
#[test]
fn a_202_is_sent_again_until_it_gets_better_and_never_counts_as_delivered() {
    let (world, daemon) = answered(script("202x6,202/stored"), 5, &[]);
    daemon.expect_delivered(5);
    assert_eq!(world.posts(), 8, "it got better");

    let (world, daemon) = answered(script("202/storedx*"), 5, &[]);
    daemon.expect("many tries", |_| world.posts() > 8);
    assert_eq!((daemon.count("delivered"), daemon.count("buffered")), (0, 5));
    daemon.expect_said("Blueflood does not take metrics: it is tried again by itself");
    world.answers("");
    daemon.expect_recovery(&world);
}

#[test]
fn a_207_refuses_exactly_the_rows_that_it_names_and_their_duplicates() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let time = now();
    world.blueflood.script(list(207, &["bad", "worse"], time));
    daemon.send(format!("good 1 {time}\nbad 1 {time}\nworse 1 {time}\nbad 2 {time}\nbad 3 {}\n", time - 1));
    daemon.expect_settled(5);
    assert_eq!((daemon.count("delivered"), daemon.count("refused")), (2, 3));
    let letters = world.dead_letters();
    let names: Vec<_> = letters.iter().map(|letter| letter.name.as_str()).collect();
    assert_eq!(names, ["bad", "bad", "worse"]);
    assert!(letters.iter().all(|letter| letter.reason == "ttlInSeconds"));
    assert!(letters.iter().all(|letter| letter.message == "ttlInSeconds: must be between 1 and 2147483647"));
    daemon.expect_recovery(&world);
}

#[test]
fn a_207_that_cannot_be_matched_to_rows_keeps_them_all_in_the_dead_letters() {
    // Once it is sent again, for that may have been a passing fault.
    let unreadable = Act::Answer(Answer::with_body(207, "No valid metrics"));
    let unreadable = Script::new().then(Step::from(unreadable).times(4));
    for script in [unreadable, list(207, &["somebody.else"], now())] {
        let (world, daemon) = answered(script, 3, &[]);
        daemon.expect_settled(3);
        assert_eq!((daemon.count("delivered"), daemon.count("refused")), (0, 3));
        assert!(world.dead_letters().iter().all(|letter| letter.reason == "unattributed"));
        daemon.expect_recovery(&world);
    }
}

#[test]
fn a_400_with_a_list_refuses_what_it_names_and_the_rest_goes_again() {
    let (world, daemon) = answered(script("refuse(line)"), 3, &[]);
    daemon.expect_settled(3);
    assert_eq!((daemon.count("refused"), world.posts(), world.dead_letters().len()), (3, 1, 3));

    let world = World::new();
    let daemon = world.daemon(&[]);
    let time = now();
    world.blueflood.script(list(400, &["bad"], time));
    daemon.send(format!("good 1 {time}\nbad 1 {time}\n"));
    daemon.expect_settled(2);
    assert_eq!((daemon.count("delivered"), daemon.count("refused")), (1, 1));
    assert_eq!(world.stored()["good"], 1.0);
    daemon.expect_recovery(&world);
}

#[test]
fn a_400_without_a_list_costs_the_one_poison_row_and_log_n_requests() {
    let world = World::new();
    world.answers("if(poison)400");
    let daemon = world.daemon(&[]);
    daemon.send(lines("line", 300) + &lines("poison", 1) + &lines("more", 211));
    daemon.expect_settled(512);
    assert_eq!(daemon.count("delivered"), 511);
    let poison = DeadLetter {
        name: "poison.0".into(),
        reason: "unnamed".into(),
        message: "Cannot parse content".into(),
    };
    assert_eq!(world.dead_letters(), [poison]);
    // 2 log2(512) + 1, and a few more where the lines came in two chunks.
    assert!(world.posts() <= 24, "{}", world.posts());
    assert!(world.times().values().all(|&times| times == 1), "nobody else is sent twice");
    daemon.expect_recovery(&world);
}

#[test]
fn a_payload_that_is_too_large_is_halved_and_the_limit_learned() {
    each(&["413", "417", "early:413"], |&answer| {
        let (world, daemon) = answered(script(answer), 400, &[]);
        daemon.expect_delivered(400);
        world.expect_points(400);
        if answer != "early:413" {
            // Whether that one is seen is a race against the reset that follows it.
            assert!(daemon.stats()["forwarder"]["payload_bytes_max"].as_u64().unwrap() < 40_000, "{answer}");
            daemon.expect_said(
                "a payload was too large: payloads are smaller from now on; set --limit to make it last",
            );
        }
        daemon.expect_recovery(&world);
    });
}

#[test]
fn a_size_that_is_never_answered_is_found_while_small_payloads_pass() {
    let silent = Script::new().then(Step::from(Act::Silence).if_body_over(20_000));
    let world = World::new();
    world.blueflood.script(silent);
    let daemon = world.daemon(&["--timeout", "0.3"]);
    daemon.send_lines("large", 600);
    let mut small = 0;
    assert!(until(|| {
        daemon.send_lines(&format!("small.{small}"), 1);
        small += 1;
        daemon.count("delivered") >= 600
    }));
    daemon.expect_delivered(600 + small);
    world.expect_points(600 + small as usize);
}

#[test]
fn a_size_that_is_never_answered_is_found_even_if_nothing_smaller_is_there() {
    let (world, daemon) = answered(
        Script::new().then(Step::from(Act::Silence).if_body_over(100_000)),
        2_000,
        &["--timeout", "0.3"],
    );
    daemon.expect_delivered(2_000);
    world.expect_points(2_000);
}

#[test]
fn what_only_a_human_can_mend_is_kept_and_said_once_and_goes_on_when_it_is_mended() {
    each(&[401, 403, 404, 405, 415, 501, 301, 302, 307, 308], |status| {
        let (world, daemon) = answered(script(&format!("{status}x*")), 3, &[]);
        assert!(until(|| world.posts() >= 3), "it is tried now and then: {:#?}", daemon.log());
        assert_eq!(daemon.get("/readyz").0, 200, "what it takes is kept");
        let (delivers, why) = daemon.get("/delivering");
        assert_eq!(delivers, 503);
        assert!(why.contains(&format!("HTTP {status}")), "{why}");
        assert_eq!(daemon.get("/healthz").0, 200, "a restart would not mend it");
        daemon.expect_times_said("Blueflood refuses everything", 1);
        assert_eq!(daemon.count("buffered"), 3);
        let ingest = format!("/v2.0/{TENANT}/ingest");
        let all_posts = |request: &blueflood_forward::sink::Received| {
            (request.method.as_str(), request.target.as_str()) == ("POST", ingest.as_str())
        };
        assert!(world.blueflood.requests().iter().all(all_posts), "a redirect is never followed");
        world.answers("");
        daemon.expect_delivered(3);
        daemon.expect_recovery(&world);
    });
}

#[test]
fn retry_after_is_obeyed_in_both_its_forms() {
    // A date has whole seconds, so of these two at least one is left.
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    let forms = [("1", Duration::from_secs(1)), (date.as_str(), Duration::from_millis(800))];
    each(&forms, |&(retry_after, at_least)| {
        let answer = Step::status(429).header("Retry-After", retry_after);
        let (world, daemon) = answered(Script::new().then(answer), 3, &[]);
        daemon.expect_delivered(3);
        let at: Vec<_> = world.blueflood.requests().iter().map(|request| request.at).collect();
        let [first, second] = at[..] else { panic!("{at:?}") };
        assert!(second - first >= at_least, "{retry_after}: {:?}", second - first);
    });
}

#[test]
fn a_payload_that_fails_for_ever_stops_nobody_and_its_poison_is_found() {
    let world = World::new();
    world.answers("if(poison)500x*");
    let daemon = world.daemon(&[]);
    daemon.send(lines("line", 40) + &lines("poison", 1));
    daemon.expect_received(41);
    let mut others = 0;
    assert!(until(|| {
        daemon.send_lines(&format!("other.{others}"), 1);
        others += 1;
        daemon.count("refused") == 1
    }));
    daemon.expect_settled(41 + others);
    assert_eq!(daemon.count("delivered"), 40 + others);
    let [poison] = &world.dead_letters()[..] else { panic!("{:#?}", world.dead_letters()) };
    assert_eq!((poison.name.as_str(), poison.reason.as_str()), ("poison.0", "always_fails"));
    assert_eq!(poison.message, "HTTP 500: Persisted failed for metrics");
    daemon.expect_recovery(&world);
}

#[test]
fn an_outage_is_said_once_and_everything_comes_after_it() {
    let (world, daemon) = answered(script("503x*"), 3, &[]);
    assert!(until(|| world.posts() >= 5));
    daemon.send_lines("more", 4);
    daemon.expect_received(7);
    assert_eq!(daemon.get("/readyz").0, 200, "it takes metrics");
    assert_eq!(daemon.count("buffered"), 7);
    world.answers("");
    daemon.expect_delivered(7);
    daemon.expect_times_said("Blueflood does not take metrics", 1);
    daemon.expect_times_said("Blueflood takes metrics again", 1);

    world.blueflood.pause();
    daemon.send_lines("refused", 5);
    daemon.expect("closed its gate", |stats| stats["forwarder"]["gate"]["open"] == false);
    world.blueflood.resume().unwrap();
    daemon.expect_delivered(12);
    world.expect_points(12);
}

#[test]
fn a_broken_answer_loses_nothing() {
    let broken = [
        "garbage",
        "half",
        "endless",
        "stall",
        "close",
        "reset",
        "reset/stored",
        "reset-unread",
        "close/stored",
        "timeout",
        "timeout/stored",
        "500/stored",
        "408",
        "504",
        "late:100",
    ];
    each(&broken, |answer| {
        let (world, daemon) = answered(script(answer), 3, &["--timeout", "1.5"]);
        daemon.expect_delivered(3);
        daemon.expect_recovery(&world);
        // The head of a 200 says that all is stored, whatever becomes of its body.
        let lies = ["endless", "stall"].contains(answer);
        world.expect_points(if lies { 2 } else { 5 });
        assert!(world.times().values().all(|&times| times <= 2), "{answer}");
        assert!(world.posts() <= 4, "{answer}: {}", world.posts());
    });
}

#[test]
fn a_blueflood_that_cannot_be_found_is_waited_for() {
    let world = World::new();
    let daemon = world.daemon(&["--blueflood", "http://nowhere.invalid"]);
    daemon.send_lines("early", 3);
    daemon.expect("closed its gate", |stats| stats["forwarder"]["gate"]["open"] == false);
    assert_eq!(daemon.count("buffered"), 3);
    daemon.kill();
    let daemon = world.daemon(&[]);
    daemon.expect_delivered(3);
    world.expect_points(3);
}
