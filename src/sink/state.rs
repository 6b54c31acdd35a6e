//! What the stand-in knows: what it was sent, what it stored, what it is to do next.
//! It never grows past its caps: the requests that came first are forgotten first.

use super::script::Script;
use super::store::{Point, Row, Store};
use bytes::Bytes;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// Names, and slots of late datapoints, that are remembered, each.
const KNOWN_MAX: usize = 100_000;
/// Blueflood takes a datapoint of an older slot for late, in milliseconds.
const LATE_MS: i64 = 600_000;
/// The slots that late datapoints are noted by, in milliseconds.
const SLOT_MS: i64 = 1_200_000;
/// For so long Blueflood knows that a slot has had a late datapoint, and does not note it again.
const SLOT_KNOWN_FOR: Duration = Duration::from_secs(30);

/// One request, as it was received.
#[derive(Debug, Clone)]
pub struct Received {
    /// The method, as it was sent; `POST` where rows are brought.
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
    /// What requests meet that read back.
    pub(super) reads: Script,
    /// Names that are known though nothing is stored under them.
    known: HashSet<String>,
    /// When a slot last had a late datapoint.
    late: HashMap<(String, i64), Instant>,
    looks: u64,
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
            reads: Script::new(),
            known: HashSet::new(),
            late: HashMap::new(),
            looks: 0,
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

    /// How many requests came that read back.
    pub fn looks_seen(&self) -> u64 {
        self.looks
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

    pub(super) fn look(&mut self) {
        self.looks = self.looks.saturating_add(1);
    }

    /// Whether Blueflood has seen a name.
    pub(super) fn knows(&self, tenant: &str, name: &str) -> bool {
        self.store.get(tenant, name).is_some() || self.known.contains(&format!("{tenant}.{name}"))
    }

    /// Rows come while the store is away: whether Blueflood's answer admits that it lost them.
    pub(super) fn lose<'a>(&mut self, rows: impl Iterator<Item = Row<'a>>, now_ms: i64) -> bool {
        let mut admits = false;
        for row in rows {
            if self.late_slot(&row, now_ms).is_some_and(|slot| !self.is_noted(&slot)) {
                admits = true;
            }
            if !self.knows(row.tenant, row.name) {
                // Marked before it is written, so the next time nobody is told.
                if self.known.len() < KNOWN_MAX {
                    self.known.insert(format!("{}.{}", row.tenant, row.name));
                }
                admits = true;
            }
        }
        admits
    }

    fn late_slot(&self, row: &Row<'_>, now_ms: i64) -> Option<(String, i64)> {
        let is_late = row.ms < now_ms.saturating_sub(LATE_MS);
        is_late.then(|| (format!("{}.{}", row.tenant, row.name), row.ms.div_euclid(SLOT_MS)))
    }

    fn is_noted(&self, slot: &(String, i64)) -> bool {
        self.late.get(slot).is_some_and(|at| at.elapsed() < SLOT_KNOWN_FOR)
    }

    /// A row is stored: if it is late, its slot is noted.
    pub(super) fn note_late(&mut self, row: &Row<'_>, now_ms: i64) {
        if let Some(slot) = self.late_slot(row, now_ms) {
            if self.late.len() >= KNOWN_MAX {
                self.late.clear();
            }
            self.late.insert(slot, Instant::now());
        }
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
        let (script, reads) = (std::mem::take(&mut self.script), std::mem::take(&mut self.reads));
        *self = State { script, reads, in_flight: self.in_flight, in_flight_max: self.in_flight, ..fresh };
    }
}
