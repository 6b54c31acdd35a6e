//! Owns the life of the daemon, from settings to exit code: what is started in which order, and how it stops. Never
//! decides what is done with a metric.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use actix::System;
use actix_rt::Arbiter;
use actors::collector::{self, Collector, Hand};
use actors::core::backoff::Backoff;
use actors::core::chunk::Encoding;
use actors::core::endpoint::{Endpoint, Transport};
use actors::core::ledger::{Ledger, sum};
use actors::core::outbox::Limits;
use actors::core::row::{Encoder, RowSettings};
use actors::forwarder::{self, Forwarder};
use actors::keystone_auth::{self, KeystoneAuth};
use actors::listener::socket::Bound;
use actors::listener::{self, Listener};
use actors::metrics::{History, Metrics, Sources};
use actors::spool::open::Place;
use actors::spool::store::Sync;
use actors::spool::{self, Notice, Spool, SpoolThread, WhenFull};
use actors::supervisor::{Storms, Supervised, Vitals};
use actors::tls;
use listenfd::ListenFd;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use serde_json::{Value, json};
use slog::{Logger, crit, debug, error, info, o, warn};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::cli;
use crate::logging::{self, Log, LogSettings};
use crate::notify::Notifier;
use crate::settings::{CatchUp, Compress, Effective, Loaded, Settings, SpoolFull, SpoolPlace, SpoolSync};

/// Restarts of actors within a minute, after which the process gives up and lets whoever started it start it again.
const RESTARTS_MAX: usize = 300;

/// The longest first pause after a failure.
const BACKOFF_BASE: Duration = Duration::from_secs(1);

/// How long connections may take to hand over what their sockets already hold.
const READERS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last chunk may take into the spool.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a path segment may hold as it is.
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Runs until it is told to stop.
pub fn run(loaded: Loaded) -> ExitCode {
    // It clears what it has read of the environment, so it comes before any thread does.
    let passed = ListenFd::from_env();
    let log = match logging::start(&LogSettings::from(&loaded.settings)) {
        Ok(log) => log,
        Err(error) => {
            cli::complain("error", [error]);
            return ExitCode::FAILURE;
        }
    };
    for warning in loaded.warnings {
        warn!(log.logger, "{warning}");
    }
    let shown = settings_shown(&loaded.effective);
    match Ground::prepare(&loaded.settings, passed, &log.logger) {
        Ok(ground) => System::new().block_on(live(ground, &loaded.settings, shown, &log)),
        Err(error) => {
            crit!(log.logger, "{error}");
            ExitCode::FAILURE
        }
    }
}

/// What is there before the first actor is: all that can fail for a reason that only an operator can mend.
struct Ground {
    tls: Arc<ClientConfig>,
    sockets: Vec<(Arc<Bound>, Arc<listener::Desk>)>,
    stats: Option<Arc<TcpListener>>,
    spool: Spool,
    spool_thread: SpoolThread,
}

impl Ground {
    fn prepare(settings: &Settings, mut passed: ListenFd, log: &Logger) -> Result<Self, String> {
        let tls::Outgoing { config, warning } = tls::Outgoing::new(&settings.tls())?;
        if let Some(warning) = warning.filter(|_| settings.uses_tls()) {
            warn!(log, "{warning}");
        }
        let taken = |endpoint: &&Endpoint| matches!(endpoint.transport, Transport::Systemd { .. });
        let taken = settings.endpoint.iter().filter(taken).count();
        if passed.len() > taken {
            warn!(log, "systemd passed sockets that no endpoint names: nobody listens there"; "sockets" => passed.len(),
                "named" => taken, "write" => "--endpoint systemd:domain=INET:index=0");
        }
        let bind = |endpoint| {
            let socket = Bound::bind(endpoint, &mut passed).map_err(|error| error.to_string())?;
            let desk = Listener::desk(&socket, endpoint.protocol_or(settings.protocol));
            Ok::<_, String>((Arc::new(socket), desk))
        };
        let sockets = settings.endpoint.iter().map(bind).collect::<Result<_, _>>()?;
        let stats = settings.stats.map(bind_stats).transpose()?;
        let say = say_of_spool(log.new(o!()));
        let (spool, spool_thread) =
            Spool::start(spool_options(settings), say).map_err(|error| error.to_string())?;
        Ok(Self { tls: config, sockets, stats: stats.map(Arc::new), spool, spool_thread })
    }
}

fn bind_stats(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).map_err(|error| {
        format!(
            "cannot serve the stats on {address}: {error}; set another --stats, or none at all with --stats ''"
        )
    })
}

