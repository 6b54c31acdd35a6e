//! The situations of an operator's night, and what is said of each.

use std::time::Duration;

use super::*;

const START: u64 = 1_795_746_720_000; // 02:32 UTC
const MINUTE: u64 = 60_000;

/// A daemon in peace, 20 minutes after its start.
fn peace() -> Figures {
    Figures {
        now_ms: START,
        uptime_ms: 20 * MINUTE,
        known: Known { interval: Duration::from_secs(30), drops_oldest: true, ..Known::default() },
        received: 100_000,
        delivered: 100_000,
        last_received_ms: Some(START),
        posts: 50,
        used_bytes: 64 << 10,
        bytes_max: 1 << 30,
        ..Figures::default()
    }
}

fn lost(place: Place, reason: &str, count: u64) -> Count {
    Count { place, reason: reason.to_owned(), count, sample: Some("a row".to_owned()) }
}

/// The last of looks once a second, from peace on, at what `change` makes of the figures at each second.
fn after(seconds: u64, change: impl Fn(u64, &mut Figures)) -> Health {
    let mut watch = Watch::default();
    watch.look(&peace());
    let mut last = None;
    for second in 1..=seconds {
        let mut figures = peace();
        figures.now_ms += second * 1_000;
        figures.uptime_ms += second * 1_000;
        figures.last_received_ms = Some(figures.now_ms);
        change(second, &mut figures);
        last = Some(watch.look(&figures));
    }
    last.unwrap()
}

#[test]
fn peace_is_well_and_needs_nothing() {
    let health = after(600, |second, figures| {
        figures.received += second * 500;
        figures.delivered = figures.received;
    });
    assert_eq!(
        (health.condition, health.words.as_str(), &health.next),
        (Condition::Well, "all is well", &None)
    );
    assert_eq!((health.since_ms, health.losses.len()), (START, 0));
}

#[test]
fn an_outage_keeps_and_says_until_when() {
    let down = |second: u64, figures: &mut Figures| {
        figures.closed = Some("HTTP 503".to_owned());
        (figures.buffered, figures.oldest_ms) = (500 * second, Some(START));
        figures.used_bytes += (second * 8) << 10;
    };
    let health = after(300, down);
    assert_eq!((health.condition, health.since_ms), (Condition::Keeping, START + 1_000));
    assert_eq!(health.words, "Blueflood does not take metrics: HTTP 503; 150,000 datapoints are kept");
    let line = health.line(START + 300_000);
    // 1 GiB at 8 KiB a second: a day and a half.
    assert!(
        line.contains(
            "kept until 2026-11-28 14:56 UTC (in 36 h 19 min), when the spool is full (--spool_max)"
        ),
        "{line}"
    );
    assert!(
        line.contains("since 02:32 UTC (4 min)") && line.contains("Next: look after Blueflood"),
        "{line}"
    );

    // What ends sooner is said instead, and before there is a slope it is all that is known.
    let health = after(30, down);
    let until = health.until.unwrap();
    assert_eq!(until.at_ms, START + 3 * 86_400_000);
    assert!(until.by.contains("three days old"), "{until:?}");
    let health = after(300, |second, figures| {
        down(second, figures);
        figures.known.max_age = Some(Duration::from_secs(3_600));
    });
    assert_eq!(health.until.map(|until| until.at_ms), Some(START + 3_600_000));
}

#[test]
fn a_spool_that_drops_does_not_keep() {
    for reason in ["disk_full", "spool_full"] {
        let health = after(60, |second, figures| {
            figures.closed = Some("HTTP 503".to_owned());
            figures.buffered = 1_000;
            figures.lost = vec![lost(Place::Dropped, reason, second * 1_000)];
        });
        assert_eq!(health.condition, Condition::Losing, "{reason}");
        assert!(health.words.contains(&format!("60,000 dropped for {reason}")), "{}", health.words);
        assert!(!health.line(START).contains("kept") && health.until.is_none(), "{}", health.line(START));
        assert!(health.next.is_some());
    }
    // Nor does one that refuses everything, and drops meanwhile.
    let health = after(60, |second, figures| {
        (figures.closed, figures.misconfigured) = (Some("HTTP 404".into()), Some("HTTP 404".into()));
        figures.buffered = 1_000;
        figures.lost = vec![lost(Place::Dropped, "max_age", second)];
    });
    assert_eq!(health.condition, Condition::Wrong);
    assert!(!health.line(START).contains("kept"), "{}", health.line(START));
}

