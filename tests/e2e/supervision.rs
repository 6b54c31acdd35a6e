//! Actors that die, at any message and at the worst places, while data flows: the daemon goes on, loses nothing, and
//! settles nothing twice.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::shared::random;
use crate::world::*;

const ACTORS: [&str; 4] = ["listener", "collector", "forwarder", "metrics"];

const PLACES: [&str; 9] = [
    "listener.accepted",
    "collector.frame",
    "collector.taken",
    "collector.stored",
    "forwarder.store",
    "forwarder.stored",
    "forwarder.answered",
    "forwarder.settled",
    "metrics.snapshot",
];

/// Below the restarts within a minute after which the daemon gives up, which is 300.
const DEATHS: usize = 250;

impl Daemon {
    /// Asks for a fault. The stats port may be the one that is down: then nothing happens.
    fn fault(&self, path: &str) -> bool {
        self.request("POST", path, "localhost").is_some_and(|(status, _)| status == 204)
    }

    fn restarts(&self, actor: &str) -> u64 {
        let stats = self.stats();
        let actors = stats["actors"].as_object().unwrap();
        let of = |(name, state): (&String, &serde_json::Value)| {
            if name.starts_with(actor) { state["restarts"].as_u64() } else { None }
        };
        actors.iter().filter_map(of).sum()
    }

    fn expect_stats_port(&self) {
        let answers = || self.request("GET", "/stats", "localhost").is_some_and(|(status, _)| status == 200);
        assert!(until(answers), "{:#?}", self.log());
    }
}

#[test]
fn actors_that_die_hundreds_of_times_lose_nothing_and_settle_nothing_twice() {
    let world = World::new();
    // A request that gets no answer must not outlast the patience of this test.
    let daemon = world.daemon(&["--seal_interval", "0.01", "--interval", "0.02", "--timeout", "2"]);
    let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let time = now();
            let mut kept = daemon.connect();
            for block in 0u64.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let lines: String = (0..50).map(|i| format!("b{block}.{i} 1 {time}\n")).collect();
                // Now on one connection that outlives them all, now on a new one.
                if block % 4 == 0 {
                    daemon.send(lines)
                } else {
                    kept.write_all(lines.as_bytes()).unwrap()
                }
                sent.fetch_add(50, Ordering::Relaxed);
                // The rate: about 10,000 a second.
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        let mut deaths = 0;
        let mut random = random("deaths");
        while deaths < DEATHS {
            world.answers(random.choice(["", "", "", "503", "202", "timeout/stored,503"]).unwrap());
            let path = match random.u8(0..3) {
                0 => format!("/fault/{}", random.choice(PLACES).unwrap()),
                1 => format!("/end/{}/panic", random.choice(ACTORS).unwrap()),
                _ => format!("/end/{}/stop", random.choice(ACTORS).unwrap()),
            };
            deaths += usize::from(daemon.fault(&path));
            // What dies must have something to do.
            let before = sent.load(Ordering::Relaxed);
            if !until(|| sent.load(Ordering::Relaxed) > before) {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    world.answers("");
    let sent = sent.load(Ordering::Relaxed);
    daemon.expect_stats_port();
    // Faults that wait at a place for its next visitor have theirs now.
    for i in 0..10 {
        daemon.send_lines(&format!("late{i}"), 1);
    }
    daemon.expect_stats_port();
    daemon.expect_settled(sent + 10);
    assert_eq!(daemon.count("delivered"), sent + 10);
    world.expect_points(usize::try_from(sent).unwrap() + 10);
    for actor in ["listener", "collector", "forwarder"] {
        assert!(daemon.restarts(actor) >= 10, "{actor}: {:#}", daemon.stats()["actors"]);
    }
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.last_line()["delivered"], sent + 10);
}

#[test]
fn a_confirmer_that_dies_at_every_place_loses_nothing_and_confirms_nothing_that_is_not_there() {
    let world = World::new();
    let url = world.blueflood.url();
    let daemon = world.daemon(&["--query", &url, "--confirm", "all"]);
    let mut sent = 0;
    for (i, place) in ["confirmer.looked", "confirmer.settled", "confirmer.probed"].iter().enumerate() {
        for how in ["", "liex1", "miss:2x2"] {
            world.answers(how);
            assert!(daemon.fault(&format!("/fault/{place}")));
            daemon.send_lines(&format!("c{i}.{}", how.len()), 20);
            sent += 20;
            if *place == "confirmer.probed" {
                world.blueflood.reads(blueflood_forward::sink::Script::parse("500").unwrap());
            }
            for end in ["panic", "stop"] {
                daemon.fault(&format!("/end/confirmer/{end}"));
            }
            daemon.expect_delivered(sent);
        }
    }
    let there = world.stored().keys().filter(|name| name.starts_with('c')).count();
    assert_eq!(there as u64, sent);
    assert!(daemon.restarts("confirmer") >= 9, "{:#}", daemon.stats()["actors"]);
}

#[test]
fn a_death_at_every_place_is_survived_one_by_one() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    for (i, place) in PLACES.iter().enumerate() {
        assert!(daemon.fault(&format!("/fault/{place}")));
        daemon.send_lines(&format!("p{i}"), 3);
        // For the places that only a look at the figures reaches.
        let _ = daemon.request("GET", "/stats", "localhost");
        let n = 3 * (i as u64 + 1);
        assert!(
            until(|| daemon.said(&format!("a test asked for it at {place}")).is_some()
                || panicked(&daemon, place)),
            "{place} was never reached: {:#?}",
            daemon.log()
        );
        daemon.expect_stats_port();
        daemon.expect_settled(n);
        assert_eq!(daemon.count("delivered"), n, "{place}");
    }
    world.expect_points(3 * PLACES.len());
}

