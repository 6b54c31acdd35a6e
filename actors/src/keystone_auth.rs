//! Owns the credentials and the token: asks Keystone for one, keeps it fresh, and hands it to whoever sends.
//! It never decides when to ask ([`Renewal`] does), never asks twice at once, and never shows a secret.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture, SpawnHandle, WrapFuture,
};
use awc::{
    Client, ClientRequest,
    http::header::{self, HeaderName, HeaderValue},
};
use bytes::Bytes;
use rustls::ClientConfig;
use slog::{Logger, error, info, warn};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

pub use crate::core::keystone::renewal::{NoToken, Token};
use crate::{
    core::{
        keystone::{
            Account, Answer, CONTENT_TYPE, SUBJECT_TOKEN, Verdict,
            renewal::{Action, Event, Now, Renewal},
        },
        secret::Secret,
    },
    http_client,
    supervisor::{Lifeline, supervised},
    tls,
};

/// How long Keystone may take for its whole answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The most that is read of an answer: a catalogue of services can be hundreds of KiB.
const BODY_BYTES_MAX: usize = 4 << 20;

/// How often a key's file is looked at while what was in it came to nothing.
const KEY_FILE_EVERY: Duration = Duration::from_secs(1);

/// The most that a key's file may hold.
const KEY_BYTES_MAX: u64 = 64 << 10;

/// Where the key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A setting.
    Fixed(Secret),
    /// A file, read anew for every attempt, so that a changed one is picked up by itself.
    File(PathBuf),
}

impl KeySource {
    /// The key as it is now.
    ///
    /// # Errors
    /// What is wrong with the file, by the name of its setting.
    pub fn read(&self) -> Result<Secret, String> {
        match self {
            Self::Fixed(key) => Ok(key.clone()),
            Self::File(path) => read_key(path).map_err(|why| format!("key_file {} {why}", path.display())),
        }
    }

    /// Reads it where a slow disk holds up nobody.
    async fn read_aside(self) -> Result<Secret, String> {
        let read = actix_rt::task::spawn_blocking(move || self.read()).await;
        read.unwrap_or_else(|_| Err("key_file can't be read now".to_owned()))
    }
}

fn read_key(path: &Path) -> Result<Secret, String> {
    use std::io::Read;
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(|error| format!("can't be read: {error}"))?;
    file.take(KEY_BYTES_MAX.saturating_add(1))
        .read_to_string(&mut text)
        .map_err(|error| format!("can't be read: {error}"))?;
    // Some editors put a byte order mark before the text.
    match text.trim_start_matches('\u{feff}').trim() {
        _ if text.len() as u64 > KEY_BYTES_MAX => Err("is too large to hold nothing but a key".to_owned()),
        "" => Err("is empty: write the key into it".to_owned()),
        key => Ok(Secret::new(key.to_owned())),
    }
}

/// What the actor is told at its start, and again at every new one.
#[derive(Clone)]
pub struct Options {
    /// Who asks.
    pub account: Account,
    /// With which key.
    pub key: KeySource,
    /// Where.
    pub auth_url: String,
    /// Whom to trust there.
    pub tls: Arc<ClientConfig>,
    /// What is known of it from outside, kept over its incarnations.
    pub status: SharedStatus,
    /// Where it says what an operator should hear.
    pub log: Logger,
}

impl Options {
    /// Whether a token that came by `other` is as good as one that comes by these.
    pub fn is_same(&self, other: &Self) -> bool {
        let trust = Arc::ptr_eq(&self.tls, &other.tls) || !other.auth_url.starts_with("https:");
        trust && self.account == other.account && self.key == other.key && self.auth_url == other.auth_url
    }
}

/// What the actor looks like from outside, for whoever shows it.
pub type SharedStatus = Arc<Mutex<Status>>;

/// What the actor looks like from outside. Never the token.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// How it stands.
    pub state: State,
    /// When the token ends.
    pub expires: Option<Instant>,
    /// Tokens that Keystone gave.
    pub renewals: u64,
    /// Attempts that came to no token, refusals among them.
    pub failures: u64,
    /// Why the last attempt came to no token; nothing after one that did.
    pub last_error: Option<String>,
}

impl Status {
    /// How long the token can still be used.
    pub fn expires_in(&self) -> Option<Duration> {
        Some(self.expires?.saturating_duration_since(Instant::now()))
    }
}

/// How the actor stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// There is no token, and none was asked for.
    #[default]
    None,
    /// There is no token, and one is asked for.
    Renewing,
    /// There is a token, and as far as is known it will be renewed.
    Valid,
    /// Keystone refuses the credentials, even if the last token still serves.
    Refused,
    /// There is no token, for Keystone fails.
    Failed,
}

