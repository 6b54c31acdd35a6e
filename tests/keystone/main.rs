//! Keystone and TLS from outside: the KeystoneAuth actor and the whole daemon against a real Keystone, against a
//! stand-in for the version that no server can be had of, and against certificates of every kind. Never reaches beyond
//! this host, but for the first installation of Keystone.

// A test that can't go on says so by a panic.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::string_slice,
    clippy::unwrap_used
)]

mod authority;
mod certificates;
mod daemon;
mod encrypted;
mod interim;
mod networks;
mod real;
#[path = "../running.rs"]
mod running;
mod secrets;
#[path = "../shared.rs"]
mod shared;
mod stand_in;
mod v2;
mod v3;
// The helpers of the daemon's own tests, of which these here need but some.
#[allow(dead_code)]
#[path = "../e2e/world.rs"]
mod world;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actors::core::keystone::Account;
use actors::core::secret::Secret;
use actors::keystone_auth::{
    GetToken, KeySource, KeystoneAuth, NoToken, Options, Rejected, SharedStatus, State, Status, Token,
};
use actors::supervisor::{Link, Storms, Supervised};
use actors::tls::{self, Outgoing};
use slog::{Drain, Logger, o};

/// A KeystoneAuth, and all that it ever said.
struct Auth {
    _actor: Supervised<KeystoneAuth>,
    get: Link<GetToken>,
    rejected: Link<Rejected>,
    status: SharedStatus,
    log: Lines,
}

impl Auth {
    fn starts(account: Account, key: KeySource, auth_url: &str) -> Self {
        Self::starts_with(account, key, auth_url, &tls::Options::default())
    }

    fn starts_with(account: Account, key: KeySource, auth_url: &str, options: &tls::Options) -> Self {
        let log = Lines::default();
        let drain = slog_json::Json::new(log.clone()).add_default_keys().build();
        let logger = Logger::root(Mutex::new(drain).map(slog::Fuse), o!());
        let status = SharedStatus::default();
        let options = Options {
            account,
            key,
            auth_url: auth_url.to_owned(),
            tls: Outgoing::new(options).expect("the files are right").config,
            status: status.clone(),
            log: logger.clone(),
        };
        let storms = Storms::new(10, tokio::sync::mpsc::channel(1).0);
        let make = move |line| KeystoneAuth::new(options.clone(), line);
        let actor = Supervised::start("keystone", actix_rt::Arbiter::current(), storms, logger, make);
        Self { get: actor.link(), rejected: actor.link(), _actor: actor, status, log }
    }

    async fn asks(&self) -> Result<Arc<Token>, NoToken> {
        self.get.ask(|| GetToken).await.expect("it lives")
    }

    async fn is_refused(&self, generation: u64) -> Result<Arc<Token>, NoToken> {
        self.rejected.ask(|| Rejected { generation }).await.expect("it lives")
    }

    /// A token, however often it takes to ask.
    async fn gets_a_token(&self) -> Arc<Token> {
        until("a token", async || self.asks().await.ok()).await
    }

    fn status(&self) -> Status {
        self.status.lock().expect("nobody panicked").clone()
    }

    async fn is(&self, state: State) {
        until(state.name(), async || (self.status().state == state).then_some(())).await;
    }

    /// How many lines of the log have `text` in them.
    fn said(&self, text: &str) -> usize {
        self.log.text().lines().filter(|line| line.contains(text)).count()
    }

    fn never_said(&self, secret: &str) {
        let seen = format!("{} {:?}", self.log.text(), self.status());
        assert!(!seen.contains(secret), "{seen}");
    }
}

/// Looks until there is something to see, for three minutes at most: tokens live 12 s, and a busy machine may miss some.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(began.elapsed() < Duration::from_secs(180), "no {what} within three minutes");
        actix_rt::time::sleep(Duration::from_millis(20)).await;
    }
}

fn key(text: &str) -> KeySource {
    KeySource::Fixed(Secret::new(text.to_owned()))
}

/// A log that can be read.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("nobody panicked").clone()).expect("UTF-8")
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panicked").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
