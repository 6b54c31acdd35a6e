//! What the daemon costs, as its users meet it: the real binary, real sockets, the spool on disk, and a sink that counts.
//! Never a test: nothing here fails for being slow.
//!
//! `make bench` runs all of it but the soak, which takes ten minutes and comes with `LONG=1`; `cargo bench --bench bench
//! -- main latency` runs only some. With `RESULTS=1` the tables go to `tests/bench/RESULTS.md` too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod daemon;
mod load;
mod peers;
#[path = "../requests.rs"]
mod requests;
#[path = "../shared.rs"]
mod shared;
mod sink;
mod table;

use std::time::{Duration, Instant};

use daemon::{Daemon, Folder};
use load::{Plan, Protocol};
use sink::{Arrived, Sink};
use table::Table;

/// When nothing came for so long, nothing more will come.
const SILENCE: Duration = Duration::from_secs(15);

/// The second of the first round. Each run is further on, so that no straggler of one counts in the next.
const BASE: u64 = 1_700_000_000;

/// A part that can be asked for by its name.
type Section = (&'static str, fn(&mut Bench) -> Table);

/// What can be asked for.
const SECTIONS: [Section; 7] = [
    ("main", main_job),
    ("latency", latency),
    ("paced", paced),
    ("outage", outage),
    ("growth", growth),
    ("peers", peers),
    (SOAK, soak),
];

/// The section that is only run when it is asked for.
const SOAK: &str = "soak";

/// How long it is.
const SOAK_MINUTES: usize = 10;

/// A run after the other.
struct Bench {
    sink: Sink,
    runs: u64,
    /// CPU of the main job, for the ratios.
    ours: Option<f64>,
}

/// What a run came to.
struct Ran {
    cpu_s_per_million: f64,
    peak_mib: f64,
    disk_bytes: f64,
    datapoints: usize,
    arrived: Arrived,
}

impl Ran {
    fn a_datapoint(&self, bytes: f64) -> f64 {
        bytes / self.datapoints as f64
    }
}

impl Bench {
    fn base(&mut self) -> u64 {
        self.runs += 1;
        BASE + self.runs * 100_000
    }

    fn start(&self, folder: &Folder, more: &[&str]) -> Daemon {
        Daemon::start(&self.sink.url(), folder, None, more)
    }

    /// Sends a plan to a daemon, and waits until all of it has arrived.
    fn run(&mut self, plan: Plan, daemon: &Daemon) -> Ran {
        let base = self.base();
        let written = self.sink.expect(plan, base);
        let (cpu_s, disk_bytes) = (daemon.process.cpu_s(), daemon.process.disk_bytes());
        daemon.process.forget_peak();
        load::send(plan, daemon.endpoint, base, &written);
        let arrived = self.sink.wait(SILENCE);
        // The last settlements and their checkpoints belong to it too.
        std::thread::sleep(Duration::from_millis(500));
        Ran {
            cpu_s_per_million: (daemon.process.cpu_s() - cpu_s) / plan.datapoints as f64 * 1e6,
            peak_mib: daemon.process.peak_mib(),
            disk_bytes: daemon.process.disk_bytes() - disk_bytes,
            datapoints: plan.datapoints,
            arrived,
        }
    }

    /// A daemon of its own for one run.
    fn run_alone(&mut self, plan: Plan, cores: Option<&str>, more: &[&str]) -> Ran {
        let folder = Folder::new();
        let daemon = Daemon::start(&self.sink.url(), &folder, cores, more);
        self.run(plan, &daemon)
    }
}

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let asked = |variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
    let by_itself = |name| wanted.is_empty() && (name != SOAK || asked("LONG"));
    let sections: Vec<_> =
        SECTIONS.iter().filter(|&&(name, _)| by_itself(name) || wanted.iter().any(|w| w == name)).collect();
    assert!(!sections.is_empty(), "there is only: {:?}", SECTIONS.map(|(name, _)| name));
    let names: Vec<_> = sections.iter().map(|&&(name, _)| name).collect();
    let started = Instant::now();
    let mut text = table::heading(&names.join(", "));
    println!("{text}");
    let mut bench = Bench { sink: Sink::start(), runs: 0, ours: None };
    for (name, section) in sections {
        eprintln!("[{:3} s] {name} ...", started.elapsed().as_secs());
        let table = section(&mut bench).markdown();
        println!("{table}");
        text = format!("{text}\n{table}");
    }
    eprintln!("[{:3} s] done", started.elapsed().as_secs());
    if asked("RESULTS") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/RESULTS.md");
        std::fs::write(path, text).unwrap();
        eprintln!("written to {path}");
    }
}

