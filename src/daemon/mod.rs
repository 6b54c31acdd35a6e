//! Owns the life of the daemon, from settings to exit code: what is there before the first actor, which signal means
//! what, and what a reload changes. Never decides what is done with a metric.

mod crew;
pub(crate) mod descriptors;
mod options;

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use actix::{System, SystemRunner};
use actors::core::endpoint::{Endpoint, Transport};
use actors::forwarder::post::ingest_url;
use actors::spool::Spool;
use actors::supervisor::Storms;
use actors::tls;
use listenfd::ListenFd;
use slog::{Logger, crit, error, info, o, warn};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::crew::{Crew, Door, Ground, READERS_TIMEOUT, STORE_TIMEOUT};
use crate::cli;
use crate::logging::{self, Log, LogSettings};
use crate::notify::Notifier;
use crate::settings::{Effective, Loaded, Refused, Settings};

pub(crate) use self::options::{encoding, refused_spool, rows, target};

/// Restarts of actors within a minute, after which the process gives up and lets whoever started it start it again.
const RESTARTS_MAX: usize = 300;

/// Settings that only a restart can change: what they decide is made once, before the first actor.
const NEED_RESTART: [&str; 11] = [
    "spool",
    "spool_sync",
    "compress",
    "catch_up",
    "connections",
    "stats",
    "log_format",
    "log_file",
    "log_file_max",
    "log_file_keep",
    "config",
];

/// Reads the settings again, from where they came the first time.
pub type Reread<'a> = &'a dyn Fn() -> Result<Loaded, Box<Refused>>;

/// Runs until it is told to stop.
///
/// # Errors
/// What is wrong with the settings, if it can't begin to.
pub fn run(read: Reread<'_>) -> Result<ExitCode, Box<Refused>> {
    // It clears what it has read of the environment, so it comes before any thread does.
    let passed = ListenFd::from_env();
    // What a signal does by itself is to end the process. From here on it waits until somebody is there to hear it.
    let system = System::new();
    let signals = system.block_on(async { Signals::new() });
    let mut loaded = read()?;
    let (connections, warning) = descriptors::fit(&loaded.settings, descriptors::raise());
    loaded.settings.connections = connections;
    loaded.warnings.extend(warning);
    Ok(begin(&system, signals, loaded, read, passed))
}

fn begin(
    system: &SystemRunner,
    signals: std::io::Result<Signals>,
    loaded: Loaded,
    reread: Reread<'_>,
    passed: ListenFd,
) -> ExitCode {
    let log = match logging::start(&LogSettings::from(&loaded.settings)) {
        Ok(log) => log,
        Err(error) => {
            cli::complain("error", [error]);
            return ExitCode::FAILURE;
        }
    };
    for warning in &loaded.warnings {
        warn!(log.logger, "{warning}");
    }
    match prepare(&loaded.settings, passed, &log) {
        Ok((ground, doors)) => system.block_on(live(ground, doors, signals, loaded, reread, &log)),
        Err(error) => {
            crit!(log.logger, "{error}");
            ExitCode::FAILURE
        }
    }
}

/// All that can fail for a reason that only an operator can mend.
fn prepare(settings: &Settings, mut passed: ListenFd, log: &Log) -> Result<(Ground, Vec<Door>), String> {
    outgoing(settings, &log.logger)?;
    let named = |endpoint: &&Endpoint| matches!(endpoint.transport, Transport::Systemd { .. });
    let named = settings.endpoint.iter().filter(named).count();
    if passed.len() > named {
        warn!(log.logger, "systemd passed sockets that no endpoint names: nobody listens there";
            "sockets" => passed.len(), "named" => named, "write" => "--endpoint systemd:domain=INET:index=0");
    }
    let doors = settings
        .endpoint
        .iter()
        .map(|endpoint| Door::open(endpoint, settings.protocol, std::iter::empty(), &mut passed))
        .collect::<Result<_, _>>()?;
    let stats = settings.stats.map(bind_stats).transpose()?.map(Arc::new);
    let spool = options::spool(settings);
    options::warn_of_spool(&spool, &log.logger);
    let say = options::say_of_spool(log.logger.new(o!()));
    let (spool, spool_thread) = Spool::start(spool, say).map_err(|error| error.to_string())?;
    let (logger, lost) = (log.logger.clone(), log.lost.clone());
    Ok((Ground { spool, spool_thread, stats, log: logger, log_records_lost: lost }, doors))
}

