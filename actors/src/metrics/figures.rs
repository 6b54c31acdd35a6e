//! Owns the table of figures: a new one is one entry here, and shows in `/metrics`, in `/stats`, on the page and, if it has
//! a name there, among the daemon's own metrics. It never collects any.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Map, Value, json};

use super::{
    process,
    view::{Listener, View, time},
};
use crate::core::{
    blueflood::Verdict,
    datapoint::Reason,
    histogram::Histogram,
    ledger::ByReason,
    reason::{Dropped, Refused},
    row::Skipped,
    verdict::Condition,
};
use crate::expiry::Expiry;

/// What the names of all but the process's own figures begin with.
const PREFIX: &str = "blueflood_forward_";

/// A figure, with all that its shows need.
struct Figure {
    /// Its name in `/metrics`, without the prefix. A counter ends in `_total`, and nothing else does.
    name: &'static str,
    help: &'static str,
    /// Its name among the daemon's own metrics, if it is one of them. Of several values the sum is sent.
    own: Option<&'static str>,
    read: fn(&View) -> Read,
}

/// The value of a figure.
enum Read {
    One(f64),
    /// By the value of a label.
    By(&'static str, Vec<(String, f64)>),
    /// A histogram.
    Spread(Histogram),
    /// There is no such figure here: no Keystone, say.
    None,
}

impl From<Option<f64>> for Read {
    fn from(value: Option<f64>) -> Self {
        value.map_or(Self::None, Self::One)
    }
}

const fn figure(name: &'static str, help: &'static str, read: fn(&View) -> Read) -> Figure {
    Figure { name, help, own: None, read }
}

const fn sent(own: &'static str, name: &'static str, help: &'static str, read: fn(&View) -> Read) -> Figure {
    Figure { name, help, own: Some(own), read }
}

fn one(value: u64) -> Read {
    Read::One(value as f64)
}

fn flag(is_so: bool) -> Read {
    Read::One(f64::from(u8::from(is_so)))
}

/// Each known reason, those of nothing too: a series that begins with its first event hides it from `increase()`.
fn by_reason<'a>(known: impl IntoIterator<Item = &'a str>, counts: &ByReason) -> Read {
    let mut all: ByReason = known.into_iter().map(|reason| (reason.to_owned(), 0)).collect();
    all.extend(counts.iter().map(|(reason, &count)| (reason.clone(), count)));
    Read::By("reason", all.into_iter().map(|(reason, count)| (reason, count as f64)).collect())
}

fn by_endpoint(view: &View, read: impl Fn(&Listener) -> u64) -> Read {
    let read = |one: &Listener| (one.endpoint.clone(), read(one) as f64);
    Read::By("endpoint", view.listeners.iter().map(read).collect())
}

fn seconds(ms: Option<u64>) -> u64 {
    ms.unwrap_or(0) / 1_000
}

