//! Owns one endpoint: a bound socket, its accept loop and its connection permits. It never decodes: a task for each
//! connection does (`connection`), on one of the decoding arbiters.
//!
//! A connection outlives the incarnation of the listener that accepted it.

mod connection;
mod datagrams;
mod intake;
pub mod socket;
mod tls;

use std::{
    collections::BTreeMap,
    fmt::Display,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use actix::{Actor, AsyncContext, Context, WrapFuture};
use actix_rt::ArbiterHandle;
use futures_util::FutureExt;
use slog::{Logger, error, info, o, warn};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use self::socket::{Accepted, Acceptor, Bound, Peer, Reached};
pub use self::tls::Identity;
use crate::{
    collector::MetricFrame,
    core::{
        datapoint::Reason,
        networks::Networks,
        protocol::Protocol,
        row::{Encoder, Skipped},
        senders::{Sender, Senders},
    },
    expiry::Expiry,
    faults,
    spool::SharedLedger,
    supervisor::{Lifeline, Link, supervised},
    tap::{Taps, Whence},
};

/// Bytes that all connections of the daemon may hold undecoded, together. A connection that needs more is cut off: a thousand
/// senders that each stop in the middle of a frame of 1 MiB must not cost a gigabyte.
pub const UNDECODED_BYTES_MAX: usize = 64 << 20;

/// How long to wait after a failed accept: usually the process is out of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// While the daemon stops: if nobody came for so long, nobody waits to be accepted.
const ACCEPT_AT_STOP: Duration = Duration::from_millis(50);

/// While the daemon stops, senders are accepted for so long at most, however many come.
const ACCEPT_AT_STOP_MAX: Duration = Duration::from_secs(2);

/// How often the log says of one endpoint that senders can't be accepted.
const SAY_WAITING_EVERY: Duration = Duration::from_secs(10);

/// How often we look whether a unix socket's file is still there.
const LOOK_AT_FILE_EVERY: Duration = Duration::from_secs(1);

/// How often the files of an endpoint's certificate are looked at when nobody connects. A test has no minute to wait.
const LOOK_AT_CERTIFICATE_EVERY: Duration =
    Duration::from_secs(if cfg!(feature = "faults") { 1 } else { 60 });

/// How long a sender over TLS may take to hear that its connection ends.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// How often the log says one reason of malformed input, for one endpoint.
const SAY_MALFORMED_EVERY: Duration = Duration::from_secs(10);

/// What is said of a sender outside the networks of its endpoint.
const NOT_ALLOWED: &str = "it is in none of the networks that allow= names";

/// The settings that may change while connections are open.
#[derive(Debug, Clone)]
pub struct Live {
    /// The encoder, which makes rows of datapoints.
    pub encoder: Arc<Encoder>,
    /// How long a sender may be silent before its connection is closed.
    pub idle_timeout: Duration,
}

/// What all listeners share.
#[derive(Clone)]
pub struct Common {
    /// The collector, which takes the rows.
    pub collector: Link<MetricFrame>,
    /// The settings that may change while connections are open.
    pub live: watch::Receiver<Live>,
    /// The ledger, in which every datapoint is counted.
    pub ledger: SharedLedger,
    /// The open taps.
    pub taps: Taps,
    /// The senders that send most.
    pub senders: SharedSenders,
    /// Becomes true when the daemon stops, or this endpoint goes: accept no more, read what the sockets already hold, close.
    pub stop: watch::Receiver<bool>,
    /// Becomes true only when the daemon stops.
    pub ending: watch::Receiver<bool>,
    /// Connections that may be open at once, over all endpoints.
    pub permits: Arc<Semaphore>,
    /// Bytes that connections hold undecoded, over all endpoints.
    pub undecoded_bytes: Arc<AtomicUsize>,
    /// Everything that still reads a socket: the stop waits for it.
    pub readers: TaskTracker,
    /// The threads that decode, one after the other for each new connection.
    pub arbiters: Arc<Vec<ArbiterHandle>>,
    /// The log.
    pub log: Logger,
}

/// The senders that send most, shared by all connections: locked for one count at a time.
#[derive(Debug, Clone, Default)]
pub struct SharedSenders(Arc<Mutex<Senders>>);

impl SharedSenders {
    fn count(&self, sender: Sender, datapoints: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count(sender, datapoints);
    }

    /// A copy of them at this instant.
    pub fn snapshot(&self) -> Senders {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a listener shows: its endpoint, its counters, and the last input that it could not forward.
#[derive(Debug)]
pub struct ListenerStats {
    /// The endpoint, with the port that it really has.
    pub endpoint: String,
    /// The protocol of its senders.
    pub protocol: Protocol,
    /// The networks whose senders may send here.
    pub allow: Networks,
    /// Connections that are open now.
    pub connections: AtomicUsize,
    /// Connections that were accepted since the start.
    pub accepted: AtomicU64,
    /// Datapoints that became rows.
    pub datapoints: AtomicU64,
    /// When the last datapoint came, in milliseconds since 1970; 0 if none did.
    pub last_received_ms: AtomicU64,
    /// Datagrams that the kernel dropped because its buffer was full before we read them; 0 where Linux does not tell.
    pub kernel_drops: AtomicU64,
    identity: Option<Arc<Identity>>,
    malformed: Mutex<BTreeMap<Reason, Malformed>>,
    skipped: Mutex<BTreeMap<Skipped, Noted>>,
}

/// Input of one kind that is not forwarded.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// How much of it there was.
    pub count: u64,
    /// The last of it.
    pub last: Option<Sample>,
}

/// A sample of input that is not forwarded.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The address of its sender.
    pub peer: String,
    /// Its first bytes, escaped.
    pub text: String,
    /// When it was received.
    pub at: SystemTime,
}

/// The malformed input of one reason.
#[derive(Debug, Default)]
struct Malformed {
    noted: Noted,
    said: Option<Instant>,
    unsaid: u64,
}

impl ListenerStats {
    /// When the certificates of its endpoint end.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.identity.as_ref().map_or_else(Vec::new, |identity| identity.expiries())
    }

    /// The malformed input so far, by reason.
    pub fn malformed(&self) -> BTreeMap<Reason, Noted> {
        let malformed = self.malformed.lock().unwrap_or_else(PoisonError::into_inner);
        malformed.iter().map(|(&reason, malformed)| (reason, malformed.noted.clone())).collect()
    }

    /// The datapoints so far that could not be forwarded, by reason.
    pub fn skipped(&self) -> BTreeMap<Skipped, Noted> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts skipped datapoints, of which one is the sample.
    fn note_skipped(&self, reason: Skipped, count: u64, sample: Sample) {
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = skipped.entry(reason).or_default();
        noted.count = noted.count.saturating_add(count);
        noted.last = Some(sample);
    }

    /// Counts malformed input; how much of it was not said in the log, if it is time to say it.
    fn note_malformed(&self, reason: Reason, peer: &dyn Display, sample: &[u8]) -> Option<u64> {
        let mut malformed = self.malformed.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = malformed.entry(reason).or_default();
        entry.noted.count = entry.noted.count.saturating_add(1);
        let (peer, text) = (peer.to_string(), sample.escape_ascii().to_string());
        entry.noted.last = Some(Sample { peer, text, at: SystemTime::now() });
        if entry.said.is_some_and(|at| at.elapsed() < SAY_MALFORMED_EVERY) {
            entry.unsaid = entry.unsaid.saturating_add(1);
            return None;
        }
        entry.said = Some(Instant::now());
        Some(std::mem::take(&mut entry.unsaid))
    }

    /// Counts a sender that is turned away, and says why at a bounded rate: it will soon be back.
    fn turn_away(&self, common: &Common, reason: Reason, peer: &dyn Display, sample: &[u8], cause: &str) {
        common.ledger.change(|ledger| ledger.malformed(reason.label()));
        if let Some(mut look) = common.taps.look() {
            let (endpoint, protocol) = (&self.endpoint, self.protocol);
            look.malformed(Whence { time_ms: now_ms(), endpoint, protocol, peer }, reason, sample);
        }
        if let Some(unsaid) = self.note_malformed(reason, peer, sample) {
            warn!(common.log, "a sender is turned away"; "reason" => reason.label(), "peer" => %peer, "cause" => cause,
                "sample" => %sample.escape_ascii(), "unsaid_before" => unsaid);
        }
    }
}

