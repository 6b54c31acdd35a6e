//! Delivered means stored: a Blueflood that answers 200 and keeps nothing costs nothing. What it does is what was measured
//! on the real one; `src/sink/script.rs` has the words for it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use blueflood_forward::sink::Script;

use crate::shared::{host_of_its_own, random};
use crate::world::*;

const DOUBTED: &str = "what Blueflood acknowledged cannot be confirmed, its store may be away: metrics are kept, and \
                       sent when it can";
const BELIEVED: &str = "what Blueflood takes can be confirmed again";
const WITNESS: &str = "blueflood-forward.witness.";

/// Sends numbered datapoints of few names, which Blueflood comes to know: the number is the value, and each has a time of
/// its own.
fn send_numbers(daemon: &Daemon, base: u64, numbers: Range<u64>) {
    daemon.send(numbered(base, numbers));
}

fn numbered(base: u64, numbers: Range<u64>) -> String {
    let line = |n: u64| format!("known.{} {n} {}.{:03}\n", n % 20, base + n / 1_000, n % 1_000);
    numbers.map(line).collect()
}

/// The numbers that Blueflood has, and the most times that it got one.
fn numbers(world: &World) -> (BTreeSet<u64>, u64) {
    let points = world.blueflood.points(TENANT);
    let ours = points.iter().filter(|point| !point.name.starts_with(WITNESS));
    let number = |point: &blueflood_forward::sink::Point| match point.value {
        blueflood_forward::sink::Number::Int(value) => value as u64,
        blueflood_forward::sink::Number::Float(value) => value as u64,
    };
    (ours.clone().map(number).collect(), ours.map(|point| point.times).max().unwrap_or(0))
}

struct Scene {
    world: World,
    base: u64,
}

impl Scene {
    fn new() -> Self {
        Self { world: World::new(), base: now() - 3_000 }
    }

    fn daemon(&self, more: &[&str]) -> Daemon {
        let url = self.world.blueflood.url();
        self.world.daemon(&[&["--query", &url], more].concat())
    }

    fn send(&self, daemon: &Daemon, numbers: Range<u64>) {
        send_numbers(daemon, self.base, numbers);
    }

    /// Everything that was sent is there and counted.
    fn expect_all(&self, daemon: &Daemon, n: u64) {
        daemon.expect_delivered(n);
        let (there, _) = numbers(&self.world);
        let lost: Vec<u64> = (0..n).filter(|number| !there.contains(number)).collect();
        assert!(lost.is_empty(), "{} of {n} are lost: {lost:?}\n{:#?}", lost.len(), daemon.log());
    }

    fn reads(&self, script: &str) {
        self.world.blueflood.reads(Script::parse(script).unwrap());
    }

    /// Sends on and on while `during` happens; how many were sent.
    fn under_load(&self, daemon: &Daemon, from: u64, during: impl FnOnce()) -> u64 {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| {
                let mut next = from;
                while !over.load(Ordering::Relaxed) {
                    self.send(daemon, next..next + 20);
                    next += 20;
                    // The rate: about 2,000 a second.
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                next
            });
            during();
            over.store(true, Ordering::Relaxed);
            sent.join().unwrap()
        })
    }
}

#[test]
fn in_health_everything_is_read_back_and_nothing_is_sent_twice() {
    each(&["sample", "all"], |confirm| {
        let scene = Scene::new();
        let daemon = scene.daemon(&["--confirm", confirm]);
        let sent = scene.under_load(&daemon, 0, || {
            daemon.expect("3,000 are delivered", |stats| {
                stats["datapoints"]["delivered"].as_u64() >= Some(3_000)
            });
        });
        scene.expect_all(&daemon, sent);
        assert_eq!(numbers(&scene.world).1, 1, "{confirm}");
        let stats = daemon.stats();
        assert_eq!(stats["confirm"]["mode"], *confirm);
        assert_eq!(stats["confirm"]["believed"], true);
        assert!(stats["confirm"]["looks"].as_u64() > Some(0), "{stats:#}");
        assert_eq!((&stats["confirm"]["resent"], &stats["confirm"]["unknown"]), (&0.into(), &0.into()));
        assert!(!daemon.stop().says(DOUBTED));
    });
}

