//! Owns the other end: an HTTP server that answers 200, counts every datapoint once, and can be down.
//! It never judges a row: it looks for what tells the sequence number, and for nothing else.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use memchr::memmem::Finder;

use crate::load::{self, FRAME, NAME_BYTES, Plan, Written};
use crate::requests::Requests;
use crate::shared::host_of_its_own;

/// Latencies are told apart to a millisecond, up to this many.
const LATENCY_MS_MAX: usize = 120_000;

/// The share of a plan by whose arrival a rate is told: the last chunk waits for its interval, however fast all was.
const MOST: f64 = 0.98;

/// The answer to everything.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// What the sink expects, and what it has.
struct Count {
    plan: Plan,
    base: u64,
    written: Arc<Written>,
    /// A bit for each sequence number.
    seen: Vec<u64>,
    tally: Tally,
    latency: Vec<u32>,
    /// When [`MOST`] of the plan was there.
    most: Option<Instant>,
}

/// What arrived.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Different datapoints of the plan.
    pub different: usize,
    /// Those that came again.
    pub duplicated: usize,
    /// Rows that are of no plan.
    pub strange: usize,
    pub posts: usize,
    /// Heads and bodies, as they were on the wire.
    pub wire_bytes: usize,
}

/// What came of a plan.
pub struct Arrived {
    pub tally: Tally,
    pub lost: usize,
    /// Different datapoints a second, until [`MOST`] of them were there.
    pub rate: f64,
    latency: Vec<u32>,
}

impl Arrived {
    /// The latency that `share` of the datapoints did not exceed.
    pub fn latency(&self, share: f64) -> Duration {
        let limit = (self.tally.different as f64 * share) as u64;
        let mut sum = 0;
        let ms = self.latency.iter().position(|&n| {
            sum += u64::from(n);
            sum >= limit
        });
        Duration::from_millis(ms.unwrap_or(LATENCY_MS_MAX) as u64)
    }
}

struct Shared {
    count: Mutex<Count>,
    arrived: Condvar,
    down: AtomicBool,
    /// Names that a discarding sink has read.
    discarded: AtomicU64,
}

/// A sink that listens.
#[derive(Clone)]
pub struct Sink {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Sink {
    /// A sink that reads HTTP; its threads end with the process.
    pub fn start() -> Self {
        Self::with(serve)
    }

    /// A sink that reads anything, counts the names in it and answers nothing.
    pub fn discarding() -> Self {
        Self::with(discard)
    }

