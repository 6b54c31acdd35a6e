//! Owns how the figures are shown: as JSON, as Prometheus text, and as a judgement. It never collects them.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};

use super::figures;
use crate::{
    core::{
        datapoint::Reason,
        ledger::{Ledger, sum},
        row::Skipped,
        senders::Senders,
        verdict::{Condition, Health, ill},
    },
    expiry::Expiry,
    forwarder,
    keystone_auth::{self, State},
    listener, spool,
    supervisor::Vitals,
};

/// How many of those who send most are shown.
const SENDERS_SHOWN: usize = 10;

/// All figures at one instant.
#[derive(Debug, Clone)]
pub struct View {
    pub(super) ledger: Ledger,
    pub(super) spool: spool::Status,
    pub(super) forwarder: forwarder::Status,
    pub(super) confirming: crate::confirmer::Status,
    pub(super) keystone: Option<keystone_auth::Status>,
    pub(super) listeners: Vec<Listener>,
    pub(super) actors: Vec<ActorState>,
    pub(super) log_records_lost: u64,
    pub(super) uptime: Duration,
    pub(super) stopping: bool,
    pub(super) spool_bytes_max: u64,
    pub(super) taps: usize,
    pub(super) senders: Senders,
    pub(super) expiries: Vec<Expiry>,
    /// When these are the figures of, in milliseconds since 1970.
    pub(super) now_ms: u64,
    pub(super) place: Place,
    pub(super) health: Health,
    pub(super) rates: Option<Rates>,
    /// Whether the settings could be read when they were read last.
    pub(super) reload_succeeded: bool,
}

/// Datapoints a second, averaged.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Over how long.
    pub over: Duration,
    /// Received.
    pub received: f64,
    /// Delivered.
    pub delivered: f64,
}

/// Where this daemon is, and where it delivers to.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The name of this host.
    pub host: String,
    /// Where it POSTs to.
    pub url: String,
    /// The tenant that owns the metrics.
    pub tenant: String,
    /// The file of the spool.
    pub spool: String,
    /// How often metrics are sent.
    pub interval: Duration,
}

/// One endpoint.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    pub(super) endpoint: String,
    pub(super) protocol: String,
    pub(super) connections: usize,
    accepted: u64,
    pub(super) datapoints: u64,
    pub(super) last_received_ms: Option<u64>,
    pub(super) kernel_drops: u64,
    pub(super) malformed: BTreeMap<Reason, listener::Noted>,
    pub(super) skipped: BTreeMap<Skipped, listener::Noted>,
}

impl Listener {
    pub(super) fn of(desk: &listener::Desk) -> Self {
        Self {
            endpoint: desk.endpoint.clone(),
            protocol: desk.protocol.to_string(),
            connections: desk.connections.load(Ordering::Relaxed),
            accepted: desk.accepted.load(Ordering::Relaxed),
            datapoints: desk.datapoints.load(Ordering::Relaxed),
            last_received_ms: Some(desk.last_received_ms.load(Ordering::Relaxed)).filter(|&at| at > 0),
            kernel_drops: desk.kernel_drops.load(Ordering::Relaxed),
            malformed: desk.malformed(),
            skipped: desk.skipped(),
        }
    }
}

/// One actor.
#[derive(Debug, Clone)]
pub(super) struct ActorState {
    pub(super) name: String,
    pub(super) restarts: u64,
    stuck_for: Option<Duration>,
}

impl ActorState {
    pub(super) fn of(vitals: &Vitals) -> Self {
        Self { name: vitals.name.clone(), restarts: vitals.restarts(), stuck_for: vitals.stuck_for() }
    }
}

impl View {
    /// Whether every actor answers.
    pub fn is_alive(&self) -> bool {
        self.actors.iter().all(|actor| actor.stuck_for.is_none())
    }

    /// Where every datapoint is.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The verdict.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Whether the disk of the spool is full.
    pub(super) fn disk_full(&self) -> bool {
        self.spool.disk_full.is_some()
    }

    /// The verdict on one line.
    pub fn line(&self) -> String {
        self.health.line(self.now_ms)
    }

    /// When the last datapoint came in this process, in milliseconds since 1970.
    pub(super) fn last_received_ms(&self) -> Option<u64> {
        self.listeners.iter().filter_map(|listener| listener.last_received_ms).max()
    }

    /// Why the daemon should be started afresh; nothing if it is alive.
    pub fn ailments(&self) -> Vec<String> {
        let stuck = |actor: &ActorState| {
            let seconds = actor.stuck_for?.as_secs();
            Some(format!("the {} has not answered for {seconds} s", actor.name))
        };
        let mut wrong: Vec<_> = self.actors.iter().filter_map(stuck).collect();
        let unaccounted = self.ledger.unaccounted();
        if unaccounted != 0 {
            wrong.push(format!("{unaccounted} datapoints are unaccounted for, which is a bug"));
        }
        if self.spool.audit_ails(i64::try_from(self.now_ms).unwrap_or(i64::MAX)) {
            let times = self.spool.audit_failures;
            wrong.push(format!("the queue was not what the spool holds, {times} times, which is a bug"));
        }
        wrong
    }

