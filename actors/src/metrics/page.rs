//! Owns the page as it is served: filled in with the figures of that moment, for whoever runs no script. What strangers
//! wrote stays text. What a script shows of them later is the script's.

use super::view::{Listener, View};
use crate::core::{
    human::{bytes, clock, count, rate, span},
    ledger::sum,
    verdict::Loss,
};

/// `template` with a text for each of its `{{name}}`, put in in one pass: what is put in is never looked through again.
pub(super) fn page(view: &View, template: &str) -> String {
    let parts = parts(view);
    let mut page = String::with_capacity(template.len().saturating_mul(2));
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or(("", after));
        page.push_str(before);
        page.push_str(parts.iter().find(|(part, _)| *part == name).map_or("", |(_, html)| html));
        rest = after;
    }
    page.push_str(rest);
    page
}

/// Each part as HTML.
fn parts(view: &View) -> [(&'static str, String); 15] {
    let (health, place) = (&view.health, &view.place);
    let reasons = reasons(view);
    let room = room(view);
    let used = view.spool.used_bytes;
    let fill = if room == 0 { 0.0 } else { (used as f64 / room as f64).min(1.0) };
    [
        ("condition", escaped(health.condition.name())),
        ("words", escaped(&health.words)),
        ("since", escaped(&since(view))),
        ("next", escaped(health.next.as_deref().unwrap_or_default())),
        ("host", escaped(&place.host)),
        ("url", escaped(&place.url)),
        ("tenant", escaped(&place.tenant)),
        ("version", escaped(env!("CARGO_PKG_VERSION"))),
        ("lost", if reasons.is_empty() { " hidden".to_owned() } else { String::new() }),
        ("reasons", reasons),
        ("rates", escaped(&rates(view))),
        ("law", escaped(&law(view))),
        ("fill", format!("{fill:.4}")),
        ("gauge", escaped(&format!("{} of {}", bytes(used), bytes(room)))),
        ("listeners", view.listeners.iter().map(|one| listener(one, view.now_ms)).collect()),
    ]
}

/// How large the spool may be now: a full disk ends it before its own cap does.
fn room(view: &View) -> u64 {
    if view.spool.bytes_cap == 0 { view.spool_bytes_max } else { view.spool.bytes_cap }
}

fn since(view: &View) -> String {
    let now = view.now_ms;
    let since = view.health.since_ms;
    let until = view.health.until.as_ref().map(|until| format!("; {}", until.words(now)));
    let ago = span(now.saturating_sub(since) / 1_000);
    format!("since {} ({ago}){}", clock(since, now), until.unwrap_or_default())
}

fn rates(view: &View) -> String {
    view.rates.map_or(String::new(), |rates| {
        let over = span(rates.over.as_secs());
        format!(
            "received {}, delivered {}, over the last {over}",
            rate(rates.received),
            rate(rates.delivered)
        )
    })
}

fn law(view: &View) -> String {
    let ledger = &view.ledger;
    format!(
        "received {} = skipped {} + buffered {} + delivered {} + refused {} + dropped {} (unaccounted {})",
        count(ledger.received),
        count(sum(&ledger.skipped)),
        count(ledger.buffered()),
        count(ledger.delivered),
        count(sum(&ledger.refused)),
        count(sum(&ledger.dropped)),
        ledger.unaccounted()
    )
}

/// What was lost, by reason.
fn reasons(view: &View) -> String {
    let ledger = &view.ledger;
    let places = [
        ("dropped", &ledger.dropped),
        ("refused", &ledger.refused),
        ("malformed", &ledger.malformed),
        ("skipped", &ledger.skipped),
    ];
    let entry = |place: &str, reason: &String, n: u64| {
        let goes_on = |loss: &&Loss| loss.place.name() == place && &loss.reason == reason;
        let sample = view.health.losses.iter().find(goes_on).and_then(|loss| loss.sample.as_deref());
        let sample = sample.map(|sample| format!(", the last {sample}")).unwrap_or_default();
        let (term, words) = (format!("{place}: {reason}"), format!("{}{sample}", count(n)));
        format!("<dt>{}</dt><dd>{}</dd>", escaped(&term), escaped(&words))
    };
    let lost = places.into_iter().flat_map(|(place, counts)| counts.iter().map(move |one| (place, one)));
    lost.filter(|(_, (_, n))| **n > 0).map(|(place, (reason, n))| entry(place, reason, *n)).collect()
}

fn listener(one: &Listener, now_ms: u64) -> String {
    let malformed = one.malformed.values().fold(0_u64, |sum, noted| sum.saturating_add(noted.count));
    let last = one.last_received_ms.map_or("not since the start".to_owned(), |at| {
        format!("{} ago", span(now_ms.saturating_sub(at) / 1_000))
    });
    let cells = [
        ("endpoint", one.endpoint.clone()),
        ("protocol", one.protocol.clone()),
        ("connections", count(u64::try_from(one.connections).unwrap_or(u64::MAX))),
        ("per second", "…".to_owned()),
        ("datapoints", count(one.datapoints)),
        ("last", last),
        ("malformed", count(malformed)),
    ];
    let cell = |(name, words): (&str, String)| format!("<td data-name=\"{name}\">{}</td>", escaped(&words));
    format!("<tr>{}</tr>", cells.map(cell).concat())
}

/// A text that HTML takes for nothing but text, within quotes too.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    text.chars().for_each(|c| match c {
        '&' => html.push_str("&amp;"),
        '<' => html.push_str("&lt;"),
        '>' => html.push_str("&gt;"),
        '"' => html.push_str("&quot;"),
        c => html.push(c),
    });
    html
}
