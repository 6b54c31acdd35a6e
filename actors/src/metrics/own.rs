//! Owns the figures as metrics of their own, sent on the same way as everybody's, as carbon's daemons do. It never
//! waits for that way: a round that finds the last one still under way is left out.

use std::sync::Arc;

use super::view::View;
use crate::{
    collector::{Frame, MetricFrame},
    core::{
        datapoint::Datapoint,
        ledger::{Decoded, sum},
        row::{Encoder, Rows},
    },
    spool::SharedLedger,
    supervisor::Link,
};

/// How the figures become metrics.
#[derive(Clone)]
pub struct OwnMetrics {
    /// What their names begin with, before a dot.
    pub prefix: String,
    /// What makes rows.
    pub encoder: Arc<Encoder>,
    /// Where they go.
    pub collector: Link<MetricFrame>,
    /// Where they are counted, as any others.
    pub ledger: SharedLedger,
}

impl OwnMetrics {
    /// The figures of a view, as rows that are already counted as received.
    pub(super) fn frame(&self, view: &View, now_ms: i64) -> Arc<Frame> {
        let mut rows = Rows::default();
        let mut decoded = Decoded::default();
        for (name, value) in figures(view) {
            let name = format!("{}.{name}", self.prefix);
            let datapoint = Datapoint { name: name.as_bytes(), timestamp: -1.0, value };
            decoded.count(self.encoder.encode(&datapoint, now_ms, &mut rows).map(|()| false));
        }
        self.ledger.change(|ledger| ledger.decoded(&decoded));
        Arc::new(Frame::new(rows, now_ms, self.encoder.tenant().clone()))
    }
}

/// Each figure and its name.
fn figures(view: &View) -> Vec<(String, f64)> {
    let ledger = &view.ledger;
    let outbox = &view.forwarder.outbox;
    let mut figures: Vec<(String, f64)> = [
        ("datapoints.received", ledger.received),
        ("datapoints.skipped", sum(&ledger.skipped)),
        ("datapoints.buffered", ledger.buffered()),
        ("datapoints.delivered", ledger.delivered),
        ("datapoints.refused", sum(&ledger.refused)),
        ("datapoints.dropped", sum(&ledger.dropped)),
        ("malformed", sum(&ledger.malformed)),
        ("requests.ended", view.forwarder.posts),
        ("requests.again", outbox.retries),
        ("requests.in_flight", outbox.in_flight as u64),
        ("gate.open", u64::from(outbox.closed.is_none())),
        ("spool.used_bytes", view.spool.used_bytes),
        ("spool.dead_letter_bytes", view.spool.dead_letter_bytes),
        ("log.records_lost", view.log_records_lost),
        ("uptime_seconds", view.uptime.as_secs()),
    ]
    .map(|(name, value)| (name.to_owned(), value as f64))
    .into();
    let connections: usize = view.listeners.iter().map(|listener| listener.connections).sum();
    figures.push(("connections".to_owned(), connections as f64));
    figures
}
