//! Owns how the figures are shown: as JSON, as Prometheus text, and as a judgement. It never collects them.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};

use crate::{
    core::{
        datapoint::Reason,
        histogram::Histogram,
        ledger::{ByReason, Ledger, sum},
        row::Skipped,
    },
    forwarder,
    keystone_auth::{self, State},
    listener, spool,
    supervisor::Vitals,
};

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
}

/// One endpoint.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    endpoint: String,
    protocol: String,
    pub(super) connections: usize,
    accepted: u64,
    datapoints: u64,
    kernel_drops: u64,
    malformed: BTreeMap<Reason, listener::Noted>,
    skipped: BTreeMap<Skipped, listener::Noted>,
}

impl Listener {
    pub(super) fn of(desk: &listener::Desk) -> Self {
        Self {
            endpoint: desk.endpoint.clone(),
            protocol: desk.protocol.to_string(),
            connections: desk.connections.load(Ordering::Relaxed),
            accepted: desk.accepted.load(Ordering::Relaxed),
            datapoints: desk.datapoints.load(Ordering::Relaxed),
            kernel_drops: desk.kernel_drops.load(Ordering::Relaxed),
            malformed: desk.malformed(),
            skipped: desk.skipped(),
        }
    }
}

/// One actor.
#[derive(Debug, Clone)]
pub(super) struct ActorState {
    name: String,
    restarts: u64,
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

    /// Why nothing is delivered now, as far as is known; nothing if it is.
    pub fn obstacle(&self) -> Option<String> {
        let closed = || {
            let (_, cause) = self.forwarder.outbox.closed.as_ref()?;
            Some(format!("Blueflood does not take metrics: {cause}"))
        };
        self.misfits().into_iter().next().or_else(closed)
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
        if self.spool.audit_failures != 0 {
            let times = self.spool.audit_failures;
            wrong.push(format!("the queue was not what the spool holds, {times} times, which is a bug"));
        }
        wrong
    }

    /// Why it cannot take metrics or deliver them without a change; nothing if it is ready.
    pub fn hindrances(&self) -> Vec<String> {
        let mut wrong = self.ailments();
        if self.stopping {
            wrong.push("it is stopping".to_owned());
        }
        wrong.extend(self.misfits());
        wrong
    }

