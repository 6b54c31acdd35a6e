//! Owns the log: where records go, how they look, which are wanted, and how many were lost. Never makes the data path
//! wait, and never takes the process down: a record that can't be kept is counted instead.

mod escape;
mod file;
mod journal;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use slog::{Drain, FnValue, Level, Logger, Never, OwnedKVList, PushFnValue, Record, info, o};
use slog_async::{AsyncCore, AsyncGuard};

use crate::settings::{LogFormat, Settings};
use escape::Escaped;
use file::{LogFile, WholeRecords};
use journal::{Prioritized, is_stderr_the_journal};

/// How many records may wait for the thread that writes them. At the few hundred bytes of a record it is a quarter of
/// a MiB, and a second of the worst that our own rate limits let through.
const WAITING_RECORDS_MAX: usize = 1024;

/// How long the end of the process waits for the last records: a pipe that nobody reads must not hold it.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);

/// How often actix's server may say something.
const ACCEPTING_EVERY: Duration = Duration::from_secs(10);

/// What the log is told by the settings.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The least important level that is wanted.
    pub level: Level,
    /// How records look.
    pub format: LogFormat,
    /// Where they go; standard error if nowhere.
    pub file: Option<PathBuf>,
    /// At which size, in bytes, the file is put aside.
    pub file_bytes_max: u64,
    /// How many files put aside are kept.
    pub files_kept: u32,
}

impl From<&Settings> for LogSettings {
    fn from(settings: &Settings) -> Self {
        Self {
            level: settings.log_level,
            format: settings.log_format,
            file: settings.log_file.clone(),
            file_bytes_max: settings.log_file_max,
            files_kept: settings.log_file_keep,
        }
    }
}

/// A log that runs. Dropped, it writes what waits, for two seconds at most: keep it to the very end.
pub struct Log {
    /// What records are given to.
    pub logger: Logger,
    /// How many records were lost: too many waited, or one could not be written.
    pub lost: Arc<AtomicU64>,
    /// Which records are wanted, to change while the daemon runs.
    pub level: LevelSwitch,
    /// The file that it is written to, and what makes its writer open it again.
    file: Option<(PathBuf, Arc<AtomicBool>)>,
    guard: Option<AsyncGuard>,
}

/// Starts the log, and sends there what actix, awc and rustls report through the `log` crate.
///
/// # Errors
/// If the log file can't be opened: names the setting and the path.
pub fn start(settings: &LogSettings) -> io::Result<Log> {
    let lost = Arc::new(AtomicU64::new(0));
    let level = LevelSwitch(Arc::new(AtomicUsize::new(settings.level.as_usize())));
    let reopen = Arc::new(AtomicBool::new(false));
    let file = settings.file.clone().map(|path| (path, Arc::clone(&reopen)));
    let writer = Counted { drain: drain(settings, reopen)?, lost: Arc::clone(&lost) };
    let (queue, guard) = AsyncCore::custom(writer)
        .chan_size(WAITING_RECORDS_MAX)
        .blocking(false)
        .thread_name("log".to_owned())
        .build_with_guard();
    // What is not wanted must not take a place in the queue: the filter stands before it.
    let queue = Counted { drain: queue, lost: Arc::clone(&lost) };
    let wanted = Wanted { drain: queue, level: level.clone(), accepting: Mutex::new(None) };
    let logger = Logger::root(wanted, o!());

    // slog-scope panics on a record when there is no global logger, so this one is never taken back. It outlives the
    // writing thread, and what comes later is counted as lost.
    slog_scope::set_global_logger(logger.clone()).cancel_reset();
    // An error means that somebody was here before, in this process: a test.
    let _ = slog_stdlog::init_with_level(log::Level::Trace);
    level.set(settings.level);
    Ok(Log { logger, lost, level, file, guard: Some(guard) })
}

