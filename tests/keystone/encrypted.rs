//! TLS on the way in: the daemon with certificates made here, and senders that it should and should not take.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use rcgen::date_time_ymd;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::authority::{Authority, BOTH, Issued};
use crate::world::*;

/// A sender that speaks TLS.
struct Sender(StreamOwned<ClientConnection, TcpStream>);

/// Whom a sender trusts, and who it is.
fn sender(
    trusts: &Authority,
    identity: Option<&Issued>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusts.issuer.der().clone()).expect("a root");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions of TLS")
        .with_root_certificates(roots);
    Arc::new(match identity {
        Some(issued) => {
            builder.with_client_auth_cert(issued.chain(), issued.private_key()).expect("they fit")
        }
        None => builder.with_no_client_auth(),
    })
}

impl Sender {
    /// Connects, and ends the handshake on its side.
    fn connects(host: &str, port: u16, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut tls = ClientConnection::new(config.clone(), name).expect("a client");
        let mut socket = TcpStream::connect((host, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Self(StreamOwned::new(tls, socket)))
    }

    fn sends(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).expect("it is taken");
        self.0.flush().expect("it is taken");
    }

    fn meets(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().expect("a certificate")[0].clone().into_owned()
    }

    fn closes(mut self) {
        self.0.conn.send_close_notify();
        self.0.flush().expect("it is taken");
    }
}

/// An endpoint with the files of this certificate.
fn endpoint(authority: &Authority, issued: &Issued, interface: &str, more: &str) -> String {
    authority.file("c.pem", &issued.certificate);
    authority.file("k.pem", &issued.key);
    authority.file("ca.pem", &authority.issuer.pem());
    let directory = authority.directory().display();
    format!(
        "ssl:0:privateKey={directory}/k.pem:certKey={directory}/c.pem:interface={interface}:protocol=auto{more}"
    )
}

fn asking(authority: &Authority, issued: &Issued, interface: &str) -> String {
    let ca = authority.path("ca.pem");
    endpoint(authority, issued, interface, &format!(":caCerts={}", ca.display()))
}

/// The causes that were said of senders that were turned away.
fn causes(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    let said = log.iter().filter(|line| line["msg"] == "a sender is turned away");
    said.map(|line| line["cause"].as_str().expect("a cause").to_owned()).collect()
}

fn expect_cause(daemon: &Daemon, cause: &str) {
    let said = || causes(daemon).iter().any(|said| said.contains(cause));
    assert!(until(said), "never {cause:?}: {:#?}", daemon.log());
}

#[test]
fn metrics_come_in_encrypted_in_both_versions_of_tls() {
    let (world, authority) = (World::new(), Authority::new("one"));
    let issued = authority.issues("localhost", |_| ());
    let daemon = world.daemon(&["--endpoint", &endpoint(&authority, &issued, "127.0.0.1", "")]);
    let port = daemon.port("tls:");
    for (i, version) in BOTH.iter().enumerate() {
        let config = sender(&authority, None, &[version]);
        let mut polite = Sender::connects("127.0.0.1", port, &config).expect("it is taken");
        polite.sends(frame(&[(&format!("{i}.pickle.a"), 1.0), (&format!("{i}.pickle.b"), 2.0)]));
        polite.closes();
        let mut polite = Sender::connects("127.0.0.1", port, &config).expect("it is taken");
        polite.sends(format!("{i}.last 1 {}", now()));
        polite.closes();
        // Most senders write, never read, and just go away: whole lines count all the same, cut ones never do.
        for j in 0..20 {
            let mut blunt = Sender::connects("127.0.0.1", port, &config).expect("it is taken");
            blunt.sends(lines(&format!("{i}.{j}"), 3));
        }
        let mut cut = Sender::connects("127.0.0.1", port, &config).expect("it is taken");
        cut.sends(format!("{i}.cut 1 {}", now()));
    }
    world.expect_points(2 * (3 + 20 * 3));
    daemon.expect_delivered(2 * (3 + 20 * 3));
    daemon.expect_count("/malformed/truncated", 2);
    let ended = daemon.stop();
    assert!(!ended.says("a connection failed"), "{ended:#?}");
}

/// A bare end is an attack to whoever ends TLS as it should be ended.
#[test]
fn a_sender_that_says_goodbye_hears_one() {
    let (world, authority) = (World::new(), Authority::new("one"));
    let issued = authority.issues("localhost", |_| ());
    let daemon = world.daemon(&["--endpoint", &endpoint(&authority, &issued, "127.0.0.1", "")]);
    for version in BOTH {
        let config = sender(&authority, None, &[version]);
        let mut polite = Sender::connects("127.0.0.1", daemon.port("tls:"), &config).expect("it is taken");
        polite.sends(lines("polite", 1));
        polite.0.conn.send_close_notify();
        polite.0.flush().expect("it is taken");
        // An end without a goodbye would be an error here.
        assert_eq!(polite.0.read(&mut [0; 16]).expect("a goodbye"), 0);
    }
    world.expect_points(1);
}

