//! TLS on the way out, with certificates made here: whom we trust, whom we don't, and what is said of it.

use actors::core::keystone::Account;
use actors::tls::{Options, Outgoing};
use rcgen::date_time_ymd;
use rustls::ServerConfig;

use super::authority::{Authority, BOTH, Clients, Issued, server};
use super::stand_in::{StandIn, http};
use super::{Auth, key};

const GRANT: &str = r#"{"access":{"token":{"id":"t0ken","expires":"2099-12-14T22:54:49Z"}}}"#;

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
    let expired = authority.issues_expired("localhost");
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