fn main_job(bench: &mut Bench) -> Table {
    let mut table = Table::new(
        "As fast as it goes: 6 million datapoints of 100,000 series, 4 connections, spool on disk",
        &[
            "in",
            "out",
            "written",
            "CPU s/M",
            "goal",
            "dp/s",
            "peak MiB",
            "wire B/dp",
            "disk B/dp",
            "lost",
            "twice",
        ],
    );
    for (compress, written, hold) in [
        ("gzip", "if late", "0.1"),
        ("none", "if late", "0.1"),
        ("gzip", "first", "0"),
        ("none", "first", "0"),
    ] {
        for protocol in [Protocol::Pickle, Protocol::Line] {
            eprintln!("        {} to {compress}, written {written}", protocol.name());
            let options = ["--compress", compress, "--spool_hold", hold];
            let ran = bench.run_alone(Plan::new(protocol, 6_000_000), None, &options);
            if bench.ours.is_none() {
                bench.ours = Some(ran.cpu_s_per_million);
            }
            table.row([
                protocol.name().to_owned(),
                compress.to_owned(),
                written.to_owned(),
                format!("{:.3}", ran.cpu_s_per_million),
                if compress == "gzip" { "0.5" } else { "0.35" }.to_owned(),
                format!("{:.0}k", ran.arrived.rate / 1e3),
                format!("{:.1}", ran.peak_mib),
                format!("{:.1}", ran.a_datapoint(ran.arrived.tally.wire_bytes as f64)),
                format!("{:.1}", ran.a_datapoint(ran.disk_bytes)),
                ran.arrived.lost.to_string(),
                ran.arrived.tally.duplicated.to_string(),
            ]);
        }
    }
    table.note(
        "Written: if late, only what Blueflood has not answered for within 0.1 s (the default); first, everything before \
         it is sent (`--spool_hold 0`).",
    );
    table.note(
        "Disk: what the process made the file system write, deleted pages and the write-ahead log with it.",
    );
    table
}

fn latency(bench: &mut Bench) -> Table {
    let mut table =
        Table::new("Quiet, and 20,000 datapoints a second with `-i 1`", &["what", "value", "goal"]);
    let folder = Folder::new();
    let daemon = bench.start(&folder, &["-i", "1"]);
    std::thread::sleep(Duration::from_secs(1));
    let (cpu_s, idle_s) = (daemon.process.cpu_s(), 8.0);
    std::thread::sleep(Duration::from_secs_f64(idle_s));
    let idle = (daemon.process.cpu_s() - cpu_s) / idle_s * 100.0;
    let mut row =
        |what: &str, value: String, goal: &str| table.row([what.to_owned(), value, goal.to_owned()]);
    row("idle: resident", format!("{:.1} MiB", daemon.process.resident_mib()), "10 MiB");
    row("idle: CPU", format!("{idle:.2} % of a core"), "0.1 %");
    let plan = Plan { rate: Some(20_000), series: 20_000, ..Plan::new(Protocol::Pickle, 300_000) };
    let ran = bench.run(plan, &daemon);
    for (share, goal) in [(0.5, "1.2 s"), (0.9, ""), (0.99, "2.2 s"), (1.0, "")] {
        let latency = ran.arrived.latency(share).as_secs_f64();
        row(&format!("socket to acknowledged, {:.0} %", share * 100.0), format!("{latency:.2} s"), goal);
    }
    row("CPU", format!("{:.3} s/M", ran.cpu_s_per_million), "");
    row("lost, twice", format!("{}, {}", ran.arrived.lost, ran.arrived.tally.duplicated), "0");
    table
}

