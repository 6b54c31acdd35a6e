//! The daemon as a service: what systemd hears of it, and what its unit allows.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

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
    systemd.expect("STATUS=received 3 = skipped 0 + buffered 0 + delivered 3 + refused 0 + dropped 0");
    systemd.expect("WATCHDOG=1");

    world.answers("503");
    daemon.send_lines("late", 2);
    daemon.expect_received(5);
    daemon.signal("TERM");
    systemd.expect("STOPPING=1");
    systemd.expect("EXTEND_TIMEOUT_USEC=");
    world.answers("");
    assert_eq!(daemon.wait().code, Some(0));
    systemd.expect("STATUS=received 5 = skipped 0 + buffered 0 + delivered 5");
}

#[test]
fn the_watchdog_is_for_the_process_that_it_names_only() {
    let world = World::new();
    let (systemd, socket) = Manager::new(&world);
    let environment = [("NOTIFY_SOCKET", socket.as_str()), ("WATCHDOG_USEC", "20000"), ("WATCHDOG_PID", "1")];
    let daemon = world.daemon_in(&environment, &[]);
    assert_eq!(systemd.hears(), ["READY=1"]);
    std::thread::sleep(Duration::from_millis(200));
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
