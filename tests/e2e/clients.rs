//! Real Graphite clients in front of the daemon: carbon-relay, graphyte and graphitesend from PyPI, statsd from npm.
//! They are installed once, under `.cache`, with this host's python3 and npm; where there is none, a test says so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::shared::skip;
use crate::world::*;

/// Versions that were seen to work together.
const FROM_PYPI: &[&str] =
    &["carbon==1.1.10", "whisper==1.1.10", "Twisted==26.10.0", "graphyte==1.7.1", "graphitesend==0.10.0"];
const FROM_NPM: &[&str] = &["statsd@0.9.0"];

/// The folder with the clients from PyPI; `None`, and said, on a host without python3.
fn pypi() -> Option<PathBuf> {
    installed("carbon", "python3", FROM_PYPI, |folder| {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder));
        let mut pip = Command::new(folder.join("bin/pip"));
        // Without this carbon installs itself under /opt/graphite.
        pip.env("GRAPHITE_NO_PREFIX", "True").args(["install", "--quiet", "--disable-pip-version-check"]);
        run(pip.args(FROM_PYPI));
    })
}

/// The folder with the clients from npm; `None`, and said, on a host without npm.
fn npm() -> Option<PathBuf> {
    installed("statsd", "npm", FROM_NPM, |folder| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--omit=optional", "--prefix"])
            .arg(folder);
        run(npm.args(FROM_NPM));
    })
}

/// Installs what a test needs, unless it is there. One at a time, for tests run side by side.
fn installed(name: &str, needs: &str, what: &[&str], install: impl Fn(&Path)) -> Option<PathBuf> {
    if let Err(error) = Command::new(needs).arg("--version").stdout(Stdio::null()).status() {
        skip(format_args!("no {needs} on this host ({error}), so no {}", what.join(", ")));
        return None;
    }
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache");
    let (folder, mark) = (cache.join(name), cache.join(name).join("installed"));
    fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if fs::read_to_string(&mark).ok().as_deref() != Some(&what.join(" ")) {
        fs::create_dir_all(&folder).unwrap();
        install(&folder);
        fs::write(&mark, what.join(" ")).unwrap();
    }
    Some(folder)
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}

/// A port that nothing uses now: neither of these servers tells which one it was given.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A client that runs for a while. Dropped, it is killed.
struct Client {
    process: Child,
    folder: TempDir,
}

