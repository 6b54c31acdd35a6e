//! The disk under the spool: full, too small, not to be written. The daemon never exits over it and never loses
//! count, says it once, and goes on by itself when there is room again.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;

use crate::shared::skip;
use crate::world::*;

/// A small file system of its own. Dropped, it is unmounted.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Over the world's folder; `None`, and said, where nobody may mount.
    pub fn over(world: &World, megabytes: u32) -> Option<Self> {
        Self::at(world.folder.path(), megabytes)
    }

    /// Over the folder of the world's spool, which is made.
    pub fn over_spool_of(world: &World, megabytes: u32) -> Option<Self> {
        let folder = world.spool().parent().unwrap().to_owned();
        std::fs::create_dir_all(&folder).unwrap();
        Self::at(&folder, megabytes)
    }

    fn at(folder: &Path, megabytes: u32) -> Option<Self> {
        let folder = folder.to_owned();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self(folder));
        }
        skip("a file system cannot be mounted here, which takes root");
        None
    }

    /// Takes all the room that is left, as another program does.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.join("somebody-else");
        let block = vec![7; 64 << 10];
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write_all(&block).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, for whoever still runs on it after a failed test.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Lines of about 200 bytes that do not compress, so that a spool fills quickly.
fn bulky(name: &str, n: usize) -> String {
    // Longer than what deflate looks back over, and the same each time.
    static NOISE: LazyLock<String> = LazyLock::new(|| {
        let mut noise = fastrand::Rng::with_seed(7);
        (0..400_000).map(|_| noise.alphanumeric()).collect()
    });
    let time = now();
    (0..n).map(|i| format!("{name}.{i}.{} {i} {time}\n", &NOISE[i * 200..][..200])).collect()
}

/// Sends `times` blocks of `n` bulky lines, each on a connection of its own, beside the test: they may be made to wait.
fn send_beside(daemon: &Daemon, name: &'static str, times: u64, n: usize) -> JoinHandle<()> {
    let port = daemon.port("tcp:");
    std::thread::spawn(move || {
        for i in 0..times {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(bulky(&format!("{name}{i}"), n).as_bytes()).unwrap();
        }
    })
}

/// Sends `times` 2,000 bulky lines, about 400 KB each, waiting for each to be received.
fn send_bulk(daemon: &Daemon, times: u64) {
    let before = daemon.count("received");
    for i in 1..=times {
        daemon.send(bulky(&format!("bulk{i}"), 2_000));
        daemon.expect("received the bulk", |stats| {
            stats["datapoints"]["received"].as_u64().unwrap() >= before + i * 2_000
        });
    }
}

const FULL: &str = "the disk of the spool is full: it grows no more";
const BLOCKED: &str = "the spool takes nothing for now";
const TAKES: &str = "the spool takes metrics again";
const FREE: &str = "the disk of the spool has room again";

