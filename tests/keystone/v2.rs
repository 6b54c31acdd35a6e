//! Identity v2.0, by a stand-in held to the contract: every answer that wedged the original, and what follows.

use std::fs;

use actors::core::keystone::Account;
use actors::keystone_auth::{KeySource, State};

use super::stand_in::{STALLS, StandIn, http};
use super::{Auth, key};

const GRANT: &str = r#"{"access":{"token":{"id":"t0ken","expires":"2099-12-14T22:54:49.574-05:00","tenant":{"id":"42","name":"x"}}}}"#;

fn bob() -> Account {
    Account::ApiKey { user: "bob".into() }
}

fn url(stand_in: &StandIn) -> String {
    format!("http://127.0.0.1:{}/v2.0/tokens", stand_in.port)
}

#[actix_rt::test]
async fn the_request_is_the_contracts() {
    let stand_in = StandIn::start().await;
    stand_in.answers(&[&http("200 OK", GRANT)]);
    let auth = Auth::starts(bob(), key("k3y"), &url(&stand_in));
    let token = auth.gets_a_token().await;
    assert_eq!((token.secret.reveal(), token.tenant_id.as_deref()), ("t0ken", Some("42")));
    let request = stand_in.requests().concat();
    let (head, body) = request.split_once("\r\n\r\n").expect("a whole request");
    assert!(head.starts_with("POST /v2.0/tokens HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("content-type: application/json\r\n"), "{head}");
    assert_eq!(body, r#"{"auth":{"RAX-KSKEY:apiKeyCredentials":{"username":"bob","apiKey":"k3y"}}}"#);
    auth.never_said("k3y");
    auth.never_said("t0ken");
}

#[actix_rt::test]
async fn no_answer_wedges_it() {
    let good = http("200 OK", GRANT);
    for (bad, cause) in [
        (http("500 Internal Server Error", "k3y"), "HTTP 500"),
        (http("203 Non-Authoritative Information", ""), "HTTP 203, but no token is in its body"),
        (http("200 OK", "<html>k3y</html>"), "HTTP 200, but no token is in its body"),
        (http("200 OK", r#"{"user":{}}"#), "HTTP 200, but no token is in its body"),
        (http("302 Found\r\nLocation: /login", ""), "HTTP 302 (is auth_url right?)"),
        (http("404 Not Found", ""), "HTTP 404 (is auth_url right?)"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"acc".to_owned(),
            "HTTP 200, but no token is in its body",
        ),
        ("no HTTP at all\r\n\r\n".to_owned(), ""),
        (String::new(), ""),
    ] {
        let stand_in = StandIn::start().await;
        stand_in.answers(&[&bad]);
        let auth = Auth::starts(bob(), key("k3y"), &url(&stand_in));
        let no = auth.asks().await.expect_err("no token");
        assert!(no.cause.contains(cause) && !no.cause.is_empty(), "{no:?}");
        assert_eq!(auth.status().last_error.as_ref(), Some(&no.cause));
        auth.is(State::Failed).await;
        stand_in.answers(&[&good]);
        assert_eq!(auth.gets_a_token().await.generation, 1);
        assert_eq!(auth.status().last_error, None);
        auth.never_said("k3y");
    }
}

/// Behind a box that answers so, there was never a token.
#[actix_rt::test]
async fn a_token_is_taken_from_an_answer_in_any_form_that_http_allows() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    for answer in [
        http("201 Created", GRANT),
        format!("{interim}{}", http("200 OK", GRANT)),
        format!("HTTP/1.1 200 OK\r\n\r\n{GRANT}"),
        format!("HTTP/1.0 200 OK\r\nX-Long: one\r\n two\r\n\r\n{GRANT}"),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{GRANT}\r\n0\r\n\r\n",
            GRANT.len()
        ),
    ] {
        let stand_in = StandIn::start().await;
        stand_in.answers(&[&answer]);
        let auth = Auth::starts(bob(), key("k3y"), &url(&stand_in));
        assert_eq!(auth.gets_a_token().await.secret.reveal(), "t0ken", "{answer}");
        assert_eq!((stand_in.requests().len(), auth.status().failures), (1, 0), "{answer}");
    }
}

#[actix_rt::test]
async fn an_answer_that_never_ends_is_given_up() {
    let stand_in = StandIn::start().await;
    stand_in.answers(&[STALLS, &http("200 OK", GRANT)]);
    let auth = Auth::starts(bob(), key("k3y"), &url(&stand_in));
    assert_eq!(auth.asks().await.expect_err("no token").cause, "no answer within 30 s");
    auth.gets_a_token().await;
}

#[actix_rt::test]
async fn a_keystone_that_was_not_there_is_found_when_it_comes() {
    let port = StandIn::start().await.port;
    let auth = Auth::starts(bob(), key("k3y"), &format!("http://127.0.0.1:{port}/v2.0/tokens"));
    auth.is(State::Failed).await;
    let stand_in = StandIn::start_at(port, None).await;
    stand_in.answers(&[&http("200 OK", GRANT)]);
    auth.gets_a_token().await;
}

#[actix_rt::test]
async fn a_refused_key_is_said_once_and_not_asked_with_again_until_its_file_changes() {
    let stand_in = StandIn::start().await;
    let message = r#"{"unauthorized":{"code":401,"message":"Unable to authenticate bob with k3y"}}"#;
    stand_in.answers(&[&http("401 Unauthorized", message), &http("200 OK", GRANT)]);
    let directory = tempfile::tempdir().expect("a directory");
    let key_file = directory.path().join("key");
    let auth = Auth::starts(bob(), KeySource::File(key_file.clone()), &url(&stand_in));
    let missing = auth.asks().await.expect_err("no file");
    assert!(
        missing.cause.starts_with(&format!("key_file {} can't be read", key_file.display())),
        "{missing:?}"
    );
    fs::write(&key_file, "k3y\n").expect("a file");
    auth.is(State::Refused).await;
    for _ in 0..100 {
        let refused = auth.asks().await.expect_err("it is refused");
        assert_eq!(refused.cause, "HTTP 401: Unable to authenticate bob with ********");
    }
    assert_eq!(stand_in.requests().len(), 1, "what is refused is not tried again soon");
    assert_eq!(auth.said("\"level\":\"ERRO\""), 1);
    fs::write(&key_file, "k3y-of-today\n").expect("a file");
    auth.gets_a_token().await;
    assert!(stand_in.requests()[1].contains("k3y-of-today"));
    auth.never_said("k3y");
}

#[actix_rt::test]
async fn ten_payloads_refused_together_renew_once() {
    let stand_in = StandIn::start().await;
    stand_in.answers(&[&http("200 OK", GRANT)]);
    let auth = Auth::starts(bob(), key("k3y"), &url(&stand_in));
    let first = auth.gets_a_token().await.generation;
    let refused = (0..10).map(|_| auth.is_refused(first));
    for token in futures_util::future::join_all(refused).await {
        assert_eq!(token.expect("a newer one").generation, first + 1);
    }
    assert_eq!(stand_in.requests().len(), 2);
    let no = auth.is_refused(first + 1).await.expect_err("a fresh one refused is Blueflood's matter");
    assert!(no.cause.contains("only just given"), "{no:?}");
    assert_eq!(auth.asks().await.expect("it may do yet").generation, first + 1);
    assert_eq!(stand_in.requests().len(), 2);
}
