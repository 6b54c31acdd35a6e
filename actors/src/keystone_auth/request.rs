//! Owns the request to Keystone over awc, and what a token adds to a request to Blueflood. What is asked and what an
//! answer means is [`crate::core::keystone`]'s.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use awc::{
    Client, ClientRequest,
    http::header::{self, HeaderName, HeaderValue},
};
use bytes::Bytes;
use rustls::ClientConfig;
use zeroize::Zeroizing;

use super::key::KeySource;
use crate::{
    core::{
        keystone::{Account, Answer, CONTENT_TYPE, SUBJECT_TOKEN, Verdict, renewal::Token},
        secret::Secret,
    },
    http_client, tls,
};

/// How long Keystone may take for its whole answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The most that is read of an answer, in bytes: a catalogue of services can be hundreds of KiB.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Puts a token into a request to Blueflood, as the original does.
pub fn authorize(request: ClientRequest, token: &Token) -> ClientRequest {
    let request = match header_value(token.secret.reveal()) {
        Some(value) => request.insert_header((HeaderName::from_static("x-auth-token"), value)),
        None => request,
    };
    match token.tenant_id.as_deref().and_then(header_value) {
        Some(value) => request.insert_header((HeaderName::from_static("x-tenant-id"), value)),
        None => request,
    }
}

/// A header's value that no log shows, and that is overwritten when it is dropped.
fn header_value(text: &str) -> Option<HeaderValue> {
    let bytes = Bytes::from_owner(Zeroizing::new(text.as_bytes().to_vec()));
    // Always a value: the contract takes no token that can't be one.
    let mut value = HeaderValue::from_maybe_shared(bytes).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// awc with every option written out: its defaults lose or hang (`actors/TRAPS.md`, "awc follows redirects" and "awc's
/// time-out ends at the head").
pub(super) fn client(auth_url: &str, tls: Arc<ClientConfig>) -> Client {
    let connector = http_client::connector(auth_url, tls)
        // One request an hour: a connection kept until the next would only be found dead.
        .conn_keep_alive(Duration::ZERO)
        // More than the one attempt, so that nothing ever waits for a connection to be given back.
        .limit(4);
    Client::builder()
        .connector(connector)
        // A POST that is redirected would become a GET, and its answer look like a success.
        .disable_redirects()
        // It ends with the head of the answer; `attempt` bounds the whole.
        .timeout(ANSWER_MAX)
        .no_default_headers()
        .add_default_header((header::USER_AGENT, concat!("blueflood-forward/", env!("CARGO_PKG_VERSION"))))
        .finish()
}

/// One attempt: the key that was tried, and what came of it. It ends in a bounded time.
pub(super) async fn attempt(
    client: Client,
    account: Account,
    auth_url: String,
    key: KeySource,
) -> (Option<Secret>, Verdict) {
    let key = match key.read_aside().await {
        Ok(key) => key,
        Err(why) => return (None, Verdict::Failed(why)),
    };
    let asked = ask(&client, &account, &auth_url, &key);
    let verdict = match actix_rt::time::timeout(ANSWER_MAX, asked).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(why)) => Verdict::Failed(why),
        Err(_) => Verdict::Failed(format!("no answer within {} s", ANSWER_MAX.as_secs())),
    };
    (Some(key), verdict)
}

async fn ask(client: &Client, account: &Account, auth_url: &str, key: &Secret) -> Result<Verdict, String> {
    let request = account.request(auth_url, key)?;
    let sending = client
        .post(http_client::told_url(&request.url))
        .insert_header((header::CONTENT_TYPE, CONTENT_TYPE))
        .insert_header((header::ACCEPT, CONTENT_TYPE))
        .send_body(Bytes::from_owner(request.body));
    let mut response = sending.await.map_err(|error| tls::explain(&error))?;
    // An answer that is too long or breaks off is judged by its status: a refusal stays one.
    let body = response.body().limit(BODY_BYTES_MAX).await.unwrap_or_default();
    let subject_token = response.headers().get(SUBJECT_TOKEN).map(HeaderValue::as_bytes);
    let answer =
        Answer { status: response.status().as_u16(), subject_token, body: &body, now: SystemTime::now() };
    Ok(account.classify(&answer, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_the_token_and_its_tenant_and_shows_neither() {
        let tls = tls::Outgoing::new(&tls::Options::default()).unwrap().config;
        let token = |tenant_id: Option<&str>| Token {
            secret: Secret::new("t0ken".into()),
            tenant_id: tenant_id.map(str::to_owned),
            generation: 1,
        };
        let has = |request: &ClientRequest, name: &str, value: &str| {
            request.headers().get(name).is_some_and(|header| header.as_bytes() == value.as_bytes())
        };
        actix_rt::System::new().block_on(async {
            let client = client("http://localhost/", tls);
            let request = authorize(client.post("http://localhost/"), &token(Some("42")));
            assert!(has(&request, "x-auth-token", "t0ken"));
            assert!(has(&request, "x-tenant-id", "42"));
            assert!(!format!("{request:?}").contains("t0ken"), "{request:?}");
            let request = authorize(client.post("http://localhost/"), &token(None));
            assert!(!request.headers().contains_key("x-tenant-id"));
        });
    }
}