#[test]
fn a_large_backlog_of_a_sender_that_closes_at_once_arrives() {
    let (world, authority) = (World::new(), Authority::new("one"));
    let issued = authority.issues("localhost", |_| ());
    let daemon = world.daemon(&["--endpoint", &endpoint(&authority, &issued, "127.0.0.1", "")]);
    let config = sender(&authority, None, BOTH);
    let mut sender = Sender::connects("127.0.0.1", daemon.port("tls:"), &config).expect("it is taken");
    for i in 0..50 {
        sender.sends(lines(&format!("many.{i}"), 1000));
    }
    drop(sender);
    daemon.expect_delivered(50_000);
}

#[test]
fn a_new_certificate_is_taken_without_a_restart_and_without_cutting_a_connection() {
    let (world, authority) = (World::new(), Authority::new("one"));
    let (old, new) = (authority.issues("localhost", |_| ()), authority.issues("localhost", |_| ()));
    let daemon = world.daemon(&["--endpoint", &endpoint(&authority, &old, "127.0.0.1", "")]);
    let (port, config) = (daemon.port("tls:"), sender(&authority, None, BOTH));
    let meets = || Sender::connects("127.0.0.1", port, &config).expect("it is taken").meets();
    let mut stays = Sender::connects("127.0.0.1", port, &config).expect("it is taken");
    let mut sent = 0;
    let mut sends = |stays: &mut Sender| {
        stays.sends(lines(&format!("during.{sent}"), 10));
        sent += 1;
        sent
    };
    assert_eq!(meets(), old.chain()[0]);

    // Half a file, and then a whole one whose key has not come yet.
    let half = &new.certificate[..new.certificate.len() / 2];
    for (text, cause) in
        [(half, "certKey "), (new.certificate.as_str(), "is not the key of certKey's certificate")]
    {
        authority.file("c.pem", text);
        let said = || {
            sends(&mut stays);
            assert_eq!(meets(), old.chain()[0]);
            daemon.log().iter().any(|line| {
                line["msg"].as_str().is_some_and(|msg| msg.contains("do not fit"))
                    && line["cause"].as_str().is_some_and(|said| said.contains(cause))
            })
        };
        assert!(until(said), "never {cause:?}: {:#?}", daemon.log());
    }
    authority.file("k.pem", &new.key);
    let renewed = || {
        sends(&mut stays);
        meets() == new.chain()[0]
    };
    assert!(until(renewed), "{:#?}", daemon.log());
    let n = sends(&mut stays);
    stays.closes();
    daemon.expect_delivered(n * 10);
    daemon.expect_said("the certificate was read again: new connections get it");
    let unfit = daemon.log().iter().filter(|line| line["msg"].to_string().contains("do not fit")).count();
    assert!(unfit <= 3, "said once each: {:#?}", daemon.log());
    assert_eq!(daemon.stats()["malformed"], serde_json::json!({}), "{:#?}", daemon.log());
}

#[test]
fn senders_may_be_asked_who_they_are() {
    let (world, authority, other) = (World::new(), Authority::new("one"), Authority::new("other"));
    let issued = authority.issues("localhost", |_| ());
    let us = authority.issues("us", |_| ());
    let strangers = [
        (None, "the sender showed no certificate: caCerts= asks for one"),
        (Some(other.issues("us", |_| ())), "is signed by nobody in the file of caCerts="),
        (Some(authority.issues_expired("us")), "the sender's certificate has expired"),
    ];
    let hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let endpoints = hosts.map(|host| asking(&authority, &issued, host));
    let daemon = world.daemon(&endpoints.each_ref().map(|endpoint| ["--endpoint", endpoint]).concat());
    for version in BOTH {
        for ((stranger, cause), host) in strangers.iter().zip(&hosts[1..]) {
            let config = sender(&authority, stranger.as_ref(), &[version]);
            // In TLS 1.3 a client only hears of it when it reads.
            if let Ok(mut refused) = Sender::connects(host, daemon.port(&format!("tls:{host}")), &config) {
                let _ = refused.0.write_all(lines("stranger", 1).as_bytes());
                assert!(refused.0.read(&mut [0]).is_err(), "{cause}");
            }
            expect_cause(&daemon, cause);
        }
        let config = sender(&authority, Some(&us), &[version]);
        let mut taken = Sender::connects("127.0.0.1", daemon.port("tls:127.0.0.1"), &config).expect("known");
        taken.sends(lines(&format!("{version:?}"), 5));
        taken.closes();
    }
    daemon.expect_delivered(10);
    daemon.expect_count("/malformed/tls_handshake", 6);
}