/// On the real one: 101,400 of 105,700 were lost, each with a 200.
#[test]
fn the_whole_store_goes_away_and_comes_back_and_nothing_is_lost() {
    each(&["sample", "all"], |confirm| {
        let scene = Scene::new();
        let daemon = scene.daemon(&["--confirm", confirm]);
        scene.send(&daemon, 0..500);
        scene.expect_all(&daemon, 500);
        let sent = scene.under_load(&daemon, 500, || {
            scene.world.blueflood.store_away();
            daemon.expect_said(DOUBTED);
            daemon.expect("it waits", |stats| stats["datapoints"]["buffered"].as_u64() >= Some(2_000));
            assert_eq!(daemon.stats()["confirm"]["believed"], false);
            scene.world.blueflood.store_back();
            daemon.expect_said(BELIEVED);
        });
        scene.expect_all(&daemon, sent);
        // While it was away few payloads were thrown at it.
        let stats = daemon.stats();
        assert!(stats["confirm"]["resent"].as_u64() > Some(0), "{stats:#} {:#?}", daemon.log());
    });
}

/// On the real one: 202s, and then 200s again for what was lost, as the driver dropped the host.
#[test]
fn the_store_freezes_and_is_started_again_and_nothing_is_lost() {
    let scene = Scene::new();
    let daemon = scene.daemon(&[]);
    scene.send(&daemon, 0..500);
    scene.expect_all(&daemon, 500);
    let sent = scene.under_load(&daemon, 500, || {
        // Frozen: what it takes lies in a socket, and is gone when it is started again.
        scene.world.answers("202x*");
        scene.reads("500x*");
        daemon.expect_said(DOUBTED);
        scene.world.blueflood.store_away();
        daemon.expect("it waits", |stats| stats["datapoints"]["buffered"].as_u64() >= Some(1_000));
        scene.world.blueflood.store_back();
        daemon.expect_said(BELIEVED);
    });
    scene.expect_all(&daemon, sent);
}

/// On the real one: one of two nodes dead, and half of each payload was lost with a 200.
#[test]
fn a_part_of_the_store_is_away_and_nothing_is_lost() {
    let scene = Scene::new();
    let daemon = scene.daemon(&[]);
    scene.send(&daemon, 0..500);
    scene.expect_all(&daemon, 500);
    let sent = scene.under_load(&daemon, 500, || {
        scene.world.answers("part:50x*");
        daemon.expect("some are sent again", |stats| stats["confirm"]["resent"].as_u64() > Some(100));
        let before = daemon.count("delivered");
        daemon.expect("the other half goes on", |stats| {
            stats["datapoints"]["delivered"].as_u64() > Some(before)
        });
        scene.world.answers("");
    });
    scene.expect_all(&daemon, sent);
}

#[test]
fn with_all_single_rows_that_were_not_stored_are_sent_again_and_only_they() {
    let scene = Scene::new();
    let daemon = scene.daemon(&["--confirm", "all"]);
    scene.world.answers("miss:2x5");
    scene.send(&daemon, 0..3_000);
    scene.expect_all(&daemon, 3_000);
    let resent = daemon.stats()["confirm"]["resent"].as_u64().unwrap();
    assert!((2..=10).contains(&resent), "{resent}");
    assert_eq!(numbers(&scene.world).1, 1, "none is stored twice");
}

#[test]
fn a_202_is_looked_for_row_by_row_and_not_sent_again_if_it_is_there() {
    let scene = Scene::new();
    let daemon = scene.daemon(&[]);
    scene.world.answers("202/stored");
    scene.send(&daemon, 0..50);
    scene.expect_all(&daemon, 50);
    let posts = scene.world.posts();
    assert_eq!(numbers(&scene.world).1, 1, "{posts} posts");
    scene.world.answers("202");
    scene.send(&daemon, 50..100);
    scene.expect_all(&daemon, 100);
}

