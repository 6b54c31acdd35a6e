//! Owns `blueflood-forward spool`: what is in a spool, its rows, and whether it is whole. It changes no datapoint, and all
//! but `compact` works beside a running daemon.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actors::spool::inspect::{Info, InspectError, Inspector, compact};
use clap::{Arg, ArgMatches, Command};

use super::port;
use crate::settings::{self, DEFAULT_ORIGIN, Loaded, Settings, SpoolPlace, Surroundings};
use crate::terminal::{complain, refuse, say};

/// The name, options and help of the command, for clap.
pub fn command() -> Command {
    Command::new("spool")
        .about("Look into the spool: what is kept here because it is not delivered yet")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("info")
                .about("What is in it: datapoints, bytes, ages, the ledger")
                .args(arguments()),
        )
        .subcommand(
            Command::new("export")
                .about("Print every datapoint in it as a line of JSON, the oldest first")
                .arg(Arg::new("of").long("of").value_name("TENANT").help("Only those that were taken for this tenant"))
                .args(arguments()),
        )
        .subcommand(
            Command::new("verify")
                .about("Check all of it: SQLite's own check, each chunk's checksum, the ledger")
                .after_help("Exit status: 0 if it is whole, 1 if not.")
                .args(arguments()),
        )
        .subcommand(
            Command::new("compact")
                .about("Give the unused room in its file back to the disk: a daemon that runs does so by itself")
                .args(arguments()),
        )
        .after_help(
            "All but compact work beside a running daemon, only read, and read a spool of an older version too. \
             They need root or the daemon's user: nobody else may read a spool. `blueflood-forward help spool-file` says \
             what becomes of the file at a start, an upgrade and on the way back.\n\n\
             Examples:\n  \
               blueflood-forward spool info\n  \
               blueflood-forward spool export --of acme >acme.jsonl",
        )
}

/// The options that say which spool is meant.
pub(super) fn arguments() -> impl Iterator<Item = Arg> {
    settings::arguments_for(&["spool", "config", "stats"])
}

/// Does what was asked.
pub fn run(given: &ArgMatches, around: &Surroundings<'_>) -> ExitCode {
    let Some((what, given)) = given.subcommand() else { return ExitCode::FAILURE };
    if what == "compact" {
        return with_path(given, around, |path| Ok(make_compact(path)?));
    }
    let of = given.try_get_one::<String>("of").ok().flatten().map(String::as_str);
    with_spool(given, around, |inspector, path| match what {
        "export" => export(inspector, of),
        "verify" => verify(inspector, path),
        _ => inspector
            .info()
            .map(|info| show(&info, path, around.now))
            .map(|()| ExitCode::SUCCESS)
            .map_err(Box::from),
    })
}

/// Opens the spool that the settings name, to read it, and does something with it.
pub(super) fn with_spool(
    given: &ArgMatches,
    around: &Surroundings<'_>,
    work: impl FnOnce(&Inspector, &Path) -> Result<ExitCode, Box<dyn std::error::Error>>,
) -> ExitCode {
    with_path(given, around, |path| work(&Inspector::open(path)?, path))
}

/// Where the service that the package starts has its spool.
const PACKAGED: &str = "/var/lib/blueflood-forward";

/// The spool of the daemon that runs here, or of the service, if no setting names one.
fn found(loaded: &Loaded) -> Option<PathBuf> {
    let is_named = loaded
        .effective
        .iter()
        .any(|entry| entry.setting.key == "spool" && !entry.origin.starts_with(DEFAULT_ORIGIN));
    if is_named {
        return None;
    }
    let running = loaded.settings.stats.and_then(|address| {
        let stats = port::stats(address).ok()?;
        let path = stats.pointer("/spool/path")?.as_str()?;
        (path != ":memory:").then(|| (PathBuf::from(path), "the daemon that runs here has it"))
    });
    let own = matches!(&loaded.settings.spool, SpoolPlace::File(path) if path.exists());
    let packaged = || {
        let path = Path::new(PACKAGED).join("spool.db");
        // Its folder is the service's alone: that we may not look is no sign that there is nothing.
        let forbids = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        let is_there = std::fs::metadata(&path).map_or_else(forbids, |_| true);
        (!own && is_there).then_some((path, "the service has it"))
    };
    let (path, why) = running.or_else(packaged)?;
    complain(format_args!("spool {}: {why}", path.display()));
    Some(path)
}