#[test]
fn plain_text_on_a_tls_port_and_tls_on_a_plain_one_are_told_apart_and_harm_nobody() {
    let (world, authority, other) = (World::new(), Authority::new("one"), Authority::new("other"));
    let issued = authority.issues("localhost", |_| ());
    let tls = endpoint(&authority, &issued, "127.0.0.1", "");
    let doubted = endpoint(&authority, &issued, "127.0.0.2", "");
    let hosts = [("pickle", "127.0.0.5"), ("line", "127.0.0.6"), ("auto", "127.0.0.7")];
    let plain = hosts.map(|(protocol, host)| format!("tcp:port=0:interface={host}:protocol={protocol}"));
    let mut options = vec!["--endpoint", &tls, "--endpoint", &doubted];
    plain.iter().for_each(|endpoint| options.extend(["--endpoint", endpoint]));
    let daemon = world.daemon(&options);
    let (port, config) = (daemon.port("tls:127.0.0.1"), sender(&authority, None, BOTH));
    let mut neighbour = Sender::connects("127.0.0.1", port, &config).expect("it is taken");

    for wrong in
        [lines("plain", 3).into_bytes(), frame(&[("plain", 1.0)]), b"\x16\x03\x01\0\x04\xff\0\0\0".to_vec()]
    {
        let mut wrong_way = TcpStream::connect(("127.0.0.1", port)).unwrap();
        wrong_way.set_read_timeout(Some(PATIENCE)).unwrap();
        wrong_way.write_all(&wrong).unwrap();
        // It may hear of it, in TLS.
        if let Err(error) = wrong_way.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        neighbour.sends(lines(&format!("neighbour.{}", wrong.len()), 10));
    }
    expect_cause(&daemon, "speaks no TLS, but this endpoint nothing else");
    // Who only looks whether the port is open does no wrong.
    drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
    for i in 0..20 {
        let mut wrong_way = TcpStream::connect(("127.0.0.1", port)).unwrap();
        wrong_way.write_all(lines(&format!("again.{i}"), 1).as_bytes()).unwrap();
        expect_closed(&mut wrong_way);
    }
    daemon.expect_count("/malformed/tls_handshake", 23);
    assert_eq!(causes(&daemon).len(), 1, "at a bounded rate: {:#?}", daemon.log());

    for (i, (_, host)) in hosts.into_iter().enumerate() {
        let refused = Sender::connects(host, daemon.port(&format!("tcp:{host}")), &config);
        assert!(refused.is_err(), "there is no TLS");
        daemon.expect_count("/malformed/tls_handshake", 24 + i as u64);
        let advice = || causes(&daemon).last().is_some_and(|cause| cause.contains("write tls: for tcp:"));
        assert!(until(advice), "{:#?}", daemon.log());
    }
    let doubts = sender(&other, None, BOTH);
    assert!(Sender::connects("127.0.0.2", daemon.port("tls:127.0.0.2"), &doubts).is_err());
    expect_cause(&daemon, "the sender does not trust the certificate of certKey=");

    neighbour.closes();
    daemon.expect_delivered(30);
}

#[test]
fn what_speaks_something_else_on_a_tls_port_is_told_by_name() {
    let (world, authority) = (World::new(), Authority::new("one"));
    let issued = authority.issues("localhost", |_| ());
    let hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let endpoints = hosts.map(|host| endpoint(&authority, &issued, host, ""));
    let daemon = world.daemon(&endpoints.each_ref().map(|endpoint| ["--endpoint", endpoint]).concat());
    let proxied = b"PROXY TCP4 10.0.0.1 10.0.0.2 56324 2003\r\n\x16\x03\x01";
    for (host, (bytes, cause)) in hosts.into_iter().zip([
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "the sender speaks HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "the sender speaks SSH"),
        (proxied, "PROXY protocol before the sender's TLS: turn it off there"),
        (&frame(&[("plain", 1.0)]), "speaks no TLS, but this endpoint nothing else"),
    ]) {
        let mut stranger = TcpStream::connect((host, daemon.port(&format!("tls:{host}")))).unwrap();
        stranger.write_all(bytes).unwrap();
        expect_closed(&mut stranger);
        expect_cause(&daemon, cause);
    }
    daemon.expect_count("/malformed/tls_handshake", 4);
}