#[test]
fn a_disk_too_small_for_the_spool_drops_the_oldest_and_delivers_the_rest() {
    let world = World::new();
    let Some(_disk) = SmallDisk::over(&world, 12) else { return };
    world.answers("503x*");
    let daemon = world.daemon(&[]);
    send_bulk(&daemon, 40);
    daemon.expect("dropped for the disk", |stats| stats["dropped"]["disk_full"].as_u64().unwrap_or(0) > 0);
    daemon.expect_times_said(FULL, 1);
    world.answers("");
    daemon.expect_settled(80_000);
    let delivered = daemon.count("delivered");
    assert!(delivered > 10_000, "what the disk had room for: {delivered}");
    assert_eq!(daemon.count("dropped") + delivered, 80_000);
    world.expect_points(delivered as usize);
    daemon.expect_times_said(FREE, 1);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let check: String = world.open_spool().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn a_disk_too_small_for_a_spool_that_blocks_holds_the_senders_and_loses_nothing() {
    let world = World::new();
    let Some(_disk) = SmallDisk::over(&world, 12) else { return };
    world.answers("503x*");
    let daemon = world.daemon(&["--spool_full", "block"]);
    let sender = send_beside(&daemon, "bulk", 25, 2_000);
    daemon.expect("blocked", |stats| !stats["spool"]["blocked"].is_null());
    assert_eq!(daemon.get("/readyz").0, 503);
    daemon.expect_times_said(FULL, 1);
    world.answers("");
    sender.join().unwrap();
    daemon.expect_delivered(50_000);
    world.expect_points(50_000);
    assert_eq!(daemon.count("dropped"), 0);
    daemon.expect_times_said(FREE, 1);
    daemon.expect_recovery(&world);
}

#[test]
fn a_disk_that_somebody_else_fills_stops_nothing_and_is_free_again_by_itself() {
    let world = World::new();
    let Some(disk) = SmallDisk::over(&world, 32) else { return };
    let daemon = world.daemon(&["--spool_full", "block"]);
    send_bulk(&daemon, 3);
    daemon.expect_delivered(6_000);
    world.answers("503x*");
    let filler = disk.fill();
    let sender = send_beside(&daemon, "more", 12, 2_000);
    daemon.expect("blocked", |stats| !stats["spool"]["blocked"].is_null());
    world.answers("");
    std::fs::remove_file(filler).unwrap();
    sender.join().unwrap();
    daemon.expect_delivered(30_000);
    world.expect_points(30_000);
    daemon.expect_times_said(FREE, 1);
    daemon.expect_times_said(TAKES, 1);
    daemon.expect_times_said(FULL, 1);
    daemon.expect_times_said(BLOCKED, 1);
    assert_eq!(daemon.count("dropped"), 0);
    daemon.expect_recovery(&world);
}

/// How long the daemon has run, in seconds.
fn uptime(stats: &serde_json::Value) -> u64 {
    stats["uptime_s"].as_u64().unwrap()
}

/// Seen: each second the cap was 64 KiB lower, with megabytes free, until nothing was left of the backlog.
#[test]
fn a_backlog_on_a_full_disk_stays_while_chunks_keep_coming_and_grows_again_with_the_room() {
    let world = World::new();
    let Some(disk) = SmallDisk::over(&world, 40) else { return };
    world.answers("503x*");
    let daemon = world.daemon(&[]);
    daemon
        .expect_said("the disk of the spool is smaller than the spool may grow: it will be full before that");
    let mut sent = 0;
    let mut send = || {
        daemon.send(bulky("more", 200));
        sent += 200;
        daemon.expect_received(sent);
    };
    // Small chunks, so that one of them is little beside the backlog.
    (0..400).for_each(|_| send());
    daemon.expect("all in the file", |stats| stats["datapoints"]["in_spool"] == 80_000);
    let filler = disk.fill();
    // The end of the room shows when it is needed.
    while daemon.stats()["spool"]["disk_full"] == false {
        send();
    }
    let full = daemon.stats();
    let (backlog, since) = (full["datapoints"]["buffered"].as_u64().unwrap(), uptime(&full));
    assert!(full["spool"]["bytes_cap"].as_u64() < full["spool"]["bytes_max"].as_u64(), "{full:#}");
    let mut least = backlog;
    while uptime(&daemon.stats()) < since + 12 {
        send();
        least = least.min(daemon.count("buffered"));
    }
    assert!(least * 10 >= backlog * 9, "{backlog} fell to {least}: {:#}", daemon.stats());
    let stats = daemon.stats();
    assert!(stats["dropped"]["disk_full"].as_u64().unwrap() > 0, "{stats:#}");
    let (status, body) = daemon.get("/readyz");
    assert!(status == 503 && body.contains("the disk of the spool is full: "), "{body}");
    assert!(body.contains("datapoints were dropped"), "{body}");
    let (_, metrics) = daemon.get("/metrics");
    assert!(metrics.contains("blueflood_forward_spool_disk_full 1"), "{metrics}");
    assert!(metrics.contains("blueflood_forward_spool_cap_bytes "), "{metrics}");
    daemon.expect_times_said(FULL, 1);

    std::fs::remove_file(filler).unwrap();
    daemon.expect("free", |stats| stats["spool"]["disk_full"] == false);
    let stats = daemon.stats();
    assert_eq!(stats["spool"]["bytes_cap"], stats["spool"]["bytes_max"]);
    let dropped = daemon.count("dropped");
    for _ in 0..20 {
        daemon.send(bulky("again", 200));
    }
    daemon.expect("all of the new is kept", |stats| {
        stats["datapoints"]["received"].as_u64().unwrap() == sent + 4_000
            && stats["datapoints"]["in_hand"] == 0
            && stats["datapoints"]["buffered"].as_u64().unwrap() == sent + 4_000 - dropped
    });
    daemon.expect_times_said(FREE, 1);
    world.answers("");
    daemon.expect_settled(sent + 4_000);
    assert_eq!(daemon.count("delivered"), sent + 4_000 - dropped);
    assert_eq!(daemon.stop().code, Some(0));
}

/// Another program that takes whatever room there is, as soon as there is some, and has taken all that there was at first;
/// dropped, it gives all back.
struct Hog {
    path: PathBuf,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hog {
    fn new(folder: &Path) -> Self {
        let (path, done) = (folder.join("hog"), Arc::new(AtomicBool::new(false)));
        let mut file = std::fs::File::create(&path).unwrap();
        let block = vec![7; 16 << 10];
        while file.write_all(&block).is_ok() {}
        let is_done = done.clone();
        let thread = std::thread::spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                if file.write_all(&block).is_err() {
                    // How soon it takes what is given back.
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
        });
        Self { path, done, thread: Some(thread) }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        let removed = std::fs::remove_file(&self.path);
        assert!(std::thread::panicking() || (removed.is_ok() && ended.is_some_and(|ended| ended.is_ok())));
    }
}

#[test]
fn a_program_that_takes_all_that_is_given_back_leaves_the_backlog_where_it_was() {
    each(&["drop-oldest", "block"], |&policy| {
        let world = World::new();
        let Some(disk) = SmallDisk::over(&world, 24) else { return };
        world.answers("503x*");
        let daemon = world.daemon(&["--spool_full", policy]);
        let mut sent = 0;
        for _ in 0..125 {
            daemon.send(bulky("bulk", 200));
            sent += 200;
            daemon.expect_received(sent);
        }
        daemon.expect("all in the file", |stats| stats["datapoints"]["in_spool"] == 25_000);
        let hog = Hog::new(&disk.0);
        // Once it is noticed, it goes on for a while.
        let (mut full_since, mut over) = (None, false);
        daemon.expect("full for eight seconds", |stats| {
            let buffered = stats["datapoints"]["buffered"].as_u64().unwrap();
            over = buffered < 22_500;
            if stats["spool"]["disk_full"] == true {
                full_since.get_or_insert_with(|| uptime(stats));
            }
            // With `block` nothing is read while it waits for room.
            let takes = stats["spool"]["blocked"].is_null() && stats["datapoints"]["received"] == sent;
            if takes && (full_since.is_none() || sent < 40_000) {
                daemon.send(bulky("more", 200));
                sent += 200;
            }
            over || full_since.is_some_and(|since| uptime(stats) >= since + 8)
        });
        assert!(!over, "{policy}: a backlog of 25,000 fell: {:#}", daemon.stats());
        drop(hog);
        daemon.expect("free", |stats| stats["spool"]["disk_full"] == false);
        world.answers("");
        daemon.expect_settled(sent);
        let dropped = daemon.count("dropped");
        assert_eq!(daemon.count("delivered") + dropped, sent);
        assert!(policy == "drop-oldest" || dropped == 0);
        daemon.expect_times_said(FULL, 1);
        assert!(daemon.times_said(BLOCKED) <= 1, "{:#?}", daemon.log());
        assert_eq!(daemon.stop().code, Some(0));
    });
}

/// What is in hand when the daemon stops has nowhere else to go: it takes what was the reserve.
#[test]
fn a_stop_on_a_full_disk_keeps_what_is_in_hand_in_the_room_that_was_kept_for_it() {
    let world = World::new();
    let Some(disk) = SmallDisk::over(&world, 32) else { return };
    world.answers("503x*");
    let daemon = world.daemon(&["--spool_full", "block", "--shutdown_timeout", "1"]);
    send_bulk(&daemon, 3);
    daemon.expect("all in the file", |stats| stats["datapoints"]["in_spool"] == 6_000);
    let filler = disk.fill();
    let mut sent = 6_000;
    let blocked = |stats: &serde_json::Value| !stats["spool"]["blocked"].is_null();
    while !blocked(&daemon.stats()) {
        daemon.send(bulky("more", 200));
        sent += 200;
        // A few hundred KiB are in hand, and not all that a test can send.
        daemon.expect("stored or blocked", |stats| stats["datapoints"]["in_spool"] == sent || blocked(stats));
    }
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.last_line()["dropped"], 0, "{ended:#?}");
    std::fs::remove_file(filler).unwrap();
    world.answers("");
    let daemon = world.daemon(&[]);
    daemon.expect_settled(sent);
    assert_eq!(daemon.count("delivered"), sent);
}