/// The table. To add a figure, add one entry.
const TABLE: &[Figure] = &[
    figure("verdict", "1 for what the verdict is: well, losing, keeping or wrong.", |view| {
        let is = |condition: Condition| f64::from(u8::from(condition == view.health.condition));
        let all = Condition::ALL.map(|condition| (condition.name().to_owned(), is(condition)));
        Read::By("condition", all.into())
    }),
    figure("verdict_since_timestamp_seconds", "Since when the verdict is what it is.", |view| {
        one(view.health.since_ms / 1_000)
    }),
    // === The ledger ===
    sent("datapoints.received", "datapoints_received_total", "Datapoints decoded from the wire.", |view| {
        one(view.ledger.received)
    }),
    sent("datapoints.skipped", "datapoints_skipped_total", "Datapoints that cannot be forwarded.", |view| {
        by_reason(Skipped::ALL.map(Skipped::label), &view.ledger.skipped)
    }),
    sent(
        "datapoints.buffered",
        "datapoints_buffered",
        "Datapoints kept here: in hand, and with the spool.",
        |view| one(view.ledger.buffered()),
    ),
    sent("datapoints.delivered", "datapoints_delivered_total", "Datapoints that Blueflood stored.", |view| {
        one(view.ledger.delivered)
    }),
    // No counter, and so no `_total`: what is taken out of the dead letters again is no longer refused.
    sent(
        "datapoints.refused",
        "datapoints_refused",
        "Datapoints that Blueflood refused; a replay of dead letters takes them back.",
        |view| by_reason(Refused::ALL.map(Refused::label), &view.ledger.refused),
    ),
    sent("datapoints.dropped", "datapoints_dropped_total", "Datapoints given up by policy.", |view| {
        by_reason(Dropped::ALL.map(Dropped::label), &view.ledger.dropped)
    }),
    figure("datapoints_unaccounted", "Datapoints in no place: anything but 0 is a bug.", |view| {
        Read::One(view.ledger.unaccounted() as f64)
    }),
    figure(
        "datapoints_acknowledged",
        "Of those buffered, the ones that Blueflood acknowledged, and that were not read back yet.",
        |view| one(view.ledger.acknowledged()),
    ),
    figure(
        "acknowledged_oldest_seconds",
        "For how long the oldest datapoint is acknowledged that was not read back; 0 if there is none.",
        |view| one(view.spool.acknowledged_since.map_or(0, |since| since.elapsed().as_secs())),
    ),
    figure("confirm_believed", "0 while what Blueflood acknowledges cannot be read back.", |view| {
        flag(view.confirming.doubt.is_none())
    }),
    figure("confirm_looks_total", "Looks at what Blueflood acknowledged, and witnesses.", |view| {
        one(view.confirming.looks)
    }),
    figure(
        "confirm_resent_total",
        "Datapoints that Blueflood acknowledged and did not have, which were sent again.",
        |view| one(view.confirming.resent),
    ),
    figure(
        "confirm_unknown_total",
        "Datapoints that could never be read back though others could, which count as delivered.",
        |view| one(view.confirming.unknown),
    ),
    sent("malformed", "malformed_total", "Input that never became a datapoint.", |view| {
        by_reason(Reason::ALL.iter().map(|reason| reason.label()), &view.ledger.malformed)
    }),
    figure(
        "names_replaced_total",
        "Names that releases which mended names of no UTF-8 have mended.",
        |view| one(view.ledger.names_replaced),
    ),
    // === What comes in ===
    figure(
        "last_received_timestamp_seconds",
        "When the last datapoint came; 0 if none did since the start.",
        |view| one(seconds(view.last_received_ms())),
    ),
    sent("connections", "listener_connections", "Open connections.", |view| {
        by_endpoint(view, |one| one.connections as u64)
    }),
    figure("listener_datapoints_total", "Datapoints decoded, by endpoint.", |view| {
        by_endpoint(view, |one| one.datapoints)
    }),
    figure(
        "listener_last_received_timestamp_seconds",
        "When the last datapoint came, by endpoint; 0 if none did since the start.",
        |view| by_endpoint(view, |one| seconds(one.last_received_ms)),
    ),
    figure("listener_malformed_total", "Input that never became a datapoint, by endpoint.", |view| {
        by_endpoint(view, |one| one.malformed.values().map(|noted| noted.count).fold(0, u64::saturating_add))
    }),
    figure("listener_kernel_drops_total", "Datagrams that the kernel dropped unread.", |view| {
        by_endpoint(view, |one| one.kernel_drops)
    }),
    // === What goes out ===
    figure(
        "posts_total",
        "Requests to Blueflood that were made and came to an end, by the class of their answer.",
        |view| {
            let count = |class: &str| view.forwarder.answers.get(class).copied().unwrap_or(0) as f64;
            Read::By("class", Verdict::CLASSES.map(|class| (class.to_owned(), count(class))).into())
        },
    ),
    sent("requests.again", "posts_retried_total", "Requests that were a second or later try.", |view| {
        one(view.forwarder.outbox.retries)
    }),
    figure("posts_trial_total", "Requests of a few datapoints, to see whether Blueflood works.", |view| {
        one(view.forwarder.outbox.trials)
    }),
    sent("requests.in_flight", "posts_in_flight", "Requests under way.", |view| {
        one(view.forwarder.outbox.in_flight as u64)
    }),
    figure("sent_bytes_total", "Bytes of request bodies, as sent.", |view| one(view.forwarder.bytes_sent)),
    sent("gate.open", "gate_open", "1 while requests may leave freely.", |view| {
        flag(view.forwarder.outbox.closed.is_none())
    }),
    figure("misconfigured", "1 while Blueflood refuses everything.", |view| {
        flag(view.forwarder.outbox.misconfigured.is_some())
    }),
    figure("last_success_timestamp_seconds", "When Blueflood last took a request.", |view| {
        one(view.forwarder.last_success.map_or(0, time))
    }),
    figure("keystone_token_valid", "1 while there is a token to send.", |view| match &view.keystone {
        Some(keystone) => flag(keystone.expires_in().is_some_and(|left| !left.is_zero())),
        None => Read::None,
    }),
    figure("keystone_token_expires_seconds", "How long the token can be used yet.", |view| {
        match &view.keystone {
            Some(keystone) => one(keystone.expires_in().unwrap_or_default().as_secs()),
            None => Read::None,
        }
    }),
    figure("keystone_renewals_total", "Tokens that Keystone gave.", |view| {
        view.keystone.as_ref().map(|keystone| keystone.renewals as f64).into()
    }),
    figure("keystone_failures_total", "Attempts that came to no token.", |view| {
        view.keystone.as_ref().map(|keystone| keystone.failures as f64).into()
    }),
    figure(
        "tls_certificate_expiry_timestamp_seconds",
        "When the first certificate ends of the files that settings name, by role; none where there is none.",
        |view| {
            let mut first = BTreeMap::new();
            for Expiry { role, at, .. } in &view.expiries {
                let known = first.entry(*role).or_insert(*at);
                *known = (*known).min(*at);
            }
            Read::By(
                "role",
                first.into_iter().map(|(role, at)| (role.label().to_owned(), at as f64)).collect(),
            )
        },
    ),
    // === The spool ===
    figure("spool_max_bytes", "The spool's cap.", |view| one(view.spool_bytes_max)),
    sent("spool.used_bytes", "spool_used_bytes", "Bytes of the spool in use.", |view| {
        one(view.spool.used_bytes)
    }),
    figure("spool_blocked", "1 while the spool takes nothing.", |view| flag(view.spool.blocked.is_some())),
    figure("spool_cap_bytes", "The cap in effect, which is lower while the disk is full.", |view| {
        one(view.spool.bytes_cap)
    }),
    figure("spool_amiss", "1 while something is amiss with the spool's file.", |view| {
        flag(view.spool.amiss.is_some())
    }),
    figure("spool_disk_full", "1 while the disk of the spool is full.", |view| flag(view.disk_full())),
    figure(
        "spool_oldest_timestamp_seconds",
        "When the oldest datapoint came that is here; 0 if there is none.",
        |view| one(seconds(view.spool.oldest_ms.and_then(|ms| u64::try_from(ms).ok()))),
    ),
    figure(
        "audit_failures_total",
        "Times that the queue was not what the spool holds: anything but 0 is a bug.",
        |view| one(view.spool.audit_failures),
    ),
    figure(
        "series_apart",
        "Series that Blueflood never takes, whose datapoints are tried by themselves.",
        |view| one(view.spool.series_apart.len() as u64),
    ),
    sent("spool.dead_letters", "dead_letters", "Datapoints among the dead letters.", |view| {
        one(view.spool.letters.count)
    }),
    sent("spool.dead_letter_bytes", "dead_letters_bytes", "Bytes of the dead letters.", |view| {
        one(view.spool.letters.bytes)
    }),
    figure("dead_letters_discarded_total", "Dead letters that made room for newer ones.", |view| {
        one(view.ledger.dead_letters_discarded)
    }),
    figure("answer_seconds", "From the start of a request to the end of its answer.", |view| {
        Read::Spread(view.forwarder.answer_times.clone())
    }),
    figure("delivery_delay_seconds", "From receipt to delivery, by datapoint.", |view| {
        Read::Spread(view.spool.delays.clone())
    }),
    // === This process ===
    figure(
        "config_last_reload_successful",
        "1 if the settings could be used when they were read last.",
        |view| flag(view.reload_succeeded),
    ),
    figure("actor_restarts_total", "How often an actor was started again.", |view| {
        let restarts = view.actors.iter().map(|actor| (actor.name.clone(), actor.restarts as f64));
        Read::By("actor", restarts.collect())
    }),
    sent("log.records_lost", "log_records_lost_total", "Log records lost under load.", |view| {
        one(view.log_records_lost)
    }),
    sent("uptime_seconds", "uptime_seconds", "Since the daemon started.", |view| one(view.uptime.as_secs())),
    figure("build_info", "The version.", |_| {
        Read::By("version", vec![(env!("CARGO_PKG_VERSION").to_owned(), 1.0)])
    }),
    figure("process_cpu_seconds_total", "CPU time, of user and system.", |_| process::cpu_seconds().into()),
    figure("process_resident_memory_bytes", "Bytes in memory.", |_| process::resident_bytes().into()),
    figure("process_open_fds", "Files and sockets that are open.", |_| process::open_fds().into()),
    figure("process_max_fds", "Files and sockets that may be open.", |_| process::max_fds().into()),
    figure("process_start_time_seconds", "When the process started, since 1970.", |view| {
        let uptime_ms = u64::try_from(view.uptime.as_millis()).unwrap_or(u64::MAX);
        Read::One(process::start_seconds(view.now_ms, uptime_ms))
    }),
];