impl Log {
    /// Opens the log file again, as who has put it aside wants it, and says so.
    pub fn reopen(&self) {
        match &self.file {
            Some((path, reopen)) => {
                reopen.store(true, Ordering::Relaxed);
                info!(self.logger, "the log file is opened again, as SIGUSR1 says"; "log_file" => path.display().to_string());
            }
            None => {
                info!(self.logger, "SIGUSR1 opens the log file again, but there is none: nothing is done")
            }
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let guard = self.guard.take();
        let (written, wait) = mpsc::channel();
        // Dropping the guard writes what waits. If it hangs, the thread ends with the process.
        let flush = thread::Builder::new().name("log flush".to_owned()).spawn(move || {
            drop(guard);
            let _ = written.send(());
        });
        if flush.is_ok() {
            let _ = wait.recv_timeout(FLUSH_TIME_MAX);
        }
    }
}

/// Which records are wanted. Clones are the same switch.
#[derive(Debug, Clone)]
pub struct LevelSwitch(Arc<AtomicUsize>);

impl LevelSwitch {
    /// Wants records of `level` and more important ones. Of actix, awc and rustls, whose news are of their own insides,
    /// it wants warnings at most, unless we are debugging.
    pub fn set(&self, level: Level) {
        self.0.store(level.as_usize(), Ordering::Relaxed);
        log::set_max_level(match level {
            Level::Critical | Level::Error => log::LevelFilter::Error,
            Level::Warning | Level::Info => log::LevelFilter::Warn,
            Level::Debug => log::LevelFilter::Debug,
            Level::Trace => log::LevelFilter::Trace,
        });
    }

    fn wants(&self, level: Level) -> bool {
        level.as_usize() <= self.0.load(Ordering::Relaxed)
    }
}

/// Lets only pass what is wanted.
struct Wanted<D> {
    drain: D,
    level: LevelSwitch,
    /// When actix's server last said something.
    accepting: Mutex<Option<Instant>>,
}

impl<D> Wanted<D> {
    /// Whether it is one of actix's server, of which there was one already: where it can't accept a connection, it says
    /// so twice a second.
    fn is_repeated(&self, record: &Record<'_>) -> bool {
        if !record.tag().starts_with("actix_server") {
            return false;
        }
        let mut last = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_repeated = last.is_some_and(|last| last.elapsed() < ACCEPTING_EVERY);
        if !is_repeated {
            *last = Some(Instant::now());
        }
        is_repeated
    }
}

impl<D: Drain<Ok = (), Err = Never>> Drain for Wanted<D> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if self.level.wants(record.level()) && !self.is_repeated(record) {
            self.drain.log(record, values)
        } else {
            Ok(())
        }
    }

    fn is_enabled(&self, level: Level) -> bool {
        self.level.wants(level)
    }
}

/// Counts the records that the drain behind it could not take.
struct Counted<D> {
    drain: D,
    lost: Arc<AtomicU64>,
}

impl<D: Drain<Ok = ()>> Drain for Counted<D> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if self.drain.log(record, values).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

type WritingDrain = Box<dyn Drain<Ok = (), Err = io::Error> + Send>;

/// What writes records, by where they go and how they look.
fn drain(settings: &LogSettings, reopen: Arc<AtomicBool>) -> io::Result<WritingDrain> {
    Ok(match (&settings.file, settings.format) {
        (Some(path), format) => {
            let file = LogFile::open(path, settings.file_bytes_max, settings.files_kept, reopen).map_err(
                |error| {
                    io::Error::new(
                        error.kind(),
                        format!("log_file {}: can't be opened: {error}", path.display()),
                    )
                },
            )?;
            plain(WholeRecords::new(file), format)
        }
        (None, LogFormat::Text) if io::stderr().is_terminal() => {
            text(slog_term::TermDecorator::new().stderr().build())
        }
        (None, LogFormat::Text) if is_stderr_the_journal() => {
            text(Prioritized(slog_term::PlainDecorator::new(WholeRecords::new(io::stderr()))))
        }
        (None, format) => plain(WholeRecords::new(io::stderr()), format),
    })
}

fn plain(to: impl Write + Send + 'static, format: LogFormat) -> WritingDrain {
    match format {
        LogFormat::Text => text(slog_term::PlainDecorator::new(to)),
        LogFormat::Json => json(to),
    }
}

fn text(decorator: impl slog_term::Decorator + Send + 'static) -> WritingDrain {
    let format = slog_term::FullFormat::new(Escaped(decorator))
        // With its date and zone: a log is read beside those of other hosts.
        .use_custom_timestamp(|to: &mut dyn Write| write!(to, "{}", now()))
        .use_original_order()
        .build();
    Box::new(format)
}

fn json(to: impl Write + Send + 'static) -> WritingDrain {
    let format = slog_json::Json::new(to)
        .set_newlines(true)
        // Ends the record for `WholeRecords`.
        .set_flush(true)
        // slog writes the last one first.
        .add_key_value(o!(
            "msg" => PushFnValue(|record, to| to.emit(record.msg())),
            "level" => FnValue(|record| level_name(record.level())),
            "ts" => FnValue(|_| now().to_string()),
        ))
        .build();
    Box::new(format)
}

fn now() -> impl fmt::Display {
    humantime::format_rfc3339_millis(SystemTime::now())
}

/// As `--log_level` takes it.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Critical => "critical",
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

#[cfg(test)]
mod tests;