/// Seen: a volume of less than 8 MiB never left the state, and 899,163 of 900,000 were dropped.
#[test]
fn small_volumes_fill_and_are_free_again() {
    each(
        &[(4, "drop-oldest"), (4, "block"), (5, "block"), (8, "drop-oldest"), (8, "block")],
        |&(megabytes, policy)| {
            let what = format!("{megabytes} MiB, {policy}");
            let world = World::new();
            let Some(_disk) = SmallDisk::over(&world, megabytes) else { return };
            world.answers("503x*");
            let daemon = world.daemon(&["--spool_full", policy]);
            let blocks = 6 * u64::from(megabytes);
            let sender = send_beside(&daemon, "bulk", blocks, 1_000);
            let all = blocks * 1_000;
            match policy {
                "block" => daemon.expect("blocked", |stats| !stats["spool"]["blocked"].is_null()),
                _ => daemon.expect_received(all),
            }
            daemon.expect("full", |stats| stats["spool"]["disk_full"] == true);
            world.answers("");
            sender.join().unwrap();
            daemon.expect_settled(all);
            let (delivered, dropped) = (daemon.count("delivered"), daemon.count("dropped"));
            // Of each MiB at least a fifth holds rows of about 150 bytes.
            let least = if policy == "block" { all } else { u64::from(megabytes) * 1_000 };
            assert!(delivered >= least && delivered + dropped == all, "{what}: {delivered} delivered");
            daemon.expect("free", |stats| stats["spool"]["disk_full"] == false);
            daemon.expect_times_said(FREE, 1);
            daemon.expect_times_said(FULL, 1);
            assert!(daemon.times_said(BLOCKED) <= 1, "{what}: {:#?}", daemon.log());
            daemon.expect_recovery(&world);
            assert_eq!(daemon.stop().code, Some(0), "{what}");
        },
    );
}

