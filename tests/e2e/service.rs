//! The daemon as a service: what systemd hears of it, and what its unit allows.

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::shared::skip;
use crate::world::*;

/// Where a daemon tells how it goes.
struct Manager(UnixDatagram);

impl Manager {
    fn new(world: &World) -> (Self, String) {
        let path = world.folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        (Self(socket), path.to_str().unwrap().to_owned())
    }

    /// The next lines, if some come soon.
    fn hears(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let read = self.0.recv(&mut bytes).unwrap_or_default();
        String::from_utf8_lossy(&bytes[..read]).lines().map(str::to_owned).collect()
    }

    /// Waits for a line; all that came before it is heard.
    #[track_caller]
    fn expect(&self, wanted: &str) {
        let (deadline, mut heard) = (Instant::now() + PATIENCE, Vec::new());
        while !heard.iter().any(|line: &String| line.starts_with(wanted)) {
            assert!(Instant::now() < deadline, "no {wanted} in {heard:?}");
            heard.extend(self.hears());
        }
    }
}

#[test]
fn systemd_hears_that_it_is_ready_how_it_goes_and_that_it_stops() {
    let world = World::new();
    let (systemd, socket) = Manager::new(&world);
    let daemon = world.daemon_in(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "200000")], &[]);
    let first = systemd.hears();
    assert_eq!(first, ["READY=1"]);
    systemd.expect("WATCHDOG=1");
    daemon.send_lines("line", 3);
    systemd.expect(
        "STATUS=all is well; received 3 = skipped 0 + buffered 0 + delivered 3 + refused 0 + dropped 0",
    );
    systemd.expect("WATCHDOG=1");

    world.answers("503x*");
    daemon.send_lines("late", 2);
    systemd.expect("STATUS=Blueflood does not take metrics: HTTP 503");
    daemon.signal("TERM");
    systemd.expect("STOPPING=1");
    systemd.expect("EXTEND_TIMEOUT_USEC=");
    // Nothing can be delivered, and the spool keeps it.
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.last_line()["buffered"], 2);
}

#[test]
fn the_watchdog_is_for_the_process_that_it_names_only() {
    let world = World::new();
    let (systemd, socket) = Manager::new(&world);
    let environment = [("NOTIFY_SOCKET", socket.as_str()), ("WATCHDOG_USEC", "20000"), ("WATCHDOG_PID", "1")];
    let daemon = world.daemon_in(&environment, &[]);
    assert_eq!(systemd.hears(), ["READY=1"]);
    // A datapoint's whole way takes many times the watchdog's interval.
    daemon.send_lines("a", 1);
    daemon.expect_delivered(1);
    daemon.stop();
    let rest: Vec<String> =
        std::iter::from_fn(|| Some(systemd.hears()).filter(|lines| !lines.is_empty())).flatten().collect();
    assert!(!rest.iter().any(|line| line.starts_with("WATCHDOG")), "{rest:?}");
}

#[test]
fn a_manager_that_is_gone_costs_one_line() {
    let world = World::new();
    let environment = [("NOTIFY_SOCKET", "/nosuch/notify"), ("WATCHDOG_USEC", "20000")];
    let daemon = world.daemon_in(&environment, &[]);
    daemon.expect_said("the service manager cannot be told how it goes");
    daemon.send_lines("line", 3);
    daemon.expect_delivered(3);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0));
    let said =
        ended.log.iter().filter(|line| line["msg"].as_str().is_some_and(|msg| msg.contains("manager")));
    assert_eq!(said.count(), 1);
}

/// An actor that no longer answers is what the watchdog is there for.
#[cfg(feature = "faults")]
#[test]
fn a_stuck_actor_starves_the_watchdog() {
    let world = World::new();
    let (systemd, socket) = Manager::new(&world);
    let daemon = world.daemon_in(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "200000")], &[]);
    systemd.expect("WATCHDOG=1");
    assert_eq!(daemon.request("POST", "/fault/hang:collector.frame", "localhost").unwrap().0, 204);
    daemon.send_lines("stuck", 1);
    let is_hungry = || !systemd.hears().contains(&"WATCHDOG=1".to_owned());
    assert!(until(|| (0..5).all(|_| is_hungry())));
}