impl Client {
    fn start(command: &mut Command, folder: TempDir) -> Self {
        let log = File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self { process: command.spawn().unwrap(), folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Waits until it has said these words so many times.
    fn expect_said(&mut self, words: &str, times: usize) {
        let said = until(|| {
            self.log().matches(words).count() >= times || self.process.try_wait().unwrap().is_some()
        });
        assert!(said && self.log().matches(words).count() >= times, "never said {words:?}:\n{}", self.log());
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// carbon-relay.py as an operator sets it up: lines in, pickles out.
struct Relay {
    client: Client,
    port: u16,
}

impl Relay {
    fn start(pypi: &Path, to: u16) -> Self {
        let folder = TempDir::new().unwrap();
        let port = free_port();
        let config = format!(
            "[relay]\nLINE_RECEIVER_INTERFACE = 127.0.0.1\nLINE_RECEIVER_PORT = {port}\nPICKLE_RECEIVER_PORT = 0\n\
             RELAY_METHOD = consistent-hashing\nDESTINATIONS = 127.0.0.1:{to}\nMAX_QUEUE_SIZE = 10000\n\
             CARBON_METRIC_INTERVAL = 0\n"
        );
        let file = folder.path().join("carbon.conf");
        fs::write(&file, config).unwrap();
        fs::write(folder.path().join("storage-schemas.conf"), "[all]\npattern = .*\nretentions = 60s:1d\n")
            .unwrap();
        let mut command = Command::new(pypi.join("bin/carbon-relay.py"));
        for variable in ["GRAPHITE_ROOT", "GRAPHITE_CONF_DIR", "GRAPHITE_STORAGE_DIR"] {
            command.env(variable, folder.path());
        }
        let pid_file = folder.path().join("pid");
        command
            .args(["--nodaemon", "--debug"])
            .arg("--config")
            .arg(file)
            .arg("--pidfile")
            .arg(pid_file)
            .arg("start");
        let mut client = Client::start(&mut command, folder);
        client.expect_said("Destination is up", 1);
        Self { client, port }
    }

    fn send(&self, lines: &str) {
        TcpStream::connect(("127.0.0.1", self.port)).unwrap().write_all(lines.as_bytes()).unwrap();
    }
}

/// What `lines(name, n)` becomes.
fn points(name: &str, n: usize) -> BTreeMap<String, f64> {
    (0..n).map(|i| (format!("{name}.{i}"), i as f64)).collect()
}

#[test]
fn what_carbon_relay_takes_arrives() {
    let Some(pypi) = pypi() else { return };
    let world = World::new();
    // The default protocol: carbon speaks pickle.
    let daemon = world.daemon(&["--endpoint", "tcp:port=0:interface=127.0.0.1"]);
    let relay = Relay::start(&pypi, daemon.port("tcp:"));
    relay.send(&lines("servers.a", 1200));
    relay.send(&lines("servers.b", 800));
    let now = now();
    relay.send(&format!("disk.used;dc=here;host=a 1.25 {now}\ncafé.löad -3e-7 {now}\nat.once 5 -1\nbad\nnot.a.number nan {now}\n"));
    world.expect_points(2003);
    daemon.expect_delivered(2003);
    let mut expected = points("servers.a", 1200);
    expected.extend(points("servers.b", 800));
    expected.extend(
        [("disk.used;dc=here;host=a", 1.25), ("café.löad", -3e-7), ("at.once", 5.0)]
            .map(|(n, v)| (n.into(), v)),
    );
    assert_eq!(world.stored(), expected);
    assert_eq!(daemon.stats()["malformed"], serde_json::json!({}));
}

#[test]
fn carbon_relay_finds_the_daemon_again_and_loses_nothing() {
    let Some(pypi) = pypi() else { return };
    let world = World::new();
    let daemon = world.daemon(&["--endpoint", "tcp:port=0:interface=127.0.0.1"]);
    let endpoint = format!("tcp:port={}:interface=127.0.0.1", daemon.port("tcp:"));
    let mut relay = Relay::start(&pypi, daemon.port("tcp:"));
    relay.send(&lines("before", 100));
    world.expect_points(100);

    assert_eq!(daemon.stop().code, Some(0));
    relay.client.expect_said("Destination is down", 1);
    relay.send(&lines("while.stopped", 700));
    let daemon = world.daemon(&["--endpoint", &endpoint]);
    world.expect_points(800);
    daemon.expect_delivered(800);

    let reached = relay.client.log().matches("Destination is up").count();
    assert_eq!(daemon.kill().code, None);
    let lost = relay.client.log().matches("Destination is down").count();
    relay.client.expect_said("clientConnectionFailed", lost);
    relay.send(&lines("while.killed", 300));
    let daemon = world.daemon(&["--endpoint", &endpoint]);
    world.expect_points(1100);
    // The kill may have taken the count of what had just been delivered.
    daemon.expect("nothing left", |stats| stats["datapoints"]["buffered"] == 0);
    relay.client.expect_said("Destination is up", reached + 1);

    let mut expected = points("before", 100);
    expected.extend(points("while.stopped", 700));
    expected.extend(points("while.killed", 300));
    assert_eq!(world.stored(), expected);
}

#[test]
fn what_graphyte_and_graphitesend_send_arrives() {
    let Some(pypi) = pypi() else { return };
    let world = World::new();
    let endpoints = ["tcp:port=0:interface=127.0.0.1:protocol=auto", "udp:port=0:interface=127.0.0.1"];
    let daemon = world.daemon(&["--endpoint", endpoints[0], "--endpoint", endpoints[1]]);
    let script = "
import sys, graphyte, graphitesend
tcp, udp = int(sys.argv[1]), int(sys.argv[2])
sender = graphyte.Sender('127.0.0.1', port=tcp, prefix='graphyte.tcp', raise_send_errors=True)
for i in range(20):
    sender.send('m%d' % i, i + 0.5)
graphyte.Sender('127.0.0.1', port=udp, protocol='udp', prefix='graphyte.udp').send('tagged', 7, tags={'dc': 'here'})
options = dict(graphite_server='127.0.0.1', graphite_port=tcp, system_name='')
lines = graphitesend.GraphiteClient(prefix='gs.lines', **options)
lines.send('one', 1)
lines.send_list([('two', 2), ('three', 3.25)])
lines.disconnect()
pickles = graphitesend.GraphitePickleClient(prefix='gs.pickles', **options)
pickles.send_dict({'one': 1, 'two': 2})
pickles.disconnect()
";
    let ports = [daemon.port("tcp:"), daemon.port("udp:")].map(|port| port.to_string());
    run(Command::new(pypi.join("bin/python")).args(["-c", script]).args(ports));
    world.expect_points(26);
    daemon.expect_delivered(26);
    let mut expected: BTreeMap<String, f64> =
        (0..20).map(|i| (format!("graphyte.tcp.m{i}"), f64::from(i) + 0.5)).collect();
    let others = [
        ("graphyte.udp.tagged;dc=here", 7.0),
        ("gs.lines.one", 1.0),
        ("gs.lines.two", 2.0),
        ("gs.lines.three", 3.25),
        ("gs.pickles.one", 1.0),
        ("gs.pickles.two", 2.0),
    ];
    expected.extend(others.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!(world.stored(), expected);
}

#[test]
fn what_statsd_flushes_arrives() {
    let Some(npm) = npm() else { return };
    for protocol in ["text", "pickle"] {
        let world = World::new();
        let daemon = world.daemon(&[]);
        let folder = TempDir::new().unwrap();
        let port = free_port();
        let config = format!(
            "{{ backends: ['./backends/graphite'], address: '127.0.0.1', port: {port}, mgmt_address: '127.0.0.1',
                mgmt_port: {}, flushInterval: 200, graphiteHost: '127.0.0.1', graphitePort: {to}, graphitePicklePort: {to},
                graphiteProtocol: '{protocol}', graphite: {{ legacyNamespace: false }} }}",
            free_port(),
            to = daemon.port("tcp:"),
        );
        let file = folder.path().join("config.js");
        fs::write(&file, config).unwrap();
        let modules = npm.join("node_modules/statsd");
        let mut command = Command::new("node");
        let mut statsd =
            Client::start(command.arg(modules.join("stats.js")).arg(file).current_dir(modules), folder);
        statsd.expect_said("server is up", 1);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let send = |text: &str| socket.send_to(text.as_bytes(), ("127.0.0.1", port));
        // It says that it is up before its socket is, so this is sent until it arrives.
        let arrived =
            until(|| send("load:0.75|g").is_ok() && world.stored().contains_key("stats.gauges.load"));
        assert!(arrived, "{protocol}: {:?}\n{}", world.stored(), statsd.log());
        send("hits:3|c\nhits:4|c\n").unwrap();
        let hits = || {
            let points = world.blueflood.points(TENANT).into_iter();
            let counts = points.filter(|point| point.name == "stats.counters.hits.count");
            counts.map(|point| point.value.as_f64()).sum::<f64>()
        };
        assert!(until(|| hits() == 7.0), "{protocol}: {:?}\n{}", world.stored(), statsd.log());
        assert_eq!(world.stored()["stats.gauges.load"], 0.75);
        drop(statsd);
        assert_eq!(daemon.stats()["malformed"], serde_json::json!({}));
        let ended = daemon.stop();
        assert_eq!((ended.code, &ended.last_line()["buffered"]), (Some(0), &0.into()), "{ended:#?}");
    }
}
