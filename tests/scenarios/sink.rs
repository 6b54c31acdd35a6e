//! Owns the other end: a Blueflood that counts how often each number came, and answers as a scenario tells it.
//! It never judges: whether what came is right, the checks say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use memchr::memmem::Finder;

use crate::requests::Requests;
use crate::shared::host_of_its_own;

/// A row as it came.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub name: &'a str,
    /// The value: every datapoint of a scenario has its own.
    pub number: usize,
    pub time_ms: u64,
}

/// A request that waits for its answer.
pub struct Request<'a> {
    /// The first is 0.
    pub index: u64,
    /// How long ago the scenario's time began.
    pub elapsed: Duration,
    pub rows: &'a [Row<'a>],
}

impl Request<'_> {
    /// Whether a row's name begins with this.
    pub fn has(&self, start: &str) -> bool {
        self.rows.iter().any(|row| row.name.starts_with(start))
    }
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// All is stored.
    Ok,
    /// All is stored, and the connection is closed, which the answer says.
    OkThenClose,
    /// Nothing is stored.
    Status(u16),
    /// Nothing is stored, and `Retry-After` says this.
    RetryAfter(u16, &'static str),
    /// Nothing is stored, and the answer has this body.
    Says(u16, String),
    /// Rows whose names begin with this are refused by themselves; the others are stored.
    Refuse(&'static str),
    /// The request is read, nothing is stored, and the connection is reset.
    Reset,
    /// No answer at all, and nothing is stored.
    Silence,
    /// The same as another, but so much later.
    Late(Duration, Box<Answer>),
}

impl Answer {
    pub fn late(seconds: f64, then: Answer) -> Self {
        Self::Late(Duration::from_secs_f64(seconds), Box::new(then))
    }
}

/// Decides what becomes of each request. It runs on the connection's own thread, so it may wait.
type Behaviour = Arc<dyn Fn(&Request<'_>) -> Answer + Send + Sync>;

/// A request, afterwards.
#[derive(Debug, Clone, Copy)]
pub struct Post {
    /// When it had come whole, on the scenario's time.
    pub at: Duration,
    pub rows: usize,
    /// Its rows were stored, all or some of them.
    pub passed: bool,
    /// A 200 or 207 stored all but the rows that it named.
    pub good_rows: usize,
}

struct Shared {
    counts: Box<[AtomicU8]>,
    posts: Mutex<Vec<Post>>,
    /// Answers by status; 0 is none.
    statuses: Mutex<BTreeMap<u16, u64>>,
    behaviour: Mutex<Behaviour>,
    began: Mutex<Instant>,
    /// Names of rows that the sink could not make sense of.
    strange: Mutex<BTreeSet<String>>,
    open: Mutex<Vec<TcpStream>>,
    down: AtomicBool,
}

/// A sink that listens until the process ends.
#[derive(Clone)]
pub struct Sink {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Sink {
    /// Expects numbers below `n`, and stores everything until it is told otherwise.
    pub fn start(n: usize) -> Self {
        let listener = TcpListener::bind((host_of_its_own(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let ok: Behaviour = Arc::new(|_| Answer::Ok);
        let shared = Arc::new(Shared {
            counts: (0..n).map(|_| AtomicU8::new(0)).collect(),
            posts: Mutex::default(),
            statuses: Mutex::default(),
            behaviour: Mutex::new(ok),
            began: Mutex::new(Instant::now()),
            strange: Mutex::default(),
            open: Mutex::default(),
            down: AtomicBool::new(false),
        });
        let sink = Self { address, shared };
        sink.listen(listener);
        sink
    }

    fn listen(&self, listener: TcpListener) {
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.down.load(Ordering::SeqCst) {
                    return;
                }
                let _ = stream.set_nodelay(true);
                if let Ok(again) = stream.try_clone() {
                    shared.open.lock().unwrap().push(again);
                }
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Goes away: connections end and new ones are refused.
    pub fn go_down(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts: with it the port is closed.
        let _ = TcpStream::connect(self.address);
        while TcpStream::connect(self.address).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Comes back at the same port.
    pub fn come_back(&self) {
        self.shared.down.store(false, Ordering::SeqCst);
        self.listen(TcpListener::bind(self.address).unwrap());
    }

    /// From here on requests are answered so, and the scenario's time begins now.
    pub fn begin(&self, behaviour: impl Fn(&Request<'_>) -> Answer + Send + Sync + 'static) {
        *self.shared.began.lock().unwrap() = Instant::now();
        self.then(behaviour);
    }

    /// From here on requests are answered so; the scenario's time goes on.
    pub fn then(&self, behaviour: impl Fn(&Request<'_>) -> Answer + Send + Sync + 'static) {
        *self.shared.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    /// How long ago the scenario's time began.
    pub fn elapsed(&self) -> Duration {
        self.shared.began.lock().unwrap().elapsed()
    }

    /// Requests that came whole.
    pub fn requests(&self) -> u64 {
        self.shared.posts.lock().unwrap().len() as u64
    }

    /// What came within a time of the scenario.
    pub fn posts(&self, from: Duration, to: Duration) -> Vec<Post> {
        let posts = self.shared.posts.lock().unwrap();
        posts.iter().filter(|post| post.at >= from && post.at < to).copied().collect()
    }

    /// How many of the first `n` numbers were stored, and how many copies too many there are of them.
    pub fn arrived(&self, n: usize) -> (usize, usize) {
        self.shared.counts[..n].iter().fold((0, 0), |(different, again), count| {
            let count = usize::from(count.load(Ordering::Relaxed));
            (different + count.min(1), again + count.saturating_sub(1))
        })
    }

    pub fn statuses(&self) -> BTreeMap<u16, u64> {
        self.shared.statuses.lock().unwrap().clone()
    }

    pub fn strange(&self) -> BTreeSet<String> {
        self.shared.strange.lock().unwrap().clone()
    }
}

impl Shared {
    fn store<'a>(&self, rows: impl Iterator<Item = &'a Row<'a>>) -> usize {
        let mut n = 0;
        for row in rows {
            n += 1;
            match self.counts.get(row.number) {
                Some(count) => {
                    // At 255 it stays: nobody needs to know it better.
                    let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1));
                }
                None => {
                    self.strange.lock().unwrap().insert(row.name.to_owned());
                }
            }
        }
        n
    }

    /// Answers; `false` if the connection has ended with it.
    fn answer(&self, stream: &mut TcpStream, post: usize, rows: &[Row<'_>], answer: Answer) -> bool {
        let mut close = false;
        let mut header = String::new();
        let mut text = String::new();
        let status = match answer {
            Answer::Late(pause, then) => {
                // The lateness itself.
                std::thread::sleep(pause);
                return self.answer(stream, post, rows, *then);
            }
            Answer::Silence => {
                self.count(0);
                // Until the other side gives up, or the process ends.
                let _ = std::io::copy(stream, &mut std::io::sink());
                return false;
            }
            Answer::Reset => {
                self.count(0);
                let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
                return false;
            }
            Answer::Ok => {
                self.passed(post, self.store(rows.iter()));
                200
            }
            Answer::OkThenClose => {
                self.passed(post, self.store(rows.iter()));
                close = true;
                header.push_str("Connection: close\r\n");
                200
            }
            Answer::Refuse(start) => {
                let bad = |row: &&Row<'_>| row.name.starts_with(start);
                self.passed(post, self.store(rows.iter().filter(|row| !bad(row))));
                let named: Vec<_> = rows.iter().filter(bad).map(named).collect();
                text = format!(r#"{{"errors":[{}]}}"#, named.join(","));
                if named.is_empty() { 200 } else { 207 }
            }
            Answer::Status(status) => status,
            Answer::RetryAfter(status, when) => {
                header = format!("Retry-After: {when}\r\n");
                status
            }
            Answer::Says(status, says) => {
                text = says;
                status
            }
        };
        self.count(status);
        let length = text.len();
        let whole = format!(
            "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n{header}Content-Length: {length}\r\n\r\n{text}"
        );
        stream.write_all(whole.as_bytes()).is_ok() && !close
    }

    fn count(&self, status: u16) {
        *self.statuses.lock().unwrap().entry(status).or_default() += 1;
    }

    fn passed(&self, post: usize, good_rows: usize) {
        let mut posts = self.posts.lock().unwrap();
        posts[post].passed = true;
        posts[post].good_rows = good_rows;
    }
}

/// How Blueflood names a row that it refuses.
fn named(row: &Row<'_>) -> String {
    format!(
        r#"{{"tenantId":"acme","timestamp":{},"metricName":"{}","source":"metricValue","message":"poison"}}"#,
        row.time_ms, row.name
    )
}

/// Serves a connection until it ends.
fn serve(stream: TcpStream, shared: &Shared) {
    let finders = Finders::new();
    let mut answers = stream.try_clone().unwrap();
    let mut requests = Requests::of(stream);
    while let Some(request) = requests.read() {
        if shared.down.load(Ordering::SeqCst) {
            return;
        }
        let rows = finders.rows(std::str::from_utf8(requests.body(&request)).unwrap());
        let elapsed = shared.began.lock().unwrap().elapsed();
        let post = {
            let mut posts = shared.posts.lock().unwrap();
            posts.push(Post { at: elapsed, rows: rows.len(), passed: false, good_rows: 0 });
            posts.len() - 1
        };
        let behaviour = shared.behaviour.lock().unwrap().clone();
        let answer = behaviour(&Request { index: post as u64, elapsed, rows: &rows });
        if !shared.answer(&mut answers, post, &rows, answer) {
            break;
        }
    }
    // A clone is kept, for the day when the sink goes down: without this the connection would stay open.
    let reset = socket2::SockRef::from(&answers).linger().ok().flatten() == Some(Duration::ZERO);
    let address = answers.peer_addr();
    shared.open.lock().unwrap().retain(|open| match (&address, open.peer_addr()) {
        (Ok(ours), Ok(theirs)) => *ours != theirs,
        _ => false,
    });
    if !reset {
        let _ = answers.shutdown(Shutdown::Both);
    }
}

/// Looks for what a row is told by, in the order in which a row has it.
struct Finders {
    time: Finder<'static>,
    value: Finder<'static>,
    name: Finder<'static>,
}

impl Finders {
    fn new() -> Self {
        Self {
            time: Finder::new(b"\"collectionTime\":"),
            value: Finder::new(b"\"metricValue\":"),
            name: Finder::new(b"\"metricName\":\""),
        }
    }

    fn rows<'a>(&self, json: &'a str) -> Vec<Row<'a>> {
        let mut rows = Vec::new();
        let mut rest = json;
        while let Some(row) = self.row(&mut rest) {
            rows.push(row);
        }
        rows
    }

    fn row<'a>(&self, rest: &mut &'a str) -> Option<Row<'a>> {
        let time = after(rest, &self.time, ',')?;
        let value = after(rest, &self.value, ',')?;
        let name = after(rest, &self.name, '"')?;
        let number = value.parse::<f64>().map_or(usize::MAX, |number| number as usize);
        Some(Row { name, number, time_ms: time.parse().unwrap_or(0) })
    }
}

/// The text between what is looked for and `end`; `rest` begins behind it.
fn after<'a>(rest: &mut &'a str, finder: &Finder<'_>, end: char) -> Option<&'a str> {
    let start = finder.find(rest.as_bytes())? + finder.needle().len();
    let length = rest[start..].find(end)?;
    let found = &rest[start..start + length];
    *rest = &rest[start + length..];
    Some(found)
}