#[test]
fn what_goes_on_beside_deliveries_is_a_loss_and_everyday_things_are_none() {
    let losing = |count: Count, received: u64| {
        after(10, move |second, figures| {
            figures.received += second * received;
            figures.delivered = figures.received;
            figures.lost = vec![Count { count: count.count * second, ..count.clone() }];
        })
    };
    let health = losing(lost(Place::Refused, "ttlInSeconds", 1), 500);
    assert_eq!((health.condition, health.since_ms), (Condition::Losing, START + 1_000));
    assert_eq!(health.words, "delivering, with losses: 10 refused for ttlInSeconds");
    assert_eq!(health.next.as_deref(), Some("blueflood-forward dead-letters list"));
    assert_eq!(health.losses[0].sample.as_deref(), Some("a row"));

    for (count, received, condition) in [
        (lost(Place::Skipped, "value_nan", 1), 10_000, Condition::Well),
        (lost(Place::Skipped, "value_nan", 100), 1_000, Condition::Losing),
        (lost(Place::Malformed, "http", 1), 500, Condition::Well),
        // Every sender is turned away.
        (lost(Place::Malformed, "frame_too_long", 1), 0, Condition::Losing),
        (lost(Place::Unread, "udp:2003", 1), 10_000, Condition::Losing),
        (lost(Place::Discarded, "", 1), 10_000, Condition::Losing),
    ] {
        assert_eq!(losing(count.clone(), received).condition, condition, "{count:?}");
    }
}

#[test]
fn what_only_a_change_mends_is_wrong_and_says_which() {
    let wrong = |answer: &str, authenticates: bool| {
        after(5, |_, figures| {
            figures.known.authenticates = authenticates;
            (figures.closed, figures.misconfigured) = (Some(answer.to_owned()), Some(answer.to_owned()));
            figures.buffered = 5;
        })
    };
    for (answer, authenticates, next) in [
        ("HTTP 404: no such path", false, "check --blueflood and --tenant"),
        ("HTTP 401", false, "set --user and --key_file"),
        ("HTTP 403", false, "set --user and --key_file"),
        ("HTTP 403", true, "check whether --user may write to --tenant"),
        ("HTTP 301, to http://x/", false, "set --blueflood to where it leads"),
    ] {
        let health = wrong(answer, authenticates);
        assert_eq!((health.condition, health.next.as_deref()), (Condition::Wrong, Some(next)), "{answer}");
        assert!(
            health.words.contains(answer) && health.words.contains("5 datapoints are kept"),
            "{}",
            health.words
        );
    }
    let health = after(5, |_, figures| {
        figures.closed = Some(format!("{NO_TOKEN}: refused"));
        figures.keystone_refuses = Some(String::new());
    });
    assert!(
        health.condition == Condition::Wrong && health.words.starts_with("Keystone refuses"),
        "{health:?}"
    );
    let health = after(5, |_, figures| figures.blocked = Some("the disk is full".to_owned()));
    assert!(
        health.condition == Condition::Wrong && health.words.contains("senders have to wait"),
        "{health:?}"
    );
    let health = after(5, |_, figures| figures.disk_full = true);
    assert!(health.condition == Condition::Wrong && health.words.contains("disk of the spool is full"));
    let health = after(5, |_, figures| figures.amiss = Some("its file is gone".to_owned()));
    assert!(health.condition == Condition::Wrong && health.words.contains("its file is gone"), "{health:?}");
    // A cap that makes senders wait is over by itself.
    let health = after(5, |_, figures| figures.blocked = Some("it is at its cap (--spool_max)".to_owned()));
    assert!(health.condition == Condition::Keeping && health.words.contains("senders have to wait"));
    let health =
        after(5, |_, figures| figures.ailments = vec!["the forwarder has not answered for 31 s".to_owned()]);
    assert_eq!(health.condition, Condition::Wrong);
}

