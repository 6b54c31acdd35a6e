//! Owns a process under measurement: how it is started and ended, and what `/proc` says it costs.
//! It never sends it anything.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a process may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `/proc/PID/stat` counts in.
const TICKS_A_SECOND: f64 = 100.0;

/// A process that is killed when it is dropped.
pub struct Process {
    child: Child,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self { child: command.stdin(Stdio::null()).spawn().unwrap() }
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
    }

    /// User and system time so far, in seconds.
    pub fn cpu_s(&self) -> f64 {
        let stat = self.proc("stat");
        // The name in parentheses may hold anything; the fields after it are numbers.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        ticks as f64 / TICKS_A_SECOND
    }

    fn status_kib(&self, key: &str) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
    }

    /// The most memory that was resident since [`Self::forget_peak`], in MiB.
    pub fn peak_mib(&self) -> f64 {
        self.status_kib("VmHWM") / 1024.0
    }

    pub fn resident_mib(&self) -> f64 {
        self.status_kib("VmRSS") / 1024.0
    }

    pub fn forget_peak(&self) {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    /// Bytes that it has made the file system write.
    pub fn disk_bytes(&self) -> f64 {
        let io = self.proc("io");
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:"));
        line.and_then(|line| line.trim().parse().ok()).unwrap_or(0.0)
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder for a spool, on the disk that the build is on: `/tmp` may be memory.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::with_prefix_in("bench-", env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn spool(&self) -> PathBuf {
        self.path().join("spool.db")
    }

    /// Bytes of the spool's files.
    pub fn spool_bytes(&self) -> f64 {
        let files = fs::read_dir(self.path()).unwrap().flatten();
        files.map(|file| file.metadata().map_or(0, |file| file.len())).sum::<u64>() as f64
    }
}

/// Our daemon.
pub struct Daemon {
    pub process: Process,
    pub endpoint: SocketAddr,
    /// From the start of the process to "forwarding".
    pub started_in: Duration,
}

impl Daemon {
    /// Starts it, on the given cores if any, with `more` options that come last.
    pub fn start(url: &str, folder: &Folder, cores: Option<&str>, more: &[&str]) -> Self {
        // Another build can be measured by the same bench: what a change is worth.
        let other = std::env::var("BENCH_BINARY");
        let binary = other.as_deref().unwrap_or(env!("CARGO_BIN_EXE_blueflood-forward"));
        let mut command = match cores {
            Some(cores) => {
                let mut command = Command::new("taskset");
                command.args(["-c", cores, binary]);
                command
            }
            None => Command::new(binary),
        };
        command.args(["--blueflood", url, "--tenant", "acme", "--stats", "", "--log_format", "json"]);
        command.args(["--endpoint", "tcp:port=0:interface=127.0.0.1:protocol=auto"]).arg("--spool");
        command.arg(folder.spool()).args([
            "--interval",
            "1",
            "--backoff_max",
            "1",
            "--shutdown_timeout",
            "0",
        ]);
        command.args(["--connections", "2000"]);
        if other.is_err() {
            // An older build knows no such option, and reads nothing back.
            command.args(["--query", "off"]);
        }
        command.args(more).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let started = Instant::now();
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        let log = process.child.stderr.take().unwrap();
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            // Read to its end, or the process would wait for us.
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                let _ = say.send(line);
            }
        });
        let mut endpoint = None;
        loop {
            let line = said.recv_timeout(PATIENCE).expect("the daemon starts");
            if let Some(address) = line["endpoint"].as_str() {
                endpoint = address.strip_prefix("tcp:").and_then(|address| address.parse().ok());
            }
            if line["msg"] == "forwarding" {
                break;
            }
        }
        let endpoint = endpoint.expect("the daemon says where it listens");
        Self { process, endpoint, started_in: started.elapsed() }
    }

    /// Ends it as systemd does, with what is in its spool left there.
    pub fn stop(mut self) {
        let pid = self.process.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        while !self.process.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
