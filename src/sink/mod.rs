//! A small Blueflood for trials and tests: it takes, refuses and ignores what the real one does, byte for byte.
//! It never keeps anything beyond its memory, and is not for production.
//!
//! What it does was measured on the real server (`actors/contract/blueflood.md`, "How this was measured"); the conformance
//! test replays those measurements. HTTP is read and written here, not by a library: answers are needed byte for byte, and sometimes
//! none at all, or half of one.
//!
//! ```text
//! connection ── http (heads, bodies) ── inflate (gzip, the 1 MiB limit)
//!     │
//!     ├── script    what to do instead, if anything
//!     ├── routes    which request means what
//!     ├── ingest    a body judged row by row ── number (Jackson's and Java's numbers)
//!     ├── views     reading back
//!     └── response  answers as bytes
//! state ── store    what was received and what is kept, bounded
//! ```
//!
//! Bounds: [`CONNECTIONS_MAX`] connections, each holding at most one body of [`BODY_BYTES_MAX`] bytes and one answer
//! (16 MiB of refused rows, 100,000 values read back);
//! [`Options::points_max`] points with [`NAME_BYTES_MAX`] bytes of names; [`Options::received_bytes_max`] bytes of
//! requests. Whatever came first goes first. Time is not bounded, as it is not in the real thing: an idle
//! connection stays.

mod connection;
mod http;
mod inflate;
mod ingest;
mod number;
mod response;
mod routes;
mod script;
mod state;
mod store;
mod views;

pub use inflate::BODY_BYTES_MAX;
pub use number::Number;
pub use response::Answer;
pub use script::{Act, Script, ScriptError, Step};
pub use state::{Received, State};
pub use store::{NAME_BYTES_MAX, Point};

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Connections at once; the next one waits to be accepted.
pub const CONNECTIONS_MAX: usize = 1024;
/// How long to wait after a failed accept (out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The time in milliseconds since the epoch, by which Blueflood's window is judged.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What stands before Blueflood, as the proxy does that asks Keystone: the status that an ingest request gets instead
/// of Blueflood's answer, if any. It may take its time: other requests do not wait for it.
pub type Authorizer = Arc<dyn Fn(&Received) -> Option<u16> + Send + Sync>;

/// How a stand-in is set up.
#[derive(Clone)]
pub struct Options {
    /// What time it is. Default: the system's clock.
    pub clock: Clock,
    /// Points kept, over all tenants. Default: 1,000,000.
    pub points_max: usize,
    /// Bytes of requests remembered for [`State::requests`]. Default: 64 MiB.
    pub received_bytes_max: usize,
    /// Which requests are let in. Default: all.
    pub authorizer: Authorizer,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            clock: Arc::new(system_ms),
            points_max: 1_000_000,
            received_bytes_max: 64 << 20,
            authorizer: Arc::new(|_| None),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("points_max", &self.points_max)
            .field("received_bytes_max", &self.received_bytes_max)
            .finish_non_exhaustive()
    }
}

/// The stand-in itself; [`Sink::start`] is all there is to it.
#[derive(Debug)]
pub struct Sink;

impl Sink {
    /// Serves `listener` on a thread of its own until the handle is dropped.
    ///
    /// # Errors
    /// When the listener has no address, or no thread or runtime is to be had.
    pub fn start(listener: TcpListener, options: Options) -> io::Result<SinkHandle> {
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            adopt(listener)?
        };
        let points_max = options.points_max;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(points_max, options.received_bytes_max)),
            changed: Condvar::new(),
            clock: options.clock,
            authorizer: options.authorizer,
        });
        let (commands, inbox) = mpsc::unbounded_channel();
        let serving = shared.clone();
        let thread = std::thread::Builder::new()
            .name("sink".into())
            .spawn(move || runtime.block_on(accept(listener, serving, inbox)))?;
        Ok(SinkHandle { address, points_max, shared, commands: Some(commands), thread: Some(thread) })
    }
}

