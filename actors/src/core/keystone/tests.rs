//! Keystone's contract, held to what the real servers answer and to what none of them should.

use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const V2_URL: &str = "https://identity.api.rackspacecloud.com/v2.0/tokens";

fn key() -> Secret {
    Secret::new("k\"1".into())
}

fn api_key() -> Account {
    Account::ApiKey { user: "bob".into() }
}

fn v3_password() -> Account {
    Account::V3Password {
        user: Named::read("bob"),
        project: Named::read("metrics"),
        domain: Named::read_domain("default"),
    }
}

fn body(account: &Account) -> Value {
    serde_json::from_slice(&account.request(V2_URL, &key()).unwrap().body).unwrap()
}

/// At 2014-12-14T22:00:00Z.
fn classify(account: &Account, status: u16, subject_token: Option<&str>, body: &str) -> Verdict {
    let now = UNIX_EPOCH + Duration::from_secs(1_418_594_400);
    let subject_token = subject_token.map(str::as_bytes);
    account.classify(&Answer { status, subject_token, body: body.as_bytes(), now }, &key())
}

fn v2(expires: &str) -> String {
    json!({"access": {"token": {"id": "t0", "expires": expires, "tenant": {"id": "42", "name": "x"}}, "user": {}}})
        .to_string()
}

#[track_caller]
fn granted(verdict: Verdict) -> Grant {
    match verdict {
        Verdict::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_account_asks_as_its_contract_says() {
    assert_eq!(
        body(&api_key()),
        json!({"auth": {"RAX-KSKEY:apiKeyCredentials": {"username": "bob", "apiKey": "k\"1"}}})
    );
    assert_eq!(
        body(&Account::Password { user: "bob".into() }),
        json!({"auth": {"passwordCredentials": {"username": "bob", "password": "k\"1"}}})
    );
    assert_eq!(
        body(&v3_password()),
        json!({"auth": {
            "identity": {"methods": ["password"], "password": {
                "user": {"name": "bob", "domain": {"id": "default"}, "password": "k\"1"}}},
            "scope": {"project": {"name": "metrics", "domain": {"id": "default"}}}}})
    );
    let ids = Account::V3Password {
        user: Named::read("id:u"),
        project: Named::read("0123456789abcdef0123456789abcdef"),
        domain: Named::read_domain("name:default"),
    };
    assert_eq!(
        body(&ids),
        json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {"id": "u", "password": "k\"1"}}},
            "scope": {"project": {"id": "0123456789abcdef0123456789abcdef"}}}})
    );
    assert_eq!(
        body(&Account::V3ApplicationCredential { id: "c".into() }),
        json!({"auth": {"identity": {"methods": ["application_credential"],
            "application_credential": {"id": "c", "secret": "k\"1"}}}})
    );
}

#[test]
fn the_url_may_be_written_as_openstacks_clients_take_it() {
    let url = |account: &Account, url| account.request(url, &key()).unwrap().url;
    for written in
        ["https://k:5000", "https://k:5000/v3", "https://k:5000/v3/", "https://k:5000/v3/auth/tokens"]
    {
        assert_eq!(url(&v3_password(), written), "https://k:5000/v3/auth/tokens", "{written}");
    }
    assert_eq!(url(&v3_password(), "https://k/identity"), "https://k/identity/v3/auth/tokens");
    for written in [V2_URL, "https://identity.api.rackspacecloud.com/v2.0/"] {
        assert_eq!(url(&api_key(), written), V2_URL, "{written}");
    }
    assert_eq!(url(&api_key(), "http://stand-in/any"), "http://stand-in/any");
}

#[test]
fn version_2_grants_a_token_with_its_tenant_until_its_expiry() {
    for expires in [
        "2014-12-14T22:54:49.574Z",
        "2014-12-14T22:54:49.574000+00:00",
        "2014-12-14T17:54:49.574-05:00",
        "2014-12-15T00:54:49.574+02:00",
    ] {
        for status in [200, 201, 203] {
            let grant = granted(classify(&api_key(), status, None, &v2(expires)));
            assert_eq!(grant.token.reveal(), "t0");
            assert_eq!(grant.tenant_id.as_deref(), Some("42"));
            assert_eq!(grant.life, Duration::from_millis(3_288_574), "{expires}");
        }
    }
}

#[test]
fn version_3_grants_a_token_for_as_long_as_keystones_own_clock_says() {
    // Ten years from our clock, a minute by Keystone's.
    let body = r#"{"token":{"issued_at":"2026-11-24T20:00:00.000000Z","expires_at":"2026-11-24T20:01:00.000000Z","project":{"id":"p"}}}"#;
    for account in [v3_password(), Account::V3ApplicationCredential { id: "c".into() }] {
        let grant = granted(classify(&account, 201, Some("gAAAA-_="), body));
        let expected =
            Grant { token: Secret::new("gAAAA-_=".into()), tenant_id: None, life: Duration::from_secs(59) };
        assert_eq!(grant, expected);
    }
    let body = r#"{"token":{"expires_at":"2014-12-14T22:00:30Z"}}"#;
    let grant = granted(classify(&v3_password(), 201, Some("t"), body));
    assert_eq!(grant.life, Duration::from_secs(29), "from our clock, if there is no other");
}

