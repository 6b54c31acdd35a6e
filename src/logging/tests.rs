//! The log from outside: records in, lines out.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use slog::{debug, error, info, warn};

use super::*;

/// The log of the `log` crate is one a process: tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn to(file: &Path, format: LogFormat) -> LogSettings {
    LogSettings {
        level: Level::Info,
        format,
        file: Some(file.to_owned()),
        file_bytes_max: 1 << 20,
        files_kept: 3,
    }
}

#[test]
fn json_lines_can_be_parsed() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/for/it.log");
    let log = start(&to(&path, LogFormat::Json)).unwrap();
    info!(log.logger, "a \"quoted\"\nmessage"; "datapoints" => 3, "peer" => "\u{1b}[2J");
    debug!(log.logger, "not wanted");
    log.level.set(Level::Debug);
    debug!(log.logger, "wanted");
    drop(log);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(text.starts_with("{\"ts\":"), "{text}");
    assert_eq!(lines[0]["level"], "info");
    assert_eq!(lines[0]["msg"], "a \"quoted\"\nmessage");
    assert_eq!(lines[0]["datapoints"], 3);
    assert!(humantime::parse_rfc3339(lines[0]["ts"].as_str().unwrap()).is_ok());
    assert_eq!(lines[1]["level"], "debug");
}

#[test]
fn text_has_time_level_message_and_keys_in_their_order() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.log");
    let log = start(&to(&path, LogFormat::Text)).unwrap();
    warn!(log.logger, "it rains"; "where" => "here", "for" => "days");
    drop(log);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.ends_with("Z WARN it rains, where: here, for: days\n"), "{text}");
}

#[test]
fn what_strangers_send_stays_text() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.log");
    let log = start(&to(&path, LogFormat::Text)).unwrap();
    warn!(log.logger, "bad line: {}", "a\nb\u{1b}[2J"; "name" => "größe\r\u{9b}1m");
    drop(log);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.trim_end().ends_with(r"bad line: a\nb\u{1b}[2J, name: größe\r\u{9b}1m"), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn what_actix_reports_is_there_from_warnings_up() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.log");
    let log = start(&to(&path, LogFormat::Text)).unwrap();
    log::warn!("from actix");
    log::info!("its insides");
    log.level.set(Level::Debug);
    log::debug!("wanted now");
    drop(log);
    log::error!("after the end");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("from actix") && text.contains("wanted now"), "{text}");
    assert!(!text.contains("insides") && !text.contains("after"), "{text}");
}

#[test]
fn a_full_file_is_put_aside_and_no_record_is_cut() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.log");
    let log = start(&LogSettings { file_bytes_max: 2000, ..to(&path, LogFormat::Json) }).unwrap();
    for number in 0..200 {
        info!(log.logger, "record"; "number" => number);
    }
    let lost = Arc::clone(&log.lost);
    drop(log);
    assert_eq!(lost.load(Ordering::Relaxed), 0);
    let mut names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["x.log", "x.log.1", "x.log.2", "x.log.3"]);
    for name in names {
        let text = fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(text.len() < 2200, "{}", text.len());
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}

#[test]
fn a_file_that_cannot_be_put_aside_grows_and_loses_nothing() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.log");
    let log = start(&LogSettings { file_bytes_max: 1000, ..to(&path, LogFormat::Text) }).unwrap();
    // Somebody else made it: `FileRotate` does not know, and panics.
    fs::create_dir(directory.path().join("x.log.1")).unwrap();
    let lost = Arc::clone(&log.lost);
    for number in 0..100 {
        info!(log.logger, "record"; "number" => number);
    }
    drop(log);
    assert_eq!(lost.load(Ordering::Relaxed), 0);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 100);
}

#[test]
fn a_file_that_somebody_put_aside_is_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.log");
    let mut file = WholeRecords::new(LogFile::open(&path, 1000, 1, Arc::default()).unwrap());
    for record in ["one\n", "two\n"] {
        file.write_all(record.as_bytes()).unwrap();
        file.flush().unwrap();
        fs::rename(&path, directory.path().join("taken")).unwrap();
    }
    assert_eq!(fs::read_to_string(directory.path().join("taken")).unwrap(), "two\n");
}

/// Logs more than the file may hold.
fn logs_a_lot_to(path: &Path) {
    let _turn = turn();
    let log = start(&LogSettings { file_bytes_max: 1000, ..to(path, LogFormat::Text) }).unwrap();
    for number in 0..100 {
        info!(log.logger, "record"; "number" => number);
    }
    let lost = Arc::clone(&log.lost);
    drop(log);
    assert_eq!(lost.load(Ordering::Relaxed), 0);
}

fn names_in(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// `/dev/stdout` and `/dev/stderr` are links: as root, the host's own were renamed.
#[test]
fn what_a_link_leads_to_is_written_and_never_renamed() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("elsewhere")).unwrap();
    let (link, target) = (directory.path().join("x.log"), directory.path().join("elsewhere/y.log"));
    std::os::unix::fs::symlink(&target, &link).unwrap();
    // The first time it leads to nothing yet.
    for records in [100, 200] {
        logs_a_lot_to(&link);
        assert_eq!(fs::read_to_string(&target).unwrap().lines().count(), records);
    }
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(names_in(directory.path()), ["elsewhere", "x.log"]);
    assert_eq!(names_in(&directory.path().join("elsewhere")), ["y.log"]);

    let open = fs::File::create(directory.path().join("standard.output")).unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&open);
    logs_a_lot_to(Path::new(&format!("/proc/self/fd/{descriptor}")));
    let written = fs::read_to_string(directory.path().join("standard.output")).unwrap();
    assert_eq!(written.lines().count(), 100);
    assert_eq!(names_in(directory.path()), ["elsewhere", "standard.output", "x.log"]);
}

