//! Owns the daemon under test: how it is started, looked at and ended. It is the real program, in its own process.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long it may take to start or to answer: far longer than it does, for a busy machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// So many lines of the log are kept to be looked through; the file has all of them.
const LINES_MAX: usize = 20_000;

/// The program; another build can be tried with the same scenarios.
pub fn program() -> String {
    std::env::var("SCENARIOS_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_blueflood-forward").to_owned())
}

/// Waits until something holds that nobody announces; false if it does not in time.
pub fn until(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// A running daemon. Dropped, it is killed.
pub struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
    pub port: u16,
    stats: String,
}

/// How a daemon ended.
pub struct Ended {
    pub code: Option<i32>,
    pub log: Vec<Value>,
}

impl Ended {
    /// The figures of the closing line.
    pub fn last_line(&self) -> Option<&Value> {
        self.log.iter().rev().find(|line| line["msg"] == "stopped")
    }
}

impl Daemon {
    /// Starts it; its log is added to a file.
    pub fn start(arguments: &[String], log_file: &Path) -> Result<Self, String> {
        let mut command = Command::new(program());
        command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), log.clone());
        let mut file = File::options().create(true).append(true).open(log_file).unwrap();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = writeln!(file, "{line}");
                let mut lines = lines.lock().unwrap();
                let kept = ["\"stopped\"", "\"stopping\"", "panick", "settings", "audit"]
                    .iter()
                    .any(|word| line.contains(word));
                if lines.len() < LINES_MAX || kept {
                    // A panic's message is no JSON.
                    lines.push(
                        serde_json::from_str(&line).unwrap_or_else(|_| serde_json::json!({ "msg": line })),
                    );
                }
            }
        });
        let mut daemon = Self { child, log, reader: Some(reader), port: 0, stats: String::new() };
        until(PATIENCE, || daemon.said("forwarding").is_some() || daemon.has_ended());
        let port = |line: &Value| line["endpoint"].as_str()?.rsplit(':').next()?.parse().ok();
        let address = |line: &Value| {
            Some(line["url"].as_str()?.strip_prefix("http://")?.strip_suffix("/stats")?.to_owned())
        };
        let found = (
            daemon.said("listening").as_ref().and_then(port),
            daemon.said("showing its figures").as_ref().and_then(address),
        );
        match found {
            (Some(port), Some(stats)) if !daemon.has_ended() => {
                (daemon.port, daemon.stats) = (port, stats);
                Ok(daemon)
            }
            _ => Err(format!("it does not start: {:?}", daemon.log())),
        }
    }

    pub fn log(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    /// The first line whose message is this.
    pub fn said(&self, message: &str) -> Option<Value> {
        self.log.lock().unwrap().iter().find(|line| line["msg"] == message).cloned()
    }

    /// How many lines hold these words.
    pub fn times_said(&self, words: &str) -> usize {
        // The verdict repeats the words of others.
        let is_asked_for = |line: &&Value| {
            let text = line.to_string();
            text.contains(words) && !text.contains("\"the verdict: ")
        };
        self.log.lock().unwrap().iter().filter(is_asked_for).count()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// GETs a path of the stats port: the status and the body; `None` if it is not answered.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.stats).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// What `/stats` shows; `Null` if it shows nothing.
    pub fn stats(&self) -> Value {
        let answer = self.get("/stats").or_else(|| self.get("/stats"));
        answer.and_then(|(_, body)| serde_json::from_str(&body).ok()).unwrap_or_default()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).stderr(Stdio::null()).status();
        assert!(sent.unwrap().success(), "there is no daemon to be told {name}");
    }

    /// Waits for its end; `Err` if it does not come.
    pub fn wait(mut self, patience: Duration) -> Result<Ended, String> {
        if !until(patience, || self.has_ended()) {
            return Err(format!("it did not end within {} s", patience.as_secs()));
        }
        let code = self.child.wait().unwrap().code();
        self.reader.take().unwrap().join().unwrap();
        Ok(Ended { code, log: self.log() })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