/// Does something with the spool that the settings name.
pub(super) fn with_path(
    given: &ArgMatches,
    around: &Surroundings<'_>,
    work: impl FnOnce(&Path) -> Result<ExitCode, Box<dyn std::error::Error>>,
) -> ExitCode {
    // Without a home there is no place of ours for a spool, but one may run as a service.
    let homeless = || {
        let state = ("STATE_DIRECTORY".into(), PACKAGED.into());
        let environment = around.environment.clone().into_iter().chain([state]);
        Settings::load(given, &Surroundings { environment: environment.collect(), ..*around })
    };
    let path = match Settings::load(given, around).or_else(|refused| homeless().map_err(|_| refused)) {
        Ok(loaded) => match &loaded.settings.spool {
            SpoolPlace::File(path) => found(&loaded).unwrap_or_else(|| path.clone()),
            SpoolPlace::Memory => {
                complain(
                    "error: a spool in :memory: is only in the daemon that has it: name a file with --spool",
                );
                return ExitCode::FAILURE;
            }
        },
        Err(refused) => return refuse(*refused),
    };
    match work(&path) {
        Ok(code) => code,
        // Whoever closed our output (`export | head`) has had enough.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("error: {}: {error}", path.display()));
            ExitCode::FAILURE
        }
    }
}

fn make_compact(path: &Path) -> Result<ExitCode, InspectError> {
    let (before, after) = compact(path)?;
    say(format_args!("{} had {before} bytes, and has {after} now", path.display()));
    Ok(ExitCode::SUCCESS)
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn show(info: &Info, path: &Path, now: SystemTime) {
    let ledger = &info.ledger;
    say(format_args!("spool         {}", path.display()));
    match &info.uuid {
        Some(uuid) => say(format_args!("version       {}, named {uuid}", info.version)),
        None => say(format_args!(
            "version       {}: the daemon brings it up to date when it starts on it",
            info.version
        )),
    }
    say(format_args!("datapoints    {} in {} chunks", info.rows, info.chunks));
    for (tenant, rows) in info.tenants.iter().filter(|_| info.tenants.len() > 1) {
        say(format_args!("              {rows} of them for {tenant}"));
    }
    let each = if info.rows == 0 { 0.0 } else { info.body_bytes as f64 / info.rows as f64 };
    say(format_args!(
        "bytes         {} kept, {} as text, {each:.1} a datapoint",
        info.body_bytes, info.raw_bytes
    ));
    say(format_args!("file          {} bytes in use", info.used_bytes));
    say(format_args!("oldest        {}", age(info.oldest_ms, now)));
    say(format_args!("newest        {}", age(info.newest_ms, now)));
    let (letters, replays) = info.dead_letters;
    say(format_args!("dead letters  {letters}, of them {replays} to be sent again"));
    say(format_args!(
        "ledger        received {} = skipped {} + here {} + delivered {} + refused {} + dropped {} (unaccounted {})",
        ledger.received,
        actors::core::ledger::sum(&ledger.skipped),
        ledger.spooled.saturating_add(ledger.acknowledged),
        ledger.delivered,
        info.refused(),
        actors::core::ledger::sum(&ledger.dropped),
        ledger.unaccounted(),
    ));
}

/// A time, and how long ago that is.
pub(super) fn age(at_ms: Option<i64>, now: SystemTime) -> String {
    let Some(at) = at_ms.and_then(|ms| u64::try_from(ms).ok()) else { return "none".to_owned() };
    let at = UNIX_EPOCH + Duration::from_millis(at);
    let ago = Duration::from_secs(now.duration_since(at).unwrap_or_default().as_secs());
    format!("{}, {} ago", humantime::format_rfc3339_seconds(at), humantime::format_duration(ago))
}

fn export(inspector: &Inspector, of: Option<&str>) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut out = BufWriter::new(io::stdout().lock());
    let damaged = inspector.rows(of, |row| -> Result<(), Box<dyn std::error::Error>> {
        out.write_all(row)?;
        Ok(out.write_all(b"\n")?)
    })?;
    out.flush()?;
    if damaged == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    complain(format_args!("error: {damaged} datapoints cannot be read: see `spool verify`"));
    Ok(ExitCode::FAILURE)
}

fn verify(inspector: &Inspector, path: &Path) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let wrong = inspector.verify()?;
    if wrong.is_empty() {
        say(format_args!("{} is whole (version {})", path.display(), inspector.version()));
        return Ok(ExitCode::SUCCESS);
    }
    wrong.iter().for_each(say);
    complain(format_args!(
        "error: {} is damaged: the daemon sets it aside when it meets the damage, and salvages what can be read",
        path.display()
    ));
    Ok(ExitCode::FAILURE)
}