/// A running stand-in. Dropped, it is gone, and its port with it.
#[derive(Debug)]
pub struct SinkHandle {
    address: SocketAddr,
    points_max: usize,
    shared: Arc<Shared>,
    /// Always there until the drop; its end is what stops the thread.
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl SinkHandle {
    /// Where it is, for `--blueflood`: `http://127.0.0.1:19000`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What the next ingest requests meet, instead of what was scripted before.
    pub fn script(&self, script: Script) {
        self.shared.change(|state| state.script = script);
    }

    /// What the next requests meet that read back, instead of what was scripted before.
    pub fn reads(&self, script: Script) {
        self.shared.change(|state| state.reads = script);
    }

    /// The whole store behind it goes away: it answers 200, and loses what it takes.
    pub fn store_away(&self) {
        let away = || Script::new().then(Step::from(Act::Away).for_ever());
        self.shared.change(|state| (state.script, state.reads) = (away(), away()));
    }

    /// The store is back. The first answer to a query of many names is short.
    pub fn store_back(&self) {
        let short = Script::new().then(Act::Short(70));
        self.shared.change(|state| (state.script, state.reads) = (Script::new(), short));
    }

    /// Every point of a tenant, by name and time, with how often it came.
    pub fn points(&self, tenant: &str) -> Vec<Point> {
        self.read(|state| state.points(tenant))
    }

    /// The ingest requests that are remembered, the oldest first.
    pub fn requests(&self) -> Vec<Received> {
        self.read(|state| state.requests().cloned().collect())
    }

    /// Looks at everything at once.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.shared.read(look)
    }

    /// Forgets points, requests and counts; the script stays.
    pub fn clear(&self) {
        self.shared.change(|state| state.clear(self.points_max));
    }

    /// Waits until `condition` holds, looking again after each change; false when it did not within `patience`.
    pub fn wait_for(&self, condition: impl Fn(&State) -> bool, patience: Duration) -> bool {
        let waiting = |state: &mut State| !condition(state);
        let guard = self.shared.lock();
        let outcome = self.shared.changed.wait_timeout_while(guard, patience, waiting);
        let (_guard, timed_out) = outcome.unwrap_or_else(PoisonError::into_inner);
        !timed_out.timed_out()
    }

    /// Goes away as a server does that was killed: every connection ends and new ones are refused. What was stored
    /// is still there. Returns once the port is closed.
    pub fn pause(&self) {
        let (done, wait) = std::sync::mpsc::channel();
        self.command(Command::Pause(done));
        // An error means that the thread has ended, and its port with it.
        let _ = wait.recv();
    }

    /// Comes back on the same port.
    ///
    /// # Errors
    /// When something else has taken the port meanwhile.
    pub fn resume(&self) -> io::Result<()> {
        self.command(Command::Resume(TcpListener::bind(self.address)?));
        Ok(())
    }

    fn command(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // An error means that the thread has ended: there is nobody left to command.
            let _ = commands.send(command);
        }
    }
}

impl Drop for SinkHandle {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed already, and is no reason for a second one here.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
enum Command {
    Pause(std::sync::mpsc::Sender<()>),
    Resume(TcpListener),
}

/// What the connections and the handle share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    clock: Clock,
    authorizer: Authorizer,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    /// Counts a request as under way until the guard is dropped.
    fn enter(&self) -> InFlight<'_> {
        self.change(State::enter);
        InFlight(self)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

struct InFlight<'a>(&'a Shared);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.change(State::leave);
    }
}

/// Accepts connections and obeys commands until the handle is gone; every connection ends with it.
async fn accept(
    listener: tokio::net::TcpListener,
    shared: Arc<Shared>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Pause(done)) => {
                    listener = None;
                    connections.shutdown().await;
                    // An error means that whoever paused did not wait.
                    let _ = done.send(());
                }
                Some(Command::Resume(back)) => listener = adopt(back).ok(),
                None => return,
            },
            stream = next_stream(listener.as_ref()), if connections.len() < CONNECTIONS_MAX => {
                let shared = shared.clone();
                connections.spawn(async move { connection::serve(stream, &shared).await });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The next connection; none ever comes without a listener.
async fn next_stream(listener: Option<&tokio::net::TcpListener>) -> tokio::net::TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small and single: waiting to fill a packet would only delay them.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn adopt(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

fn system_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
