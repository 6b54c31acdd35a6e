//! Who may send: `allow=` on each kind of endpoint. Never sends from anywhere but this host.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};

use crate::world::*;

#[test]
fn senders_of_other_networks_are_turned_away_and_counted() {
    let world = World::new();
    let open = "tcp:port=0:interface=127.0.0.1:allow=10.0.0.0/8,127.0.0.0/8:protocol=auto";
    let closed = "tcp:port=0:interface=127.0.0.2:allow=10.0.0.0/8:protocol=auto";
    let daemon = world.daemon(&["--endpoint", open, "--endpoint", closed]);
    for _ in 0..20 {
        // Once it is turned away, a sender may be in the middle of its write.
        let mut stranger = TcpStream::connect(("127.0.0.2", daemon.port("tcp:127.0.0.2"))).unwrap();
        let _ = stranger.write_all(lines("stranger", 1).as_bytes());
        expect_closed(&mut stranger);
    }
    daemon.expect_count("/malformed/not_allowed", 20);
    daemon.expect_count("/listeners/1/malformed/not_allowed/count", 20);
    daemon.send_lines("friend", 3);
    daemon.expect_delivered(3);
    world.expect_points(3);
    let said = daemon.expect_log("who is turned away", |line| line["reason"] == "not_allowed");
    assert_eq!(said.len(), 1, "{said:#?}");
    assert_eq!(said[0]["cause"], "it is in none of the networks that allow= names");
    let (_, metrics) = daemon.get("/metrics");
    assert!(metrics.contains("reason=\"not_allowed\"} 20"), "{metrics}");
}

#[test]
fn so_are_datagrams() {
    let world = World::new();
    let daemon = world.daemon(&["--endpoint", "udp:port=0:interface=127.0.0.1:allow=127.0.0.2"]);
    daemon.send_datagram(lines("stranger", 2));
    daemon.expect_count("/malformed/not_allowed", 1);
    let friend = UdpSocket::bind("127.0.0.2:0").unwrap();
    friend.send_to(lines("friend", 2).as_bytes(), ("127.0.0.1", daemon.port("udp:"))).unwrap();
    daemon.expect_delivered(2);
    assert!(world.stored().keys().all(|name| name.starts_with("friend")));
}