/// Starts the actors, lives until a signal or a storm of restarts, and stops them in order.
async fn live(ground: Ground, settings: &Settings, shown: Value, log: &Log) -> ExitCode {
    let logger = &log.logger;
    let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(error), _) | (_, Err(error)) => {
            crit!(logger, "cannot listen for signals"; "error" => %error);
            return ExitCode::FAILURE;
        }
    };
    let (fatal, mut ended) = mpsc::channel(1);
    let actors = match Actors::start(&ground, settings, shown, log, Storms::new(RESTARTS_MAX, fatal)) {
        Ok(actors) => actors,
        Err(error) => {
            crit!(logger, "cannot start a thread"; "error" => %error);
            return ExitCode::FAILURE;
        }
    };
    for (_, desk) in &ground.sockets {
        info!(logger, "listening"; "endpoint" => &desk.endpoint, "protocol" => %desk.protocol);
    }
    if let Some(Ok(address)) = ground.stats.as_ref().map(|socket| socket.local_addr()) {
        info!(logger, "showing its figures"; "url" => format!("http://{address}/stats"));
    }
    info!(logger, "forwarding"; "url" => ingest_url(settings), "every_s" => settings.interval.as_secs_f64(),
        "spool" => place_name(&settings.spool), "buffered" => ground.spool.ledger().snapshot().buffered());
    let notifier = Notifier::start(ground.spool.clone(), actors.vitals.clone(), logger);

    tokio::select! {
        () = told_to_stop(&mut term, &mut int) => {}
        last_line = ended.recv() => {
            crit!(logger, "{}", last_line.unwrap_or_default());
            return ExitCode::FAILURE;
        }
    }
    info!(logger, "stopping"; "deliver_for_s" => settings.shutdown_timeout.as_secs_f64());
    if let Some(notifier) = &notifier {
        notifier.stopping(Instant::now() + settings.shutdown_timeout + READERS_TIMEOUT + STORE_TIMEOUT);
    }
    tokio::select! {
        code = actors.stop(ground, settings, logger) => code,
        () = told_to_stop(&mut term, &mut int) => {
            warn!(logger, "stopping at once, as told by a second signal: what is in the spool stays there");
            ExitCode::FAILURE
        }
    }
}

