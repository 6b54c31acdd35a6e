//! Owns one POST: from a body to a verdict, whatever happens on the way. It never retries but once, when a
//! connection that was kept alive turns out to be dead.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix_web::error::ParseError;
use awc::{
    Client, ClientResponse,
    error::{ConnectError, PayloadError, SendRequestError},
    http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, USER_AGENT},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;

use crate::{
    core::{
        answer_head::Faulty,
        blueflood::{Answer, Asked, Verdict, classify},
        chunk::Encoding,
    },
    http_client::{self, Used, Way, told_url},
    keystone_auth::{Token, authorize},
    tls,
};

/// Whom to POST to, and how.
#[derive(Clone)]
pub struct Target {
    /// Whom to trust there, if it is `https`.
    pub tls: Arc<ClientConfig>,
    /// Where Blueflood is.
    pub base: String,
    /// Whose rows come in now.
    pub tenant: String,
    /// How long the whole answer may take.
    pub timeout: Duration,
    /// The most POSTs at once.
    pub concurrency: u32,
}

impl Target {
    /// The whole URL that rows of a tenant are POSTed to; without one, those of the settings' tenant.
    pub fn ingest_url(&self, tenant: &str) -> String {
        let tenant = if tenant.is_empty() { &self.tenant } else { tenant };
        ingest_url(&self.base, tenant)
    }

    /// Whether connections to `other` are as good as those to this one.
    pub fn is_same(&self, other: &Self) -> bool {
        let trust = Arc::ptr_eq(&self.tls, &other.tls) || !other.base.starts_with("https:");
        trust && self.base == other.base && self.concurrency == other.concurrency
    }
}

/// What a path segment may hold as it is.
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where rows of a tenant are POSTed to.
pub fn ingest_url(base: &str, tenant: &str) -> String {
    tenant_url(base, tenant, "ingest")
}

/// The URL of something of a tenant.
pub fn tenant_url(base: &str, tenant: &str, what: &str) -> String {
    let base = base.trim_end_matches('/');
    format!("{base}/v2.0/{}/{what}", utf8_percent_encode(tenant, &UNRESERVED))
}

/// How long an idle connection is kept: below what proxies usually allow (60 s), for a connection that is closed
/// as we write to it looks like a failure.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long any connection is used, so that a changed address in the DNS is noticed.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(300);

/// The most of an answer that is read: a 207 that names 2,000 rows with names of 1 KB is about half of it.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The client, with every option written out: awc's defaults lose or hang (`actors/TRAPS.md`, "awc follows redirects" and
/// "awc's time-out ends at the head").
pub fn client(target: &Target) -> Client {
    let connector = http_client::connector(&target.base, target.tls.clone())
        .conn_keep_alive(KEEP_ALIVE)
        .conn_lifetime(CONNECTION_LIFETIME)
        // Above our own bound, for a request that waits for a connection would time out unsent.
        .limit(usize::try_from(target.concurrency).unwrap_or(usize::MAX).saturating_add(16));
    Client::builder()
        .connector(connector)
        // Its time-out ends at the head of the answer: ours is around the whole of it.
        .disable_timeout()
        // A POST that is redirected would become a GET, and its 200 a success.
        .disable_redirects()
        .no_default_headers()
        .add_default_header((USER_AGENT, concat!("blueflood-forward/", env!("CARGO_PKG_VERSION"))))
        .add_default_header((CONTENT_TYPE, "application/json"))
        .finish()
}

/// POSTs a body of rows of a tenant, with a token if there is to be one.
pub async fn post(
    client: &Client,
    target: &Target,
    tenant: &str,
    token: Option<&Token>,
    encoding: Encoding,
    body: Bytes,
) -> Verdict {
    let used = Used::default();
    let url = told_url(&target.ingest_url(tenant));
    let whole = async {
        let send = || used.within(attempt(client, &url, token, encoding, body.clone()));
        match send().await {
            // A connection that was kept alive had died: that says nothing of Blueflood.
            Err(error) if is_lost(&error, &used) => {
                // The others may have died with it.
                used.distrust_idle();
                send().await
            }
            other => other,
        }
        .unwrap_or_else(|error| failure(&error, &used))
    };
    match tokio::time::timeout(target.timeout, whole).await {
        Ok(verdict) => verdict,
        Err(_) => {
            let what = match used.way() {
                Way::Connecting => "connection",
                Way::Fresh => "whole answer",
                Way::Reused => {
                    used.distrust_idle();
                    "whole answer, on a connection that served before,"
                }
            };
            let cause = format!("no {what} within {} s", target.timeout.as_secs_f64());
            Verdict::NoAnswer { cause, may_be_size: used.way() == Way::Fresh }
        }
    }
}

