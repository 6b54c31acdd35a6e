//! Owns what `/stats` shows. What is a number by itself is in the table of [`figures`], which is a part of it.

use serde_json::{Map, Value, json};

use super::{
    figures,
    view::{Listener, View, time},
};
use crate::{
    core::{
        ledger::{Ledger, sum},
        verdict::Health,
    },
    listener,
};

/// How many of those who send most are shown.
const SENDERS_SHOWN: usize = 10;

impl View {
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