#[test]
fn who_is_ill_is_named() {
    for (cause, who) in [
        ("no token from Keystone: HTTP 500", "Keystone gives no token: HTTP 500;"),
        ("Failed resolving hostname", "the name of Blueflood's host"),
        ("its certificate has expired", "no TLS connection"),
        ("HTTP 502: bad gateway", "a proxy before Blueflood"),
        ("Connection refused (os error 111)", "Blueflood does not take metrics"),
    ] {
        let health = after(2, |_, figures| figures.closed = Some(cause.to_owned()));
        assert_eq!(health.condition, Condition::Keeping);
        let cause = cause.trim_start_matches("no token from Keystone: ");
        assert!(health.words.starts_with(who) && health.words.contains(cause), "{}", health.words);
    }
}

#[test]
fn what_waits_though_the_gate_is_open_is_said() {
    // As a replay that nobody sent: the gate is open, nothing is in flight, and all was said to be well.
    let health = after(10, |_, figures| {
        (figures.buffered, figures.oldest_ms) = (5_610, Some(START - 20 * MINUTE));
    });
    assert_eq!(health.condition, Condition::Keeping);
    assert!(
        health.words.contains("5,610 datapoints here, the oldest for 20 min, and nothing passes"),
        "{}",
        health.words
    );

    // While it catches up there is nothing to do.
    let health = after(120, |second, figures| {
        figures.delivered += second * 1_000;
        (figures.buffered, figures.oldest_ms) = (600_000 - second * 1_000, Some(START - 20 * MINUTE));
    });
    assert_eq!(health.condition, Condition::Well);
    assert!(
        health.words.contains("catching up") && health.words.contains("done by about 02:4"),
        "{}",
        health.words
    );

    // But if it does not, there is.
    let health = after(120, |second, figures| {
        figures.delivered += second * 1_000;
        (figures.buffered, figures.oldest_ms) = (600_000 + second * 10, Some(START - 20 * MINUTE));
    });
    assert!(
        health.condition == Condition::Keeping && health.words.contains("takes less than comes in"),
        "{health:?}"
    );
}

#[test]
fn silence_is_said_when_it_is_longer_than_usual() {
    let silence = |quiet_from: u64, seconds: u64| {
        after(seconds, move |second, figures| {
            // Something comes every minute.
            figures.last_received_ms = Some(START + second.min(quiet_from) / 60 * MINUTE);
        })
    };
    assert_eq!(silence(600, 600 + 240).condition, Condition::Well);
    let health = silence(600, 600 + 400);
    assert_eq!((health.condition, health.since_ms), (Condition::Losing, START + 10 * MINUTE));
    assert!(health.words.contains("the longest silence of late was 60 s"), "{}", health.words);

    // Who sends every ten minutes is not missed after five.
    let health = after(4_500, |second, figures| {
        figures.last_received_ms = Some(START + second.min(3_600) / 600 * 600_000);
    });
    assert_eq!(health.condition, Condition::Well);
}

#[test]
fn nothing_since_the_start_is_not_known_to_be_well_and_soon_no_longer_is() {
    let mut watch = Watch::default();
    let fresh = |minutes: u64| Figures {
        now_ms: START + minutes * MINUTE,
        uptime_ms: minutes * MINUTE,
        known: peace().known,
        ..Figures::default()
    };
    let health = watch.look(&fresh(1));
    assert!(health.condition == Condition::Well && health.words.contains("is not known"), "{health:?}");
    let health = watch.look(&fresh(6));
    assert_eq!((health.condition, health.since_ms), (Condition::Losing, START));
    assert!(health.words.contains("nothing has come in since the start") && health.next.is_some());
}

