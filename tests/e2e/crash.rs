//! `kill -9` at any moment: everything that was sealed arrives, once the daemon and Blueflood are back, and nothing
//! that was never sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use actors::core::chunk::Chunk;
use actors::spool::store::{self, Loaded};

use crate::shared::random;
use crate::world::*;

/// What Blueflood does during a round. In none is a row that it stored, and answered for, refused later.
const WEATHER: [&str; 6] = ["", "", "late:10x*", "503x*", "close/storedx*", "timeoutx*"];

/// How often the daemon is killed: `make torture` asks for more.
fn rounds() -> usize {
    std::env::var("TORTURE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(30)
}

/// The name of the n-th line of a round.
fn name(round: usize, n: u64) -> String {
    format!("r{round}.{}.{}", n / 20, n % 20)
}

/// Sends numbered lines, in the order of their numbers, until the daemon is gone.
fn send_until_it_dies(port: u16, round: usize) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let time = now();
    for block in 0.. {
        let lines: String =
            (block * 20..block * 20 + 20).map(|n| format!("{} 1 {time}\n", name(round, n))).collect();
        if stream.write_all(lines.as_bytes()).is_err() {
            return;
        }
        // So that a round of good weather clears what the bad ones have left.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The names in the spool, as a kill left it. The ledger beside them adds up.
fn left_in_spool(world: &World) -> BTreeSet<String> {
    let db = world.open_spool();
    let ledger = store::read_ledger(&db).unwrap();
    assert_eq!(ledger.unaccounted(), 0, "{ledger:#?}");
    let sql = "SELECT id, rows, raw_bytes, encoding, crc, body_crc, body FROM chunk";
    let chunk = |row: &rusqlite::Row<'_>| match store::loaded(row)? {
        Loaded::Intact(_, chunk) => Ok(chunk),
        Loaded::Damaged(meta) => panic!("{meta:?} is damaged"),
    };
    let chunks: Vec<Chunk> =
        db.prepare(sql).unwrap().query_map([], chunk).unwrap().map(Result::unwrap).collect();
    let rows: u64 = chunks.iter().map(|chunk| u64::from(chunk.rows)).sum();
    assert_eq!(rows, ledger.spooled + ledger.acknowledged, "{ledger:#?}");
    let mut names = BTreeSet::new();
    for chunk in chunks {
        for row in chunk.open().unwrap().as_ref().iter() {
            let row: serde_json::Value = serde_json::from_slice(row).unwrap();
            names.insert(row["metricName"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(names.len() as u64, rows);
    names
}

/// What a look at a daemon says a kill may take at most, from then on: of the first so many lines of a round, so many that
/// were in hand or held.
struct Look {
    received: u64,
    unwritten: u64,
}

impl Look {
    fn at(daemon: &Daemon, received_before: u64) -> Self {
        let stats = daemon.stats();
        let place = |name: &str| stats["datapoints"][name].as_u64().unwrap();
        Self { received: place("received") - received_before, unwritten: place("in_hand") + place("held") }
    }

    /// After the kill: all others have arrived, or are in the file.
    fn expect_kept(&self, round: usize, world: &World, in_file: &BTreeSet<String>) {
        let arrived = world.times();
        let lost = (0..self.received)
            .map(|n| name(round, n))
            .filter(|name| !arrived.contains_key(name) && !in_file.contains(name))
            .count() as u64;
        let Self { received, unwritten } = self;
        assert!(lost <= *unwritten, "round {round}: of {received} lost {lost}, in memory were {unwritten}");
    }
}

/// Rows in the file, beside a daemon that runs.
fn rows_in_file(world: &World) -> i64 {
    let rows = "SELECT coalesce(sum(rows), 0) FROM chunk";
    world.open_spool().query_row(rows, [], |row| row.get(0)).unwrap()
}

/// What is written before it is sent is in the file at a kill, so nothing of it is lost, counted twice, or forgotten.
#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_written() {
    kill_at_random("0");
}

/// A chunk that is held in memory for Blueflood's answer may end with the process, and so may the count of one that was
/// answered for. What is in the file still arrives, and nothing arrives that was never sent.
#[test]
fn a_kill_while_chunks_are_held_loses_nothing_that_was_written() {
    kill_at_random("0.1");
}

fn kill_at_random(hold: &str) {
    let world = World::new();
    let options = ["--spool_hold", hold, "--seal_interval", "0.02", "--interval", "0.05", "--timeout", "2"];
    let written_first = hold == "0";
    let mut was_in_spool: BTreeMap<String, u64> = BTreeMap::new();
    let mut random = random(&format!("kills, hold {hold}"));
    for round in 0..rounds() {
        world.answers(random.choice(WEATHER).unwrap());
        let daemon = world.daemon(&options);
        let received_before = daemon.count("received");
        let port = daemon.port("tcp:");
        let sender = std::thread::spawn(move || send_until_it_dies(port, round));
        // No wait for anything: the moment is what is random.
        std::thread::sleep(Duration::from_millis(random.u64(0..150)));
        let look = Look::at(&daemon, received_before);
        std::thread::sleep(Duration::from_millis(random.u64(0..50)));
        daemon.kill();
        sender.join().unwrap();
        let in_file = left_in_spool(&world);
        look.expect_kept(round, &world, &in_file);
        for name in in_file {
            *was_in_spool.entry(name).or_default() += 1;
        }
    }
    assert!(!was_in_spool.is_empty(), "no kill ever met a row on its way");

    world.answers("");
    let daemon = world.daemon(&options);
    daemon.expect("delivered all", |stats| stats["datapoints"]["buffered"] == 0);
    let stats = daemon.stats();
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{ended:#?}");

    let arrived = world.times();
    for name in was_in_spool.keys() {
        assert!(arrived.contains_key(name), "{name} is lost");
    }
    let delivered = stats["datapoints"]["delivered"].as_u64().unwrap();
    assert_eq!(stats["datapoints"]["received"], delivered, "{stats:#}");
    assert!(delivered <= arrived.len() as u64, "what is counted as delivered arrived: {stats:#}");
    if written_first {
        // Every name is sent once. So the two counts are equal only if each row that was ever written arrived, and was
        // settled once, and nothing else did.
        assert_eq!(delivered, arrived.len() as u64, "{stats:#}");
        for (name, times) in &arrived {
            assert!(
                *times == 1 || was_in_spool.contains_key(name),
                "{name} came {times} times, and no kill met it"
            );
        }
    }
    eprintln!(
        "{} rounds, {} datapoints, {} met a kill, {} came more than once",
        rounds(),
        arrived.len(),
        was_in_spool.len(),
        arrived.values().filter(|&&times| times > 1).count()
    );
}

#[test]
fn a_kill_in_the_middle_of_a_start_harms_nothing() {
    let world = World::new();
    world.answers("503x*");
    let daemon = world.daemon(&[]);
    daemon.send_lines("before", 500);
    // Not by the figures: they count what is held in memory too, and a kill takes that.
    assert!(until(|| rows_in_file(&world) == 500), "never all in the file: {:#?}", daemon.log());
    daemon.kill();
    kill_in_starts("kills in starts", &world, rounds() / 3, 500);
    world.answers("");
    let daemon = world.daemon(&[]);
    daemon.expect_delivered(500);
    world.expect_points(500);
}

/// The rows that wait in a spool of version 1 that came with the tests.
const ROWS_OF_VERSION_1: usize = 200;

/// Kills a daemon at random moments of its start, `times` times; what waits in the file stays whole.
fn kill_in_starts(what: &str, world: &World, times: usize, expected: usize) {
    let mut random = random(what);
    for _ in 0..times {
        let mut starting = world.spawn(&[]);
        // No wait for anything: the moment is what is random.
        std::thread::sleep(Duration::from_millis(random.u64(0..40)));
        starting.kill().unwrap();
        starting.wait().unwrap();
        assert_eq!(left_in_spool(world).len(), expected);
    }
}

/// An upgrade, a way back to the copy of the older version, and the upgrade again, with kills in all of it.
#[test]
fn kills_in_a_migration_and_in_a_roll_forward_lose_nothing_that_was_written() {
    let world = World::new();
    world.answers("503x*");
    let copy = world.folder.path().join("spool.db.version-1");
    std::fs::write(world.spool(), data("spools/v1.db")).unwrap();
    kill_in_starts("kills in a migration", &world, rounds() / 4, ROWS_OF_VERSION_1);
    let daemon = world.daemon(&["--spool_hold", "0"]);
    assert_eq!(daemon.count("in_spool"), ROWS_OF_VERSION_1 as u64);
    daemon.send_lines("later", 100);
    daemon.expect("written", |stats| stats["datapoints"]["in_spool"] == ROWS_OF_VERSION_1 + 100);
    daemon.kill();
    assert!(copy.exists(), "there was something to lose, so a copy was made first");

    // Back to the older version, as the README says; what came since is in the later file.
    let later = world.folder.path().join("later.db");
    for suffix in ["", "-wal", "-shm"] {
        let of = |path: &std::path::Path| std::path::PathBuf::from(format!("{}{suffix}", path.display()));
        let _ = std::fs::rename(of(&world.spool()), of(&later));
    }
    std::fs::rename(&copy, world.spool()).unwrap();
    kill_in_starts("kills in the next one", &world, rounds() / 4, ROWS_OF_VERSION_1);
    let daemon = world.daemon(&["--spool_hold", "0"]);
    daemon.send_lines("again", 50);
    daemon.expect("written", |stats| stats["datapoints"]["in_spool"] == ROWS_OF_VERSION_1 + 50);
    daemon.kill();
    world.answers("");
    let daemon = world.daemon(&[]);
    daemon.expect("delivered", |stats| stats["datapoints"]["buffered"] == 0);
    assert_eq!(daemon.stats()["dropped"], serde_json::json!({}));
    assert_eq!(daemon.stop().code, Some(0));
    // And the later file is a spool like any other.
    std::fs::rename(world.spool(), world.folder.path().join("done.db")).unwrap();
    for suffix in ["", "-wal"] {
        let of = |path: &std::path::Path| std::path::PathBuf::from(format!("{}{suffix}", path.display()));
        let _ = std::fs::rename(of(&later), of(&world.spool()));
    }
    let daemon = world.daemon(&[]);
    daemon.expect("delivered", |stats| stats["datapoints"]["buffered"] == 0);
    assert_eq!(daemon.stop().code, Some(0));
    let arrived = world.times();
    let of = |prefix: &str| arrived.keys().filter(|name| name.starts_with(prefix)).count();
    assert_eq!((of("waits."), of("later."), of("again.")), (ROWS_OF_VERSION_1, 100, 50));
}