    /// What only a change from outside can mend.
    fn misfits(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(cause) = &self.spool.blocked {
            wrong.push(format!("the spool takes nothing: {cause}"));
        }
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
            "time_ms": time_ms(SystemTime::now()),
            "uptime_s": self.uptime.as_secs(),
            "wrong": self.hindrances(),
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
            "taps": self.taps,
            "listeners": self.listeners.iter().map(Self::listener).collect::<Vec<_>>(),
            "forwarder": {
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
            "keystone": self.keystone.as_ref().map(|keystone| json!({
                "state": keystone.state.name(),
                "expires_in_s": keystone.expires_in().map(|left| left.as_secs()),
                "renewals": keystone.renewals,
                "failures": keystone.failures,
                "last_error": keystone.last_error,
            })),
            "spool": {
                "used_bytes": self.spool.used_bytes,
                "bytes_max": self.spool_bytes_max,
                "oldest_time": self.spool.oldest_ms.map(|ms| ms / 1000),
                "blocked": self.spool.blocked,
                "waits": self.spool.waits,
                "series_apart": self.spool.series_apart,
                "audit_failures": self.spool.audit_failures,
                "dead_letter_bytes": self.spool.dead_letter_bytes,
                "dead_letters_discarded": self.ledger.dead_letters_discarded,
            },
            "actors": self.actors.iter().map(|actor| {
                let state = json!({ "restarts": actor.restarts, "answers": actor.stuck_for.is_none() });
                (actor.name.clone(), state)
            }).collect::<Map<_, _>>(),
            "log": { "records_lost": self.log_records_lost },
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
            "kernel_drops": listener.kernel_drops,
            "malformed": malformed.collect::<Map<_, _>>(),
            "skipped": skipped.collect::<Map<_, _>>(),
        })
    }

    /// What `/metrics` shows: Prometheus text format 0.0.4.
    pub fn prometheus(&self) -> String {
        let mut page = Page::default();
        let ledger = &self.ledger;
        page.one(
            "datapoints_received_total",
            "counter",
            "Datapoints decoded from the wire.",
            ledger.received,
        );
        page.by_reason(
            "datapoints_skipped_total",
            "counter",
            "Datapoints that cannot be forwarded.",
            &ledger.skipped,
        );
        page.one(
            "datapoints_buffered",
            "gauge",
            "Datapoints kept here: in hand, and with the spool.",
            ledger.buffered(),
        );
        page.one(
            "datapoints_delivered_total",
            "counter",
            "Datapoints that Blueflood stored.",
            ledger.delivered,
        );
        // No counter, and so no `_total`: what is taken out of the dead letters again is no longer refused.
        page.by_reason(
            "datapoints_refused",
            "gauge",
            "Datapoints that Blueflood refused; a replay of dead letters takes them back.",
            &ledger.refused,
        );
        page.by_reason(
            "datapoints_dropped_total",
            "counter",
            "Datapoints given up by policy.",
            &ledger.dropped,
        );
        page.one(
            "datapoints_unaccounted",
            "gauge",
            "Datapoints in no place: anything but 0 is a bug.",
            ledger.unaccounted(),
        );
        page.one(
            "datapoints_acknowledged",
            "gauge",
            "Of those buffered, the ones that Blueflood acknowledged, and that were not read back yet.",
            ledger.acknowledged(),
        );
        page.by_reason(
            "malformed_total",
            "counter",
            "Input that never became a datapoint.",
            &ledger.malformed,
        );
        page.one(
            "names_replaced_total",
            "counter",
            "Names that releases which mended names of no UTF-8 have mended.",
            ledger.names_replaced,
        );

        page.head("listener_connections", "gauge", "Open connections.");
        for listener in &self.listeners {
            page.sample("listener_connections", &[("endpoint", &listener.endpoint)], listener.connections);
        }
        page.head("listener_datapoints_total", "counter", "Datapoints decoded, by endpoint.");
        for listener in &self.listeners {
            page.sample(
                "listener_datapoints_total",
                &[("endpoint", &listener.endpoint)],
                listener.datapoints,
            );
        }
        page.head("listener_kernel_drops_total", "counter", "Datagrams that the kernel dropped unread.");
        for listener in &self.listeners {
            page.sample(
                "listener_kernel_drops_total",
                &[("endpoint", &listener.endpoint)],
                listener.kernel_drops,
            );
        }

        let forwarder = &self.forwarder;
        page.one("posts_total", "counter", "Requests to Blueflood that came to an end.", forwarder.posts);
        page.one(
            "posts_retried_total",
            "counter",
            "Requests that were a second or later try.",
            forwarder.outbox.retries,
        );
        page.one(
            "posts_trial_total",
            "counter",
            "Requests of a few datapoints, to see whether Blueflood works.",
            forwarder.outbox.trials,
        );
        page.one("posts_in_flight", "gauge", "Requests under way.", forwarder.outbox.in_flight);
        page.one("sent_bytes_total", "counter", "Bytes of request bodies, as sent.", forwarder.bytes_sent);
        page.one(
            "gate_open",
            "gauge",
            "1 while requests may leave freely.",
            u8::from(forwarder.outbox.closed.is_none()),
        );
        page.one(
            "misconfigured",
            "gauge",
            "1 while Blueflood refuses everything.",
            u8::from(forwarder.outbox.misconfigured.is_some()),
        );
        let success = forwarder.last_success.map_or(0, time);
        page.one("last_success_timestamp_seconds", "gauge", "When Blueflood last took a request.", success);

        if let Some(keystone) = &self.keystone {
            let valid = keystone.expires_in().is_some_and(|left| !left.is_zero());
            page.one("keystone_token_valid", "gauge", "1 while there is a token to send.", u8::from(valid));
            let left = keystone.expires_in().unwrap_or_default().as_secs();
            page.one("keystone_token_expires_seconds", "gauge", "How long the token can be used yet.", left);
            page.one("keystone_renewals_total", "counter", "Tokens that Keystone gave.", keystone.renewals);
            page.one(
                "keystone_failures_total",
                "counter",
                "Attempts that came to no token.",
                keystone.failures,
            );
        }
        page.one("spool_max_bytes", "gauge", "The spool's cap.", self.spool_bytes_max);
        page.one("spool_used_bytes", "gauge", "Bytes of the spool in use.", self.spool.used_bytes);
        page.one(
            "spool_blocked",
            "gauge",
            "1 while the spool takes nothing.",
            u8::from(self.spool.blocked.is_some()),
        );
        page.one(
            "audit_failures_total",
            "counter",
            "Times that the queue was not what the spool holds: anything but 0 is a bug.",
            self.spool.audit_failures,
        );
        page.one(
            "series_apart",
            "gauge",
            "Series that Blueflood never takes, whose datapoints are tried by themselves.",
            self.spool.series_apart.len(),
        );
        page.one("dead_letters_bytes", "gauge", "Bytes of the dead letters.", self.spool.dead_letter_bytes);
        page.one(
            "dead_letters_discarded_total",
            "counter",
            "Dead letters that made room for newer ones.",
            ledger.dead_letters_discarded,
        );
        page.histogram(
            "answer_seconds",
            "From the start of a request to the end of its answer.",
            &forwarder.answer_times,
        );
        page.histogram(
            "delivery_delay_seconds",
            "From receipt to delivery, by datapoint.",
            &self.spool.delays,
        );
        page.head("actor_restarts_total", "counter", "How often an actor was started again.");
        for actor in &self.actors {
            page.sample("actor_restarts_total", &[("actor", &actor.name)], actor.restarts);
        }
        page.one("log_records_lost_total", "counter", "Log records lost under load.", self.log_records_lost);
        page.one("uptime_seconds", "gauge", "Since the daemon started.", self.uptime.as_secs());
        page.head("build_info", "gauge", "The version.");
        page.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.text
    }
}

/// Seconds since 1970.
fn time(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Milliseconds since 1970.
pub(super) fn time_ms(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// A page of Prometheus text.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.text,
            "# HELP blueflood_forward_{name} {help}\n# TYPE blueflood_forward_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "blueflood_forward_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let mut count = 0;
        for (bound, within) in histogram.cumulative() {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            self.sample(&format!("{name}_bucket"), &[("le", &bound)], within);
            count = within;
        }
        self.sample(&format!("{name}_sum"), &[], histogram.sum());
        self.sample(&format!("{name}_count"), &[], count);
    }

    fn by_reason(&mut self, name: &str, kind: &str, help: &str, by_reason: &ByReason) {
        self.head(name, kind, help);
        for (reason, n) in by_reason {
            self.sample(name, &[("reason", reason)], n);
        }
    }
}
