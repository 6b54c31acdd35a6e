//! A daemon, a Blueflood and their ports, so that a test is a few lines in the words of the domain.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blueflood_forward::sink::{self, Script, Sink, SinkHandle};
use serde_json::Value;
use tempfile::TempDir;

pub use crate::running::Ended;
use crate::running::{self, Log, ask};

/// How long a test waits for what must happen: far longer than it takes, for a busy machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Stands among a daemon's options if its endpoints are in its configuration file: the command line would win.
pub const ENDPOINT_IN_FILE: &str = "(endpoint in file)";

/// The same of its tenant.
pub const TENANT_IN_FILE: &str = "(tenant in file)";

/// The same of Blueflood's query service. Without a word of it a daemon reads nothing back: what happens to answer at its usual
/// port is no part of a test.
pub const QUERY_IN_FILE: &str = "(query in file)";

/// The tenant of every test.
pub const TENANT: &str = "acme";

/// A Blueflood, and a folder for a daemon's spool.
pub struct World {
    pub blueflood: SinkHandle,
    pub folder: TempDir,
    /// The folder of the spool below that one, if it has its own.
    volume: Option<&'static str>,
}

impl World {
    pub fn new() -> Self {
        Self::with(sink::Options::default())
    }

    /// A Blueflood whose clock stands at `ms`: captured streams were sent at their own time.
    pub fn at(ms: i64) -> Self {
        Self::with(sink::Options { clock: Arc::new(move || ms), ..sink::Options::default() })
    }

    pub fn with(options: sink::Options) -> Self {
        Self::on("127.0.0.1:0", options)
    }

    /// A Blueflood at an address.
    pub fn on(address: impl std::net::ToSocketAddrs, options: sink::Options) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        Self {
            blueflood: Sink::start(listener, options).unwrap(),
            folder: TempDir::new().unwrap(),
            volume: None,
        }
    }

    pub fn spool(&self) -> PathBuf {
        self.folder.path().join(self.volume.unwrap_or_default()).join("spool.db")
    }

    /// The spool lies in a folder of its own.
    pub fn put_spool_into(&mut self, volume: &'static str) {
        self.volume = Some(volume);
    }

    /// Starts a daemon that takes both protocols and sends every 100 ms; `more` options come last and win.
    pub fn daemon(&self, more: &[&str]) -> Daemon {
        self.try_daemon(more).expect("the daemon starts")
    }

    /// The same, with its last words if it does not start.
    pub fn try_daemon(&self, more: &[&str]) -> Result<Daemon, Ended> {
        self.with_arguments(more, Daemon::start)
    }

    /// The same as [`World::daemon`], in an environment.
    pub fn daemon_in(&self, environment: &[(&str, &str)], more: &[&str]) -> Daemon {
        let start = |arguments: &[&str]| Daemon::run(command(arguments).envs(environment.iter().copied()));
        self.with_arguments(more, start).expect("the daemon starts")
    }

    /// The same, with a socket that systemd bound. It comes as standard input, and a shell moves it to where systemd
    /// would have put it: that takes no unsafe code.
    pub fn daemon_with_socket(&self, socket: OwnedFd, more: &[&str]) -> Daemon {
        let moved = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 0</dev/null";
        let start = |arguments: &[&str]| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", moved, env!("CARGO_BIN_EXE_blueflood-forward")]).args(arguments).env_clear();
            Daemon::run(shell.stdin(socket).stdout(Stdio::null()))
        };
        self.with_arguments(more, start).expect("the daemon starts")
    }

    /// The same, with what a shell's `ulimit` says.
    pub fn daemon_limited(&self, limit: &str, more: &[&str]) -> Daemon {
        let start = |arguments: &[&str]| {
            let mut shell = Command::new("/bin/bash");
            let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
            shell.args(["-c", &script, env!("CARGO_BIN_EXE_blueflood-forward")]).args(arguments).env_clear();
            Daemon::run(shell.stdin(Stdio::null()).stdout(Stdio::null()))
        };
        self.with_arguments(more, start).expect("the daemon starts")
    }

    fn with_arguments<T>(&self, more: &[&str], run: impl FnOnce(&[&str]) -> T) -> T {
        let spool = self.spool();
        let url = self.blueflood.url();
        let mut arguments = vec!["--blueflood", &url, "--spool", spool.to_str().unwrap()];
        if !more.contains(&TENANT_IN_FILE) {
            arguments.extend(["--tenant", TENANT]);
        }
        arguments.extend(["--stats", "127.0.0.1:0", "--log_format", "json", "--interval", "0.1"]);
        arguments.extend(["--seal_interval", "0.05", "--backoff_max", "0.3", "--shutdown_timeout", "10"]);
        if !more.contains(&"--endpoint") && !more.contains(&ENDPOINT_IN_FILE) {
            arguments.extend(["--endpoint", "tcp:port=0:interface=127.0.0.1:protocol=auto"]);
        }
        if !more.contains(&"--query") && !more.contains(&QUERY_IN_FILE) {
            arguments.extend(["--query", "off"]);
        }
        let elsewhere = [ENDPOINT_IN_FILE, TENANT_IN_FILE, QUERY_IN_FILE];
        arguments.extend(more.iter().filter(|given| !elsewhere.contains(*given)));
        run(&arguments)
    }

    /// Waits until Blueflood has stored `n` different points of the tenant.
    pub fn expect_points(&self, n: usize) {
        let there = self.blueflood.wait_for(|state| state.points_held() >= n, PATIENCE);
        assert!(there, "Blueflood has {} of {n} points", self.blueflood.points(TENANT).len());
        assert_eq!(self.blueflood.points(TENANT).len(), n);
    }

    /// The names that Blueflood has, each with its value.
    pub fn stored(&self) -> BTreeMap<String, f64> {
        let value = |point: &sink::Point| match point.value {
            sink::Number::Int(value) => value as f64,
            sink::Number::Float(value) => value,
        };
        self.blueflood.points(TENANT).iter().map(|point| (point.name.clone(), value(point))).collect()
    }
}

