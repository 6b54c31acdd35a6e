//! The original's own integration cases: what it did right is done still, on the wire.

use blueflood_forward::sink::Received;
use serde_json::Value;

use crate::world::*;

fn rows(request: &Received) -> Vec<Value> {
    serde_json::from_slice(&request.body).unwrap()
}

#[test]
fn without_credentials_a_post_is_exactly_this() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    let now = now();
    daemon.send(format!("foo.bar 7 {now}\n"));
    daemon.expect_delivered(1);
    let requests = world.blueflood.requests();
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/v2.0/acme/ingest"));
    let body = format!(
        r#"[{{"collectionTime":{now}000,"ttlInSeconds":86400,"metricValue":7.0,"metricName":"foo.bar"}}]"#
    );
    assert_eq!(std::str::from_utf8(&request.body).unwrap(), body);
    assert_eq!(request.header("Content-Type"), Some("application/json"));
    assert_eq!(request.header("Content-Encoding"), Some("gzip"));
    assert_eq!(request.header("Content-Length"), Some(request.body_bytes_raw.to_string().as_str()));
    let host = world.blueflood.url().replace("http://", "");
    assert_eq!(request.header("Host"), Some(host.as_str()));
    // Blueflood would take the tenant of such a header for the path's.
    for header in ["X-Auth-Token", "X-Tenant-Id", "tenantId", "Transfer-Encoding", "Connection"] {
        assert_eq!(request.header(header), None, "{header}");
    }
}

#[test]
fn a_payload_over_the_limit_is_split() {
    let world = World::new();
    let daemon = world.daemon(&["--limit", "1024"]);
    let names: Vec<_> = (0..50).map(|i| format!("split.{i}")).collect();
    let datapoints: Vec<_> = names.iter().map(|name| (name.as_str(), 1.5)).collect();
    daemon.send(frame(&datapoints));
    world.expect_points(50);
    daemon.expect_delivered(50);
    let requests = world.blueflood.requests();
    assert!(requests.iter().all(|request| request.body.len() <= 1024), "{requests:#?}");
    // 50 rows of 87 bytes and more: 11 fit, and none is sent alone.
    assert_eq!(
        requests.len(),
        5,
        "{:?}",
        requests.iter().map(|request| request.body.len()).collect::<Vec<_>>()
    );
    assert_eq!(requests.iter().map(|request| rows(request).len()).sum::<usize>(), 50);
}

#[test]
fn a_prefix_goes_before_each_name() {
    let world = World::new();
    let daemon = world.daemon(&["--metric_prefix", "pre.fix"]);
    daemon.send_lines("line", 1);
    daemon.send(frame(&[("pickle", 1.0)]));
    world.expect_points(2);
    assert_eq!(world.stored().into_keys().collect::<Vec<_>>(), ["pre.fix.line.0", "pre.fix.pickle"]);
}

#[test]
fn the_ttl_is_in_each_row() {
    let world = World::new();
    let daemon = world.daemon(&["--ttl", "3600"]);
    daemon.send_lines("kept.an.hour", 3);
    daemon.expect_delivered(3);
    let ttls: Vec<_> =
        world.blueflood.requests().iter().flat_map(rows).map(|row| row["ttlInSeconds"].clone()).collect();
    assert_eq!(ttls, [3600, 3600, 3600]);
}

#[test]
fn compression_can_be_turned_off() {
    let world = World::new();
    let daemon = world.daemon(&["--compress", "none"]);
    daemon.send_lines("plain", 100);
    daemon.expect_delivered(100);
    for request in world.blueflood.requests() {
        assert_eq!(request.header("Content-Encoding"), None);
        assert_eq!(request.body_bytes_raw, request.body.len() as u64);
    }
}

#[test]
fn gzip_makes_a_body_several_times_smaller() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    daemon.send_lines("squeezed", 1000);
    daemon.expect_delivered(1000);
    let requests = world.blueflood.requests();
    let raw: u64 = requests.iter().map(|request| request.body_bytes_raw).sum();
    let inflated: usize = requests.iter().map(|request| request.body.len()).sum();
    assert!(raw * 5 < inflated as u64, "{raw} of {inflated}");
}

#[test]
fn a_tenant_is_escaped_in_the_path() {
    let world = World::new();
    let daemon = world.daemon(&["--tenant", "a b?é"]);
    daemon.send_lines("line", 1);
    daemon.expect_delivered(1);
    assert_eq!(world.blueflood.requests()[0].target, "/v2.0/a%20b%3F%C3%A9/ingest");
    assert_eq!(world.blueflood.points("a b?é").len(), 1);
}

#[test]
fn the_originals_own_configuration_is_read_as_it_is() {
    let world = World::new();
    let conf = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/example.conf");
    let daemon = world.daemon(&["--config", conf]);
    let now = now();
    daemon.send(format!("a 1 {}\n", now - 100));
    world.expect_points(1);
    // Its `overwrite_collection_timestamp=False` was true in the original.
    assert_eq!(world.blueflood.points(TENANT)[0].ms as u64, (now - 100) * 1000);
}
