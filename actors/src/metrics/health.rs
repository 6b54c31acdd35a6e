//! Owns the way from the figures to the verdict, and from the verdict into the log. It never judges: that is
//! [`crate::core::verdict`].

use std::time::Duration;

use slog::{Logger, error, info, warn};

use super::view::View;
use crate::{
    core::{
        ledger::ByReason,
        row::Skipped,
        verdict::{Condition, Count, Figures, Health, Known, Line, Place, Said},
    },
    keystone_auth::State,
    listener::Noted,
};

/// What the verdict is made of.
pub(super) fn figures(view: &View, known: &Known) -> Figures {
    let outbox = &view.forwarder.outbox;
    let keystone = view.keystone.as_ref().filter(|keystone| keystone.state == State::Refused);
    Figures {
        now_ms: view.now_ms,
        uptime_ms: milliseconds(view.uptime),
        known: known.clone(),
        received: view.ledger.received,
        delivered: view.ledger.delivered,
        buffered: view.ledger.buffered(),
        last_received_ms: view.last_received_ms(),
        posts: view.forwarder.posts,
        lost: lost(view),
        closed: outbox.closed.as_ref().map(|(_, cause)| cause.clone()),
        misconfigured: outbox.misconfigured.clone(),
        keystone_refuses: keystone.map(|keystone| keystone.last_error.clone().unwrap_or_default()),
        set_aside: outbox.set_aside as u64,
        resent: view.confirming.resent,
        used_bytes: view.spool.used_bytes,
        bytes_max: if view.spool.bytes_cap == 0 { view.spool_bytes_max } else { view.spool.bytes_cap },
        oldest_ms: view.spool.oldest_ms.and_then(|ms| u64::try_from(ms).ok()),
        blocked: view.spool.blocked.clone(),
        disk_full: view.disk_full(),
        amiss: view.spool.amiss.clone(),
        ailments: view.ailments(),
        stopping: view.stopping,
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// All that was lost since ever, by place and reason, with the last of it.
fn lost(view: &View) -> Vec<Count> {
    let mut lost = Vec::new();
    let mut add = |place, counts: &ByReason, sample: &dyn Fn(&str) -> Option<String>| {
        lost.extend(counts.iter().map(|(reason, &count)| Count {
            place,
            reason: reason.clone(),
            count,
            sample: sample(reason),
        }));
    };
    let ledger = &view.ledger;
    add(Place::Dropped, &ledger.dropped, &|_| None);
    add(Place::Refused, &ledger.refused, &|reason| {
        view.spool.refused.get(reason).map(|last| format!("{} ({})", last.row, last.message))
    });
    add(Place::Malformed, &ledger.malformed, &|reason| {
        last_of(view.listeners.iter().flat_map(|one| {
            one.malformed.iter().filter(|(named, _)| named.label() == reason).map(|(_, noted)| noted)
        }))
    });
    add(Place::Skipped, &ledger.skipped, &|reason| {
        last_of(view.listeners.iter().flat_map(|one| {
            one.skipped.iter().filter(|(named, _)| named.label() == reason).map(|(_, noted)| noted)
        }))
    });
    lost.push(Count {
        place: Place::Discarded,
        reason: "dead_letters_max".to_owned(),
        count: ledger.dead_letters_discarded,
        sample: None,
    });
    lost.extend(view.listeners.iter().filter(|one| one.kernel_drops > 0).map(|one| Count {
        place: Place::Unread,
        reason: one.endpoint.clone(),
        count: one.kernel_drops,
        sample: None,
    }));
    lost
}

fn last_of<'a>(noted: impl Iterator<Item = &'a Noted>) -> Option<String> {
    let last = noted.filter_map(|noted| noted.last.as_ref()).max_by_key(|sample| sample.at)?;
    Some(format!("from {}: {}", last.peer, last.text))
}

/// Says in the log what is worth it.
pub(super) fn say(log: &Logger, line: Line, now_ms: u64) {
    match line {
        Line::Lost(said) => say_lost(log, said),
        Line::Changed(health) => {
            let Health { condition, .. } = &health;
            let (name, line) = (condition.name(), health.line(now_ms));
            match condition {
                Condition::Well => info!(log, "the verdict: {line}"; "condition" => name),
                Condition::Wrong => error!(log, "the verdict: {line}"; "condition" => name),
                Condition::Losing | Condition::Keeping => {
                    warn!(log, "the verdict: {line}"; "condition" => name)
                }
            }
        }
        Line::Reminder(health) => {
            warn!(log, "still so: {}", health.line(now_ms); "condition" => health.condition.name());
        }
    }
}

fn say_lost(log: &Logger, Said { place, reason, count, sample }: Said) {
    let last = sample.unwrap_or_default();
    match place {
        Place::Refused => {
            warn!(log, "Blueflood refused datapoints: they lie in the dead letters";
                "reason" => reason, "datapoints" => count, "last" => last);
        }
        Place::Skipped => {
            let cause = match Skipped::ALL.into_iter().find(|skipped| skipped.label() == reason) {
                Some(Skipped::NameNotUtf8) => {
                    "JSON holds no other text than UTF-8, and a name mended by us could be that of another series: let \
                     the sender write UTF-8"
                }
                Some(Skipped::ValueNan | Skipped::ValueInfinite) => {
                    "JSON has no such number, and Blueflood would refuse the whole request for it"
                }
                Some(Skipped::Timestamp) => "the timestamp is no time that Blueflood has",
                Some(Skipped::NameEmpty) => "a metric without a name is none",
                Some(Skipped::NameTooLong) => "Blueflood cannot store a name of this length",
                Some(Skipped::OverLimit) => "it alone is larger than --limit",
                None => "it cannot be sent",
            };
            warn!(log, "datapoints cannot be forwarded, and are skipped";
                "reason" => reason, "datapoints" => count, "last" => last, "cause" => cause);
        }
        Place::Discarded => {
            warn!(log, "dead letters were thrown away for newer ones: raise --dead_letters_max, or purge what is settled";
                "dead_letters" => count);
        }
        // Whoever counts them says them too.
        Place::Dropped | Place::Unread | Place::Malformed => {}
    }
}