    /// Why it cannot take metrics; nothing if it is ready. What Blueflood and Keystone say is no reason: while there is room
    /// in the spool, a sender that is turned away loses what it has, and one that is not loses nothing.
    pub fn hindrances(&self) -> Vec<String> {
        let mut wrong = self.ailments();
        if self.stopping {
            wrong.push("it is stopping".to_owned());
        }
        if let Some(cause) = &self.spool.blocked {
            wrong.push(format!("the spool takes nothing: {cause}"));
        }
        wrong.extend(self.spool.amiss.clone());
        match self.spool.disk_full {
            // Which of the senders wait is said above.
            None => {}
            Some(0) if self.spool.blocked.is_some() => {}
            Some(0) => wrong.push("the disk of the spool is full: the spool does not grow".to_owned()),
            Some(rows) => {
                wrong.push(format!("the disk of the spool is full: {rows} datapoints were dropped"));
            }
        }
        wrong
    }

    /// Why metrics are not delivered; nothing if they are, as far as is known.
    pub fn obstacles(&self) -> Vec<String> {
        let mut wrong = self.ailments();
        wrong.extend(self.misfits());
        if let Some((_, cause)) = self.forwarder.outbox.closed.as_ref().filter(|_| wrong.is_empty()) {
            wrong.push(format!("{}: {cause}", ill(cause).0));
        }
        if wrong.is_empty() && matches!(self.health.condition, Condition::Keeping | Condition::Wrong) {
            wrong.push(self.health.words.clone());
        }
        wrong
    }

    /// What only a change from outside can mend.
    fn misfits(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.keystone.as_ref().is_some_and(|keystone| keystone.state == State::Refused) {
            wrong.push(
                "Keystone refuses the credentials: check --user, --key, --auth_type and --auth_url"
                    .to_owned(),
            );
        }
        if let Some(answer) = &self.forwarder.outbox.misconfigured {
            wrong.push(format!("Blueflood refuses everything, a setting must be wrong: {answer}"));
        }
        wrong
    }