/// Whether the log has the panic's own words, in whichever form.
fn panicked(daemon: &Daemon, place: &str) -> bool {
    daemon.log().iter().any(|line| line.to_string().contains(&format!("a test asked for it at {place}")))
}

#[test]
fn data_flows_whether_the_metrics_actor_lives_or_not() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    for i in 0..30 {
        daemon.fault(if i % 2 == 0 { "/end/metrics/panic" } else { "/end/metrics/stop" });
        daemon.send_lines(&format!("m{i}"), 10);
    }
    world.expect_points(300);
    daemon.expect_stats_port();
    daemon.expect_delivered(300);
    assert_eq!(daemon.restarts("collector") + daemon.restarts("forwarder"), 0);
}

#[test]
fn a_storm_of_restarts_ends_the_daemon_with_a_clear_last_line_and_the_spool_keeps_all() {
    let world = World::new();
    world.answers("503x*");
    let mut daemon = world.daemon(&[]);
    daemon.send_lines("kept", 50);
    daemon.expect("all in the spool", |stats| stats["datapoints"]["in_spool"] == 50);
    assert!(
        until(|| {
            for _ in 0..20 {
                daemon.fault("/end/collector/panic");
            }
            daemon.has_ended()
        }),
        "{:#?}",
        daemon.said("listening")
    );
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(1));
    let last = ended.log.last().unwrap()["msg"].as_str().unwrap();
    assert!(last.contains("301 times within a minute, the last of them the collector: giving up"), "{last}");
    world.answers("");
    let daemon = world.daemon(&[]);
    daemon.expect_delivered(50);
    world.expect_points(50);
}

#[test]
fn an_actor_that_no_longer_answers_shows() {
    for (place, actor) in [("collector.frame", "collector"), ("forwarder.store", "forwarder")] {
        let world = World::new();
        let daemon = world.daemon(&[]);
        assert_eq!(daemon.get("/healthz").0, 200);
        assert!(daemon.fault(&format!("/fault/hang:{place}")));
        daemon.send_lines("stuck", 1);
        assert!(until(|| daemon.get("/healthz").0 == 503), "{:#?}", daemon.log());
        let (_, why) = daemon.get("/healthz");
        assert!(why.contains(&format!("the {actor} has not answered for")), "{why}");
        assert_eq!(daemon.expect_said("an actor no longer answers")["actor"], actor);
        assert_eq!(daemon.stats()["actors"][actor]["answers"], false);
    }
}