#[test]
fn a_query_side_that_is_empty_late_short_or_ill_costs_nothing() {
    each(
        &["empty,empty", "late:300x3", "short:70x2", "500x3", "late:200,500,short:50,empty,timeout"],
        |script| {
            let scene = Scene::new();
            let daemon = scene.daemon(&[]);
            scene.send(&daemon, 0..200);
            scene.expect_all(&daemon, 200);
            scene.reads(script);
            scene.send(&daemon, 200..1_000);
            scene.expect_all(&daemon, 1_000);
        },
    );
}

#[test]
fn a_witness_needs_no_query_side_and_loses_nothing_when_the_whole_store_goes_away() {
    let scene = Scene::new();
    let daemon = scene.world.daemon(&["--query", "off", "--confirm", "witness"]);
    scene.send(&daemon, 0..500);
    scene.expect_all(&daemon, 500);
    let sent = scene.under_load(&daemon, 500, || {
        scene.world.blueflood.store_away();
        daemon.expect_said(DOUBTED);
        daemon.expect("it waits", |stats| stats["datapoints"]["buffered"].as_u64() >= Some(1_000));
        scene.world.blueflood.store_back();
        daemon.expect_said(BELIEVED);
    });
    scene.expect_all(&daemon, sent);
    assert_eq!(scene.world.blueflood.read(|state| state.looks_seen()), 0);
}

