//! Identity v3, by a real Keystone whose tokens live 12 s.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use actors::core::keystone::{Account, Named};
use actors::keystone_auth::{KeySource, State};

use super::real::{Keystone, PASSWORD};
use super::{Auth, key, until};

/// Longer than any token lives.
const OVER: Duration = Duration::from_secs(13);

fn admin() -> Account {
    Account::V3Password {
        user: Named::read("admin"),
        project: Named::read("admin"),
        domain: Named::read_domain("default"),
    }
}

/// Whoever asks, at any time, gets a token that Keystone knows, for several lives of one.
///
/// On a busy machine Keystone may take longer to answer than the token had left. Such an answer proves nothing, so it goes on
/// until four lives are proven good.
async fn holds_a_good_token_for_three_lives(auth: &Auth, keystone: &Keystone) {
    let first = auth.gets_a_token().await;
    let mut known = BTreeSet::new();
    until("fourth good token", async || {
        let token = auth.asks().await.expect("a renewal never leaves anyone without a token");
        let (asked, left) = (Instant::now(), auth.status().expires_in().expect("a token"));
        let answer = keystone.knows(token.secret.reveal()).await;
        if asked.elapsed() < left {
            assert_eq!(answer, Ok(()), "{left:?} before its end");
            known.insert(token.generation);
        }
        (known.len() >= 4).then_some(())
    })
    .await;
    let status = auth.status();
    assert_eq!((status.state, status.failures), (State::Valid, 0));
    assert!(known.last().is_some_and(|&last| last <= status.renewals), "{known:?} {status:?}");
    assert!(status.expires_in().is_some_and(|left| left > Duration::ZERO && left < OVER));
    assert_eq!(auth.said("Keystone gave a token"), 1, "a renewal is nothing to speak of");
    assert!(first.tenant_id.is_none());
    auth.never_said(first.secret.reveal());
}

#[actix_rt::test]
async fn a_password_gets_tokens_life_after_life_and_so_does_an_application_credential() {
    let Some(keystone) = Keystone::start().await else { return };
    let (id, secret) = keystone.gives_an_application_credential().await;
    let by_password = Auth::starts(admin(), key(PASSWORD), &keystone.url);
    let by_credential = Auth::starts(
        Account::V3ApplicationCredential { id },
        key(&secret),
        keystone.url.trim_end_matches("/v3"),
    );
    tokio::join!(
        holds_a_good_token_for_three_lives(&by_password, &keystone),
        holds_a_good_token_for_three_lives(&by_credential, &keystone),
    );
    by_password.never_said(PASSWORD);
    by_credential.never_said(&secret);
}

#[actix_rt::test]
async fn keystone_may_stop_and_a_key_may_be_wrong_and_both_mend_by_themselves() {
    let Some(mut keystone) = Keystone::start().await else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let key_file = directory.path().join("key");
    fs::write(&key_file, "not-the-pass").expect("a file");
    let auth = Auth::starts(admin(), KeySource::File(key_file.clone()), &keystone.url);

    auth.is(State::Refused).await;
    let refused = auth.asks().await.expect_err("the key is wrong");
    assert!(refused.refused && refused.cause.starts_with("HTTP 401"), "{refused:?}");
    assert_eq!(auth.said("correct user, key or key_file, auth_type or auth_url"), 1);
    fs::write(&key_file, format!("{PASSWORD}\n")).expect("a file");
    let first = auth.gets_a_token().await;
    assert_eq!(keystone.knows(first.secret.reveal()).await, Ok(()));
    assert_eq!(auth.said("Keystone gave a token"), 1);

    keystone.stops();
    auth.is(State::Failed).await;
    let failed = auth.asks().await.expect_err("the token is over, and Keystone away");
    assert!(!failed.refused && failed.cause.contains("refused"), "{failed:?}");
    keystone.starts_again().await;
    let second = auth.gets_a_token().await;
    assert_eq!(keystone.knows(second.secret.reveal()).await, Ok(()));
    assert!(second.generation > first.generation);
    assert_eq!(auth.said("Keystone gives no token"), 1, "once, however often it failed");
    assert!(auth.status().failures >= 2, "{:?}", auth.status());

    let third = auth.is_refused(second.generation).await.expect("a newer one");
    assert_eq!(third.generation, second.generation + 1);
    auth.never_said(PASSWORD);
    auth.never_said("not-the-pass");
}