fn paced(bench: &mut Bench) -> Table {
    let mut table = Table::new(
        "500,000 datapoints a second for 8 s",
        &["in", "asked dp/s", "got dp/s", "CPU s/M", "peak MiB", "goal", "lost", "twice"],
    );
    for protocol in [Protocol::Pickle, Protocol::Line] {
        let plan = Plan { rate: Some(500_000), ..Plan::new(protocol, 4_000_000) };
        let ran = bench.run_alone(plan, None, &[]);
        table.row([
            protocol.name().to_owned(),
            "500k".to_owned(),
            format!("{:.0}k", ran.arrived.rate / 1e3),
            format!("{:.3}", ran.cpu_s_per_million),
            format!("{:.1}", ran.peak_mib),
            "48".to_owned(),
            ran.arrived.lost.to_string(),
            ran.arrived.tally.duplicated.to_string(),
        ]);
    }
    table
}

fn outage(bench: &mut Bench) -> Table {
    let mut table = Table::new("Blueflood is down", &["what", "value", "goal"]);
    let mut row =
        |what: &str, value: String, goal: &str| table.row([what.to_owned(), value, goal.to_owned()]);

    eprintln!("        kill -9 in an outage");
    let (folder, base) = (Folder::new(), bench.base());
    let plan = Plan { rate: Some(20_000), ..Plan::new(Protocol::Pickle, 200_000) };
    bench.sink.set_down(true);
    let written = bench.sink.expect(plan, base);
    let daemon = bench.start(&folder, &[]);
    load::send(plan, daemon.endpoint, base, &written);
    let (peak_mib, spool_bytes) = (daemon.process.peak_mib(), folder.spool_bytes());
    drop(daemon);
    bench.sink.set_down(false);
    let daemon = bench.start(&folder, &[]);
    let arrived = bench.sink.wait(Duration::from_secs(5));
    drop(daemon);
    row("20,000 a second for 10 s: peak", format!("{peak_mib:.1} MiB"), "48 MiB");
    let a_datapoint = spool_bytes / plan.datapoints as f64;
    row("of it on disk, free pages and log too", format!("{a_datapoint:.1} B/dp"), "");
    row("lost to kill -9 at its end (of one second)", format!("{}", arrived.lost), "20000");

    eprintln!("        a backlog");
    let (folder, base) = (Folder::new(), bench.base());
    let plan = Plan::new(Protocol::Pickle, 10_000_000);
    bench.sink.set_down(true);
    let written = bench.sink.expect(plan, base);
    let daemon = bench.start(&folder, &[]);
    load::send(plan, daemon.endpoint, base, &written);
    std::thread::sleep(Duration::from_secs(1));
    let (cpu_s, peak_mib) = (daemon.process.cpu_s(), daemon.process.peak_mib());
    daemon.stop();
    let millions = plan.datapoints as f64 / 1e6;
    row("backlog of 10 million: taken for", format!("{:.3} CPU s/M", cpu_s / millions), "0.5");
    row("backlog: peak while it grows", format!("{peak_mib:.1} MiB"), "48 MiB");
    let a_datapoint = folder.spool_bytes() / plan.datapoints as f64;
    row("backlog: on disk", format!("{a_datapoint:.1} B/dp"), "");
    bench.sink.set_down(false);
    let started = Instant::now();
    let daemon = bench.start(&folder, &[]);
    let arrived = bench.sink.wait(SILENCE);
    let (took, cpu_s) = (started.elapsed().as_secs_f64(), daemon.process.cpu_s());
    row("replay: opened in", format!("{:.2} s", daemon.started_in.as_secs_f64()), "1 s");
    row("replay: CPU", format!("{:.3} s/M", cpu_s / millions), "0.2");
    row("replay: rate", format!("{:.0}k dp/s", arrived.tally.different as f64 / took / 1e3), "");
    row("replay: peak", format!("{:.1} MiB", daemon.process.peak_mib()), "48 MiB");
    row("replay: lost, twice", format!("{}, {}", arrived.lost, arrived.tally.duplicated), "0");
    drop(daemon);

    eprintln!("        a large spool");
    let (folder, base) = (Folder::new(), bench.base());
    let plan = Plan::new(Protocol::Pickle, 7_500_000);
    bench.sink.set_down(true);
    let written = bench.sink.expect(plan, base);
    let options = ["--compress", "none", "--spool_max", "4GiB"];
    let daemon = bench.start(&folder, &options);
    load::send(plan, daemon.endpoint, base, &written);
    std::thread::sleep(Duration::from_secs(1));
    drop(daemon);
    let gib = folder.spool_bytes() / f64::from(1 << 30);
    let daemon = bench.start(&folder, &options);
    row(
        &format!("a spool of {gib:.2} GiB, after kill -9: opened in"),
        format!("{:.2} s", daemon.started_in.as_secs_f64()),
        "1 s",
    );
    bench.sink.set_down(false);
    table
}