/// A chunk is killed as it waits, is on its way, is acknowledged, and is looked for.
#[test]
fn a_kill_at_every_state_of_a_chunk_loses_nothing() {
    for hold in ["0", "0.1"] {
        let scene = Scene::new();
        let all = ["--confirm", "all", "--spool_hold", hold, "--seal_interval", "0.02"];
        let with = |more: &[&'static str]| [&all, more].concat();
        let daemon = scene.daemon(&with(&[]));
        scene.send(&daemon, 0..100);
        scene.expect_all(&daemon, 100);
        // It waits: nobody is there.
        scene.world.answers("503x*");
        scene.send(&daemon, 100..200);
        daemon.expect_count("/datapoints/in_spool", 100);
        daemon.kill();
        // It is on its way.
        let daemon = scene.daemon(&with(&["--timeout", "20"]));
        scene.world.answers("timeoutx*");
        let posts = scene.world.posts();
        assert!(until(|| scene.world.posts() > posts));
        daemon.kill();
        // It is acknowledged, and lost: nobody has looked yet.
        scene.world.answers("liex*");
        let daemon = scene.daemon(&with(&["--confirm_delay", "3600"]));
        scene.send(&daemon, 200..300);
        let in_file = || {
            let db = scene.world.open_spool();
            actors::spool::store::read_ledger(&db).unwrap().acknowledged == 200
        };
        daemon.expect_count("/datapoints/acknowledged", 200);
        assert!(until(in_file), "{:#}", daemon.stats());
        daemon.kill();
        // It is looked for, and the answer does not come.
        scene.reads("timeoutx*");
        let daemon = scene.daemon(&with(&[]));
        let looks = scene.world.blueflood.read(|state| state.looks_seen());
        assert!(until(|| scene.world.blueflood.read(|state| state.looks_seen()) > looks));
        daemon.kill();
        // It was seen to be absent once.
        scene.reads("");
        let daemon = scene.daemon(&with(&[]));
        daemon.expect("a look", |stats| stats["confirm"]["looks"].as_u64() > Some(0));
        daemon.kill();
        scene.world.answers("");
        let daemon = scene.daemon(&with(&[]));
        daemon.expect("all is delivered", |stats| {
            stats["datapoints"]["buffered"] == 0 && stats["datapoints"]["delivered"].as_u64() >= Some(300)
        });
        let (there, _) = numbers(&scene.world);
        assert_eq!(there, (0..300).collect(), "{:#?}", daemon.log());
    }
}

/// What was sent again from far apart was never read back: too many datapoints lay between. The stand-in refuses to give
/// more than 100,000 at once, and of an answer we read 4 MiB.
#[test]
fn a_look_at_too_many_datapoints_at_once_is_divided() {
    each(&[80_000, 105_000], |&n| {
        let scene = Scene::new();
        let daemon = scene.daemon(&[]);
        scene.send(&daemon, 0..n);
        scene.expect_all(&daemon, n);
        let again: Vec<String> = [0..20, n - 20..n].into_iter().map(|n| numbered(scene.base, n)).collect();
        daemon.send(again.concat());
        daemon.expect_delivered(n + 40);
        assert_eq!(daemon.stats()["confirm"]["resent"], 0);
        assert!(!daemon.stop().says(DOUBTED));
    });
}

/// For how many seconds it lies.
fn lies_for() -> u64 {
    std::env::var("LIES_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(8)
}

/// One lie after another, of the store, of the answers and of the query service, with ends and starts of the daemon between.
#[test]
fn lies_at_random_lose_nothing() {
    const ANSWERS: &[&str] =
        &["part:50x9", "202x4", "202/storedx4", "500x2", "timeout", "reset,202", "503x3,liex5"];
    const READS: &[&str] = &["empty", "empty,short:50x3", "late:300x4", "500x3", "short:20,timeout,empty"];
    each(&["sample", "all"], |confirm| {
        let mut random = random(&format!("lies, {confirm}"));
        let scene = Scene::new();
        let arguments = ["--confirm", confirm, "--timeout", "3"];
        let mut daemon = scene.daemon(&arguments);
        scene.send(&daemon, 0..500);
        scene.expect_all(&daemon, 500);
        let (began, mut sent) = (std::time::Instant::now(), 500);
        while began.elapsed().as_secs() < lies_for() {
            match random.u8(0..9) {
                0 => scene.world.blueflood.store_away(),
                8 => scene.world.blueflood.store_back(),
                1 | 2 => scene.world.answers(ANSWERS[random.usize(..ANSWERS.len())]),
                // A sample does not see a single row.
                3 if *confirm == "all" => scene.world.answers("miss:3x5"),
                4 | 5 => scene.reads(READS[random.usize(..READS.len())]),
                6 => {
                    daemon.expect_received(sent);
                    let ended = daemon.stop();
                    assert_eq!((ended.code, &ended.last_line()["dropped"]), (Some(0), &0.into()));
                    daemon = scene.daemon(&arguments);
                }
                _ => {}
            }
            let until = sent + random.u64(20..400);
            scene.send(&daemon, sent..until);
            sent = until;
            // Two lies may meet, or not.
            if random.bool() {
                std::thread::sleep(std::time::Duration::from_millis(random.u64(0..300)));
            }
        }
        scene.world.answers("");
        scene.reads("");
        eprintln!("{confirm}: {sent} datapoints");
        // After ten minutes of lies much is to be looked for.
        while daemon.count("buffered") > 0 {
            let before = daemon.count("delivered");
            daemon.expect("more are delivered", |stats| {
                stats["datapoints"]["delivered"].as_u64() != Some(before)
            });
        }
        scene.expect_all(&daemon, sent);
        assert_eq!(daemon.stats()["confirm"]["unknown"], 0);
    });
}

#[test]
fn what_is_acknowledged_is_kept_over_a_stop_and_counted_apart() {
    let scene = Scene::new();
    let daemon = scene.daemon(&["--confirm_delay", "3600", "--shutdown_timeout", "0"]);
    scene.send(&daemon, 0..50);
    daemon.expect_count("/datapoints/acknowledged", 50);
    let datapoints = &daemon.stats()["datapoints"];
    assert_eq!((&datapoints["buffered"], &datapoints["delivered"]), (&50.into(), &0.into()));
    // A stop looks at once, if there is somebody to ask.
    scene.reads("timeoutx*");
    let ended = daemon.stop();
    assert_eq!((ended.code, &ended.last_line()["buffered"]), (Some(0), &50.into()));
    scene.reads("");
    let daemon = scene.daemon(&[]);
    scene.expect_all(&daemon, 50);
    assert_eq!(numbers(&scene.world).1, 1, "it was there, and is not sent again");
}

#[test]
fn a_reload_turns_it_on_and_off() {
    let scene = Scene::new();
    let folder = scene.world.folder.path().join("c.toml");
    let query = scene.world.blueflood.url();
    let write = |confirm: &str| {
        std::fs::write(
            &folder,
            format!("query = \"{query}\"\nconfirm = \"{confirm}\"\nconfirm_delay = 3600\n"),
        )
        .unwrap();
    };
    write("all");
    let daemon = scene.world.daemon(&[QUERY_IN_FILE, "--config", folder.to_str().unwrap()]);
    scene.send(&daemon, 0..50);
    daemon.expect_count("/datapoints/acknowledged", 50);
    write("off");
    daemon.signal("HUP");
    // Nobody will look for it any more, so it is sent again.
    scene.expect_all(&daemon, 50);
    assert_eq!(daemon.stats()["confirm"]["mode"], "off");
}

#[test]
fn with_off_nothing_is_asked_and_with_auto_nothing_that_does_not_answer_as_it_should() {
    let (scene, _) = auto();
    for more in [&["--query", "off"][..], &["--query", "auto", "--confirm", "off"], &["--query", "auto"]] {
        let daemon = scene.world.daemon(more);
        scene.send(&daemon, 0..50);
        daemon.expect("delivered", |stats| stats["datapoints"]["delivered"].as_u64() >= Some(50));
        assert_eq!(daemon.stats()["confirm"]["mode"], "off");
        daemon.kill();
        std::fs::remove_file(scene.world.spool()).unwrap();
    }
    assert_eq!(scene.world.blueflood.read(|state| state.looks_seen()), 0);
}

/// A Blueflood whose address has no other port in use, with its host, and where its query service is looked for.
fn auto() -> (Scene, String) {
    let host = host_of_its_own();
    let world = World::on((host, 0), blueflood_forward::sink::Options::default());
    let usual = format!("{host}:20000");
    // Late datapoints would have Blueflood tell the truth.
    (Scene { world, base: now() - 300 }, usual)
}

/// It is the query service of another Blueflood: to wait until it shows what it never will would be to deliver nothing.
#[test]
fn a_query_side_that_was_found_and_never_shows_what_blueflood_takes_is_not_used() {
    let (scene, usual) = auto();
    let another = World::on(usual, blueflood_forward::sink::Options::default());
    let daemon = scene.world.daemon(&["--query", "auto"]);
    daemon.expect("found", |stats| stats["confirm"]["mode"] == "sample");
    scene.send(&daemon, 0..50);
    daemon.expect_said("what answers as Blueflood's query service does not show what Blueflood takes: it is of another one, and \
                        not used; set --query to the right one, or off");
    daemon.expect("delivered", |stats| stats["datapoints"]["delivered"].as_u64() >= Some(50));
    assert_eq!(daemon.stats()["confirm"]["mode"], "off");
    assert!(another.blueflood.read(|state| state.looks_seen()) > 0);
    assert_eq!(numbers(&scene.world).0, (0..50).collect());
}

/// While its store is away it shows nothing either; but it was seen to be the right one, or says that it is ill.
#[test]
fn a_query_side_that_was_found_is_used_though_its_store_is_away_at_the_start() {
    let (scene, usual) = auto();
    let daemon = {
        let listener = std::net::TcpListener::bind(usual).unwrap();
        let there = scene.world.blueflood.port();
        // The same Blueflood, at its usual port.
        std::thread::spawn(move || pass_on(&listener, there));
        scene.world.blueflood.store_away();
        scene.world.daemon(&["--query", "auto"])
    };
    scene.send(&daemon, 0..50);
    daemon.expect_said(DOUBTED);
    daemon.expect("several witnesses", |stats| stats["confirm"]["looks"].as_u64() > Some(5));
    assert_eq!((daemon.count("delivered"), &daemon.stats()["confirm"]["mode"]), (0, &"sample".into()));
    scene.world.blueflood.store_back();
    scene.expect_all(&daemon, 50);
}

/// Passes each connection on to the port of another address of ours.
fn pass_on(listener: &std::net::TcpListener, port: u16) {
    let host = listener.local_addr().unwrap().ip();
    for incoming in listener.incoming() {
        let (Ok(near), Ok(far)) = (incoming, std::net::TcpStream::connect((host, port))) else { return };
        for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    }
}

#[test]
fn a_confirmation_that_nobody_can_make_is_refused_at_the_start() {
    let ended = World::new().try_daemon(&["--query", "off", "--confirm", "all"]).unwrap_err();
    assert!(ended.says("wants Blueflood's query service"), "{ended:#?}");
}
