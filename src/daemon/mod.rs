//! Owns the life of the daemon, from settings to exit code: what is there before the first actor, which signal means
//! what, and what a reload changes. Never decides what is done with a metric.

pub(crate) mod descriptors;
mod endpoints;
mod figures;
mod pipeline;
mod plan;
mod reload;
pub(crate) mod spool;
mod start;
mod stop;

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Instant;

use actix::{System, SystemRunner};
use actors::core::endpoint::{Endpoint, Transport};
use actors::spool::Spool;
use actors::supervisor::Storms;
use listenfd::ListenFd;
use slog::{Logger, crit, info, o, warn};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::endpoints::BoundEndpoint;
use self::figures::Figures;
use self::pipeline::{Pipeline, Resources};
use self::plan::Plan;
use crate::logging::{self, Log, LogSettings};
use crate::notify::Notifier;
use crate::settings::{Loaded, Refused};
use crate::terminal;

pub(crate) use self::plan::{encoding, rows, target};

/// Restarts of actors within a minute, after which the process gives up and lets whoever started it start it again.
const RESTARTS_MAX: usize = 300;

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
            terminal::complain_of("error", [error]);
            return ExitCode::FAILURE;
        }
    };
    for warning in &loaded.warnings {
        warn!(log.logger, "{warning}");
    }
    match prepare(&loaded, passed, &log) {
        Ok(prepared) => system.block_on(live(prepared, signals, loaded, reread, &log)),
        Err(error) => {
            crit!(log.logger, "{error}");
            ExitCode::FAILURE
        }
    }
}

/// What is there before the first actor.
struct Prepared {
    plan: Plan,
    resources: Resources,
    endpoints: Vec<BoundEndpoint>,
}

/// All that can fail for a reason that only an operator can mend.
fn prepare(loaded: &Loaded, passed: ListenFd, log: &Log) -> Result<Prepared, String> {
    let settings = &loaded.settings;
    let plan = Plan::new(loaded, &log.logger)?;
    let named = |endpoint: &&Endpoint| matches!(endpoint.transport, Transport::Systemd { .. });
    let named = settings.endpoint.iter().filter(named).count();
    if passed.len() > named {
        warn!(log.logger, "systemd passed sockets that no endpoint names: nobody listens there";
            "sockets" => passed.len(), "named" => named, "write" => "--endpoint systemd:domain=INET:index=0");
    }
    let endpoints = BoundEndpoint::bind_all(&settings.endpoint, settings.protocol, &[], passed)?;
    let stats = settings.stats.map(bind_stats).transpose()?;
    spool::warn_of(&plan.spool, &log.logger);
    let say = spool::say(log.logger.new(o!()));
    let spool = Spool::start(plan.spool.clone(), say).map_err(|error| error.to_string())?;
    let resources = Resources::new(spool, stats, log.logger.clone(), log.lost.clone());
    Ok(Prepared { plan, resources, endpoints })
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
    prepared: Prepared,
    signals: std::io::Result<Signals>,
    mut loaded: Loaded,
    reread: Reread<'_>,
    log: &Log,
) -> ExitCode {
    let logger = &log.logger;
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            crit!(logger, "cannot listen for signals"; "error" => %error);
            return ExitCode::FAILURE;
        }
    };
    let Prepared { plan, resources, endpoints } = prepared;
    let found = resources.spool.ledger().snapshot().buffered();
    let (fatal, mut ended) = mpsc::channel(1);
    let mut pipeline = match Pipeline::start(plan, resources, endpoints, Storms::new(RESTARTS_MAX, fatal)) {
        Ok(pipeline) => pipeline,
        Err(error) => {
            crit!(logger, "cannot start a thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    let figures = Figures::start(&pipeline);
    say_started(&pipeline, found, logger);
    let notifier = Notifier::start(figures.sources.clone(), logger);

    loop {
        tokio::select! {
            told = signals.told() => match told {
                Told::Stop => break,
                Told::Reopen => log.reopen(),
                Told::Reload => {
                    notifier.iter().for_each(Notifier::reloading);
                    let new = reload::reload(&mut pipeline, &figures, &loaded, reread(), log).await;
                    pipeline.resources.history.reloaded(new.is_some());
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
    info!(logger, "stopping"; "deliver_for_s" => pipeline.plan.shutdown_timeout.as_secs_f64());
    if let Some(notifier) = &notifier {
        notifier.stopping(Instant::now() + pipeline.stop_timeout());
    }
    tokio::select! {
        code = pipeline.stop(figures) => code,
        () = signals.told_to_stop() => {
            warn!(logger, "stopping at once, as told by a second signal: what is in the spool stays there");
            ExitCode::FAILURE
        }
    }
}

/// Says where the daemon listens, where it shows its figures, and where it delivers to; `found` datapoints were in the
/// spool.
fn say_started(pipeline: &Pipeline, found: u64, log: &Logger) {
    for stats in pipeline.listener_stats() {
        info!(log, "listening"; "endpoint" => &stats.endpoint, "protocol" => %stats.protocol);
    }
    let stats = pipeline.resources.stats.as_ref();
    if let Some(address) = stats.and_then(|socket| socket.local_addr().ok()) {
        info!(log, "showing its figures"; "url" => format!("http://{address}/stats"));
    }
    let place = &pipeline.plan.place;
    info!(log, "forwarding"; "url" => &place.url, "every_s" => place.interval.as_secs_f64(),
        "spool" => &place.spool, "buffered" => found);
}