#[test]
fn the_log_hears_each_change_once_and_a_long_outage_again() {
    let mut watch = Watch::default();
    watch.look(&peace());
    let mut said = Vec::new();
    for second in 1..=9_000 {
        let mut figures = peace();
        figures.now_ms += second * 1_000;
        figures.last_received_ms = Some(figures.now_ms);
        // A second's hiccup, and then an outage of two hours and more.
        figures.closed = (second == 10 || (100..8_900).contains(&second)).then(|| "HTTP 503".to_owned());
        let health = watch.look(&figures);
        for line in watch.lines(&health, figures.now_ms) {
            said.push(match line {
                Line::Changed(health) => (second, "changed", health.condition),
                Line::Reminder(health) => (second, "again", health.condition),
                Line::Lost(_) => (second, "lost", Condition::Losing),
            });
        }
    }
    let (again, keeping) = ("again", Condition::Keeping);
    let expected = [
        (103, "changed", keeping),
        (700, again, keeping),
        (4_300, again, keeping),
        (7_900, again, keeping),
        (8_903, "changed", Condition::Well),
    ];
    assert_eq!(said, expected);
}

#[test]
fn names_and_exit_codes_are_each_of_one_condition() {
    for condition in Condition::ALL {
        assert_eq!(Condition::of_name(condition.name()), Some(condition));
    }
    let codes: std::collections::BTreeSet<_> = Condition::ALL.map(Condition::exit_code).into();
    assert!(codes.len() == 4 && !codes.contains(&1) && !codes.contains(&2), "{codes:?}");
}

/// One node of two was dead, half of each payload was sent again and again, and all was said to be well.
#[test]
fn a_store_that_goes_on_losing_what_is_acknowledged_is_said_and_one_loss_is_not() {
    let mut watch = Watch::default();
    let at = |seconds: u64, resent: u64| Figures {
        now_ms: START + seconds * 1_000,
        last_received_ms: Some(START + seconds * 1_000),
        resent,
        ..peace()
    };
    assert_eq!(watch.look(&at(0, 0)).condition, Condition::Well);
    assert_eq!(watch.look(&at(10, 500)).condition, Condition::Well);
    assert_eq!(watch.look(&at(100, 500)).condition, Condition::Well);
    for step in 0..=7 {
        let health = watch.look(&at(200 + step * 10, 510 + step * 10));
        assert_eq!(health.condition == Condition::Keeping, step >= 6, "{step}: {health:?}");
        if step == 7 {
            assert!(health.words.contains("80 sent again"), "{health:?}");
            assert_eq!(health.since_ms, START + 200_000);
        }
    }
    assert_eq!(watch.look(&at(400, 580)).condition, Condition::Well);
}

#[test]
fn a_young_daemon_says_no_more_than_it_knows() {
    let young = |change: fn(&mut Figures)| {
        let mut figures =
            Figures { now_ms: START, known: peace().known, bytes_max: 1 << 30, ..Figures::default() };
        change(&mut figures);
        Watch::default().look(&figures)
    };
    let silent = young(|_| ());
    assert_eq!(silent.condition, Condition::Well);
    assert!(silent.words.contains("nothing has come in yet"), "{silent:?}");
    assert!(silent.next.unwrap().contains("check --connect"));
    let came = |figures: &mut Figures| {
        (figures.received, figures.buffered, figures.last_received_ms) = (5, 5, Some(START));
    };
    assert!(young(came).words.contains("nothing has been sent yet"));
    // One request has failed, and the gate waits for the next ones.
    let failed = young(|figures| {
        (figures.received, figures.buffered, figures.last_received_ms) = (5, 5, Some(START));
        figures.posts = 1;
    });
    assert!(failed.words.contains("nothing has been delivered yet"), "{failed:?}");
}