/// The actor of one endpoint. It only accepts; what was accepted outlives it.
pub struct Listener {
    _lifeline: Lifeline,
    socket: Arc<Bound>,
    /// Whether the socket may be shut at the stop: one that systemd passed goes on to the next daemon.
    ours: bool,
    stats: Arc<ListenerStats>,
    common: Common,
}

impl Listener {
    /// A listener on a socket that is bound already, for it outlives the incarnations.
    pub fn new(
        lifeline: Lifeline,
        socket: Arc<Bound>,
        ours: bool,
        stats: Arc<ListenerStats>,
        common: Common,
    ) -> Self {
        Self { _lifeline: lifeline, socket, ours, stats, common }
    }

    /// The stats of a listener on `socket`, all 0.
    pub fn stats(socket: &Bound, protocol: Protocol, allow: Networks) -> Arc<ListenerStats> {
        Arc::new(ListenerStats {
            endpoint: socket.to_string(),
            protocol,
            allow,
            connections: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            datapoints: AtomicU64::new(0),
            last_received_ms: AtomicU64::new(0),
            kernel_drops: AtomicU64::new(0),
            identity: socket.identity().cloned(),
            malformed: Mutex::default(),
            skipped: Mutex::default(),
        })
    }
}

impl Actor for Listener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let common = Common {
            log: self.common.log.new(o!("endpoint" => self.stats.endpoint.clone())),
            ..self.common.clone()
        };
        if let Some(identity) = self.socket.identity().cloned() {
            let log = common.log.clone();
            // Senders may stay connected for weeks. Without a new one nobody would look at the files.
            ctx.run_interval(LOOK_AT_CERTIFICATE_EVERY, move |listener, ctx| {
                let (identity, log) = (identity.clone(), log.clone());
                ctx.spawn(async move { drop(identity.config(&log).await) }.into_actor(listener));
            });
        }
        ctx.spawn(listen(self.socket.clone(), self.ours, self.stats.clone(), common).into_actor(self));
    }
}