#[test]
fn a_start_on_a_full_disk_goes_on_with_what_is_in_the_spool() {
    let world = World::new();
    let Some(disk) = SmallDisk::over(&world, 24) else { return };
    world.answers("503x*");
    let daemon = world.daemon(&[]);
    send_bulk(&daemon, 5);
    daemon.expect("all in the spool", |stats| stats["datapoints"]["in_spool"] == 10_000);
    disk.fill();
    daemon.kill();
    world.answers("");
    let daemon = world.daemon(&[]);
    daemon.expect_settled(10_000);
    world.expect_points(10_000);
}

#[test]
fn a_spool_at_its_cap_that_blocks_holds_the_senders_until_there_is_room() {
    let world = World::new();
    world.answers("503x*");
    let daemon = world.daemon(&["--spool_full", "block", "--spool_max", "1MiB"]);
    let port = daemon.port("tcp:");
    // How much the kernel's buffers take differs from host to host: it sends until it is seen that nothing is read.
    let (sent, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let sender = {
        let (sent, enough) = (sent.clone(), enough.clone());
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            while !enough.load(Ordering::Relaxed) {
                let block = sent.fetch_add(1_000, Ordering::Relaxed);
                stream.write_all(bulky(&format!("bulk{block}"), 1_000).as_bytes()).unwrap();
            }
        })
    };
    let mut before = 0;
    daemon.expect("blocked, and nothing more is read of what is sent", |stats| {
        let received = stats["datapoints"]["received"].as_u64().unwrap();
        let still = received == std::mem::replace(&mut before, received);
        still && !stats["spool"]["blocked"].is_null() && received + 2_000 < sent.load(Ordering::Relaxed)
    });
    enough.store(true, Ordering::Relaxed);
    world.answers("");
    sender.join().unwrap();
    let sent = sent.load(Ordering::Relaxed);
    daemon.expect_delivered(sent);
    world.expect_points(sent as usize);
    daemon.expect_times_said(TAKES, 1);
    daemon.expect_times_said(BLOCKED, 1);
}

#[test]
fn a_spool_at_its_cap_drops_the_oldest_counts_them_and_delivers_the_newest() {
    let world = World::new();
    world.answers("503x*");
    let daemon = world.daemon(&["--spool_max", "1MiB"]);
    send_bulk(&daemon, 10);
    daemon.send_lines("newest", 5);
    daemon.expect_received(20_005);
    world.answers("");
    daemon.expect_settled(20_005);
    let (delivered, dropped) = (daemon.count("delivered"), daemon.count("dropped"));
    assert_eq!(daemon.stats()["dropped"]["spool_full"], dropped);
    assert!(dropped > 0 && delivered >= 2_005, "{delivered} delivered, {dropped} dropped");
    world.expect_points(delivered as usize);
    assert!(world.stored().contains_key("newest.4"));
}

#[test]
fn a_folder_that_cannot_be_written_is_a_clear_error() {
    let world = World::new();
    let folder = world.folder.path().join("locked");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o500)).unwrap();
    // Root may write there all the same; nobody may in a file system that is read-only.
    let root = std::fs::write(folder.join("probe"), "").is_ok();
    let folder = if root { Path::new("/proc").to_owned() } else { folder };
    let spool = folder.join("spool.db");
    let Err(ended) = world.try_daemon(&["--spool", spool.to_str().unwrap()]) else { panic!("it started") };
    assert_eq!(ended.code, Some(1));
    assert!(ended.says(folder.to_str().unwrap()) && ended.says("--spool"), "{ended:#?}");
}