impl State {
    /// As `/stats` shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Renewing => "renewing",
            Self::Valid => "valid",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Asks for a token. The reply comes as soon as there is one, or the attempt under way failed: then whoever asked
/// waits as long as it says, and asks again.
#[derive(Message)]
#[rtype(result = "Result<Arc<Token>, NoToken>")]
pub struct GetToken;

/// Blueflood refused the token of this generation. The reply is a newer one, or why there is none.
#[derive(Message)]
#[rtype(result = "Result<Arc<Token>, NoToken>")]
pub struct Rejected {
    /// The token's.
    pub generation: u64,
}

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

/// The actor.
pub struct KeystoneAuth {
    options: Options,
    /// One per incarnation: awc's client belongs to a thread.
    client: Client,
    renewal: Renewal,
    /// From which the brain's time is counted.
    started: Instant,
    waiting: Vec<oneshot::Sender<Result<Arc<Token>, NoToken>>>,
    timer: Option<SpawnHandle>,
    /// The key of the last attempt.
    tried: Option<Secret>,
    /// Attempts that failed since a token was given.
    failures: u64,
    said: Said,
    /// Whether the key's file is being read.
    looking: bool,
    _line: Lifeline,
}

/// What was last said of Keystone, so that it is not said again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Granted,
    Failed,
    Refused,
}

impl KeystoneAuth {
    /// Made on the arbiter that it runs on.
    pub fn new(options: Options, line: Lifeline) -> Self {
        let client = client(&options.auth_url, options.tls.clone());
        let renewals = lock(&options.status).renewals;
        Self {
            options,
            client,
            renewal: Renewal::new(renewals),
            started: Instant::now(),
            waiting: Vec::new(),
            timer: None,
            tried: None,
            failures: 0,
            said: Said::Nothing,
            looking: false,
            _line: line,
        }
    }

    fn now(&self) -> Now {
        self.started.elapsed()
    }

    /// Tells the brain, and does what follows.
    fn apply(&mut self, event: Event, ctx: &mut Context<Self>) {
        for action in self.renewal.apply(event, self.now(), fastrand::f64()) {
            match action {
                Action::Attempt => self.attempt(ctx),
                // Who has gone meanwhile needs no answer.
                Action::Answer(answer) => {
                    self.waiting.drain(..).for_each(|asked| drop(asked.send(answer.clone())));
                }
            }
        }
        self.show();
        self.set_timer(ctx);
    }

    fn attempt(&self, ctx: &mut Context<Self>) {
        let attempt = attempt(self.client.clone(), self.options.clone()).into_actor(self);
        ctx.spawn(attempt.map(|(key, verdict), actor, ctx| {
            actor.tried = key;
            actor.heard(&verdict);
            actor.apply(Event::Ended(verdict), ctx);
        }));
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        let now = self.now();
        let Some(due) = self.renewal.next(now) else { return };
        // The end of a token that can't be renewed yet is to be seen when it comes.
        let due = self.renewal.expires(now).map_or(due, |expires| due.min(expires));
        let wait = due.saturating_sub(now);
        self.timer = Some(ctx.run_later(wait, |actor, ctx| actor.apply(Event::Tick, ctx)));
    }

    /// Tries at once when the key that came to nothing is no longer what its file holds.
    fn look_at_key_file(&mut self, ctx: &mut Context<Self>) {
        if self.failures == 0 || self.looking || self.renewal.is_attempting() {
            return;
        }
        self.looking = true;
        let read = self.options.key.clone().read_aside().into_actor(self);
        ctx.spawn(read.map(|key, actor, ctx| {
            actor.looking = false;
            if key.is_ok_and(|key| actor.tried.as_ref() != Some(&key)) {
                actor.apply(Event::CredentialsChanged, ctx);
            }
        }));
    }

