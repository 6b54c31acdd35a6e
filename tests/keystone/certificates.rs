//! TLS on the way out, with certificates made here: whom we trust, whom we don't, and what is said of it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use actors::core::keystone::Account;
use actors::tls::{Identity, Options, Outgoing};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use super::stand_in::{StandIn, http};
use super::{Auth, key};

const GRANT: &str = r#"{"access":{"token":{"id":"t0ken","expires":"2099-12-14T22:54:49Z"}}}"#;

/// A certificate authority, and the files it gives out.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

/// A certificate and its key, in PEM.
struct Issued {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        Self { issuer, directory: tempfile::tempdir().expect("a directory") }
    }

    fn issues(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { certificate, key: key.serialize_pem() }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    }

    /// What a client has that trusts this authority.
    fn trusted(&self) -> Options {
        Options { ca_file: Some(self.file("ca.pem", &self.issuer.pem())), ..Options::default() }
    }

    fn known_as(&self, issued: &Issued) -> Options {
        let cert_file = self.file("us.pem", &issued.certificate);
        let private_key_file = self.file("us.key", &issued.key);
        Options { identity: Some(Identity { cert_file, private_key_file }), ..self.trusted() }
    }
}

/// How a server asks for certificates of its clients.
enum Clients {
    Any,
    Of(CertificateDer<'static>),
}

fn server(issued: &Issued, clients: Clients, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("versions of TLS");
    let builder = match clients {
        Clients::Any => builder.with_no_client_auth(),
        Clients::Of(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM");
    builder.with_single_cert(vec![certificate], key).expect("they fit")
}

/// What comes of asking a server with such a certificate.
async fn asks(server: Option<ServerConfig>, scheme: &str, options: &Options) -> Result<(), String> {
    let stand_in = StandIn::start_at(0, server).await;
    stand_in.answers(&[&http("200 OK", GRANT)]);
    let url = format!("{scheme}://localhost:{}/v2.0/tokens", stand_in.port);
    let auth = Auth::starts_with(Account::ApiKey { user: "bob".into() }, key("k3y"), &url, options);
    let answer = auth.asks().await;
    auth.never_said("k3y");
    answer.map(drop).map_err(|no| no.cause)
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];

#[actix_rt::test]
async fn who_is_trusted_is_asked_in_both_versions_of_tls() {
    let authority = Authority::new("one");
    let issued = authority.issues("localhost", |_| ());
    for version in BOTH {
        let server = server(&issued, Clients::Any, &[version]);
        assert_eq!(asks(Some(server), "https", &authority.trusted()).await, Ok(()));
    }
}

#[actix_rt::test]
async fn who_is_not_trusted_gets_no_key_and_it_is_said_why() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let namesake = Authority::new("one");
    let trusted = authority.trusted();
    let year = |year| date_time_ymd(year, 1, 1);
    let expired = authority.issues("localhost", |params| {
        (params.not_before, params.not_after) = (year(2020), year(2021));
    });
    let future = authority.issues("localhost", |params| {
        (params.not_before, params.not_after) = (year(2090), year(2091));
    });
    for (issued, expected) in [
        (namesake.issues("localhost", |_| ()), "nobody that is trusted here: set ca_file"),
        (other.issues("localhost", |_| ()), "nobody that is trusted here: set ca_file"),
        (expired, "has expired, or the clock"),
        (future, "is not valid yet, or the clock"),
        (authority.issues("elsewhere.example", |_| ()), "is for another host"),
    ] {
        for version in BOTH {
            let refused = asks(Some(server(&issued, Clients::Any, &[version])), "https", &trusted).await;
            assert!(refused.as_ref().is_err_and(|why| why.contains(expected)), "{refused:?}");
            let insecure = Options { insecure: true, ..trusted.clone() };
            let anyone = asks(Some(server(&issued, Clients::Any, &[version])), "https", &insecure).await;
            assert_eq!(anyone, Ok(()), "the loud option");
        }
    }
}

#[actix_rt::test]
async fn a_server_may_ask_who_we_are() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let issued = authority.issues("localhost", |_| ());
    let (us, stranger) = (authority.issues("us", |_| ()), other.issues("us", |_| ()));
    for version in BOTH {
        let asking = || {
            let clients = Clients::Of(authority.issuer.der().clone());
            Some(server(&issued, clients, &[version]))
        };
        assert_eq!(asks(asking(), "https", &authority.known_as(&us)).await, Ok(()));
        let refused = asks(asking(), "https", &authority.trusted()).await;
        assert!(
            refused.as_ref().is_err_and(|why| why.contains("set cert_file and private_key_file")),
            "{version:?}: {refused:?}"
        );
        let refused = asks(asking(), "https", &authority.known_as(&stranger)).await;
        assert!(refused.as_ref().is_err_and(|why| why.contains("it refuses")), "{version:?}: {refused:?}");
    }
}

#[actix_rt::test]
async fn plain_text_where_tls_is_meant_and_the_other_way_round() {
    let authority = Authority::new("one");
    let plain = asks(None, "https", &authority.trusted()).await;
    assert!(plain.as_ref().is_err_and(|why| why.contains("does not speak TLS")), "{plain:?}");
    let issued = authority.issues("localhost", |_| ());
    let encrypted = asks(Some(server(&issued, Clients::Any, BOTH)), "http", &authority.trusted()).await;
    assert!(encrypted.is_err(), "{encrypted:?}");
}

#[test]
fn files_that_do_not_fit_are_named() {
    let authority = Authority::new("one");
    let (us, other) = (authority.issues("us", |_| ()), authority.issues("us", |_| ()));
    let mixed = Issued { certificate: us.certificate, key: other.key };
    let error = Outgoing::new(&authority.known_as(&mixed)).expect_err("another's key");
    assert!(
        error.starts_with("private_key_file ") && error.ends_with("of cert_file's certificate"),
        "{error}"
    );
    let swapped = Issued { certificate: mixed.key, key: mixed.certificate };
    let error = Outgoing::new(&authority.known_as(&swapped)).expect_err("the wrong way round");
    assert!(error.starts_with("cert_file ") && error.ends_with("holds no certificate in PEM"), "{error}");
}
