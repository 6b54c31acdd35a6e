//! Owns what the forwarder shows of itself, whichever incarnation of it lives.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use crate::core::{blueflood::Verdict, histogram::Histogram, outbox};

/// What the forwarder looks like from outside.
#[derive(Debug, Clone)]
pub struct Status {
    /// What the outbox knows.
    pub outbox: outbox::Status,
    /// When the gate will let a probe through, if it is closed.
    pub next_try_in: Option<Duration>,
    /// The last failure, and when.
    pub last_error: Option<(String, SystemTime)>,
    /// When Blueflood last took a payload.
    pub last_success: Option<SystemTime>,
    /// POSTs that came to an end.
    pub posts: u64,
    /// Those that were made, by the class of their answer.
    pub answers: BTreeMap<&'static str, u64>,
    /// Bytes of all bodies, as they were sent.
    pub bytes_sent: u64,
    /// How long requests took, from their start to the end of the answer.
    pub answer_times: Histogram,
}

impl Default for Status {
    fn default() -> Self {
        // From a warm Blueflood's few milliseconds to the minute in which it is given up.
        let bounds = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        Self {
            outbox: outbox::Status::default(),
            next_try_in: None,
            last_error: None,
            last_success: None,
            posts: 0,
            answers: BTreeMap::new(),
            bytes_sent: 0,
            answer_times: Histogram::new(bounds),
        }
    }
}

/// A [`Status`] that others read.
#[derive(Debug, Clone, Default)]
pub struct SharedStatus(Arc<Mutex<Status>>);

impl SharedStatus {
    /// It, as it is at this instant.
    pub fn snapshot(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A POST came to an end.
    pub(super) fn note(&self, verdict: &Verdict, took: Duration, bytes: usize) {
        self.change(|status| {
            status.posts = status.posts.saturating_add(1);
            if let Some(class) = verdict.class() {
                let count = status.answers.entry(class).or_default();
                *count = count.saturating_add(1);
            }
            status.answer_times.observe(took.as_secs_f64(), 1);
            status.bytes_sent = status.bytes_sent.saturating_add(bytes as u64);
            if verdict.is_success() {
                status.last_success = Some(SystemTime::now());
            } else {
                status.last_error = Some((verdict.words(), SystemTime::now()));
            }
        });
    }
}
