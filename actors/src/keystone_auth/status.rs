//! Owns what the actor looks like from outside. Never the token.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The status as the actor and whoever shows it share it.
pub type SharedStatus = Arc<Mutex<Status>>;

/// How Keystone and the token stand.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The state of the token.
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

/// The state of the token.
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

/// The status, to be read or changed.
pub(super) fn lock(status: &SharedStatus) -> MutexGuard<'_, Status> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