    /// What `/stats` shows.
    pub fn json(&self) -> Value {
        let Ledger { skipped, open, held, spooled, refused, dropped, malformed, .. } = &self.ledger;
        let forwarder = &self.forwarder;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "host": self.place.host,
            "time_ms": self.now_ms,
            "uptime_s": self.uptime.as_secs(),
            "interval_s": self.place.interval.as_secs_f64(),
            "verdict": self.verdict(),
            "rates": self.rates.map(|rates| json!({
                "over_s": rates.over.as_secs(),
                "received": rates.received,
                "delivered": rates.delivered,
            })),
            "wrong": self.all_wrong(),
            "stopping": self.stopping,
            "datapoints": {
                "received": self.ledger.received,
                "skipped": sum(skipped),
                "buffered": self.ledger.buffered(),
                "delivered": self.ledger.delivered,
                "refused": sum(refused),
                "dropped": sum(dropped),
                "unaccounted": i64::try_from(self.ledger.unaccounted()).unwrap_or(i64::MAX),
                "in_hand": open,
                "held": held,
                "in_spool": spooled,
                "acknowledged": self.ledger.acknowledged(),
                "names_replaced": self.ledger.names_replaced,
            },
            "confirm": {
                "mode": self.confirming.mode,
                "query": self.confirming.query,
                "believed": self.confirming.doubt.is_none(),
                "looks": self.confirming.looks,
                "resent": self.confirming.resent,
                "unknown": self.confirming.unknown,
            },
            "malformed": malformed,
            "skipped": skipped,
            "refused": refused,
            "dropped": dropped,
            "last_refused": self.spool.refused.iter().map(|(reason, last)| {
                let last = json!({ "row": last.row, "message": last.message, "time": last.refused_ms / 1000 });
                (reason.clone(), last)
            }).collect::<Map<_, _>>(),
            "last_received": self.last_received_ms().map(|ms| ms / 1000),
            "taps": self.taps,
            "listeners": self.listeners.iter().map(Self::listener).collect::<Vec<_>>(),
            "senders": {
                "datapoints": self.senders.total(),
                "top": self.senders.top(SENDERS_SHOWN).iter().map(|sent| json!({
                    "from": sent.sender.to_string(),
                    "at_least": sent.at_least,
                    "at_most": sent.at_most,
                })).collect::<Vec<_>>(),
            },
            "forwarder": {
                "url": self.place.url,
                "tenant": self.place.tenant,
                "in_flight": forwarder.outbox.in_flight,
                "concurrency": forwarder.outbox.concurrency,
                "set_aside": forwarder.outbox.set_aside,
                "retries": forwarder.outbox.retries,
                "trials": forwarder.outbox.trials,
                "posts": forwarder.posts,
                "bytes_sent": forwarder.bytes_sent,
                "payload_bytes_max": forwarder.outbox.payload_bytes_max,
                "gate": match &forwarder.outbox.closed {
                    None => json!({ "open": true }),
                    Some((_, cause)) => json!({
                        "open": false,
                        "cause": cause,
                        "next_try_in_s": forwarder.next_try_in.unwrap_or_default().as_secs_f64(),
                    }),
                },
                "misconfigured": forwarder.outbox.misconfigured,
                "last_error": forwarder.last_error.as_ref().map(|(text, at)| json!({ "text": text, "time": time(*at) })),
                "last_success": forwarder.last_success.map(time),
            },
            "certificates": self.expiries.iter().map(|one| json!({
                "role": one.role.label(),
                "file": one.file.display().to_string(),
                "expires": one.at,
            })).collect::<Vec<_>>(),
            "keystone": self.keystone.as_ref().map(|keystone| json!({
                "state": keystone.state.name(),
                "expires_in_s": keystone.expires_in().map(|left| left.as_secs()),
                "renewals": keystone.renewals,
                "failures": keystone.failures,
                "last_error": keystone.last_error,
            })),
            "spool": {
                "path": self.place.spool,
                "used_bytes": self.spool.used_bytes,
                "bytes_max": self.spool_bytes_max,
                "bytes_cap": self.spool.bytes_cap,
                "disk_full": self.spool.disk_full.is_some(),
                "amiss": self.spool.amiss,
                "oldest_time": self.spool.oldest_ms.map(|ms| ms / 1000),
                "blocked": self.spool.blocked,
                "waits": self.spool.waits,
                "series_apart": self.spool.series_apart,
                "audit_failures": self.spool.audit_failures,
                "audit_failed": self.spool.audit_failed_ms.map(|ms| ms / 1000),
                "dead_letters": self.spool.letters.count,
                "dead_letter_bytes": self.spool.letters.bytes,
                "dead_letters_discarded": self.ledger.dead_letters_discarded,
            },
            "actors": self.actors.iter().map(|actor| {
                let state = json!({ "restarts": actor.restarts, "answers": actor.stuck_for.is_none() });
                (actor.name.clone(), state)
            }).collect::<Map<_, _>>(),
            "log": { "records_lost": self.log_records_lost },
            "figures": figures::json(self),
        })
    }

    /// What `wrong` shows: all that keeps it from taking or delivering metrics without a change.
    fn all_wrong(&self) -> Vec<String> {
        let mut wrong = self.hindrances();
        wrong.extend(self.misfits());
        wrong
    }

    fn verdict(&self) -> Value {
        let Health { condition, since_ms, words, next, until, losses, caught_up_ms } = &self.health;
        json!({
            "condition": condition.name(),
            "since": since_ms / 1000,
            "words": words,
            "line": self.line(),
            "next": next,
            "until": until.as_ref().map(|until| json!({ "time": until.at_ms / 1000, "by": until.by })),
            "caught_up": caught_up_ms.map(|ms| ms / 1000),
            "losses": losses.iter().map(|loss| json!({
                "place": loss.place.name(),
                "reason": loss.reason,
                "count": loss.count,
                "since": loss.since_ms / 1000,
                "last": loss.sample,
            })).collect::<Vec<_>>(),
        })
    }

    fn listener(listener: &Listener) -> Value {
        let noted = |reason: &'static str, noted: &listener::Noted| {
            let last = noted
                .last
                .as_ref()
                .map(|last| json!({ "peer": last.peer, "sample": last.text, "time": time(last.at) }));
            (reason.to_owned(), json!({ "count": noted.count, "last": last }))
        };
        let malformed = listener.malformed.iter().map(|(reason, one)| noted(reason.label(), one));
        let skipped = listener.skipped.iter().map(|(reason, one)| noted(reason.label(), one));
        json!({
            "endpoint": listener.endpoint,
            "protocol": listener.protocol,
            "connections": listener.connections,
            "accepted": listener.accepted,
            "datapoints": listener.datapoints,
            "last_received": listener.last_received_ms.map(|ms| ms / 1000),
            "kernel_drops": listener.kernel_drops,
            "malformed": malformed.collect::<Map<_, _>>(),
            "skipped": skipped.collect::<Map<_, _>>(),
        })
    }
}

/// Seconds since 1970.
pub(super) fn time(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Milliseconds since 1970.
pub(super) fn time_ms(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
