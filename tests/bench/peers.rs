//! Owns the peers: how they are found or set up under `.cache/`, and how they are run on the same load.
//! It never fails for a peer that cannot be had: that one is named as skipped.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::{Folder, Process};
use crate::load::{self, Plan, Protocol};
use crate::sink::Sink;

/// How long a peer may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// When nothing more came for so long, a peer has sent all that it will send.
const SILENCE: Duration = Duration::from_secs(8);

/// What a peer's run came to.
pub struct Ran {
    pub name: &'static str,
    pub cpu_s_per_million: f64,
    pub datapoints_a_second: f64,
    pub peak_mib: f64,
    pub lost: usize,
    pub datapoints: usize,
}

fn cache() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".cache")
}

/// Runs a script of the shell, within two minutes; its last words if it fails.
fn shell(script: &str) -> Result<(), String> {
    let mut command = Command::new("timeout");
    let out = command.args(["120", "sh", "-ec", script]).stdin(Stdio::null()).output();
    let out = out.map_err(|error| format!("cannot run a shell: {error}"))?;
    if out.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&out.stderr).trim().lines().last().unwrap_or_default().to_owned();
    Err(format!("its set-up fails: {words}"))
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap()
}

fn wait_for(address: SocketAddr, process: &mut Process) -> Result<(), String> {
    let deadline = Instant::now() + START_PATIENCE;
    while TcpStream::connect(address).is_err() {
        if process.has_ended() {
            return Err("it does not start".to_owned());
        }
        if Instant::now() > deadline {
            return Err("it does not listen".to_owned());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The original, as it ships: the pins without which it does not start are those of the project's own tests.
pub fn original(plan: Plan, base: u64) -> Result<Ran, String> {
    let home = cache().join("original");
    if !home.join("bin/twistd").exists() {
        let cache = cache();
        shell(&format!(
            "for python in python2.7 ~/.pyenv/versions/2.7*/bin/python2.7; do
                 if $python -c '' 2>/dev/null; then found=$python; fi
             done
             test -n \"$found\" || {{ echo 'there is no python2.7' >&2; exit 1; }}
             $found -m pip install -q --target {0}/virtualenv 'virtualenv<20.22' >&2
             PYTHONPATH={0}/virtualenv $found -m virtualenv -q {0}/original >&2
             {0}/original/bin/python -m pip install -q blueflood-carbon-forwarder==0.4.2 Automat==20.2.0 >&2",
            cache.display()
        ))?;
    }
    let (folder, sink, address) = (Folder::new(), Sink::start(), free_port());
    let mut command = Command::new(home.join("bin/twistd"));
    command.current_dir(folder.path()).args(["--nodaemon", "--pidfile=", "--logfile=twistd.log"]);
    command.args(["blueflood-forward", "-i", "1", "-t", "acme", "--limit", "1048576", "-b", &sink.url()]);
    command.args(["-e", &format!("tcp:{}:interface=127.0.0.1", address.port())]);
    let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    wait_for(address, &mut process)?;
    let before = process.cpu_s();
    let written = sink.expect(plan, base);
    load::send(plan, address, base, &written);
    let arrived = sink.wait(SILENCE);
    Ok(Ran {
        name: "the original 0.4.2 (Python 2.7), pickle to plain JSON, in memory",
        cpu_s_per_million: (process.cpu_s() - before) / plan.datapoints as f64 * 1e6,
        datapoints_a_second: arrived.rate,
        peak_mib: process.peak_mib(),
        lost: arrived.lost,
        datapoints: plan.datapoints,
    })
}

/// PyPI's carbon-relay, from pickles to pickles: less work than ours, for it makes no JSON and keeps nothing.
pub fn carbon_relay(plan: Plan, base: u64) -> Result<Ran, String> {
    assert_eq!(plan.protocol, Protocol::Pickle);
    let home = cache().join("carbon");
    if !home.join("bin/whisper-info.py").exists() {
        let home = home.display();
        // It does not start without whisper, though only the cache would use it.
        shell(&format!(
            "python3 -m venv {home} && {home}/bin/pip install -q carbon==1.1.10 whisper==1.1.10"
        ))?;
    }
    let (folder, sink) = (Folder::new(), Sink::discarding());
    let (pickle, line) = (free_port(), free_port());
    let conf = format!(
        "[relay]\n\
         PICKLE_RECEIVER_INTERFACE = 127.0.0.1\nPICKLE_RECEIVER_PORT = {}\n\
         LINE_RECEIVER_INTERFACE = 127.0.0.1\nLINE_RECEIVER_PORT = {}\n\
         RELAY_METHOD = consistent-hashing\nREPLICATION_FACTOR = 1\nDESTINATIONS = 127.0.0.1:{}:a\n\
         MAX_DATAPOINTS_PER_MESSAGE = 500\nMAX_QUEUE_SIZE = 100000\nUSE_FLOW_CONTROL = True\n",
        pickle.port(),
        line.port(),
        sink.address.port()
    );
    fs::write(folder.path().join("carbon.conf"), conf).unwrap();
    // It looks for this one though only the cache would use it.
    fs::write(folder.path().join("storage-schemas.conf"), "").unwrap();
    fs::create_dir_all(folder.path().join("storage/log/carbon-relay")).unwrap();
    let mut command = Command::new(home.join("bin/python"));
    command.arg(home.join("bin/carbon-relay.py")).current_dir(folder.path());
    command.args([
        "--config=carbon.conf",
        "--pidfile=relay.pid",
        "--nodaemon",
        "--logdir=storage/log",
        "start",
    ]);
    command.env("GRAPHITE_ROOT", folder.path()).env("GRAPHITE_CONF_DIR", folder.path());
    let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    wait_for(pickle, &mut process)?;
    let before = process.cpu_s();
    let written = load::Written::new(plan);
    load::send(plan, pickle, base, &written);
    let (mut came, mut last) = (0, Instant::now());
    while came < plan.datapoints && last.elapsed() < SILENCE {
        std::thread::sleep(Duration::from_millis(10));
        if sink.discarded() > came {
            (came, last) = (sink.discarded(), Instant::now());
        }
    }
    Ok(Ran {
        name: "carbon-relay 1.1.10 (Python 3), pickle to pickle, in memory",
        cpu_s_per_million: (process.cpu_s() - before) / plan.datapoints as f64 * 1e6,
        datapoints_a_second: came as f64 / last.duration_since(written.started).as_secs_f64(),
        peak_mib: process.peak_mib(),
        lost: plan.datapoints.saturating_sub(came),
        datapoints: plan.datapoints,
    })
}