async fn told_to_stop(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// All actors, and what stops them.
struct Actors {
    listeners: Vec<Supervised<Listener>>,
    collector: Supervised<Collector>,
    forwarder: Supervised<Forwarder>,
    keystone: Option<Supervised<KeystoneAuth>>,
    metrics: Supervised<Metrics>,
    vitals: Vec<Arc<Vitals>>,
    stop: watch::Sender<bool>,
    readers: TaskTracker,
}

impl Actors {
    /// The collector, the forwarder and the decoding of connections have threads of their own, so that none holds up
    /// another's timers; the rest is on the system's thread.
    fn start(
        ground: &Ground,
        settings: &Settings,
        shown: Value,
        log: &Log,
        storms: Storms,
    ) -> io::Result<Self> {
        let logger = log.logger.clone();
        let (stop, stopped) = watch::channel(false);
        let spool = ground.spool.clone();
        let status = forwarder::SharedStatus::default();

        let keystone = settings.credentials().map(|(account, key)| {
            let options = keystone_auth::Options {
                account,
                key,
                auth_url: settings.auth_url.clone(),
                tls: ground.tls.clone(),
                status: keystone_auth::SharedStatus::default(),
                log: logger.clone(),
            };
            let status = options.status.clone();
            let make = move |line| KeystoneAuth::new(options.clone(), line);
            (Supervised::start("keystone", Arbiter::current(), storms.clone(), logger.clone(), make), status)
        });
        let auth =
            keystone.as_ref().map(|(actor, _)| forwarder::Auth { get: actor.link(), rejected: actor.link() });
        let forwarder = {
            let options = forwarder_options(settings, auth, ground.tls.clone());
            let (spool, status) = (spool.clone(), status.clone());
            let log = logger.clone();
            let make =
                move |line| Forwarder::new(line, options.clone(), spool.clone(), status.clone(), log.clone());
            Supervised::start("forwarder", Arbiter::try_new()?.handle(), storms.clone(), logger.clone(), make)
        };
        let collector = {
            let (options, hand) = (collector_options(settings), Hand::default());
            let (store, flush) = (forwarder.link(), forwarder.link());
            let make = move |line| Collector::new(line, options, hand.clone(), store.clone(), flush.clone());
            Supervised::start("collector", Arbiter::try_new()?.handle(), storms.clone(), logger.clone(), make)
        };
        let readers = TaskTracker::new();
        let common = listener::Common {
            collector: collector.link(),
            encoder: Arc::new(Encoder::new(&row_settings(settings))),
            ledger: spool.ledger().clone(),
            stop: stopped.clone(),
            permits: Arc::new(Semaphore::new(settings.connections as usize)),
            idle_timeout: settings.idle_timeout,
            undecoded_bytes: Arc::new(AtomicUsize::new(0)),
            readers: readers.clone(),
            arbiters: Arc::new(decoding_arbiters()?),
            log: logger.clone(),
        };
        let listen = |(socket, desk): &(Arc<Bound>, Arc<listener::Desk>)| {
            let name = format!("listener {}", desk.endpoint);
            let (socket, desk, common) = (socket.clone(), desk.clone(), common.clone());
            let make = move |line| Listener::new(line, socket.clone(), desk.clone(), common.clone());
            Supervised::start(name, Arbiter::current(), storms.clone(), logger.clone(), make)
        };
        let listeners: Vec<_> = ground.sockets.iter().map(listen).collect();

        let mut vitals = vec![collector.vitals(), forwarder.vitals()];
        vitals.extend(listeners.iter().map(Supervised::vitals));
        let (keystone, keystone_status) = keystone.unzip();
        vitals.extend(keystone.iter().map(Supervised::vitals));
        let metrics = {
            let sources = Sources {
                spool,
                forwarder: status,
                keystone: keystone_status,
                listeners: ground.sockets.iter().map(|(_, desk)| desk.clone()).collect(),
                vitals: vitals.clone(),
                log_records_lost: log.lost.clone(),
                started: Instant::now(),
                stop: stopped,
                spool_bytes_max: settings.spool_max,
                settings: shown,
                history: History::default(),
            };
            let (socket, log) = (ground.stats.clone(), logger.clone());
            let make = move |line| Metrics::new(line, sources.clone(), socket.clone(), log.clone());
            Supervised::start("metrics", Arbiter::current(), storms, logger, make)
        };
        Ok(Self { listeners, collector, forwarder, keystone, metrics, vitals, stop, readers })
    }

    /// Accept no more, read what the sockets hold, seal, deliver for a while, leave the rest in the spool.
    async fn stop(self, ground: Ground, settings: &Settings, log: &Logger) -> ExitCode {
        let deadline = Instant::now() + settings.shutdown_timeout;
        self.stop.send_replace(true);
        self.readers.close();
        if timeout(READERS_TIMEOUT, self.readers.wait()).await.is_err() {
            warn!(log, "some connections did not end in time"; "connections" => self.readers.len());
        }
        self.listeners.iter().for_each(Supervised::let_go);
        // Neither of these is data: one that is given up loses nothing.
        let seal = self.collector.link();
        if timeout(STORE_TIMEOUT, seal.ask(|| collector::Drain)).await.is_err() {
            warn!(log, "the spool did not take everything in time");
        }
        let time_left = deadline.saturating_duration_since(Instant::now());
        let deliver = self.forwarder.link();
        if deliver.ask(|| forwarder::Drain(time_left)).await.is_err() {
            warn!(log, "nothing more can be delivered: the forwarder is gone");
        }
        self.collector.let_go();
        self.forwarder.let_go();
        self.keystone.iter().for_each(Supervised::let_go);
        self.metrics.let_go();
        if let Err(error) = ground.spool.close().await {
            error!(log, "the spool could not be closed in order"; "error" => %error);
        }
        let stored = ground.spool_thread.join();
        let keeps = settings.spool != SpoolPlace::Memory;
        let code = last_line(&mut ground.spool.ledger().snapshot(), keeps, log);
        if stored { code } else { ExitCode::FAILURE }
    }
}

/// The closing line, whose figures add up.
fn last_line(ledger: &mut Ledger, spool_keeps: bool, log: &Logger) -> ExitCode {
    let lost = if spool_keeps { ledger.open } else { ledger.buffered() };
    if lost > 0 {
        error!(log, "datapoints are lost with this process: there is no spool that took them"; "datapoints" => lost);
        ledger.stopped(lost);
    }
    info!(log, "stopped";
        "received" => ledger.received, "skipped" => sum(&ledger.skipped), "buffered" => ledger.buffered(),
        "delivered" => ledger.delivered, "refused" => sum(&ledger.refused), "dropped" => sum(&ledger.dropped),
        "unaccounted" => i64::try_from(ledger.unaccounted()).unwrap_or(i64::MAX));
    if lost == 0 && ledger.unaccounted() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every effective setting as it may be shown to whoever reaches the stats port.
fn settings_shown(effective: &[Effective]) -> Value {
    let shown = |entry: &Effective| json!({ "key": entry.setting.key, "value": entry.setting.shown(&entry.text), "origin": entry.origin });
    effective.iter().map(shown).collect()
}

/// One thread a core decodes, but for the one that the way out needs.
fn decoding_arbiters() -> io::Result<Vec<actix_rt::ArbiterHandle>> {
    let cores = available_parallelism().map_or(1, usize::from);
    (0..cores.saturating_sub(1).max(1)).map(|_| Arbiter::try_new().map(|arbiter| arbiter.handle())).collect()
}

/// Where everything is POSTed to.
fn ingest_url(settings: &Settings) -> String {
    let base = settings.blueflood.trim_end_matches('/');
    format!("{base}/v2.0/{}/ingest", utf8_percent_encode(&settings.tenant, &UNRESERVED))
}

fn payload_bytes_max(settings: &Settings) -> usize {
    usize::try_from(settings.limit).unwrap_or(usize::MAX)
}

fn encoding(settings: &Settings) -> Encoding {
    match settings.compress {
        Compress::Gzip => Encoding::Deflate,
        Compress::None => Encoding::Plain,
    }
}

fn row_settings(settings: &Settings) -> RowSettings {
    RowSettings {
        prefix: settings.metric_prefix.clone(),
        ttl_s: settings.ttl,
        tenant: settings.tenant.clone(),
        payload_bytes_max: payload_bytes_max(settings),
        overwrite_time: settings.overwrite_collection_timestamp,
    }
}

fn collector_options(settings: &Settings) -> collector::Options {
    collector::Options {
        rows_max: settings.max_rows,
        payload_bytes_max: payload_bytes_max(settings),
        seal_interval: settings.seal_interval,
        send_interval: settings.interval,
    }
}

fn forwarder_options(
    settings: &Settings,
    auth: Option<forwarder::Auth>,
    tls: Arc<ClientConfig>,
) -> forwarder::Options {
    forwarder::Options {
        limits: Limits {
            payload_bytes_max: payload_bytes_max(settings),
            payload_rows_max: settings.max_rows,
            in_flight_max: settings.concurrency,
            backoff: Backoff { base: BACKOFF_BASE.min(settings.backoff_max), max: settings.backoff_max },
            newest_first: settings.catch_up == CatchUp::NewestFirst,
            authenticates: auth.is_some(),
        },
        auth,
        target: forwarder::Target {
            tls,
            url: ingest_url(settings),
            timeout: settings.timeout,
            concurrency: settings.concurrency,
        },
        encoding: encoding(settings),
    }
}

fn spool_options(settings: &Settings) -> spool::Options {
    spool::Options {
        place: match &settings.spool {
            SpoolPlace::Memory => Place::Memory,
            SpoolPlace::File(path) => Place::File(path.clone()),
        },
        sync: match settings.spool_sync {
            SpoolSync::Normal => Sync::Normal,
            SpoolSync::Full => Sync::Full,
        },
        encoding: encoding(settings),
        bytes_max: settings.spool_max,
        when_full: match settings.spool_full {
            SpoolFull::DropOldest => WhenFull::DropOldest,
            SpoolFull::Block => WhenFull::Block,
        },
        age_max: settings.max_age,
        dead_letter_bytes_max: settings.dead_letters_max,
        newest_first: settings.catch_up == CatchUp::NewestFirst,
    }
}

fn place_name(place: &SpoolPlace) -> String {
    match place {
        SpoolPlace::Memory => ":memory:".to_owned(),
        SpoolPlace::File(path) => path.display().to_string(),
    }
}

/// One line for each thing of the spool that an operator should know.
fn say_of_spool(log: Logger) -> impl Fn(Notice) + Send + 'static {
    move |notice| match notice {
        Notice::Salvaged(salvage) => {
            error!(log, "the spool was damaged: it is set aside, and what can be read of it goes on";
                "cause" => salvage.cause, "set_aside" => salvage.set_aside.display().to_string(),
                "rows" => salvage.rows, "dead_letters" => salvage.dead_letters,
                "rows_lost" => salvage.lost.map_or("unknown".to_owned(), |lost| lost.to_string()));
        }
        Notice::Blocked(cause) => {
            warn!(log, "the spool takes nothing for now: senders have to wait"; "cause" => cause)
        }
        Notice::Unblocked => info!(log, "the spool takes metrics again"),
        Notice::Dropped { reason, rows } => {
            warn!(log, "datapoints are dropped by policy"; "reason" => reason, "datapoints" => rows);
        }
        Notice::DiskFull => {
            error!(
                log,
                "the disk of the spool is full: it grows no more, and is treated as a spool at its cap"
            );
        }
        Notice::DiskFree => info!(log, "the disk of the spool has room again"),
        Notice::Unattributed { errors } => {
            warn!(log, "Blueflood refused rows that were not in the payload"; "errors" => errors);
        }
        Notice::Replayed { rows } => debug!(log, "dead letters are sent again"; "datapoints" => rows),
    }
}