#[test]
#[expect(clippy::print_stderr, reason = "a skip is said")]
fn a_device_is_written_and_never_renamed() {
    let directory = tempfile::tempdir().unwrap();
    let (null, directory) = (directory.path().join("null"), directory.path());
    // Never the host's own.
    let made = std::process::Command::new("mknod").arg(&null).args(["c", "1", "3"]).output();
    if !made.is_ok_and(|made| made.status.success()) || fs::write(&null, "x").is_err() {
        eprintln!("skipped: only some may make devices");
        return;
    }
    logs_a_lot_to(&null);
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(
        &fs::symlink_metadata(&null).unwrap().file_type()
    ));
    assert_eq!(names_in(directory), ["null"]);
}

#[test]
fn a_pipe_is_written_and_never_renamed() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // What is written stays in it, whoever comes first.
    let _held = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let reader = {
        let pipe = pipe.clone();
        thread::spawn(move || {
            use std::io::BufRead;
            let lines = io::BufReader::new(fs::File::open(pipe).unwrap()).lines();
            lines.take(100).map(Result::unwrap).filter(|line| line.contains("record, number: ")).count()
        })
    };
    logs_a_lot_to(&pipe);
    assert_eq!(reader.join().unwrap(), 100);
    assert_eq!(names_in(directory.path()), ["pipe"]);
}

#[test]
fn a_link_that_becomes_a_file_is_put_aside_and_a_file_that_becomes_a_link_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (path, target) = (directory.path().join("x.log"), directory.path().join("target"));
    let mut file = WholeRecords::new(LogFile::open(&path, 10, 1, Arc::default()).unwrap());
    let mut record = |text: &str| {
        file.write_all(text.as_bytes()).unwrap();
        file.flush().unwrap();
    };
    record("in a file of its own\n");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    record("through a link\n");
    record("through a link again\n");
    assert_eq!(names_in(directory.path()), ["target", "x.log"]);
    assert_eq!(fs::read_to_string(&target).unwrap(), "through a link\nthrough a link again\n");
    fs::remove_file(&path).unwrap();
    record("in a file of its own\n");
    record("in the next one\n");
    assert_eq!(names_in(directory.path()), ["target", "x.log", "x.log.1"]);
    assert_eq!(fs::read_to_string(&target).unwrap().lines().count(), 2);
}

#[test]
fn only_its_owner_may_read_a_log_file_that_was_made() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    logs_a_lot_to(&directory.path().join("x.log"));
    let names = names_in(directory.path());
    assert!(names.len() > 1, "{names:?}");
    for name in names {
        let mode = fs::metadata(directory.path().join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o177, 0, "{name}: {mode:o}");
    }
}

#[test]
fn a_write_error_costs_the_record_and_nothing_else() {
    let _turn = turn();
    let settings = to(Path::new("/dev/full"), LogFormat::Text);
    let log = start(&settings).unwrap();
    info!(log.logger, "record");
    error!(log.logger, "record");
    let lost = Arc::clone(&log.lost);
    drop(log);
    assert_eq!(lost.load(Ordering::Relaxed), 2);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = start(&to(directory.path(), LogFormat::Text)).err().unwrap().to_string();
    assert!(error.starts_with("log_file /"), "{error}");
    assert!(error.contains("can't be opened"), "{error}");
}

/// A drain that holds whoever gives it a record, until the test lets go.
struct Stuck(Mutex<mpsc::Receiver<()>>);

impl Drain for Stuck {
    type Ok = ();
    type Err = io::Error;

    fn log(&self, _: &Record<'_>, _: &OwnedKVList) -> io::Result<()> {
        let _ = self.0.lock().unwrap().recv();
        Ok(())
    }
}

#[test]
fn a_log_that_is_stuck_holds_nobody_and_counts() {
    let (release, stuck) = mpsc::channel();
    let lost = Arc::new(AtomicU64::new(0));
    let writer = Counted { drain: Stuck(Mutex::new(stuck)), lost: Arc::clone(&lost) };
    let (queue, guard) = AsyncCore::custom(writer).chan_size(8).build_with_guard();
    let logger = Logger::root(Counted { drain: queue, lost: Arc::clone(&lost) }, o!());
    for _ in 0..100 {
        info!(logger, "record");
    }
    let counted = lost.load(Ordering::Relaxed);
    assert!((91..=92).contains(&counted), "{counted}: all but eight that wait and perhaps one under way");
    drop(release);
    drop(guard);
}

/// Out of descriptors, it would say so twice a second for as long as that lasts.
#[test]
fn actixs_server_is_heard_once_in_a_while() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = start(&to(&path, LogFormat::Json)).unwrap();
    for _ in 0..20 {
        log::error!(target: "actix_server::accept", "Error accepting connection: Too many open files");
        log::error!(target: "actix_http::h1", "something else");
    }
    drop(log);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!((text.matches("Too many").count(), text.matches("something else").count()), (1, 20), "{text}");
}