/// A running daemon. Dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Log,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(arguments: &[&str]) -> Result<Self, Ended> {
        Self::run(&mut command(arguments))
    }

    fn run(command: &mut Command) -> Result<Self, Ended> {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (log, reader) = Log::read(child.stderr.take().unwrap(), |_, _| true);
        let mut daemon = Self { child, log, reader: Some(reader) };
        let started = |daemon: &mut Self| {
            daemon.said("forwarding").is_some() || daemon.child.try_wait().unwrap().is_some()
        };
        assert!(until(|| started(&mut daemon)), "it neither starts nor ends: {:#?}", daemon.log());
        if daemon.said("forwarding").is_some() { Ok(daemon) } else { Err(daemon.wait()) }
    }

    pub fn log(&self) -> Vec<Value> {
        self.log.lines()
    }

    /// The first log line whose message is `message`.
    pub fn said(&self, message: &str) -> Option<Value> {
        self.log.said(message)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The port of the first endpoint of a kind.
    pub fn port(&self, kind: &str) -> u16 {
        let endpoints: Vec<_> =
            self.log().iter().filter_map(|line| line["endpoint"].as_str().map(str::to_owned)).collect();
        let endpoint = endpoints.iter().find(|endpoint| endpoint.starts_with(kind));
        let port = endpoint.and_then(|endpoint| endpoint.rsplit(':').next()?.parse().ok());
        port.unwrap_or_else(|| panic!("no {kind} endpoint in {endpoints:?}"))
    }

    pub fn connect(&self) -> TcpStream {
        self.connect_to("tcp:")
    }

    /// A connection to the first endpoint of a kind, `tcp:127.0.0.1` say.
    pub fn connect_to(&self, kind: &str) -> TcpStream {
        let host = if kind.starts_with("tcp:[") { "::1" } else { "127.0.0.1" };
        TcpStream::connect((host, self.port(kind))).unwrap()
    }

    /// Sends bytes on a connection of their own, and closes it.
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        self.connect().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends `n` lines `name.0`, `name.1` and so on, with their numbers as values.
    pub fn send_lines(&self, name: &str, n: usize) {
        self.send(lines(name, n));
    }

    pub fn send_datagram(&self, bytes: impl AsRef<[u8]>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(bytes.as_ref(), ("127.0.0.1", self.port("udp:"))).unwrap();
    }

    /// Where it shows its figures.
    pub fn stats_url(&self) -> String {
        self.said("showing its figures").unwrap()["url"].as_str().unwrap().to_owned()
    }

    /// GETs a path of the stats port: the status and the body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path, "localhost")
            .unwrap_or_else(|| panic!("{path} is not answered: {:#?}", self.log()))
    }

    /// What the stats port answers to these bytes.
    pub fn asks_raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.log.stats_address().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A request to the stats port; `None` if it is not answered.
    pub fn request(&self, method: &str, path: &str, host: &str) -> Option<(u16, String)> {
        ask(&self.log.stats_address()?, method, path, host, PATIENCE)
    }

    /// What `/stats` shows. The law of the ledger is checked each time.
    pub fn stats(&self) -> Value {
        let (status, body) = self.get("/stats");
        assert_eq!(status, 200, "{body}");
        let stats: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(stats["datapoints"]["unaccounted"], 0, "{stats:#}");
        stats
    }

    /// A count of the ledger.
    pub fn count(&self, place: &str) -> u64 {
        self.stats()["datapoints"][place].as_u64().unwrap()
    }

    /// Waits until the stats are as they should be.
    pub fn expect(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) {
        assert!(until(|| holds(&self.stats())), "never {what}: {:#}\n{:#?}", self.stats(), self.log());
    }

    /// Waits until everything that was received, at least `n`, is delivered.
    pub fn expect_delivered(&self, n: u64) {
        self.expect(&format!("{n} delivered"), |stats| {
            stats["datapoints"]["delivered"].as_u64().unwrap() >= n && stats["datapoints"]["buffered"] == 0
        });
        assert_eq!(self.count("delivered"), n);
    }

    /// Waits until a count that `/stats` shows is what it should be: `/malformed/truncated` say.
    pub fn expect_count(&self, pointer: &str, n: u64) {
        self.expect(&format!("{pointer} = {n}"), |stats| {
            stats.pointer(pointer).and_then(Value::as_u64) == Some(n)
        });
    }

    /// The most memory that it has ever had, in KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The same in MiB.
    pub fn peak_memory_mib(&self) -> u64 {
        self.peak_memory_kib() / 1024
    }

    /// Waits until a line with this message is in the log.
    pub fn expect_said(&self, message: &str) -> Value {
        assert!(until(|| self.said(message).is_some()), "never said {message:?}: {:#?}", self.log());
        self.said(message).unwrap()
    }

    /// Waits until a line of the log is `what`, and gives all that are. The figures may know of something before the log does.
    #[track_caller]
    pub fn expect_log(&self, what: &str, is: impl Fn(&Value) -> bool) -> Vec<Value> {
        let found = || self.log().into_iter().filter(|line| is(line)).collect::<Vec<_>>();
        assert!(until(|| !found().is_empty()), "never in the log: {what}: {:#?}", self.log());
        found()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Stops it as systemd does.
    pub fn stop(self) -> Ended {
        self.signal("TERM");
        self.wait()
    }

    /// Kills it as nothing can be caught.
    pub fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ended {
        let ended = until(|| self.child.try_wait().unwrap().is_some());
        assert!(ended, "it does not end: {:#?}", self.log());
        let code = self.child.wait().unwrap().code();
        self.reader.take().unwrap().join().unwrap();
        Ended { code, log: self.log() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"));
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Waits until something holds that nobody announces; false if it does not within [`PATIENCE`].
pub fn until(holds: impl FnMut() -> bool) -> bool {
    running::until(PATIENCE, holds)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// `n` lines `name.0`, `name.1` and so on, of now, with their numbers as values.
pub fn lines(name: &str, n: usize) -> String {
    let now = now();
    (0..n).map(|i| format!("{name}.{i} {i} {now}\n")).collect()
}

/// Datapoints as carbon-relay frames them: protocol 2, behind their length.
pub fn frame(datapoints: &[(&str, f64)]) -> Vec<u8> {
    let points: Vec<_> = datapoints.iter().map(|&(name, value)| (name, (now(), value))).collect();
    let options = serde_pickle::SerOptions::new().proto_v2();
    framed(&serde_pickle::to_vec(&points, options).unwrap())
}

/// A pickle behind its length.
pub fn framed(pickle: &[u8]) -> Vec<u8> {
    let length = u32::try_from(pickle.len()).unwrap();
    [&length.to_be_bytes()[..], pickle].concat()
}

/// Waits until the other side closes a connection. A reset is a close too.
pub fn expect_closed(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.read(&mut [0]) {
        Ok(read) => assert_eq!(read, 0, "nobody speaks to a sender"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

/// A file that came with the tests.
pub fn data(path: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

// === Faults ===

/// Runs cases side by side: each has a world of its own, and mostly waits.
pub fn each<T: Sync>(cases: &[T], run: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| cases.iter().for_each(|case| drop(scope.spawn(|| run(case)))));
}

/// A refused row, as it lies in the dead letters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetter {
    pub name: String,
    pub reason: String,
    pub message: String,
}

impl World {
    /// What Blueflood does next, as `sink --answers` reads it; "" is all that it normally does.
    pub fn answers(&self, script: &str) {
        self.blueflood.script(Script::parse(script).unwrap());
    }

    /// Starts a daemon and waits for nothing.
    pub fn spawn(&self, more: &[&str]) -> Child {
        self.with_arguments(more, |arguments| command(arguments).spawn().unwrap())
    }

    /// Requests that came.
    pub fn posts(&self) -> u64 {
        self.blueflood.read(sink::State::requests_seen)
    }

    /// Opens the spool beside whoever runs on it.
    pub fn open_spool(&self) -> rusqlite::Connection {
        let db = rusqlite::Connection::open(self.spool()).unwrap();
        db.busy_timeout(PATIENCE).unwrap();
        db
    }

    /// The dead letters, by name.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        let db = self.open_spool();
        let mut found = db.prepare("SELECT row, reason, message FROM dead_letter").unwrap();
        let letter = |row: &rusqlite::Row<'_>| {
            let text: String = row.get(0)?;
            let parsed: Value = serde_json::from_str(&text).unwrap();
            let name = parsed["metricName"].as_str().unwrap().to_owned();
            Ok(DeadLetter { name, reason: row.get(1)?, message: row.get(2)? })
        };
        let mut letters: Vec<_> = found.query_map([], letter).unwrap().map(Result::unwrap).collect();
        letters.sort();
        letters
    }

    /// How often Blueflood got each point, by name.
    pub fn times(&self) -> BTreeMap<String, u64> {
        self.blueflood.points(TENANT).iter().map(|point| (point.name.clone(), point.times)).collect()
    }
}

impl Daemon {
    /// Waits until all `n` datapoints received are settled: delivered, refused or dropped.
    pub fn expect_settled(&self, n: u64) {
        self.expect(&format!("{n} settled"), |stats| {
            stats["datapoints"]["received"] == n && stats["datapoints"]["buffered"] == 0
        });
    }

    /// Waits until `n` datapoints are received.
    pub fn expect_received(&self, n: u64) {
        self.expect(&format!("{n} received"), |stats| stats["datapoints"]["received"] == n);
    }

    #[cfg(feature = "faults")]
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// How many log lines contain these words.
    pub fn times_said(&self, words: &str) -> usize {
        self.log.times_said(words)
    }

    /// Waits until a log line with these words has come, and says that it came `times` times. The log's lines are
    /// written by a thread of their own: the figures may know of something before the log does.
    #[track_caller]
    pub fn expect_times_said(&self, words: &str, times: usize) {
        until(|| self.times_said(words) >= times);
        assert_eq!(self.times_said(words), times, "{words:?}: {:#?}", self.log());
    }

    /// Sends two more lines, and waits until Blueflood has them and nothing is wrong any more.
    pub fn expect_recovery(&self, world: &World) {
        let before = self.count("received");
        self.send_lines("recovered", 2);
        self.expect_settled(before + 2);
        assert!(until(|| self.get("/delivering").0 == 200), "{:?}", self.get("/delivering"));
        assert_eq!(world.times().keys().filter(|name| name.starts_with("recovered")).count(), 2);
    }
}