/// Whom we trust on the way out.
fn outgoing(settings: &Settings, log: &Logger) -> Result<tls::Outgoing, String> {
    let outgoing = tls::Outgoing::new(&settings.tls())?;
    if let Some(warning) = &outgoing.warning {
        warn!(log, "{warning}");
    }
    Ok(outgoing)
}

fn bind_stats(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).map_err(|error| {
        format!(
            "cannot serve the stats on {address}: {error}; set another --stats, or none at all with --stats ''"
        )
    })
}

/// What a signal means.
enum Told {
    Stop,
    Reload,
    /// Open the log file again.
    Reopen,
}

/// The signals that are listened for.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user_1: Signal,
    /// Never looked at: to be listened for is enough to keep it from ending the process.
    _user_2: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            _user_2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn told(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hang_up.recv() => Told::Reload,
            _ = self.user_1.recv() => Told::Reopen,
        }
    }

    async fn told_to_stop(&mut self) {
        while !matches!(self.told().await, Told::Stop) {}
    }
}

/// Starts the actors, lives until a signal or a storm of restarts, and stops them in order.
async fn live(
    ground: Ground,
    doors: Vec<Door>,
    signals: std::io::Result<Signals>,
    mut loaded: Loaded,
    reread: Reread<'_>,
    log: &Log,
) -> ExitCode {
    let logger = &log.logger;
    let settings = &loaded.settings;
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            crit!(logger, "cannot listen for signals"; "error" => %error);
            return ExitCode::FAILURE;
        }
    };
    let stats = ground.stats.as_ref().and_then(|socket| socket.local_addr().ok());
    let found = ground.spool.ledger().snapshot().buffered();
    let (fatal, mut ended) = mpsc::channel(1);
    let shown = options::settings_shown(&loaded.effective);
    let started = outgoing(settings, logger).and_then(|tls| {
        let storms = Storms::new(RESTARTS_MAX, fatal);
        Crew::start(ground, doors, settings, shown, tls, storms)
            .map_err(|error| format!("cannot start a thread: {error}"))
    });
    let mut crew = match started {
        Ok(crew) => crew,
        Err(error) => {
            crit!(logger, "{error}");
            return ExitCode::FAILURE;
        }
    };
    for stats in crew.listener_stats() {
        info!(logger, "listening"; "endpoint" => &stats.endpoint, "protocol" => %stats.protocol);
    }
    if let Some(address) = stats {
        info!(logger, "showing its figures"; "url" => format!("http://{address}/stats"));
    }
    info!(logger, "forwarding"; "url" => ingest_url(&settings.blueflood, &settings.tenant), "every_s" => settings.interval.as_secs_f64(),
        "spool" => options::place_name(&settings.spool), "buffered" => found);
    let notifier = crew.shared_sources().and_then(|sources| Notifier::start(sources.clone(), logger));

    loop {
        tokio::select! {
            told = signals.told() => match told {
                Told::Stop => break,
                Told::Reopen => log.reopen(),
                Told::Reload => {
                    notifier.iter().for_each(Notifier::reloading);
                    let new = reload(&mut crew, &loaded, reread, log).await;
                    crew.note_reload(new.is_some());
                    if let Some(new) = new {
                        loaded = new;
                    }
                    notifier.iter().for_each(Notifier::ready);
                }
            },
            last_line = ended.recv() => {
                crit!(logger, "{}", last_line.unwrap_or_default());
                return ExitCode::FAILURE;
            }
        }
    }
    info!(logger, "stopping"; "deliver_for_s" => loaded.settings.shutdown_timeout.as_secs_f64());
    if let Some(notifier) = &notifier {
        let patience = loaded.settings.shutdown_timeout + READERS_TIMEOUT + STORE_TIMEOUT;
        notifier.stopping(Instant::now() + patience);
    }
    tokio::select! {
        code = crew.stop(&loaded.settings) => code,
        () = signals.told_to_stop() => {
            warn!(logger, "stopping at once, as told by a second signal: what is in the spool stays there");
            ExitCode::FAILURE
        }
    }
}

