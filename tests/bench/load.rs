//! Owns the load: carbon-relay's frames and Graphite lines, made once, with only their times changed between rounds.
//! It never measures anything but when it wrote what.
//!
//! A datapoint's sequence number is its series (in its name) and its round (in its timestamp), so that the sink can
//! tell what was lost and what came twice.

#![allow(dead_code, reason = "each bench uses its part")]

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Datapoints in a frame, as carbon-relay makes them.
pub const FRAME: usize = 500;

/// Bytes of a name.
pub const NAME_BYTES: usize = 66;

/// What all names begin with; then come the host's number, one of [`NAME_MIDDLES`], and the metric's number.
pub const NAME_START: &str = "prod.eu-west-1.web-";

/// Digits of a host's number.
pub const HOST_DIGITS: usize = 5;

/// What stands between a host and the number of its metric; all are equally long.
const NAME_MIDDLES: [&str; 8] = [
    ".collectd.cpu.percent.user.average.",
    ".collectd.cpu.percent.idle.average.",
    ".collectd.disk.vda1.write.ops.rate.",
    ".collectd.disk.vda1.bytes.read.sum.",
    ".collectd.interface.eth0.octets.rx.",
    ".collectd.interface.eth0.packet.tx.",
    ".statsd.timers.api.request.mean_90.",
    ".statsd.gauges.jvm.memory.heap.use.",
];

/// Series of one host.
const METRICS_A_HOST: usize = 100;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Pickle,
    Line,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pickle => "pickle",
            Self::Line => "line",
        }
    }
}

/// What is sent, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub protocol: Protocol,
    pub series: usize,
    pub datapoints: usize,
    pub connections: usize,
    /// Datapoints a second; as fast as they are taken if `None`.
    pub rate: Option<usize>,
}

impl Plan {
    pub fn new(protocol: Protocol, datapoints: usize) -> Self {
        Self { protocol, series: 100_000, datapoints, connections: 4, rate: None }
    }

    pub fn frames_a_round(self) -> usize {
        self.series / FRAME
    }

    /// Frames in all; the datapoints are a multiple of the frames.
    pub fn frames(self) -> usize {
        self.datapoints / FRAME
    }
}

/// The name of a series.
pub fn name(series: usize) -> String {
    let (host, metric) = (series / METRICS_A_HOST, series % METRICS_A_HOST);
    let middle = NAME_MIDDLES[(metric / 4) % NAME_MIDDLES.len()];
    let name = format!("{NAME_START}{host:0HOST_DIGITS$}{middle}{metric:02}.rate");
    assert_eq!(name.len(), NAME_BYTES, "{name}");
    name
}

/// The series that a name says; the inverse of [`name`].
pub fn series(name: &[u8]) -> Option<usize> {
    let host = name.get(NAME_START.len()..)?.get(..HOST_DIGITS)?;
    let metric = name.get(NAME_START.len() + HOST_DIGITS + NAME_MIDDLES[0].len()..)?.get(..2)?;
    Some(digits(host)? * METRICS_A_HOST + digits(metric)?)
}

/// A number of decimal digits.
pub fn digits(text: &[u8]) -> Option<usize> {
    text.iter().try_fold(0, |n, &byte| byte.is_ascii_digit().then(|| n * 10 + usize::from(byte - b'0')))
}

