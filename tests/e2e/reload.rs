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

    /// In one step: a daemon that reads half of it, for an earlier signal, would take that for all.
    fn write(&self, settings: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, settings).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    /// A daemon whose endpoints come from the file.
    fn daemon(&self) -> Daemon {
        self.daemon_with(&[])
    }

    fn daemon_with(&self, more: &[&str]) -> Daemon {
        let from_file = [ENDPOINT_IN_FILE, "--config", self.file.to_str().unwrap()];
        self.world.daemon(&[&from_file[..], more].concat())
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

/// Points of a tenant, by the first part of their names.
fn of(world: &World, tenant: &str) -> std::collections::BTreeMap<String, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for point in world.blueflood.points(tenant) {
        *counts.entry(point.name.split('.').next().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

fn counts<const N: usize>(of: [(&str, usize); N]) -> std::collections::BTreeMap<String, usize> {
    of.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
}

#[test]
fn rows_that_wait_for_one_tenant_go_there_after_a_reload_to_another() {
    let configured = Configured::new();
    let (one, _) = free_ports();
    let settings = |tenant| format!("endpoint = [{}]\ntenant = \"{tenant}\"\n", endpoint(one));
    configured.write(&settings("acme"));
    let daemon = configured.daemon_with(&[TENANT_IN_FILE]);
    configured.world.answers("503x*");
    let mut open = std::net::TcpStream::connect(("127.0.0.1", one)).unwrap();
    open.write_all(lines("before", 300).as_bytes()).unwrap();
    daemon.expect_received(300);

    configured.write(&settings("other"));
    daemon.signal("HUP");
    let said = daemon.expect_said(
        "datapoints wait for another tenant than --tenant, and go there: they were taken for it",
    );
    assert_eq!(
        (&said["waits_for"], &said["datapoints"], &said["tenant"]),
        (&"acme".into(), &300.into(), &"other".into())
    );
    daemon.expect_said("the settings are read again");
    open.write_all(lines("after", 200).as_bytes()).unwrap();
    daemon.expect_received(500);

    configured.world.answers("");
    daemon.expect_delivered(500);
    assert_eq!(of(&configured.world, "acme"), counts([("before", 300)]));
    assert_eq!(of(&configured.world, "other"), counts([("after", 200)]));
}

#[test]
fn rows_that_wait_for_one_tenant_go_there_after_a_restart_for_another() {
    for ending in ["TERM", "KILL"] {
        let world = World::new();
        world.answers("503x*");
        let daemon = world.daemon(&["--spool_hold", "0"]);
        daemon.send_lines("before", 300);
        daemon.expect("all in the spool", |stats| stats["datapoints"]["in_spool"] == 300);
        daemon.signal(ending);
        daemon.wait();

        let daemon = world.daemon(&["--tenant", "other"]);
        let said = daemon.expect_said(
            "datapoints wait for another tenant than --tenant, and go there: they were taken for it",
        );
        assert_eq!((&said["waits_for"], &said["datapoints"]), (&TENANT.into(), &300.into()));
        daemon.send_lines("after", 200);
        daemon.expect("all here", |stats| stats["datapoints"]["buffered"] == 500);
        world.answers("");
        daemon.expect("nothing left", |stats| stats["datapoints"]["buffered"] == 0);
        assert_eq!(of(&world, TENANT), counts([("before", 300)]));
        assert_eq!(of(&world, "other"), counts([("after", 200)]));
    }
}
