//! Owns what every scenario has: a sink, a daemon, senders, and the checks that each must pass at its end.
//! It never knows what the fault is: a scenario tells the sink, and says what the fault explains.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Daemon, Ended, PATIENCE, program, until};
use crate::load::{Load, Place, Plan};
use crate::shared::drawn_for;
use crate::sink::{Answer, Request, Sink};

/// How long everything may take to drain once the fault is over.
const DRAIN: Duration = Duration::from_secs(60);

/// What a fault explains. By default it explains nothing.
#[derive(Clone, Copy)]
pub struct Expect {
    /// How long it may take until nothing is buffered, once all was sent and the fault is over.
    pub drain: Duration,
    /// How many datapoints must be refused.
    pub refused: usize,
    /// Whether a stated policy may drop datapoints. What it drops may have arrived too, for it may be under way.
    pub may_drop: bool,
    /// How many copies too many may arrive.
    pub again_max: usize,
    /// How many requests Blueflood may get in all.
    pub posts_max: Option<usize>,
    /// Whether the daemon counts each request that Blueflood saw, and no other.
    pub posts_agree: bool,
}

impl Default for Expect {
    fn default() -> Self {
        Self { drain: DRAIN, refused: 0, may_drop: false, again_max: 0, posts_max: None, posts_agree: false }
    }
}

/// A scenario under way.
pub struct Stage {
    /// Whether it runs at its full size.
    pub full: bool,
    pub rng: Rng,
    pub sink: Sink,
    pub failures: Vec<String>,
    pub notes: Vec<String>,
    /// Whether the daemon is stopped and started at a moment of its flow that nobody chose.
    restarted: bool,
    /// Whether bytes may have lain in the kernel when a daemon ended: one that reads nothing cannot take them.
    kernel_may_hold: bool,
    folder: Option<TempDir>,
    options: Vec<String>,
    place: Arc<Place>,
    daemon: Option<Daemon>,
    load: Option<Load>,
    reloads: usize,
    /// Trials that daemons made which have ended.
    trials: usize,
}

