//! SIGHUP: the settings are read again and applied as a whole or not at all, without a datapoint lost or a connection
//! cut that need not be.

use std::io::Write;

use crate::world::*;

/// A world whose daemon reads `settings` from a file, which a test may write anew.
struct Configured {
    world: World,
    file: std::path::PathBuf,
}

impl Configured {
    fn new() -> Self {
        let world = World::new();
        let file = world.folder.path().join("forward.toml");
        Self { world, file }
    }

    fn write(&self, settings: &str) {
        std::fs::write(&self.file, settings).unwrap();
    }

    /// A daemon whose endpoints come from the file.
    fn daemon(&self) -> Daemon {
        self.world.daemon(&[ENDPOINT_IN_FILE, "--config", self.file.to_str().unwrap()])
    }
}

/// Two ports that are free now.
fn free_ports() -> (u16, u16) {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, two) = (bind(), bind());
    (one.local_addr().unwrap().port(), two.local_addr().unwrap().port())
}

fn endpoint(port: u16) -> String {
    format!("\"tcp:port={port}:interface=127.0.0.1:protocol=line\"")
}

#[test]
fn a_new_prefix_and_a_new_endpoint_take_effect_on_open_connections_too() {
    let configured = Configured::new();
    let (one, two) = free_ports();
    configured.write(&format!("endpoint = [{}]\nmetric_prefix = \"old\"\n", endpoint(one)));
    let daemon = configured.daemon();
    let mut open = std::net::TcpStream::connect(("127.0.0.1", one)).unwrap();
    writeln!(open, "a 1 {}", now()).unwrap();
    daemon.expect_delivered(1);

    configured.write(&format!(
        "endpoint = [{}, {}]\nmetric_prefix = \"new\"\nspool_max = \"2GiB\"\n",
        endpoint(one),
        endpoint(two)
    ));
    daemon.signal("HUP");
    let said = daemon.expect_said("the settings are read again");
    assert!(said["changed"].as_str().unwrap().contains("metric_prefix from old to new"), "{said}");
    assert_eq!(said["needs_a_restart"], "nothing");

    writeln!(open, "b 2 {}", now()).unwrap();
    let connected = until(|| std::net::TcpStream::connect(("127.0.0.1", two)).is_ok());
    assert!(connected, "the new endpoint listens");
    let mut other = std::net::TcpStream::connect(("127.0.0.1", two)).unwrap();
    writeln!(other, "c 3 {}", now()).unwrap();
    daemon.expect("three delivered", |stats| stats["datapoints"]["delivered"] == 3);
    let stored = configured.world.stored();
    assert_eq!(stored.keys().collect::<Vec<_>>(), ["new.b", "new.c", "old.a"]);
    daemon.expect("the new cap", |stats| stats["spool"]["bytes_max"] == 2_u64 << 30);

    // An endpoint that is gone refuses; the other goes on.
    configured
        .write(&format!("endpoint = [{}]\nmetric_prefix = \"new\"\nspool_max = \"2GiB\"\n", endpoint(one)));
    daemon.signal("HUP");
    daemon.expect_said("no longer listening");
    assert!(
        until(|| std::net::TcpStream::connect(("127.0.0.1", two)).is_err()),
        "the old endpoint is closed"
    );
    writeln!(open, "d 4 {}", now()).unwrap();
    daemon.expect("four delivered", |stats| stats["datapoints"]["delivered"] == 4);
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn settings_that_are_wrong_change_nothing_and_say_so() {
    let configured = Configured::new();
    let (one, taken) = free_ports();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", taken)).unwrap();
    configured.write(&format!("endpoint = [{}]\nmetric_prefix = \"old\"\n", endpoint(one)));
    let daemon = configured.daemon();
    for wrong in [
        format!("endpoint = [{}]\nmetric_prefix = \"new\"\nttl = \"soon\"\n", endpoint(one)),
        format!("endpoint = [{}, {}]\nmetric_prefix = \"new\"\n", endpoint(one), endpoint(taken)),
        "endpoint = [".to_owned(),
    ] {
        let before = daemon.times_said("the settings are not changed");
        configured.write(&wrong);
        daemon.signal("HUP");
        assert!(until(|| daemon.times_said("the settings are not changed") > before), "{wrong}");
    }
    let mut open = std::net::TcpStream::connect(("127.0.0.1", one)).unwrap();
    writeln!(open, "a 1 {}", now()).unwrap();
    daemon.expect_delivered(1);
    assert!(configured.world.stored().contains_key("old.a"));
}

#[test]
fn what_needs_a_restart_is_named_and_stays_as_it_is() {
    let configured = Configured::new();
    let (one, _) = free_ports();
    configured.write(&format!("endpoint = [{}]\n", endpoint(one)));
    let daemon = configured.daemon();
    configured
        .write(&format!("endpoint = [{}]\ncompress = \"none\"\nlog_level = \"debug\"\n", endpoint(one)));
    daemon.signal("HUP");
    let said = daemon.expect_said("the settings are read again");
    assert!(said["needs_a_restart"].as_str().unwrap().starts_with("compress from gzip to none"), "{said}");
    assert!(said["changed"].as_str().unwrap().starts_with("log_level from info to debug"), "{said}");
}

#[test]
fn nothing_is_lost_while_settings_change_under_load() {
    let configured = Configured::new();
    let (one, _) = free_ports();
    let settings = |rows: usize| format!("endpoint = [{}]\nmax_rows = {rows}\n", endpoint(one));
    configured.write(&settings(100));
    let daemon = configured.daemon();
    let mut open = std::net::TcpStream::connect(("127.0.0.1", one)).unwrap();
    for round in 0..20 {
        open.write_all(lines(&format!("r{round}"), 500).as_bytes()).unwrap();
        configured.write(&settings(101 + round));
        daemon.signal("HUP");
    }
    configured.world.expect_points(20 * 500);
    daemon.expect("all delivered", |stats| {
        stats["datapoints"]["delivered"] == 10_000 && stats["datapoints"]["buffered"] == 0
    });
    assert_eq!(daemon.stats()["actors"]["forwarder"]["restarts"], 0);
}
