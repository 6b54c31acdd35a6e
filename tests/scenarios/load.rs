//! Owns the senders: numbers from 0 up, each sent once, at a stated rate over some connections.
//! A sender whose connection ends goes on with the next number: what it had written last may not have been received.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a sender looks whether something is due.
const TICK: Duration = Duration::from_millis(5);

/// The name of a number.
pub type Name = fn(usize) -> String;

/// What is to be sent.
#[derive(Clone, Copy)]
pub struct Plan {
    /// How many numbers.
    pub n: usize,
    /// How many of them a second; 0 is as fast as they are taken.
    pub rate: usize,
    pub connections: usize,
    /// How many go out in one write, or in one frame, at most.
    pub block: usize,
    /// Frames of carbon-relay rather than lines.
    pub pickle: bool,
    pub name: Name,
}

impl Plan {
    pub fn new(n: usize, rate: usize) -> Self {
        Self { n, rate, connections: 1, block: 1_000, pickle: false, name: |i| format!("a.{i}") }
    }

    /// The same with other names.
    pub fn named(self, name: Name) -> Self {
        Self { name, ..self }
    }

    pub fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// In frames of so many datapoints.
    pub fn frames(self, block: usize) -> Self {
        Self { block, pickle: true, ..self }
    }

    fn bytes(&self, from: usize, to: usize) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        if self.pickle {
            let points: Vec<_> = (from..to).map(|i| ((self.name)(i), (now, i as f64))).collect();
            let pickle = serde_pickle::to_vec(&points, serde_pickle::SerOptions::new().proto_v2()).unwrap();
            return [&u32::try_from(pickle.len()).unwrap().to_be_bytes()[..], &pickle].concat();
        }
        let mut lines = Vec::new();
        for i in from..to {
            writeln!(lines, "{} {i} {now}", (self.name)(i)).unwrap();
        }
        lines
    }
}

/// Where senders find the daemon, which may be another one after a while.
#[derive(Default)]
pub struct Place {
    /// 0 while there is none.
    pub port: AtomicUsize,
    /// Set before a daemon is told to stop: what is written from then on may not be received.
    pub ending: AtomicBool,
    /// How many daemons there were.
    pub generation: AtomicU64,
}

struct Shared {
    plan: Plan,
    place: Arc<Place>,
    started: Instant,
    next: Mutex<usize>,
    /// Numbers that were written whole.
    written: AtomicUsize,
    /// Numbers of which nobody can say whether they were received.
    uncertain: AtomicUsize,
    enough: AtomicBool,
}

/// Senders at work.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(plan: Plan, place: Arc<Place>) -> Self {
        let shared = Arc::new(Shared {
            plan,
            place,
            started: Instant::now(),
            next: Mutex::new(0),
            written: AtomicUsize::new(0),
            uncertain: AtomicUsize::new(0),
            enough: AtomicBool::new(false),
        });
        let threads = (0..plan.connections)
            .map(|_| {
                let shared = shared.clone();
                std::thread::spawn(move || shared.send())
            })
            .collect();
        Self { shared, threads }
    }

    /// Numbers that were given to senders: all of them, and no others, may come.
    pub fn begun(&self) -> usize {
        *self.shared.next.lock().unwrap()
    }

    /// Numbers that were written whole.
    pub fn written(&self) -> usize {
        self.shared.written.load(Ordering::SeqCst)
    }

    /// Numbers of which nobody can say whether they were received.
    pub fn uncertain(&self) -> usize {
        self.shared.uncertain.load(Ordering::SeqCst)
    }

    /// How long it takes if nobody makes the senders wait.
    pub fn takes(&self) -> Duration {
        Duration::from_secs_f64(
            self.shared.plan.n as f64
                / if self.shared.plan.rate == 0 { 1_000.0 } else { self.shared.plan.rate as f64 },
        )
    }

    pub fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Sends nothing more after the blocks at hand.
    pub fn stop(&self) {
        self.shared.enough.store(true, Ordering::SeqCst);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// The numbers that are due for one write; `None` when all were given.
    fn claim(&self) -> Option<(usize, usize)> {
        loop {
            if self.enough.load(Ordering::SeqCst) {
                return None;
            }
            let mut next = self.next.lock().unwrap();
            if *next >= self.plan.n {
                return None;
            }
            let due = match self.plan.rate {
                0 => self.plan.n,
                rate => (self.started.elapsed().as_secs_f64() * rate as f64) as usize + 1,
            };
            let to = due.min(self.plan.n).min(*next + self.plan.block);
            // A frame is sent whole.
            let whole = !self.plan.pickle || to == *next + self.plan.block || to == self.plan.n;
            if to > *next && whole {
                let from = std::mem::replace(&mut *next, to);
                return Some((from, to));
            }
            drop(next);
            std::thread::sleep(TICK);
        }
    }

    fn connect(&self) -> Option<(TcpStream, u64)> {
        loop {
            let generation = self.place.generation.load(Ordering::SeqCst);
            let port = self.place.port.load(Ordering::SeqCst);
            if let Some(port) = u16::try_from(port).ok().filter(|port| *port != 0)
                && let Ok(stream) = TcpStream::connect(("127.0.0.1", port))
            {
                let _ = stream.set_nodelay(true);
                return Some((stream, generation));
            }
            if self.enough.load(Ordering::SeqCst) {
                return None;
            }
            std::thread::sleep(TICK);
        }
    }

    fn send(&self) {
        let Some((mut stream, mut generation)) = self.connect() else { return };
        while let Some((from, to)) = self.claim() {
            if self.place.generation.load(Ordering::SeqCst) != generation {
                match self.connect() {
                    Some(again) => (stream, generation) = again,
                    None => return,
                }
            }
            let bytes = self.plan.bytes(from, to);
            let whole = stream.write_all(&bytes).is_ok();
            let same = self.place.generation.load(Ordering::SeqCst) == generation;
            if whole {
                self.written.fetch_add(to - from, Ordering::SeqCst);
            }
            if !whole || !same || self.place.ending.load(Ordering::SeqCst) {
                self.uncertain.fetch_add(to - from, Ordering::SeqCst);
            }
            if !whole {
                match self.connect() {
                    Some(again) => (stream, generation) = again,
                    None => return,
                }
            }
        }
    }
}