supervised!(Listener);

async fn listen(socket: Arc<Bound>, ours: bool, stats: Arc<ListenerStats>, common: Common) {
    if let Bound::Udp(socket) = &*socket {
        let _reader = common.readers.token();
        return datagrams::receive(socket, &stats, common).await;
    }
    match socket.acceptor() {
        Ok(acceptor) => {
            let ending = common.ending.clone();
            accept(&socket, acceptor, &stats, common).await;
            if ours && *ending.borrow() {
                // Who connects from now on is refused, and so knows that nothing was taken.
                socket.shut();
            }
        }
        Err(error) => error!(common.log, "cannot listen"; "error" => %error),
    }
}

/// Something that is said in the log now and then, however often it happens.
#[derive(Default)]
struct Seldom {
    said: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// How often it happened unsaid, if it is time to say it.
    fn due(&mut self) -> Option<u64> {
        if self.said.is_some_and(|at| at.elapsed() < SAY_WAITING_EVERY) {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.said = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

async fn accept(socket: &Bound, mut acceptor: Acceptor, stats: &Arc<ListenerStats>, common: Common) {
    let (mut full, mut failing, mut file) = (Seldom::default(), Seldom::default(), FileWatch::default());
    let mut stop = common.stop.clone();
    // The stop waits for this loop too: a sender that the kernel has let in may have sent and closed since. It would not
    // learn that this was lost.
    let _reader = common.readers.token();
    let mut accept_until = None;
    let mut next_arbiter = common.arbiters.iter().cycle();
    loop {
        // A sender that comes when all permits are taken waits in the kernel's backlog: nothing it sends is lost.
        let permit = match common.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                if let Some(unsaid) = full.due() {
                    warn!(common.log, "as many connections as --connections allows: more senders have to wait";
                        "unsaid_before" => unsaid);
                }
                match common.permits.clone().acquire_owned().await {
                    Ok(permit) => permit,
                    Err(_) => return,
                }
            }
        };
        let accepted = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = stopped(&mut stop, &mut accept_until) => return,
            reached = file.lost(socket) => match acceptor.accept().now_or_never() {
                // A sender that came before the file was lost is let in first.
                Some(accepted) => accepted,
                None => {
                    if let Some(anew) = file.mend(socket, reached, &common.log) {
                        acceptor = anew;
                    }
                    continue;
                }
            },
        };
        match accepted {
            Ok((stream, peer)) => {
                stats.accepted.fetch_add(1, Ordering::Relaxed);
                if let Peer::At(address) = peer
                    && !stats.allow.allow(address.ip())
                {
                    stats.turn_away(&common, Reason::NotAllowed, &peer, b"", NOT_ALLOWED);
                    continue;
                }
                let (stats, common) = (stats.clone(), common.clone());
                let Some(arbiter) = next_arbiter.next() else { return };
                let reader = common.readers.token();
                arbiter.spawn_fn(move || {
                    actix_rt::spawn(async move {
                        stats.connections.fetch_add(1, Ordering::Relaxed);
                        if let Err(error) = serve(stream, peer, &stats, &common).await {
                            info!(common.log, "a connection failed"; "error" => %error);
                        }
                        stats.connections.fetch_sub(1, Ordering::Relaxed);
                        drop((permit, reader));
                    });
                });
                // Not before the spawn: a sender that was accepted, and is served by nobody, loses what it has sent.
                faults::point("listener.accepted");
            }
            Err(error) => {
                if let Some(unsaid) = failing.due() {
                    warn!(common.log, "cannot accept a connection"; "error" => %error, "unsaid_before" => unsaid);
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Looks after the file of a unix socket. If it is taken away, nobody can connect any more, and no error tells us.
#[derive(Default)]
struct FileWatch {
    /// The state that the log was told last, so that it is not told twice.
    said: Option<Reached>,
}

impl FileWatch {
    /// Waits until the file is lost, in a way of which nothing was said yet or that can be mended.
    async fn lost(&mut self, socket: &Bound) -> Reached {
        if !socket.has_file() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_AT_FILE_EVERY).await;
            match socket.reached() {
                Reached::Here => self.said = None,
                Reached::Taken if self.said == Some(Reached::Taken) => {}
                lost => return lost,
            }
        }
    }

    /// Binds the socket anew where nobody else has; what accepts from now on, if that changes.
    fn mend(&mut self, socket: &Bound, reached: Reached, log: &Logger) -> Option<Acceptor> {
        if reached == Reached::Taken {
            error!(
                log,
                "the socket's file is another one now: senders meet somebody else, or nobody; take it away and \
                         this one is made anew"
            );
            self.said = Some(reached);
            return None;
        }
        match socket.bind_anew().and_then(|()| socket.acceptor()) {
            Ok(acceptor) => {
                warn!(log, "the socket's file was taken away: it is made anew");
                self.said = None;
                Some(acceptor)
            }
            Err(error) => {
                if self.said != Some(reached) {
                    error!(log, "the socket's file was taken away, and can't be made anew yet: nobody can connect";
                        "error" => %error);
                }
                self.said = Some(reached);
                None
            }
        }
    }
}

/// Waits for the stop, and then a moment more for who waits to be accepted; not for ever, for more may come.
async fn stopped(stop: &mut watch::Receiver<bool>, accept_until: &mut Option<Instant>) {
    // The sender of this channel lives as long as the daemon.
    let _ = stop.wait_for(|stop| *stop).await;
    let until = *accept_until.get_or_insert_with(|| Instant::now() + ACCEPT_AT_STOP_MAX);
    let left = until.saturating_duration_since(Instant::now());
    // At its end without a pause, in which the next sender could be first.
    if !left.is_zero() {
        tokio::time::sleep(ACCEPT_AT_STOP.min(left)).await;
    }
}

async fn serve(stream: Accepted, peer: Peer, stats: &Arc<ListenerStats>, common: &Common) -> io::Result<()> {
    match stream {
        Accepted::Tcp(stream) => {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            connection::serve(stream, peer, stats, common).await
        }
        Accepted::Tls(stream, identity) => {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let mut stream = match tls::handshake(stream, &identity, common).await {
                Ok(Some(stream)) => stream,
                Ok(None) => return Ok(()),
                Err(tls::Failed { cause, sample }) => {
                    stats.turn_away(common, Reason::TlsHandshake, &peer, &sample, &cause);
                    return Ok(());
                }
            };
            let served = connection::serve(&mut stream, peer, stats, common).await;
            // Who waits for TLS's own goodbye would take a bare end for an error. Who has gone does not hear it.
            let _ = tokio::time::timeout(GOODBYE_MAX, stream.shutdown()).await;
            match served {
                // Many senders just close, without TLS's own goodbye. Whatever that cut short has been counted.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
                served => served,
            }
        }
        Accepted::Unix(stream) => {
            let stream = tokio::net::UnixStream::from_std(stream)?;
            connection::serve(stream, peer, stats, common).await
        }
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