#[test]
fn an_expiry_is_believed_within_bounds() {
    let assumed = LIFE_ASSUMED - LIFE_CUT;
    for (expires, life) in [
        ("2014-12-14T21:59:59Z", assumed),
        ("1970-01-01T00:00:00Z", assumed),
        ("2014-12-14T22:00:00Z", assumed),
        ("soon", assumed),
        ("", assumed),
        ("2014-12-14T22:00:00.001Z", LIFE_MIN),
        ("9999-12-31T23:59:59Z", LIFE_MAX),
    ] {
        assert_eq!(granted(classify(&api_key(), 200, None, &v2(expires))).life, life, "{expires}");
    }
    for body in ["", "null", "{}", "[]", r#"{"token":{"expires_at":7,"issued_at":{}}}"#] {
        assert_eq!(granted(classify(&v3_password(), 201, Some("t"), body)).life, assumed, "{body}");
    }
}

#[test]
fn what_is_no_token_is_a_failure() {
    let bodies = ["", "<html>", "{}", "null", r#"{"access":{}}"#, r#"{"access":{"token":{"id":7}}}"#];
    for body in bodies {
        assert_eq!(
            classify(&api_key(), 200, None, body),
            Verdict::Failed("HTTP 200, but no token is in its body".into()),
            "{body}"
        );
    }
    assert!(matches!(classify(&v3_password(), 201, None, "{}"), Verdict::Failed(_)));
    let long = "t".repeat(TOKEN_BYTES_MAX + 1);
    for token in ["", "a b", "a\r\nX-Evil: 1", "ü", &long] {
        let expected =
            |status| Verdict::Failed(format!("HTTP {status}, but its token cannot stand in a header"));
        assert_eq!(classify(&v3_password(), 201, Some(token), "{}"), expected(201), "{token}");
        let body = json!({"access": {"token": {"id": token}}}).to_string();
        assert_eq!(classify(&api_key(), 200, None, &body), expected(200), "{token}");
    }
}

#[test]
fn a_tenant_that_cannot_stand_in_a_header_is_left_out() {
    for (tenant, expected) in [
        (json!({"id": "a"}), Some("a")),
        (json!({"id": 42}), Some("42")),
        (json!({"id": "a\nb"}), None),
        (json!({"id": ""}), None),
        (json!(null), None),
    ] {
        let body = json!({"access": {"token": {"id": "t", "tenant": tenant}}}).to_string();
        assert_eq!(granted(classify(&api_key(), 200, None, &body)).tenant_id.as_deref(), expected);
    }
}

#[test]
fn refusals_are_told_from_failures_and_keystones_words_are_passed_on_without_the_key() {
    let v3 = r#"{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}"#;
    assert_eq!(
        classify(&v3_password(), 401, None, v3),
        Verdict::Refused("HTTP 401: The request you have made requires authentication.".into())
    );
    let v2 = json!({"unauthorized": {"code": 401, "message": "bad\nkey k\"1 of bob"}}).to_string();
    assert_eq!(
        classify(&api_key(), 401, None, &v2),
        Verdict::Refused("HTTP 401: bad key ******** of bob".into())
    );
    assert_eq!(classify(&api_key(), 403, None, "k\"1"), Verdict::Refused("HTTP 403".into()));
    for status in [100, 202, 204, 400, 413, 429, 500, 502, 503] {
        assert_eq!(classify(&api_key(), status, None, ""), Verdict::Failed(format!("HTTP {status}")));
    }
    for status in [302, 404, 405] {
        let expected = Verdict::Failed(format!("HTTP {status} (is auth_url right?)"));
        assert_eq!(classify(&api_key(), status, None, ""), expected);
    }
    let long = json!({"error": {"message": "m".repeat(10_000)}}).to_string();
    assert!(matches!(classify(&api_key(), 500, None, &long), Verdict::Failed(text) if text.len() < 300));
}

proptest! {
    #[test]
    fn no_answer_brings_it_down(
        status in 100..600_u16,
        token in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        body in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let now = UNIX_EPOCH;
        let answer = Answer { status, subject_token: token.as_deref(), body: &body, now };
        for account in [api_key(), v3_password()] {
            if let Verdict::Granted(grant) = account.classify(&answer, &key()) {
                prop_assert!(is_header_text(grant.token.reveal(), TOKEN_BYTES_MAX));
                prop_assert!((LIFE_MIN..=LIFE_MAX).contains(&grant.life));
            }
        }
    }

    #[test]
    fn no_time_brings_it_down(text in "[0-9]{1,5}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,12})?(Z|[+-][0-9]{2}:[0-9]{2})?") {
        let life = granted(classify(&api_key(), 200, None, &v2(&text))).life;
        prop_assert!((LIFE_MIN..=LIFE_MAX).contains(&life));
    }
}
