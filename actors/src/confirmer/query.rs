//! Owns requests to Blueflood's query service: one look as its queries, one after the other. It never sends a metric.

use std::{sync::Arc, time::Duration};

use awc::{Client, error::PayloadError, http::header::CONTENT_TYPE};
use rustls::ClientConfig;

use crate::{
    core::{
        blueflood::described,
        look::{self, Row},
    },
    forwarder::{
        Auth,
        post::{self, Target},
        token,
    },
    http_client::told_url,
    keystone_auth::{Token, authorize},
    tls,
};

/// How long one query may take: Blueflood's own waits for its store take 10 s.
pub const LOOK_MAX: Duration = Duration::from_secs(20);

/// How long it may take to say that it is there.
const THERE_MAX: Duration = Duration::from_secs(2);

/// The most of an answer that is read. A look at a larger one is divided.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Why a query has no answer that tells anything.
struct Refused {
    words: String,
    /// Whether a look at fewer rows may have one.
    may_be_too_much: bool,
}

impl Refused {
    fn of(words: String) -> Self {
        Self { words, may_be_too_much: false }
    }
}

/// A query service.
pub struct Query {
    client: Client,
    base: String,
    auth: Option<Auth>,
    /// The token, where there is one and no other.
    token: Option<Arc<Token>>,
}

impl Query {
    /// The one at this URL.
    pub fn new(base: &str, tls: Arc<ClientConfig>, auth: Option<Auth>) -> Self {
        let (base, tenant) = (base.to_owned(), String::new());
        let target = Target { tls, base: base.clone(), tenant, timeout: LOOK_MAX, concurrency: 4 };
        Self { client: post::client(&target), base, auth, token: None }
    }

    /// With this token, and no other.
    pub fn with_token(self, token: Option<Arc<Token>>) -> Self {
        Self { token, ..self }
    }

    /// Whether something answers there as Blueflood's query service does. It costs nothing there.
    pub async fn is_there(&self, tenant: &str) -> bool {
        let url = post::tenant_url(&self.base, tenant, "views/blueflood-forward");
        let asked = async {
            let mut response = self.client.get(told_url(&url)).send().await.ok()?;
            let status = response.status().as_u16();
            let body = response.body().limit(64 << 10).await.ok()?;
            Some(look::is_query_side(status, &body))
        };
        matches!(tokio::time::timeout(THERE_MAX, asked).await, Ok(Some(true)))
    }

    /// Looks for some rows of a tenant, by their numbers: those that are not there.
    ///
    /// # Errors
    /// Why nobody can tell, in words for an operator.
    pub async fn look(
        &self,
        tenant: &str,
        rows: &[Row<'_>],
        wanted: &[u32],
        patience: Duration,
    ) -> Result<Vec<u32>, String> {
        let mut absent = Vec::new();
        let views = post::tenant_url(&self.base, tenant, "views");
        let mut queries = look::queries(rows, wanted);
        while let Some(query) = queries.pop() {
            let url = format!("{views}?from={}&to={}&resolution=FULL", query.from, query.to);
            let asked = self.ask(&url, query.body.clone());
            let late = || format!("Blueflood's query service did not answer within {} s", patience.as_secs());
            let answer = match tokio::time::timeout(patience, asked).await.map_err(|_| late())? {
                Ok(answer) => answer,
                // Too many datapoints lie between its rows, for us or for who answers.
                Err(Refused { may_be_too_much: true, .. }) if query.wanted.len() > 1 => {
                    let (left, right) = query.wanted.split_at(query.wanted.len() / 2);
                    queries.extend([left, right].into_iter().flat_map(|half| look::queries(rows, half)));
                    continue;
                }
                Err(refused) => return Err(refused.words),
            };
            let missing = look::absent(rows, &query, &answer, tenant);
            absent.extend(missing.ok_or("Blueflood's query service answered what is no answer to a query")?);
        }
        Ok(absent)
    }

    async fn ask(&self, url: &str, body: Vec<u8>) -> Result<Vec<u8>, Refused> {
        let mut refused = None;
        loop {
            let token = match &self.token {
                Some(token) => Some(token.clone()),
                None => {
                    token(self.auth.clone(), refused).await.map_err(|missing| Refused::of(missing.cause))?
                }
            };
            let (status, answer) = self.post(url, body.clone(), token.as_deref()).await?;
            match (status, token) {
                (200, _) => return Ok(answer),
                (401, Some(token)) if refused.is_none() => refused = Some(token.generation),
                _ => {
                    let words = format!("Blueflood's query service answers {}", described(status, &answer));
                    return Err(Refused { words, may_be_too_much: matches!(status, 400 | 413) });
                }
            }
        }
    }

    async fn post(&self, url: &str, body: Vec<u8>, token: Option<&Token>) -> Result<(u16, Vec<u8>), Refused> {
        let mut request = self.client.post(told_url(url)).insert_header((CONTENT_TYPE, "application/json"));
        if let Some(token) = token {
            request = authorize(request, token);
        }
        let sent = request.send_body(body).await;
        let mut response = sent.map_err(|error| {
            Refused::of(format!("Blueflood's query service is not reached: {}", tls::explain(&error)))
        })?;
        let status = response.status().as_u16();
        let cut = |error| Refused {
            words: format!("half an answer of Blueflood's query service: {error}"),
            may_be_too_much: matches!(error, PayloadError::Overflow),
        };
        let body = response.body().limit(ANSWER_BYTES_MAX).await.map_err(cut)?;
        Ok((status, body.to_vec()))
    }
}