/// Reads the settings again, and applies them as a whole or not at all; the new ones if they are applied.
async fn reload(crew: &mut Crew, old: &Loaded, reread: Reread<'_>, log: &Log) -> Option<Loaded> {
    let logger = &log.logger;
    let refuse = |why: &dyn std::fmt::Display| {
        error!(logger, "the settings are not changed: what was read again is wrong"; "error" => %why);
    };
    let mut new = match reread() {
        Ok(new) => new,
        Err(refused) => {
            refused.problems.iter().for_each(|problem| refuse(problem));
            return None;
        }
    };
    let (later, now): (Vec<_>, Vec<_>) = changes(&old.effective, &new.effective)
        .into_iter()
        .partition(|(key, _)| needs_restart(key, old, &new));
    keep(&mut new, old, &later);
    let tls = match outgoing(&new.settings, logger) {
        Ok(tls) => tls,
        Err(error) => {
            refuse(&error);
            return None;
        }
    };
    // All doors first: one that cannot be opened leaves everything as it is.
    let mut passed = ListenFd::empty();
    let open = |endpoint| Door::open(endpoint, new.settings.protocol, crew.doors(), &mut passed);
    let doors: Vec<Door> = match new.settings.endpoint.iter().map(open).collect() {
        Ok(doors) => doors,
        Err(error) => {
            refuse(&error);
            return None;
        }
    };
    for warning in &new.warnings {
        warn!(logger, "{warning}");
    }
    log.level.set(new.settings.log_level);
    let words = |changes: &[(&str, String)]| {
        let words: Vec<_> = changes.iter().map(|(_, words)| words.as_str()).collect();
        if words.is_empty() { "nothing".to_owned() } else { words.join("; ") }
    };
    let shown = options::settings_shown(&new.effective);
    // The files of certificates may hold others now, though their names are the same.
    if new.settings.uses_tls() || now.iter().any(|(key, _)| *key != "log_level") {
        crew.apply(&new.settings, doors, shown, tls).await;
    } else {
        crew.show(&new.settings, shown);
    }
    // Not before: who reads it may send what the new settings are for.
    info!(logger, "the settings are read again"; "changed" => words(&now), "needs_a_restart" => words(&later));
    Some(new)
}

/// Each setting that differs, and how, in words that may be shown.
fn changes(old: &[Effective], new: &[Effective]) -> Vec<(&'static str, String)> {
    let differs = |(old, new): (&Effective, &Effective)| {
        let setting = new.setting;
        let words =
            || format!("{} from {} to {}", setting.key, setting.shown(&old.text), setting.shown(&new.text));
        (old.text != new.text).then(|| (setting.key, words()))
    };
    old.iter().zip(new).filter_map(differs).collect()
}

/// Whether a change of this setting takes effect at the next start only.
fn needs_restart(key: &str, old: &Loaded, new: &Loaded) -> bool {
    // Whether there is a Keystone at all decides which actors there are.
    let keystone = || old.settings.user.is_empty() != new.settings.user.is_empty();
    NEED_RESTART.contains(&key) || (key == "user" && keystone())
}

/// Keeps what only a restart can change as it was.
fn keep(new: &mut Loaded, old: &Loaded, later: &[(&str, String)]) {
    let Loaded { settings, effective, .. } = new;
    settings.spool = old.settings.spool.clone();
    settings.spool_sync = old.settings.spool_sync;
    settings.compress = old.settings.compress;
    settings.catch_up = old.settings.catch_up;
    settings.connections = old.settings.connections;
    settings.stats = old.settings.stats;
    if later.iter().any(|(key, _)| *key == "user") {
        settings.user = old.settings.user.clone();
    }
    for (entry, before) in effective.iter_mut().zip(&old.effective) {
        if later.iter().any(|(key, _)| *key == entry.setting.key) {
            entry.text = before.text.clone();
        }
    }
}