/// Of ten values: four are counters, three have decimals of their own, two are small and repeat, one is zero.
pub fn value(series: usize) -> f64 {
    let noise = (series as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
    match series % 10 {
        0..=3 => (noise % 4_000_000_000) as f64,
        4 | 5 => (noise % 1_000_000) as f64 / 1_000.0,
        6 => noise as f64 / (1u64 << 53) as f64,
        7 => [0.5, 1.0, 99.9, 12.5][series / 10 % 4],
        8 => (series / 10 % 4) as f64,
        _ => 0.0,
    }
}

/// One frame, and where in it the timestamps are.
#[derive(Clone)]
struct Frame {
    bytes: Vec<u8>,
    times: Vec<usize>,
    protocol: Protocol,
}

impl Frame {
    fn new(protocol: Protocol, first: usize) -> Self {
        let mut frame = Self { bytes: Vec::new(), times: Vec::new(), protocol };
        match protocol {
            Protocol::Pickle => frame.pickle(first),
            Protocol::Line => frame.lines(first),
        }
        frame
    }

    /// As CPython's protocol 2 writes a list of `(name, (float, float))`: carbon-relay 1.1's own.
    fn pickle(&mut self, first: usize) {
        let bytes = &mut self.bytes;
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(b"\x80\x02]q\0(");
        let mut memo = 1u32;
        let mut put = |bytes: &mut Vec<u8>| {
            match u8::try_from(memo) {
                Ok(memo) => bytes.extend([b'q', memo]),
                Err(_) => {
                    bytes.push(b'r');
                    bytes.extend(memo.to_le_bytes());
                }
            }
            memo += 1;
        };
        for series in first..first + FRAME {
            bytes.push(b'X');
            bytes.extend((NAME_BYTES as u32).to_le_bytes());
            bytes.extend(name(series).bytes());
            put(bytes);
            bytes.push(b'G');
            self.times.push(bytes.len());
            bytes.extend([0; 8]);
            bytes.push(b'G');
            bytes.extend(value(series).to_be_bytes());
            bytes.push(0x86);
            put(bytes);
            bytes.push(0x86);
            put(bytes);
        }
        bytes.extend(b"e.");
        let length = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
    }

    fn lines(&mut self, first: usize) {
        for series in first..first + FRAME {
            write!(self.bytes, "{} {} ", name(series), value(series)).unwrap();
            self.times.push(self.bytes.len());
            self.bytes.extend(b"0000000000\n");
        }
    }

    fn set_time(&mut self, seconds: u64) {
        let mut text = [0; 10];
        let time: &[u8] = match self.protocol {
            Protocol::Pickle => &(seconds as f64).to_be_bytes(),
            Protocol::Line => {
                write!(&mut text[..], "{seconds:010}").unwrap();
                &text
            }
        };
        for &at in &self.times {
            self.bytes[at..at + time.len()].copy_from_slice(time);
        }
    }
}

/// The bytes of the frame whose first series is `first`, at a second: a pickle behind its length, or lines.
pub fn frame(protocol: Protocol, first: usize, seconds: u64) -> Vec<u8> {
    let mut frame = Frame::new(protocol, first);
    frame.set_time(seconds);
    frame.bytes
}

/// When each frame was written, in microseconds since the start of the run, for the sink to compare with.
pub struct Written {
    pub started: Instant,
    at: Vec<AtomicU64>,
}

impl Written {
    pub fn new(plan: Plan) -> Arc<Self> {
        let at = (0..plan.frames()).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { started: Instant::now(), at })
    }

    fn note(&self, frame: usize) {
        let micros = self.started.elapsed().as_micros() as u64;
        self.at[frame].store(micros, Ordering::Relaxed);
    }

    /// Microseconds between the writing of a frame and `now`.
    pub fn age(&self, frame: usize, now: Instant) -> u64 {
        let at = self.at.get(frame).map_or(0, |at| at.load(Ordering::Relaxed));
        (now.duration_since(self.started).as_micros() as u64).saturating_sub(at)
    }
}

/// Sends all of a plan, and returns when the sockets have taken it. Frame `k` is of round `k / frames_a_round`, whose
/// datapoints are of second `base + round`.
pub fn send(plan: Plan, to: SocketAddr, base: u64, written: &Arc<Written>) {
    // A thread serves many connections, for a thousand threads would be what is measured.
    let threads = plan.connections.min(2);
    let senders: Vec<_> = (0..threads)
        .map(|thread| {
            let written = written.clone();
            std::thread::spawn(move || send_some(plan, to, base, &written, thread, threads))
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}

fn send_some(plan: Plan, to: SocketAddr, base: u64, written: &Written, thread: usize, threads: usize) {
    let mine = |n: usize| (thread..n).step_by(threads);
    let mut sockets: Vec<_> = mine(plan.connections)
        .map(|_| {
            let socket = TcpStream::connect(to).unwrap();
            socket.set_nodelay(true).unwrap();
            socket
        })
        .collect();
    let mut frames: Vec<_> =
        mine(plan.frames_a_round()).map(|k| Frame::new(plan.protocol, k * FRAME)).collect();
    let started = Instant::now();
    for (n, k) in mine(plan.frames()).enumerate() {
        let round = k / plan.frames_a_round();
        let slot = n % frames.len();
        let frame = &mut frames[slot];
        frame.set_time(base + round as u64);
        if let Some(rate) = plan.rate {
            let due = Duration::from_secs_f64((k * FRAME) as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
        let turn = n % sockets.len();
        written.note(k);
        sockets[turn].write_all(&frame.bytes).unwrap();
    }
}