/// What `/metrics` shows: Prometheus text format 0.0.4. The official crate, prometheus-client, writes OpenMetrics only, which
/// not every reader takes, and does not escape the values of labels: an endpoint may have a quote in its path.
pub(super) fn text(view: &View) -> String {
    let mut text = String::new();
    for Figure { name, help, read, .. } in TABLE {
        let prefix = if name.starts_with("process_") { "" } else { PREFIX };
        let is_counter = name.ends_with("_total");
        let head = |text: &mut String, kind: &str| {
            let kind = if is_counter { "counter" } else { kind };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {prefix}{name} {help}\n# TYPE {prefix}{name} {kind}");
        };
        match read(view) {
            Read::None => {}
            Read::One(value) => {
                head(&mut text, "gauge");
                let _ = writeln!(text, "{prefix}{name} {value}");
            }
            Read::By(label, values) => {
                head(&mut text, "gauge");
                for (of, value) in values {
                    let of = of.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                    let _ = writeln!(text, "{prefix}{name}{{{label}=\"{of}\"}} {value}");
                }
            }
            Read::Spread(histogram) => {
                head(&mut text, "histogram");
                let mut count = 0;
                for (bound, within) in histogram.cumulative() {
                    let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
                    let _ = writeln!(text, "{prefix}{name}_bucket{{le=\"{bound}\"}} {within}");
                    count = within;
                }
                let sum = histogram.sum();
                let _ = writeln!(text, "{prefix}{name}_sum {sum}\n{prefix}{name}_count {count}");
            }
        }
    }
    text
}