/// A reload makes new actors and ends others, who never answer again.
#[cfg(feature = "faults")]
#[test]
fn the_watchdog_is_fed_after_a_reload_that_closes_an_endpoint() {
    let world = World::new();
    let (systemd, socket) = Manager::new(&world);
    let file = world.folder.path().join("forward.toml");
    let endpoint = |name| format!("\"unix:{}\"", world.folder.path().join(name).display());
    std::fs::write(&file, format!("endpoint = [{}, {}]", endpoint("one"), endpoint("two"))).unwrap();
    let environment = [("NOTIFY_SOCKET", socket.as_str()), ("WATCHDOG_USEC", "200000")];
    let daemon = world.daemon_in(&environment, &[ENDPOINT_IN_FILE, "--config", file.to_str().unwrap()]);
    std::fs::write(&file, format!("endpoint = [{}]", endpoint("two"))).unwrap();
    daemon.signal("HUP");
    daemon.expect_said("no longer listening");
    // Longer than an actor may be silent in this build.
    let long = Instant::now() + Duration::from_secs(4);
    while Instant::now() < long {
        systemd.expect("WATCHDOG=1");
    }
    systemd.expect("WATCHDOG=1");
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn a_socket_that_systemd_passes_is_listened_on_and_outlives_the_daemon() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let systemd = "systemd:domain=INET:index=0:protocol=line";
    let daemon = world.daemon_with_socket(listener.try_clone().unwrap().into(), &["--endpoint", systemd]);
    daemon.send_lines("a", 3);
    world.expect_points(3);
    assert_eq!(daemon.stop().code, Some(0));
    // Between two runs: nobody is refused.
    TcpStream::connect(address).unwrap().write_all(lines("b", 2).as_bytes()).unwrap();
    let daemon = world.daemon_with_socket(listener.into(), &["--endpoint", systemd]);
    world.expect_points(5);
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn datagrams_wait_in_a_socket_that_systemd_passes_while_nobody_runs() {
    let world = World::new();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let send = |name| UdpSocket::bind("127.0.0.1:0").unwrap().send_to(lines(name, 2).as_bytes(), address);
    // Pickles are the default, which datagrams cannot carry.
    let endpoint = ["--endpoint", "systemd:domain=INET:index=0"];
    let daemon = world.daemon_with_socket(socket.try_clone().unwrap().into(), &endpoint);
    send("a").unwrap();
    world.expect_points(2);
    assert_eq!(daemon.stop().code, Some(0));
    send("b").unwrap();
    let daemon = world.daemon_with_socket(socket.into(), &endpoint);
    world.expect_points(4);
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn a_unix_socket_that_systemd_passes_keeps_its_file() {
    let world = World::new();
    let path = world.folder.path().join("metrics.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let options = ["--endpoint", "systemd:domain=UNIX:index=0:protocol=line"];
    let daemon = world.daemon_with_socket(listener.into(), &options);
    UnixStream::connect(&path).unwrap().write_all(lines("a", 3).as_bytes()).unwrap();
    world.expect_points(3);
    daemon.stop();
    assert!(path.exists());
}

#[test]
fn a_socket_that_systemd_did_not_pass_is_named() {
    let world = World::new();
    let ended = world.try_daemon(&["--endpoint", "systemd:domain=INET:index=0"]).unwrap_err();
    assert_eq!(ended.code, Some(1));
    assert!(ended.says("systemd passed 0 sockets, and not this one"), "{ended:#?}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let daemon = world.daemon_with_socket(listener.into(), &[]);
    daemon.expect_said("systemd passed sockets that no endpoint names: nobody listens there");
}

#[test]
fn the_journal_hears_how_important_a_line_is() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = File::create(folder.path().join("log")).unwrap();
    let stream = file.metadata().map(|file| format!("{}:{}", file.dev(), file.ino())).unwrap();
    for (stream, begins) in [(stream.as_str(), "<2>20"), ("1:1", "20")] {
        file.set_len(0).unwrap();
        let status = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"))
            .env_clear()
            .envs([("JOURNAL_STREAM", stream), ("HOME", "/nowhere")])
            .args(["--endpoint", "systemd:domain=INET:index=0"])
            .stderr(File::options().append(true).open(folder.path().join("log")).unwrap())
            .status();
        assert_eq!(status.unwrap().code(), Some(1));
        let said = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert!(said.starts_with(begins) && said.contains("CRIT cannot listen"), "{said}");
    }
}

#[test]
fn the_unit_is_hardened() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/config/blueflood-forward.service");
    let analyze = ["security", "--offline=true", "--threshold=19", "--no-pager", unit];
    match Command::new("systemd-analyze").args(analyze).output() {
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("unrecognized option") => {
            skip("this systemd-analyze rates only units that are loaded");
        }
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => skip("no systemd-analyze here"),
    }
}

/// The same as `make deb-test`, with the program as it is here.
#[test]
fn the_package_can_be_installed_upgraded_removed_and_purged() {
    let folder = tempfile::TempDir::new().unwrap();
    let script = |name| Command::new(format!("{}/config/deb/{name}", env!("CARGO_MANIFEST_DIR")));
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        skip("no dpkg-deb here");
        return;
    }
    let build = |command: &mut Command| {
        let output = command.arg(stripped(folder.path())).arg(folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    let package = build(script("build").env("COMPRESSION", "none"));
    lintian_has_nothing_to_say_of(&package);
    let output = script("test").arg(package).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    eprint!("{said}");
    said.lines().filter_map(|line| line.strip_prefix("skipped: ")).for_each(skip);
}

/// The program as it is released: without what debuggers need, which takes long to pack and to look through.
fn stripped(folder: &Path) -> PathBuf {
    let (program, stripped) = (env!("CARGO_BIN_EXE_blueflood-forward"), folder.join("blueflood-forward"));
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(program).status();
    if strip.is_ok_and(|status| status.success()) { stripped } else { program.into() }
}

/// What Debian's packages are held to; but one of a test is not compressed.
fn lintian_has_nothing_to_say_of(package: &str) {
    let uncompressed = "uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball";
    let mut lintian = Command::new("lintian");
    lintian.args(["--no-cfg", "--allow-root", "--fail-on=error,warning", "--suppress-tags", uncompressed]);
    match lintian.arg(package).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(_) => skip("no lintian here"),
    }
}

/// What a logrotate snippet of another program sends, and what a supervisor sends to whoever it has only just started:
/// by themselves they end a process.
#[test]
fn user_signals_harm_nobody_and_the_log_file_is_opened_again() {
    let world = World::new();
    let (log, aside) = (world.folder.path().join("log"), world.folder.path().join("log.old"));
    let fifo = world.folder.path().join("config.toml");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let spool = world.spool();
    let text = format!(
        "blueflood = \"{}\"\ntenant = \"{TENANT}\"\nspool = \"{}\"\nstats = \"\"\nendpoint = \"tcp:0\"\nlog_file = \"{}\"\n",
        world.blueflood.url(),
        spool.display(),
        log.display(),
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"))
        .args(["--config", fifo.to_str().unwrap()])
        .env_clear()
        .spawn()
        .unwrap();
    let signal = |name: &str| {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    };
    // Whoever opens it for writing waits until it is read: the daemon has begun, and has no settings yet.
    let mut config = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    signal("HUP");
    signal("USR2");
    config.write_all(text.as_bytes()).unwrap();
    drop(config);
    let says = |path: &Path, words: &str| {
        until(|| std::fs::read_to_string(path).is_ok_and(|log| log.contains(words)))
    };
    assert!(says(&log, "forwarding"));
    // Read again, as the signal says that came before.
    std::fs::write(&fifo, &text).unwrap();
    assert!(says(&log, "the settings are read again"));

    std::fs::rename(&log, &aside).unwrap();
    std::fs::write(&log, "").unwrap();
    signal("USR2");
    signal("USR1");
    assert!(says(&log, "the log file is opened again"));
    signal("TERM");
    assert!(says(&log, "stopped"));
    assert!(!std::fs::read_to_string(&aside).unwrap().contains("opened again"));
    assert!(child.wait().unwrap().success());
}