fn growth(bench: &mut Bench) -> Table {
    let mut table = Table::new(
        "How cost grows: 2 million datapoints, pickle to gzip",
        &["what", "CPU s/M", "ratio", "dp/s", "peak MiB", "lost", "twice"],
    );
    let plan = Plan::new(Protocol::Pickle, 2_000_000);
    let one = Plan { connections: 1, ..plan };
    let taskset = std::process::Command::new("taskset").arg("--version").output().is_ok();
    let runs: [(&str, Plan, Option<&str>); 6] = [
        ("1 connection, 100,000 series", one, None),
        ("200 connections", Plan { connections: 200, ..plan }, None),
        ("1,000 connections", Plan { connections: 1_000, ..plan }, None),
        ("1,000 series", Plan { series: 1_000, ..one }, None),
        ("1,000,000 series", Plan { series: 1_000_000, ..one }, None),
        ("1 core (taskset)", one, Some("0")),
    ];
    let mut first = None;
    for (what, plan, cores) in runs {
        eprintln!("        {what}");
        if cores.is_some() && !taskset {
            table.note("1 core: skipped, there is no taskset.");
            continue;
        }
        let ran = bench.run_alone(plan, cores, &[]);
        let first = *first.get_or_insert(ran.cpu_s_per_million);
        table.row([
            what.to_owned(),
            format!("{:.3}", ran.cpu_s_per_million),
            format!("{:.2}", ran.cpu_s_per_million / first),
            format!("{:.0}k", ran.arrived.rate / 1e3),
            format!("{:.1}", ran.peak_mib),
            ran.arrived.lost.to_string(),
            ran.arrived.tally.duplicated.to_string(),
        ]);
    }
    eprintln!("        an empty and a full spool");
    let (folder, down) = (Folder::new(), bench.base());
    bench.sink.set_down(true);
    let daemon = bench.start(&folder, &["--spool_max", "64MiB"]);
    let mut empty = None;
    // 64 MiB hold less than 4 million of them.
    for what in ["into an empty spool, Blueflood down", "", "into a full spool that drops its oldest"] {
        let cpu_s = daemon.process.cpu_s();
        daemon.process.forget_peak();
        let started = Instant::now();
        let written = bench.sink.expect(plan, down);
        load::send(plan, daemon.endpoint, down, &written);
        let rate = plan.datapoints as f64 / started.elapsed().as_secs_f64();
        std::thread::sleep(Duration::from_secs(1));
        let cpu_s = (daemon.process.cpu_s() - cpu_s) / plan.datapoints as f64 * 1e6;
        let empty = *empty.get_or_insert(cpu_s);
        if !what.is_empty() {
            table.row([
                what.to_owned(),
                format!("{cpu_s:.3}"),
                format!("{:.2}", cpu_s / empty),
                format!("{:.0}k", rate / 1e3),
                format!("{:.1}", daemon.process.peak_mib()),
                "-".to_owned(),
                "-".to_owned(),
            ]);
        }
    }
    bench.sink.set_down(false);
    table.note(
        "A ratio is to the first line, of the full spool to the empty one; the goal is within 20 %. What a full spool \
         drops is counted, and not lost.",
    );
    table
}