/// What `/stats` has of them, by name.
pub(super) fn json(view: &View) -> Value {
    let shown = |figure: &Figure| {
        let value = match (figure.read)(view) {
            Read::None => return None,
            Read::One(value) => number(value),
            Read::By(_, values) => {
                values.into_iter().map(|(of, value)| (of, number(value))).collect::<Map<_, _>>().into()
            }
            Read::Spread(histogram) => {
                json!({ "p50": histogram.quantile(0.5), "p99": histogram.quantile(0.99), "sum": histogram.sum() })
            }
        };
        Some((figure.name.to_owned(), value))
    };
    TABLE.iter().filter_map(shown).collect::<Map<_, _>>().into()
}

/// A whole number as one, for a reader that tells them apart.
fn number(value: f64) -> Value {
    // Within what a double holds to the last digit.
    if value.fract() == 0.0 && value.abs() < 9e15 { Value::from(value as i64) } else { Value::from(value) }
}

/// Those that are sent as metrics of their own.
pub(super) fn own(view: &View) -> Vec<(String, f64)> {
    let sent = |figure: &Figure| {
        let value = match (figure.read)(view) {
            Read::One(value) => value,
            Read::By(_, values) => values.iter().map(|(_, value)| value).sum(),
            Read::Spread(_) | Read::None => return None,
        };
        Some((figure.own?.to_owned(), value))
    };
    // Requests that reached nobody are among them, so it is more than the sum of `posts_total`.
    let ended = ("requests.ended".to_owned(), view.forwarder.posts as f64);
    TABLE.iter().filter_map(sent).chain([ended]).collect()
}
