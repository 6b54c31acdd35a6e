//! What the stand-in knows: what it was sent, what it stored, what it is to do next.
//! It never grows past its caps: the requests that came first are forgotten first.

use super::script::Script;
use super::store::{Point, Row, Store};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Instant;

/// One request, as it was received.
#[derive(Debug, Clone)]
pub struct Received {
    /// `POST`, mostly.
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// Names and values in order.
    pub headers: Vec<(String, String)>,
    /// The body after inflation; empty where it was too large, no gzip though it said so, or never read.
    pub body: Bytes,
    /// The bytes of the body on the wire, without the framing of chunks.
    pub body_bytes_raw: u64,
    /// When it had been read.
    pub at: Instant,
}

impl Received {
    /// The value of a header; of several the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn weight(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        headers
            .fold(self.body.len().saturating_add(self.target.len()), usize::saturating_add)
            .saturating_add(256)
    }
}

/// Everything, as a test looks at it.
#[derive(Debug)]
pub struct State {
    pub(super) store: Store,
    pub(super) script: Script,
    rows_stored: u64,
    last_name: String,
    received: VecDeque<Received>,
    received_bytes: usize,
    received_bytes_max: usize,
    requests: u64,
    in_flight: usize,
    in_flight_max: usize,
}

impl State {
    pub(super) fn new(points_max: usize, received_bytes_max: usize) -> Self {
        State {
            store: Store::new(points_max),
            script: Script::new(),
            rows_stored: 0,
            last_name: String::new(),
            received: VecDeque::new(),
            received_bytes: 0,
            received_bytes_max,
            requests: 0,
            in_flight: 0,
            in_flight_max: 0,
        }
    }

    /// Every point of a tenant, by name and time.
    pub fn points(&self, tenant: &str) -> Vec<Point> {
        self.store.points(tenant)
    }

    /// How many different points are held, over all tenants.
    pub fn points_held(&self) -> usize {
        self.store.len()
    }

    /// How many rows were stored since the start, each time that one came.
    pub fn rows_stored(&self) -> u64 {
        self.rows_stored
    }

    /// The name of the row that was stored last; empty before the first.
    pub fn last_name(&self) -> &str {
        &self.last_name
    }

    /// The ingest requests that were received since the start, and are remembered, the oldest first.
    pub fn requests(&self) -> impl ExactSizeIterator<Item = &Received> {
        self.received.iter()
    }

    /// How many ingest requests came since the start, remembered or not.
    pub fn requests_seen(&self) -> u64 {
        self.requests
    }

    /// The most requests that were under way at once: from the end of the head until the answer is sent.
    pub fn concurrency_max(&self) -> usize {
        self.in_flight_max
    }

    pub(super) fn enter(&mut self) {
        self.in_flight = self.in_flight.saturating_add(1);
        self.in_flight_max = self.in_flight_max.max(self.in_flight);
    }

    pub(super) fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    pub(super) fn put(&mut self, row: &Row<'_>) {
        self.store.put(row);
        self.rows_stored = self.rows_stored.saturating_add(1);
        self.last_name.clear();
        self.last_name.push_str(row.name);
    }

    pub(super) fn record(&mut self, request: Received) {
        self.requests = self.requests.saturating_add(1);
        self.received_bytes = self.received_bytes.saturating_add(request.weight());
        self.received.push_back(request);
        while self.received_bytes > self.received_bytes_max {
            let Some(oldest) = self.received.pop_front() else { return };
            self.received_bytes = self.received_bytes.saturating_sub(oldest.weight());
        }
    }

    /// Forgets points, requests and counts; the script and the caps stay.
    pub(super) fn clear(&mut self, points_max: usize) {
        let fresh = State::new(points_max, self.received_bytes_max);
        let script = std::mem::take(&mut self.script);
        *self = State { script, in_flight: self.in_flight, in_flight_max: self.in_flight, ..fresh };
    }
}