impl Stage {
    pub fn new(name: &str, full: bool, restarted: bool) -> Self {
        let folder = TempDir::with_prefix_in(format!("{name}-"), env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self {
            full,
            rng: drawn_for(name),
            sink: Sink::start(0),
            failures: Vec::new(),
            notes: Vec::new(),
            restarted,
            kernel_may_hold: false,
            folder: Some(folder),
            options: Vec::new(),
            place: Arc::default(),
            daemon: None,
            load: None,
            reloads: 0,
            trials: 0,
        }
    }

    /// One size for `make scenarios`, another for `make test`.
    pub fn size<T>(&self, full: T, quick: T) -> T {
        if self.full { full } else { quick }
    }

    pub fn seconds(&self, full: f64, quick: f64) -> Duration {
        Duration::from_secs_f64(self.size(full, quick))
    }

    pub fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(what.into());
    }

    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what());
        }
    }

    pub fn note(&mut self, key: &str, value: impl std::fmt::Display) {
        self.notes.push(format!("{key}={value}"));
    }

    fn folder(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().to_owned()
    }

    fn path(&self, file: &str) -> String {
        self.folder().join(file).to_str().unwrap().to_owned()
    }

    /// The files stay, for somebody to look at; where they are.
    pub fn keep(&mut self) -> Option<PathBuf> {
        self.daemon = None;
        self.folder.take().map(TempDir::keep)
    }

    // === The play ===

    /// A Blueflood, a daemon and senders: the scenario's time begins.
    pub fn open(
        &mut self,
        plan: Plan,
        options: &[&str],
        behaviour: impl Fn(&Request<'_>) -> Answer + Send + Sync + 'static,
    ) {
        self.prepare(plan.n, options, behaviour);
        self.start();
        self.send(plan);
    }

    /// A Blueflood for `n` numbers, and the options of a daemon that is not yet there.
    pub fn prepare(
        &mut self,
        n: usize,
        options: &[&str],
        behaviour: impl Fn(&Request<'_>) -> Answer + Send + Sync + 'static,
    ) {
        self.sink = Sink::start(n);
        self.sink.begin(behaviour);
        fs::write(self.path("forward.toml"), "idle_timeout = 600\n").unwrap();
        let own = |text: &str| text.to_owned();
        let mut all: Vec<String> =
            vec![own("--blueflood"), self.sink.url(), own("--spool"), self.path("spool.db")];
        all.extend([own("--config"), self.path("forward.toml")]);
        let common = "--endpoint tcp:port=0:interface=127.0.0.1:protocol=auto --tenant acme --stats 127.0.0.1:0 \
            --log_format json --interval 1 --backoff_max 2 --connections 64";
        all.extend(common.split_whitespace().map(own));
        all.extend(options.iter().copied().map(own));
        self.options = all;
    }

    /// More options, which win; they hold from the next start.
    pub fn with(&mut self, options: &[&str]) {
        self.options.extend(options.iter().map(|&option| option.to_owned()));
    }

    pub fn start(&mut self) {
        let log = self.folder().join("log.json");
        let daemon = Daemon::start(&self.options, &log).unwrap_or_else(|why| panic!("{why}"));
        self.place.generation.fetch_add(1, Ordering::SeqCst);
        self.place.port.store(usize::from(daemon.port), Ordering::SeqCst);
        self.place.ending.store(false, Ordering::SeqCst);
        self.daemon = Some(daemon);
    }

    pub fn send(&mut self, plan: Plan) {
        self.load = Some(Load::start(plan, self.place.clone()));
    }

    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().unwrap()
    }

    pub fn load(&self) -> &Load {
        self.load.as_ref().unwrap()
    }

    pub fn stats(&self) -> Value {
        self.daemon.as_ref().map(Daemon::stats).unwrap_or_default()
    }

    /// A count of the ledger.
    pub fn count(&self, place: &str) -> usize {
        count(&self.stats(), place)
    }

    /// Waits until something holds; it is a failure if it does not.
    pub fn expect(&mut self, patience: Duration, what: &str, holds: impl Fn(&Value) -> bool) -> bool {
        let there = until(patience, || holds(&self.stats()));
        self.check(there, || format!("not within {} s: {what}", patience.as_secs()));
        there
    }

    /// Waits until everything was sent, whatever became of it.
    pub fn expect_all_sent(&mut self, patience: Duration) {
        let over = until(patience, || self.load().is_over());
        let written = self.load().written();
        self.check(over, || format!("the senders still wait, with {written} datapoints sent"));
    }

    /// Lets time pass: a fault lasts so long.
    pub fn pass(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Reads the settings again, with another time-out for idle senders; waits until it is done.
    pub fn reload(&mut self) {
        self.reloads += 1;
        let idle_timeout = 600 + self.reloads;
        fs::write(self.path("forward.toml"), format!("idle_timeout = {idle_timeout}\n")).unwrap();
        let said = |daemon: &Daemon| daemon.times_said("the settings are read again");
        let before = said(self.daemon());
        self.daemon().signal("HUP");
        let done = until(PATIENCE, || said(self.daemon.as_ref().unwrap()) > before);
        self.check(done, || "a reload never ended".to_owned());
    }

    /// Runs another command of the program on this spool; what it printed.
    pub fn command(&mut self, words: &[&str]) -> String {
        let spool = self.path("spool.db");
        let mut command = std::process::Command::new(program());
        let output = command.args(words).args(["--spool", &spool]).env_clear().output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed = format!("{words:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        self.check(output.status.success(), || failed);
        text
    }

    /// Says to the daemon that it shall end, as systemd does. What is written from now on may not be received.
    pub fn terminate(&mut self) {
        // The next one counts from nothing, and one may be made between the look and the end.
        self.trials += trials(&self.stats()) + 1;
        self.place.ending.store(true, Ordering::SeqCst);
        self.daemon().signal("TERM");
    }

    /// Waits for its end, and checks how it ended.
    pub fn expect_end(&mut self, patience: Duration) -> Option<Ended> {
        let daemon = self.daemon.take()?;
        match daemon.wait(patience) {
            Err(why) => {
                self.fail(why);
                None
            }
            Ok(ended) => {
                self.check(ended.code == Some(0), || format!("exit code {:?}", ended.code));
                let line = ended.closing_line().cloned().unwrap_or_default();
                let places = ["skipped", "buffered", "delivered", "refused", "dropped"];
                let sum: u64 = places.iter().map(|place| line[place].as_u64().unwrap_or(0)).sum();
                let adds_up = line["received"] == sum && line["unaccounted"] == 0;
                self.check(adds_up, || format!("the closing line does not add up: {line}"));
                let stopped =
                    ended.log.iter().any(|line| line.to_string().contains("are lost with this process"));
                self.check(!stopped, || "datapoints were lost by the stop".to_owned());
                Some(ended)
            }
        }
    }

    /// Stops it and starts it again.
    pub fn restart(&mut self) {
        self.terminate();
        self.expect_end(PATIENCE);
        self.start();
    }

    /// The daemon reads nothing now, for its spool is full: what lies in the kernel is not received.
    pub fn kernel_may_hold(&mut self) {
        self.kernel_may_hold = true;
    }

    // === The end ===

    /// Waits until all is sent and settled, checks everything that holds for every scenario, and stops the daemon.
    pub fn settle(&mut self, expect: Expect) {
        if self.restarted {
            self.stop_at_some_moment();
        }
        self.expect_all_sent(self.patience(expect.drain));
        let load = self.load.as_ref().unwrap();
        let (begun, written, uncertain) = (load.begun(), load.written(), load.uncertain());
        let certain = if self.kernel_may_hold { 0 } else { written.saturating_sub(uncertain) };
        let drained = Instant::now();
        let settled = |stats: &Value| {
            stats.is_object() && count(stats, "received") >= certain && count(stats, "buffered") == 0
        };
        let empty = until(expect.drain, || settled(&self.stats()));
        self.note("drained_s", drained.elapsed().as_secs());
        let stats = self.stats();
        if !empty {
            self.fail(what_waits(&stats));
        }
        self.check_places(&stats, begun, certain, expect);
        self.check_posts(&stats, expect);
        self.end();
    }

    /// Stops the daemon, and looks at what it said.
    pub fn end(&mut self) {
        self.load = None;
        if self.daemon.is_none() {
            return;
        }
        let stats = self.stats();
        self.terminate();
        let Some(ended) = self.expect_end(PATIENCE) else { return };
        if let (Some(line), Some(received)) = (ended.closing_line(), stats["datapoints"]["received"].as_u64())
        {
            let same = line["received"] == received;
            self.check(same, || format!("the closing line knows other figures than /stats showed: {line}"));
        }
        let broken = |line: &&Value| {
            let text = line.to_string();
            let serious = line["level"] == "error" || line["level"] == "critical";
            text.contains("panick") || serious && (text.contains("audit") || text.contains("is a bug"))
        };
        if let Some(line) = ended.log.iter().find(broken) {
            self.fail(format!("it said: {line}"));
        }
    }

    /// A stop at a moment that nobody chose, and a start.
    fn stop_at_some_moment(&mut self) {
        let most = self.size(15_000, 5_000);
        let moment = Duration::from_millis(self.rng.u64(0..most));
        self.note("stopped_at_ms", moment.as_millis());
        self.pass(moment);
        self.restart();
    }

    /// How long the senders may take.
    fn patience(&self, drain: Duration) -> Duration {
        let load = self.load.as_ref().unwrap();
        load.takes() + drain
    }

    fn check_places(&mut self, stats: &Value, begun: usize, certain: usize, expect: Expect) {
        let of = |place| count(stats, place);
        let (received, refused, dropped) = (of("received"), of("refused"), of("dropped"));
        let sum = of("skipped") + of("buffered") + of("delivered") + refused + dropped;
        self.check(stats["datapoints"]["unaccounted"] == 0 && received == sum, || {
            format!("the ledger does not add up: {}", stats["datapoints"])
        });
        self.check(received >= certain && received <= begun, || {
            format!(
                "{received} received, but {certain} to {begun} were sent; malformed: {}",
                stats["malformed"]
            )
        });
        let (arrived, again) = self.sink.arrived(begun);
        let explained = refused + dropped + of("skipped") + of("buffered");
        self.check(arrived + explained >= received, || {
            let lost = received - arrived - explained;
            format!("LOST: {lost} datapoints are neither there nor where the ledger says")
        });
        let exact = expect.may_drop || arrived + explained <= received;
        self.check(exact, || {
            format!(
                "{arrived} arrived and {explained} are said to be elsewhere, but {received} were received"
            )
        });
        // One that was on its way when a daemon ended may not have been received.
        let least = expect.refused.saturating_sub(begun.saturating_sub(received));
        self.check((least..=expect.refused).contains(&refused), || {
            format!("{refused} refused, not {}: {}", expect.refused, stats["refused"])
        });
        self.check(dropped == 0 || expect.may_drop, || format!("{dropped} dropped: {}", stats["dropped"]));
        // A trial is a few rows, at most eight, of a payload that is sent whole later.
        let trials = self.trials + trials(stats);
        let explained = expect.again_max + trials * 8;
        self.check(again <= explained, || {
            format!("{again} copies too many, the fault and {trials} trials explain {explained}")
        });
        let strange = self.sink.strange();
        self.check(strange.is_empty(), || format!("rows that nobody sent: {strange:?}"));
        if of("buffered") == 0 {
            let ready = self.daemon.as_ref().and_then(|daemon| daemon.get("/readyz"));
            let is_ready = ready.as_ref().is_some_and(|(status, _)| *status == 200);
            self.check(is_ready, || format!("it is not ready, though nothing is wrong: {ready:?}"));
            let wrong = stats["wrong"].as_array().is_none_or(Vec::is_empty);
            self.check(wrong, || format!("it says that something is wrong: {}", stats["wrong"]));
        }
        for (key, value) in [("received", received), ("arrived", arrived), ("again", again)] {
            self.note(key, value);
        }
        for (key, value) in [("refused", refused), ("dropped", dropped), ("buffered", of("buffered"))] {
            if value > 0 {
                self.note(key, value);
            }
        }
    }

    fn check_posts(&mut self, stats: &Value, expect: Expect) {
        let seen = self.sink.requests();
        self.note("posts", seen);
        let answers =
            self.sink.statuses().iter().map(|(status, n)| format!("{status}x{n}")).collect::<Vec<_>>();
        self.note("answers", answers.join(","));
        if let Some(max) = expect.posts_max {
            self.check(seen <= max as u64, || format!("{seen} POSTs, the fault explains {max}"));
        }
        if expect.posts_agree && !self.restarted {
            let counted = stats["forwarder"]["posts"].as_u64().unwrap_or(0);
            self.check(counted == seen, || format!("it counts {counted} POSTs, Blueflood saw {seen}"));
        }
    }
}

/// POSTs of a few rows of a payload that is sent whole later.
fn trials(stats: &Value) -> usize {
    stats["forwarder"]["trials"].as_u64().unwrap_or(0) as usize
}

/// A count of the ledger.
pub fn count(stats: &Value, place: &str) -> usize {
    stats["datapoints"][place].as_u64().unwrap_or(0) as usize
}

/// Why something is buffered, as far as can be told from outside.
fn what_waits(stats: &Value) -> String {
    let forwarder = &stats["forwarder"];
    let open = forwarder["gate"]["open"] == true && forwarder["in_flight"] == 0;
    let word = if open { "STRANDED, beside an open gate" } else { "still buffered" };
    let shown = |key: &str| format!("{key} {}", forwarder[key]);
    let keys = ["in_flight", "set_aside", "concurrency", "payload_bytes_max", "gate", "last_error"];
    format!(
        "{word}: {} datapoints of {}; {}",
        count(stats, "buffered"),
        stats["datapoints"],
        keys.map(shown).join(", ")
    )
}