#[test]
fn who_does_not_end_the_handshake_is_cut_off() {
    let (world, authority) = (World::new(), Authority::new("one"));
    let issued = authority.issues("localhost", |_| ());
    let daemon = world.daemon(&["--endpoint", &endpoint(&authority, &issued, "127.0.0.1", "")]);
    let connect = || TcpStream::connect(("127.0.0.1", daemon.port("tls:"))).unwrap();
    let (mut silent, mut stalls) = (connect(), connect());
    stalls.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    expect_closed(&mut silent);
    expect_closed(&mut stalls);
    expect_cause(&daemon, "did not end the TLS handshake within 10 s");
    daemon.expect_count("/malformed/tls_handshake", 2);
}

#[test]
fn files_that_do_not_fit_are_named_at_the_start() {
    let (world, authority) = (World::new(), Authority::new("one"));
    let (issued, other) = (authority.issues("localhost", |_| ()), authority.issues("localhost", |_| ()));
    let good = asking(&authority, &issued, "127.0.0.1");
    for (file, text, expected) in [
        ("k.pem", None, "k.pem: can't be read"),
        ("k.pem", Some(other.key.as_str()), "k.pem: is not the key of certKey's certificate"),
        ("k.pem", Some("no key"), "k.pem: holds no private key in PEM"),
        ("c.pem", Some("no certificate"), "c.pem: holds no certificate in PEM"),
        ("ca.pem", Some(""), "ca.pem: holds no certificate in PEM"),
    ] {
        asking(&authority, &issued, "127.0.0.1");
        match text {
            Some(text) => drop(authority.file(file, text)),
            None => fs::remove_file(authority.path(file)).unwrap(),
        }
        let ended = world.try_daemon(&["--endpoint", &good]).expect_err("it can't start");
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        let said = |words: &str| ended.says(words);
        assert!(said("cannot listen on tls:0:") && said(expected), "{expected}: {ended:#?}");
        assert!(said("correct the file, or the endpoint"), "{ended:#?}");
        assert!(!said("PRIVATE KEY"), "{ended:#?}");
    }
}

/// That a certificate ends was told by senders that were turned away.
#[test]
fn when_certificates_end_is_shown_and_check_warns_of_it() {
    let (world, authority) = (World::new(), Authority::new("one"));
    let issued = authority.issues("localhost", |params| params.not_after = date_time_ymd(2100, 1, 1));
    let expired = authority.issues_expired("localhost");
    let endpoint = asking(&authority, &issued, "127.0.0.1");
    let us = authority.known_as(&issued).identity.expect("we are somebody");
    let [cert, key] = [&us.cert_file, &us.private_key_file].map(|file| file.to_str().expect("text"));
    let arguments = ["--endpoint", &endpoint, "--cert_file", cert, "--private_key_file", key];
    let daemon = world.daemon(&arguments);
    let shows = |role: &str, at: &str| {
        let name = "blueflood_forward_tls_certificate_expiry_timestamp_seconds";
        daemon.get("/metrics").1.contains(&format!("{name}{{role=\"{role}\"}} {at}"))
    };
    assert!(shows("endpoint", "4102444800\n") && shows("client", "4102444800\n"));
    assert!(shows("endpoint_ca", "") && !shows("ca", ""));
    let check = || {
        let mut check = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"));
        let output = check.arg("check").args(arguments).output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, said, warned) = check();
    assert_eq!(code, Some(0), "{warned}");
    assert!(said.contains(&format!("the certificate of cert_file {cert} expires in ")), "{said}");
    assert!(said.contains("c.pem expires in ") && said.contains("(2100-01-01 00:00 UTC)"), "{said}");
    assert!(!warned.contains("renew it"), "{warned}");

    // Another one is seen though nobody connects.
    authority.file("c.pem", &expired.certificate);
    authority.file("k.pem", &expired.key);
    assert!(until(|| shows("endpoint", "1609459200\n")), "{:#?}", daemon.log());
    let certificates = daemon.stats()["certificates"].to_string();
    assert!(certificates.contains("c.pem") && certificates.contains("1609459200"), "{certificates}");
    let (code, _, warned) = check();
    assert_eq!(code, Some(0), "{warned}");
    assert!(
        warned.contains("c.pem has expired ") && warned.contains("(2021-01-01 00:00 UTC): renew it"),
        "{warned}"
    );

    // What the daemon could not start with is an error.
    authority.file("k.pem", &issued.key);
    let (code, _, wrong) = check();
    assert_eq!(code, Some(1), "{wrong}");
    assert!(wrong.contains("k.pem: is not the key of certKey's certificate"), "{wrong}");
}