    /// Counts how an attempt ended, and says so unless it was said already.
    fn heard(&mut self, verdict: &Verdict) {
        let (log, auth_url) = (&self.options.log, self.options.auth_url.as_str());
        let mut status = lock(&self.options.status);
        let (says, cause) = match verdict {
            Verdict::Granted(grant) => {
                status.renewals = status.renewals.saturating_add(1);
                status.last_error = None;
                if self.said != Said::Granted {
                    info!(log, "Keystone gave a token"; "auth_url" => auth_url,
                        "seconds" => grant.life.as_secs(), "failures_before" => self.failures);
                }
                self.failures = 0;
                self.said = Said::Granted;
                return;
            }
            Verdict::Refused(cause) => {
                if self.said != Said::Refused {
                    error!(log, "Keystone refuses the credentials: correct user, key or key_file, auth_type or auth_url. \
                        Metrics are kept meanwhile";
                        "auth_url" => auth_url, "answer" => cause);
                }
                (Said::Refused, cause)
            }
            Verdict::Failed(cause) => {
                if self.said != Said::Failed {
                    warn!(log, "Keystone gives no token, and is asked again until it does. Metrics are kept meanwhile";
                        "auth_url" => auth_url, "cause" => cause);
                }
                (Said::Failed, cause)
            }
        };
        status.last_error = Some(cause.clone());
        status.failures = status.failures.saturating_add(1);
        self.failures = self.failures.saturating_add(1);
        self.said = says;
    }

    /// Brings what is seen from outside up to date.
    fn show(&self) {
        let expires = self.renewal.expires(self.now());
        let mut status = lock(&self.options.status);
        status.expires = expires.and_then(|expires| self.started.checked_add(expires));
        status.state = match self.said {
            Said::Refused => State::Refused,
            _ if expires.is_some() => State::Valid,
            Said::Failed => State::Failed,
            _ if self.renewal.is_attempting() => State::Renewing,
            _ => State::None,
        };
    }

    fn answer_later(
        &mut self,
        event: Event,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Result<Arc<Token>, NoToken>> {
        let (reply, answer) = oneshot::channel();
        self.waiting.push(reply);
        self.apply(event, ctx);
        Box::pin(async move {
            let ended = |_| NoToken {
                cause: "the actor that asks Keystone has ended".to_owned(),
                refused: false,
                retry_in: Duration::ZERO,
            };
            answer.await.unwrap_or_else(|error| Err(ended(error)))
        })
    }
}

impl Actor for KeystoneAuth {
    type Context = Context<Self>;

    /// A token is there before it is asked for, and wrong credentials are heard of at the start.
    fn started(&mut self, ctx: &mut Self::Context) {
        self.apply(Event::Tick, ctx);
        if matches!(self.options.key, KeySource::File(_)) {
            ctx.run_interval(KEY_FILE_EVERY, Self::look_at_key_file);
        }
    }
}

supervised!(KeystoneAuth);

impl Handler<GetToken> for KeystoneAuth {
    type Result = ResponseFuture<Result<Arc<Token>, NoToken>>;

    fn handle(&mut self, _: GetToken, ctx: &mut Self::Context) -> Self::Result {
        self.answer_later(Event::Asked, ctx)
    }
}

impl Handler<Rejected> for KeystoneAuth {
    type Result = ResponseFuture<Result<Arc<Token>, NoToken>>;

    fn handle(&mut self, Rejected { generation }: Rejected, ctx: &mut Self::Context) -> Self::Result {
        self.answer_later(Event::Rejected(generation), ctx)
    }
}

fn lock(status: &SharedStatus) -> std::sync::MutexGuard<'_, Status> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

/// awc with every option written out: its defaults lose or hang (`actors/TRAPS.md`, "awc follows redirects" and "awc's
/// time-out ends at the head").
fn client(auth_url: &str, tls: Arc<ClientConfig>) -> Client {
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
async fn attempt(client: Client, options: Options) -> (Option<Secret>, Verdict) {
    let key = match options.key.clone().read_aside().await {
        Ok(key) => key,
        Err(why) => return (None, Verdict::Failed(why)),
    };
    let asked = ask(&client, &options.account, &options.auth_url, &key);
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

    #[test]
    fn a_key_file_is_read_as_people_write_it() {
        let directory = std::env::temp_dir().join(format!("blueflood-forward-key-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let source = KeySource::File(directory.join("key"));
        assert!(source.read().unwrap_err().contains("can't be read"));
        let large = "k".repeat(KEY_BYTES_MAX as usize + 1);
        for (text, expected) in [
            ("k3y\n", Ok("k3y")),
            (" k3y\r\n\n", Ok("k3y")),
            ("\u{feff}k3y\r\n", Ok("k3y")),
            ("\u{feff}\n", Err("is empty")),
            ("\n", Err("is empty")),
            (&large, Err("too large")),
        ] {
            std::fs::write(directory.join("key"), text).unwrap();
            match (source.read(), expected) {
                (Ok(key), Ok(expected)) => assert_eq!(key.reveal(), expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (read, expected) => panic!("{read:?} is not {expected:?}"),
            }
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