fn soak(bench: &mut Bench) -> Table {
    let mut table = Table::new(
        &format!("500,000 datapoints a second for {SOAK_MINUTES} minutes, pickle to gzip"),
        &["after", "resident MiB", "peak MiB", "goal", "CPU s/M so far"],
    );
    const RATE: usize = 500_000;
    let plan = Plan { rate: Some(RATE), ..Plan::new(Protocol::Pickle, SOAK_MINUTES * 60 * RATE) };
    let folder = Folder::new();
    let (base, daemon) = (bench.base(), bench.start(&folder, &[]));
    let written = bench.sink.expect(plan, base);
    let endpoint = daemon.endpoint;
    let sending = std::thread::spawn(move || load::send(plan, endpoint, base, &written));
    let started = Instant::now();
    for minute in 1..=SOAK_MINUTES {
        let until = Duration::from_secs(minute as u64 * 60);
        std::thread::sleep(until.saturating_sub(started.elapsed()));
        let millions = (RATE * minute * 60) as f64 / 1e6;
        eprintln!("        minute {minute}");
        table.row([
            format!("{minute} min"),
            format!("{:.1}", daemon.process.resident_mib()),
            format!("{:.1}", daemon.process.peak_mib()),
            "48".to_owned(),
            format!("{:.3}", daemon.process.cpu_s() / millions),
        ]);
    }
    sending.join().unwrap();
    let arrived = bench.sink.wait(SILENCE);
    table.note(format!(
        "{:.0}k datapoints a second; lost {}, twice {}.",
        arrived.rate / 1e3,
        arrived.lost,
        arrived.tally.duplicated
    ));
    table
}

fn peers(bench: &mut Bench) -> Table {
    let mut table =
        Table::new("Peers, in the same run", &["who", "dp", "CPU s/M", "ratio", "dp/s", "peak MiB", "lost"]);
    let plan = Plan { connections: 1, ..Plan::new(Protocol::Pickle, 100_000) };
    let ours = match bench.ours {
        Some(ours) => ours,
        None => bench.run_alone(Plan::new(Protocol::Pickle, 6_000_000), None, &[]).cpu_s_per_million,
    };
    eprintln!("        the original");
    let original = peers::original(plan, bench.base());
    eprintln!("        carbon-relay");
    let carbon = peers::carbon_relay(Plan { datapoints: 300_000, ..plan }, bench.base());
    for (who, peer) in [("the original", original), ("carbon-relay", carbon)] {
        match peer {
            Ok(ran) => table.row([
                ran.name.to_owned(),
                ran.datapoints.to_string(),
                format!("{:.2}", ran.cpu_s_per_million),
                format!("{:.0}x", ran.cpu_s_per_million / ours),
                format!("{:.1}k", ran.datapoints_a_second / 1e3),
                format!("{:.0}", ran.peak_mib),
                ran.lost.to_string(),
            ]),
            Err(why) => table.note(format!("{who}: skipped, {why}.")),
        }
    }
    table.note(format!("A ratio is to our {ours:.3} CPU s/M, pickle to gzip with the spool on disk."));
    table
}
