//! Owns what `check` finds out about this host: whether the user who runs it can bind, read and write what the settings
//! name. It leaves nothing behind.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use actors::core::endpoint::Transport;
use actors::expiry::Expiry;
use actors::listener::Identity;
use actors::listener::socket::{could_bind, could_listen};
use actors::spool::open;
use actors::tls::Outgoing;
use rustix::fs::Access;
use rustix::process::geteuid;
use serde_json::Value;

use super::port;
use crate::daemon;
use crate::settings::{Settings, SpoolPlace};

/// What was found out about this host.
#[derive(Default)]
pub(super) struct Host {
    /// What the daemon would end with.
    pub(super) errors: Vec<String>,
    /// What stops it before long.
    pub(super) warnings: Vec<String>,
    /// What stops nothing, and what could not be found out.
    pub(super) notes: Vec<String>,
    /// Whom we trust on the way out, and what is to be said of it.
    pub(super) outgoing: Option<Outgoing>,
}

/// Who may have a port that is in use.
enum Runs {
    /// A daemon that answers at the stats port, and listens at these endpoints.
    Here(Vec<String>),
    /// The spool is somebody's, or there is nobody to ask.
    Perhaps,
    /// No daemon of these settings.
    No,
}

/// Looks for all that the daemon will need.
pub(super) fn look(settings: &Settings) -> Host {
    let mut host = Host::default();
    host.errors.extend(daemon::spool::refused(settings).map(|error| error.to_string()));
    match Outgoing::new(&settings.tls()) {
        Ok(outgoing) => {
            host.certificates(&outgoing.expiries);
            host.outgoing = Some(outgoing);
        }
        Err(error) => host.errors.push(error),
    }
    for endpoint in &settings.endpoint {
        let Transport::Tls { files, .. } = &endpoint.transport else { continue };
        // Where they cannot be read that is said with the port.
        if let Ok(identity) = Identity::read(files) {
            host.certificates(&identity.expiries());
        }
    }
    if let SpoolPlace::File(path) = &settings.spool {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        // Its log, its lock and its reserve lie beside it.
        let folder = path.parent().filter(|folder| folder.exists());
        let wrong = cannot_write(&path).or_else(|| folder.and_then(cannot_write));
        host.errors.extend(wrong.map(|why| format!("spool {}: {why}; or set --spool", path.display())));
    }
    if let Some(path) = &settings.log_file {
        let wrong = cannot_write(path);
        host.errors.extend(wrong.map(|why| format!("log_file {}: {why}; or set --log_file", path.display())));
    }
    host.ports(settings);
    host
}

impl Host {
    /// Says when certificates end: a warning where that is soon.
    fn certificates(&mut self, expiries: &[Expiry]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for expiry in expiries {
            if expiry.is_soon(now) {
                self.warnings.push(format!("{}: renew it", expiry.words(now)));
            } else {
                self.notes.push(expiry.words(now));
            }
        }
    }

    fn ports(&mut self, settings: &Settings) {
        let mut runs = None;
        for endpoint in &settings.endpoint {
            if matches!(endpoint.transport, Transport::Systemd { .. }) {
                self.notes.push(format!("{endpoint} is bound by systemd: only a start by it can tell"));
            }
            let Err(error) = could_bind(endpoint) else { continue };
            let runs = runs.get_or_insert_with(|| running(settings));
            match runs {
                _ if !error.is_in_use() => self.errors.push(error.to_string()),
                Runs::Here(listening) if listening.iter().any(|there| is_at(there, &endpoint.transport)) => {
                    self.notes.push(format!("{endpoint} is in use, by the daemon that runs here"));
                }
                Runs::Perhaps => {
                    self.notes.push(format!("{endpoint} is in use, by a running daemon perhaps"))
                }
                Runs::Here(_) | Runs::No => self.errors.push(error.to_string()),
            }
        }
        let Some((address, Err(error))) = settings.stats.map(|address| (address, could_listen(address)))
        else {
            return;
        };
        let who = match runs.unwrap_or_else(|| running(settings)) {
            _ if error.kind() != io::ErrorKind::AddrInUse => None,
            Runs::Here(_) => Some("the daemon that runs here"),
            Runs::Perhaps => Some("a running daemon perhaps"),
            Runs::No => None,
        };
        match who {
            Some(who) => self.notes.push(format!("stats {address} is in use, by {who}")),
            None => self.errors.push(format!(
                "stats {address}: {error}; set another --stats, or none at all with --stats ''"
            )),
        }
    }
}

/// Whether a daemon with these settings runs.
fn running(settings: &Settings) -> Runs {
    let stats = settings.stats.and_then(|address| port::stats(address).ok());
    if let Some(listeners) = stats.as_ref().and_then(|stats| stats.get("listeners")?.as_array()) {
        let endpoint = |listener: &Value| listener.get("endpoint")?.as_str().map(str::to_owned);
        return Runs::Here(listeners.iter().filter_map(endpoint).collect());
    }
    match &settings.spool {
        SpoolPlace::File(path) if open::holder(path).is_some() => Runs::Perhaps,
        SpoolPlace::Memory if settings.stats.is_none() => Runs::Perhaps,
        _ => Runs::No,
    }
}

/// Whether what a daemon listens at, as it says it, takes the place of an endpoint: on any of this host's addresses.
fn is_at(listening: &str, transport: &Transport) -> bool {
    match transport {
        Transport::Tcp { address, .. } | Transport::Tls { address, .. } | Transport::Udp { address } => {
            listening.ends_with(&format!(":{}", address.port()))
        }
        Transport::Unix { path, .. } => listening == format!("unix:{}", path.display()),
        Transport::Systemd { .. } => false,
    }
}

/// Why this user could not write a file, or make it and the folders that it lies in.
fn cannot_write(path: &Path) -> Option<String> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let access = if there.is_dir() { Access::WRITE_OK | Access::EXEC_OK } else { Access::WRITE_OK };
    let tried = match rustix::fs::access(there, access) {
        Ok(()) if there == path || there.is_dir() => return None,
        Ok(()) => io::Error::from(io::ErrorKind::NotADirectory),
        Err(error) => error.into(),
    };
    Some(format!(
        "this user (uid {}) cannot write {}: {tried}; run it as the daemon's user",
        geteuid().as_raw(),
        there.display()
    ))
}
