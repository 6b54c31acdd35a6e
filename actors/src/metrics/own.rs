//! Owns the figures as metrics of their own, sent on the same way as everybody's, as carbon's daemons do. It never
//! waits for that way: a round that finds the last one still under way is left out.

use std::sync::Arc;

use super::{figures, view::View};
use crate::{
    collector::{Frame, MetricFrame},
    core::{
        datapoint::Datapoint,
        ledger::Decoded,
        row::{Encoder, Rows},
    },
    spool::SharedLedger,
    supervisor::Link,
};

/// How the figures become metrics.
#[derive(Clone)]
pub struct OwnMetrics {
    /// The beginning of their names, before a dot.
    pub prefix: String,
    /// The encoder, which makes rows of them.
    pub encoder: Arc<Encoder>,
    /// The collector, which takes them as any others.
    pub collector: Link<MetricFrame>,
    /// The ledger, in which they are counted as any others.
    pub ledger: SharedLedger,
}

impl OwnMetrics {
    /// The figures of a view, as rows that are already counted as received.
    pub(super) fn frame(&self, view: &View, now_ms: i64) -> Arc<Frame> {
        let mut rows = Rows::default();
        let mut decoded = Decoded::default();
        for (name, value) in figures::own(view) {
            let name = format!("{}.{name}", self.prefix);
            let datapoint = Datapoint { name: name.as_bytes(), timestamp: -1.0, value };
            decoded.count(self.encoder.encode(&datapoint, now_ms, &mut rows).map(|()| false));
        }
        self.ledger.change(|ledger| ledger.decoded(&decoded));
        Arc::new(Frame::new(rows, now_ms, self.encoder.tenant().clone()))
    }
}
