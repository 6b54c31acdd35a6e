//! Owns the credentials and the token: asks Keystone for one, keeps it fresh, and hands it to whoever sends.
//! It never decides when to ask ([`Renewal`] does), never asks twice at once, and never shows a secret.

mod key;
mod request;
mod status;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture, SpawnHandle, WrapFuture,
};
use awc::Client;
use rustls::ClientConfig;
use slog::{Logger, error, info, warn};
use tokio::sync::oneshot;

pub use self::{
    key::KeySource,
    request::authorize,
    status::{SharedStatus, State, Status},
};
use self::{
    request::{attempt, client},
    status::lock,
};
pub use crate::core::keystone::renewal::{NoToken, Token};
use crate::{
    core::{
        keystone::{
            Account, Verdict,
            renewal::{Action, Event, Now, Renewal},
        },
        secret::Secret,
    },
    supervisor::{Lifeline, supervised},
};

/// How often a key's file is looked at while what was in it came to nothing.
const KEY_FILE_EVERY: Duration = Duration::from_secs(1);

/// What the actor is told at its start, and again at every new one.
#[derive(Clone)]
pub struct Options {
    /// The account that asks.
    pub account: Account,
    /// The source of its key.
    pub key: KeySource,
    /// The URL of Keystone.
    pub auth_url: String,
    /// The certificates that are trusted there.
    pub tls: Arc<ClientConfig>,
    /// The status, which outlives the incarnations of the actor.
    pub status: SharedStatus,
    /// The log.
    pub log: Logger,
}

impl Options {
    /// Whether a token that came by `other` is as good as one that comes by these.
    pub fn is_same(&self, other: &Self) -> bool {
        let trust = Arc::ptr_eq(&self.tls, &other.tls) || !other.auth_url.starts_with("https:");
        trust && self.account == other.account && self.key == other.key && self.auth_url == other.auth_url
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
    /// The generation of the token that was refused.
    pub generation: u64,
}

/// The actor that keeps the token.
pub struct KeystoneAuth {
    options: Options,
    /// The client of this incarnation: awc's belongs to a thread.
    client: Client,
    renewal: Renewal,
    /// The instant from which [`Renewal`]'s time is counted.
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
    _lifeline: Lifeline,
}

/// The last that the log was told of Keystone, so that it is not told twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Granted,
    Failed,
    Refused,
}

impl KeystoneAuth {
    /// Made on the arbiter that it runs on.
    pub fn new(options: Options, lifeline: Lifeline) -> Self {
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
            _lifeline: lifeline,
        }
    }

    fn now(&self) -> Now {
        self.started.elapsed()
    }

    /// Tells [`Renewal`] of an event, and does what follows.
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
        let Options { account, auth_url, key, .. } = self.options.clone();
        let attempt = attempt(self.client.clone(), account, auth_url, key).into_actor(self);
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
