//! Owns what is the same of every daemon under test, however it was started: its log, what its stats port answers, its end.
//! It never starts one, and judges nothing.

// Each target needs but some of it.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ChildStderr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How often a condition is looked at that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until something holds that nobody announces; false if it does not in time.
pub fn until(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}

/// What a daemon has said so far. It says it on a thread of its own, and another one reads it here: the figures may know of
/// something before the log does.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Value>>>);

impl Log {
    /// Reads to the end, which is that of the process. `keeps` sees each line, and how many are kept already.
    pub fn read(
        stderr: ChildStderr,
        mut keeps: impl FnMut(&str, usize) -> bool + Send + 'static,
    ) -> (Self, JoinHandle<()>) {
        let log = Self::default();
        let read = log.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut lines = read.0.lock().unwrap();
                if keeps(&line, lines.len()) {
                    // A panic's message is no JSON, and worth seeing.
                    let value = serde_json::from_str(&line);
                    lines.push(value.unwrap_or_else(|_| serde_json::json!({ "msg": line })));
                }
            }
        });
        (log, reader)
    }

    pub fn lines(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }

    /// The first line whose message is this.
    pub fn said(&self, message: &str) -> Option<Value> {
        self.0.lock().unwrap().iter().find(|line| line["msg"] == message).cloned()
    }

    /// How many messages hold these words. The verdict comes when a condition has held for seconds, and repeats the words of
    /// others: it does not count.
    pub fn times_said(&self, words: &str) -> usize {
        let is_asked_for = |message: &str| message.contains(words) && !message.starts_with("the verdict: ");
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line["msg"].as_str().is_some_and(is_asked_for)).count()
    }

    /// `host:port` of its stats port, once it said so; `None` if it has none.
    pub fn stats_address(&self) -> Option<String> {
        let said = self.said("showing its figures")?;
        Some(said["url"].as_str()?.strip_prefix("http://")?.split('/').next()?.to_owned())
    }
}

/// A request to a stats port: the status and the body; `None` if it is not answered.
pub fn ask(address: &str, method: &str, path: &str, host: &str, patience: Duration) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    let length = "Content-Length: 0\r\n";
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}Connection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// All that it ever said.
    pub log: Vec<Value>,
}

impl Ended {
    /// The line with its last figures, if it stopped as it should.
    pub fn closing_line(&self) -> Option<&Value> {
        self.log.iter().rev().find(|line| line["msg"] == "stopped")
    }

    /// The same of one that must have.
    #[track_caller]
    pub fn last_line(&self) -> &Value {
        self.closing_line().unwrap_or_else(|| panic!("no closing line: {self:#?}"))
    }

    pub fn says(&self, words: &str) -> bool {
        self.log.iter().any(|line| line.to_string().contains(words))
    }
}
