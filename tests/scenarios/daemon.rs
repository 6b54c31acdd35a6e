//! Owns the daemon under test: how it is started, looked at and ended. It is the real program, in its own process.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

pub use crate::running::{Ended, until};
use crate::running::{Log, ask};

/// How long it may take to start or to answer: far longer than it does, for a busy machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// So many lines of the log are kept to be looked through; the file has all of them.
const LINES_MAX: usize = 20_000;

/// The program; another build can be tried with the same scenarios.
pub fn program() -> String {
    std::env::var("SCENARIOS_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_blueflood-forward").to_owned())
}

/// A running daemon. Dropped, it is killed.
pub struct Daemon {
    child: Child,
    log: Log,
    reader: Option<JoinHandle<()>>,
    pub port: u16,
    stats: String,
}

impl Daemon {
    /// Starts it; its log is added to a file.
    pub fn start(arguments: &[String], log_file: &Path) -> Result<Self, String> {
        let mut command = Command::new(program());
        command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let mut file = File::options().create(true).append(true).open(log_file).unwrap();
        let (log, reader) = Log::read(child.stderr.take().unwrap(), move |line, kept| {
            let _ = writeln!(file, "{line}");
            const KEPT: [&str; 5] = ["\"stopped\"", "\"stopping\"", "panick", "settings", "audit"];
            kept < LINES_MAX || KEPT.iter().any(|word| line.contains(word))
        });
        let mut daemon = Self { child, log, reader: Some(reader), port: 0, stats: String::new() };
        until(PATIENCE, || daemon.log.said("forwarding").is_some() || daemon.has_ended());
        let port = |line: &Value| line["endpoint"].as_str()?.rsplit(':').next()?.parse().ok();
        let found = (daemon.log.said("listening").as_ref().and_then(port), daemon.log.stats_address());
        match found {
            (Some(port), Some(stats)) if !daemon.has_ended() => {
                (daemon.port, daemon.stats) = (port, stats);
                Ok(daemon)
            }
            _ => Err(format!("it does not start: {:?}", daemon.log())),
        }
    }

    pub fn log(&self) -> Vec<Value> {
        self.log.lines()
    }

    /// How many messages hold these words.
    pub fn times_said(&self, words: &str) -> usize {
        self.log.times_said(words)
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// GETs a path of the stats port: the status and the body; `None` if it is not answered.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        ask(&self.stats, "GET", path, "localhost", PATIENCE)
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