/// Whether a request was lost with its connection, so that another one may do better.
fn is_lost(error: &SendRequestError, used: &Used) -> bool {
    use std::io::ErrorKind as Kind;
    match error {
        SendRequestError::Connect(ConnectError::Disconnected) => true,
        SendRequestError::Send(io) | SendRequestError::Response(ParseError::Io(io)) => {
            let has_broken = matches!(
                io.kind(),
                Kind::ConnectionReset
                    | Kind::ConnectionAborted
                    | Kind::BrokenPipe
                    | Kind::NotConnected
                    // The end of an encrypted connection without a word.
                    | Kind::UnexpectedEof
            );
            used.is_stale() && has_broken
        }
        _ => false,
    }
}

/// GETs a URL, as a probe that changes nothing: the status.
///
/// # Errors
/// Why there was no answer, in words for an operator.
pub async fn reach(client: &Client, url: &str, patience: Duration) -> Result<u16, String> {
    match tokio::time::timeout(patience, client.get(told_url(url)).send()).await {
        Ok(Ok(response)) => Ok(response.status().as_u16()),
        Ok(Err(error)) => Err(tls::explain(&error)),
        Err(_) => Err(format!("no answer within {} s", patience.as_secs_f64())),
    }
}

async fn attempt(
    client: &Client,
    url: &str,
    token: Option<&Token>,
    encoding: Encoding,
    body: Bytes,
) -> Result<Verdict, SendRequestError> {
    let mut request = client.post(url);
    if encoding == Encoding::Deflate {
        request = request.insert_header((CONTENT_ENCODING, "gzip"));
    }
    if let Some(token) = token {
        request = authorize(request, token);
    }
    let mut response = request.send_body(body).await?;
    let status = response.status().as_u16();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let retry_after = header(RETRY_AFTER);
    let location = header(LOCATION);
    let asked = Asked { status, location: location.as_deref(), url, had_token: token.is_some() };
    let length = header(CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    let answer = Answer { status, retry_after: retry_after.as_deref(), body: b"", now: SystemTime::now() };
    let early = classify(&answer);
    if matches!(early, Verdict::Stored | Verdict::Unconfirmed) {
        // The head says it all, but for a page that somebody else shows there. The rest is read only so that the
        // connection can be used again, and not for long.
        let mut body = BytesMut::new();
        let _ = tokio::time::timeout(Duration::from_secs(1), read(&mut response, &mut body)).await;
        return Ok(classify(&Answer { body: &body, ..answer }));
    }
    let mut body = BytesMut::new();
    match read(&mut response, &mut body).await {
        // awc takes a body that was cut for a whole one.
        Ok(()) if length.is_none_or(|length| length == body.len()) => {
            Ok(asked.told(classify(&Answer { body: &body, ..answer })))
        }
        Ok(()) => Ok(cut(status, &format!("its body ended after {} bytes", body.len()))),
        Err(error) => Ok(cut(status, &error)),
    }
}

fn cut(status: u16, how: &str) -> Verdict {
    Verdict::NoAnswer { cause: format!("half an answer, HTTP {status}: {how}"), may_be_size: false }
}

/// Reads the body of an answer, within bounds.
async fn read<S>(response: &mut ClientResponse<S>, body: &mut BytesMut) -> Result<(), String>
where
    S: futures_util::Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    while let Some(piece) = response.next().await {
        let piece = piece.map_err(|error| error.to_string())?;
        if body.len().saturating_add(piece.len()) > ANSWER_BYTES_MAX {
            return Err(format!("its body is longer than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    Ok(())
}

/// What it means that no head of an answer came.
fn failure(error: &SendRequestError, used: &Used) -> Verdict {
    use std::io::ErrorKind;
    // What died of age does not tell of size.
    let may_be_size = |io: &std::io::Error| {
        let broke = matches!(io.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
        broke && used.way() == Way::Fresh
    };
    match error {
        SendRequestError::Timeout => {
            Verdict::NoAnswer { cause: error.to_string(), may_be_size: used.way() == Way::Fresh }
        }
        SendRequestError::Connect(ConnectError::Disconnected) => Verdict::NoAnswer {
            cause: "the connection was closed without an answer".into(),
            may_be_size: false,
        },
        SendRequestError::Connect(_) => Verdict::Unreachable { cause: tls::explain(error) },
        SendRequestError::Send(io) => Verdict::NoAnswer {
            cause: format!("the connection broke while sending: {}", tls::explain(error)),
            may_be_size: may_be_size(io),
        },
        SendRequestError::Response(ParseError::Io(io)) => match http_client::faulty_head(io) {
            // Whoever answered went away in the middle of the head: that says nothing of our settings.
            Some(Faulty::Cut) => Verdict::NoAnswer { cause: Faulty::Cut.to_string(), may_be_size: false },
            Some(_) => Verdict::Unexpected(tls::explain(error)),
            None => Verdict::NoAnswer {
                cause: format!("the connection broke before the answer: {}", tls::explain(error)),
                may_be_size: may_be_size(io),
            },
        },
        SendRequestError::Response(error) => Verdict::Unexpected(format!("no HTTP answer: {error}")),
        // A URL that no request can be made for.
        SendRequestError::Url(_) | SendRequestError::Http(_) => Verdict::Misconfigured(error.to_string()),
        other => Verdict::Unreachable { cause: other.to_string() },
    }
}