    fn with(serve: fn(TcpStream, &Shared)) -> Self {
        let listener = TcpListener::bind((host_of_its_own(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let plan = Plan::new(load::Protocol::Line, 0);
        let count = Mutex::new(Count::new(plan, 0, Written::new(plan)));
        let shared = Arc::new(Shared {
            count,
            arrived: Condvar::new(),
            down: AtomicBool::new(false),
            discarded: AtomicU64::new(0),
        });
        let served = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = served.clone();
                if shared.down.load(Ordering::Relaxed) {
                    continue;
                }
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Down, it closes every connection, before an answer.
    pub fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::Relaxed);
    }

    /// Names that a discarding sink has read.
    pub fn discarded(&self) -> usize {
        self.shared.discarded.load(Ordering::Relaxed) as usize
    }

    /// Forgets what came, and expects this.
    pub fn expect(&self, plan: Plan, base: u64) -> Arc<Written> {
        let written = Written::new(plan);
        *self.shared.count.lock().unwrap() = Count::new(plan, base, written.clone());
        written
    }

    /// Waits for all of the plan, or until nothing came for so long.
    pub fn wait(&self, patience: Duration) -> Arrived {
        let mut count = self.shared.count.lock().unwrap();
        while count.tally.different < count.plan.datapoints {
            let before = count.tally.different;
            let (now, waited) = self.shared.arrived.wait_timeout(count, patience).unwrap();
            count = now;
            if waited.timed_out() && count.tally.different == before {
                break;
            }
        }
        Arrived {
            tally: count.tally,
            lost: count.plan.datapoints - count.tally.different,
            rate: count.most.map_or(0.0, |most| {
                count.plan.datapoints as f64 * MOST / most.duration_since(count.written.started).as_secs_f64()
            }),
            latency: std::mem::take(&mut count.latency),
        }
    }
}

impl Count {
    fn new(plan: Plan, base: u64, written: Arc<Written>) -> Self {
        let seen = vec![0; plan.datapoints.div_ceil(64)];
        let latency = vec![0; LATENCY_MS_MAX];
        Self { plan, base, written, seen, tally: Tally::default(), latency, most: None }
    }

    /// Counts a datapoint of a series at a second.
    fn datapoint(&mut self, series: usize, second: u64, now: Instant) {
        let round = second.checked_sub(self.base).map(|round| round as usize);
        let number = round.map(|round| round * self.plan.series + series);
        let Some(number) = number.filter(|&n| n < self.plan.datapoints && series < self.plan.series) else {
            self.tally.strange += 1;
            return;
        };
        let (word, bit) = (&mut self.seen[number / 64], 1 << (number % 64));
        if *word & bit != 0 {
            self.tally.duplicated += 1;
            return;
        }
        *word |= bit;
        self.tally.different += 1;
        let ms = self.written.age(number / FRAME, now) / 1_000;
        self.latency[(ms as usize).min(LATENCY_MS_MAX - 1)] += 1;
    }

    /// Counts the rows of a body, ours or the original's: a time, and somewhere behind it a name.
    fn body(&mut self, body: &[u8], finders: &Finders, now: Instant) {
        let mut rest = body;
        while let Some(at) = finders.time.find(rest) {
            rest = &rest[at + TIME.len()..];
            let digits = rest.strip_prefix(b" ").unwrap_or(rest);
            let second = digits.get(..10).and_then(load::digits);
            let Some(at) = finders.name.find(rest) else { break };
            rest = &rest[at + NAME.len()..];
            let name = rest.strip_prefix(b" ").unwrap_or(rest).get(1..=NAME_BYTES);
            match (second, name.and_then(load::series)) {
                (Some(second), Some(series)) => self.datapoint(series, second as u64, now),
                _ => self.tally.strange += 1,
            }
            rest = rest.get(NAME_BYTES..).unwrap_or_default();
        }
    }
}

const TIME: &[u8] = b"\"collectionTime\":";
const NAME: &[u8] = b"\"metricName\":";

struct Finders {
    time: Finder<'static>,
    name: Finder<'static>,
}

/// Serves a connection until it ends, or the sink is down.
fn serve(stream: TcpStream, shared: &Shared) {
    let finders = Finders { time: Finder::new(TIME), name: Finder::new(NAME) };
    let mut answers = stream.try_clone().unwrap();
    let mut requests = Requests::of(stream);
    while let Some(request) = requests.read() {
        if shared.down.load(Ordering::Relaxed) {
            let _ = answers.shutdown(Shutdown::Both);
            return;
        }
        if answers.write_all(OK).is_err() {
            return;
        }
        let now = Instant::now();
        let rows = requests.body(&request);
        let mut count = shared.count.lock().unwrap();
        count.body(rows, &finders, now);
        count.tally.posts += 1;
        count.tally.wire_bytes += request.wire_bytes;
        if count.most.is_none() && count.tally.different as f64 >= count.plan.datapoints as f64 * MOST {
            count.most = Some(now);
        }
        drop(count);
        shared.arrived.notify_all();
        if request.close {
            return;
        }
    }
}

fn discard(mut stream: TcpStream, shared: &Shared) {
    let name = Finder::new(load::NAME_START);
    let carried_max = load::NAME_START.len() - 1;
    let mut buffer = vec![0; 256 << 10];
    let mut carried = 0;
    while let Ok(n) = stream.read(&mut buffer[carried..]) {
        if n == 0 {
            return;
        }
        let bytes = carried + n;
        shared.discarded.fetch_add(name.find_iter(&buffer[..bytes]).count() as u64, Ordering::Relaxed);
        // A name may have been cut; a whole one is longer than what is carried, so none counts twice.
        carried = bytes.min(carried_max);
        buffer.copy_within(bytes - carried..bytes, 0);
    }
}
