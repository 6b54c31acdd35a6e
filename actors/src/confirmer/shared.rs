//! Owns what the confirmer and others know of each other, whichever incarnation of it lives.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::core::outbox::Standing;

/// What it looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `off`, `witness`, `sample` or `all`.
    pub mode: &'static str,
    /// The query service that it looks at.
    pub query: Option<String>,
    /// Why Blueflood cannot be believed, if so.
    pub doubt: Option<String>,
    /// Looks that were made, with the witnesses.
    pub looks: u64,
    /// Rows that were not there, and were sent again.
    pub resent: u64,
    /// Rows that count as delivered though nobody could tell.
    pub unknown: u64,
}

impl Default for Status {
    fn default() -> Self {
        Self { mode: "off", query: None, doubt: None, looks: 0, resent: 0, unknown: 0 }
    }
}

/// What the confirmer and the forwarder know of each other, whichever incarnation of them lives.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    standing: watch::Sender<Standing>,
    poke: Notify,
    status: Mutex<Status>,
}

impl Default for Shared {
    fn default() -> Self {
        // Until it is known whether anything is read back, nothing leaves: what is answered before counts as delivered.
        let standing = Standing { holds: true, ..Standing::default() };
        let (standing, _) = watch::channel(standing);
        Self(Arc::new(Inner { standing, poke: Notify::new(), status: Mutex::default() }))
    }
}

impl Shared {
    /// Whether payloads may leave, and what their answers mean.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.subscribe()
    }

    /// Something was acknowledged.
    pub fn poke(&self) {
        self.0.poke.notify_one();
    }

    /// What it looks like now.
    pub fn status(&self) -> Status {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether payloads may leave is said to whoever waits for it, if it is another word.
    pub(super) fn stand(&self, standing: Standing) {
        self.0.standing.send_if_modified(|known| {
            let is_new = *known != standing;
            *known = standing;
            is_new
        });
    }

    /// Something was acknowledged.
    pub(super) async fn poked(&self) {
        self.0.poke.notified().await;
    }

    pub(super) fn show(&self, status: Status) {
        *self.0.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}
