//! Owns the way to a running daemon: where its stats port is, and what it says there. It changes nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::Value;

use super::complain;
use crate::cli;
use crate::settings::{Settings, Surroundings};

/// How long the daemon may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The most of an answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The port that a URL or a host without one means.
const PORT: u16 = 8004;

/// Where the daemon is that is meant.
///
/// # Errors
/// What the command ends with; it is said why.
pub fn address(given: &ArgMatches, around: &Surroundings<'_>) -> Result<SocketAddr, ExitCode> {
    if let Some(text) = given.get_one::<String>("stats").filter(|text| !text.is_empty()) {
        return resolve(text).map_err(|why| {
            complain(format_args!(
                "error: --stats {text}: {why}; write 127.0.0.1:8004, localhost:8004 or a URL"
            ));
            ExitCode::from(2)
        });
    }
    // Without a home, as in a cron job, there would be no place for a spool; but none is looked at here.
    let environment = around.environment.clone().into_iter().chain([("STATE_DIRECTORY".into(), "/".into())]);
    let around = Surroundings { environment: environment.collect(), ..*around };
    match Settings::load(given, &around) {
        Ok(loaded) => loaded.settings.stats.ok_or_else(|| {
            complain("error: the stats port is turned off: name the daemon's with --stats or --config");
            ExitCode::FAILURE
        }),
        Err(refused) => Err(cli::refuse(*refused)),
    }
}

/// An address, a host with a port or without, a port of this host, or a URL.
fn resolve(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let host = text.strip_prefix("http://").unwrap_or(text);
    let host = host.split('/').next().unwrap_or_default();
    let with_port = |host: &str| host.to_socket_addrs().map(|mut found| found.next());
    let found = match with_port(host) {
        Ok(found) => found,
        Err(error) => with_port(&format!("{host}:{PORT}")).map_err(|_| error.to_string())?,
    };
    found.ok_or_else(|| "it has no address".to_owned())
}

/// What `/stats` says.
///
/// # Errors
/// Why there is no such answer.
pub fn stats(address: SocketAddr) -> Result<Value, Box<dyn std::error::Error>> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /stats HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("it does not speak HTTP")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(head.lines().next().unwrap_or_default().to_owned().into());
    }
    Ok(serde_json::from_str(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_as_people_name_it() {
        for (text, found) in [
            ("127.0.0.1:9000", "127.0.0.1:9000"),
            ("127.0.0.1", "127.0.0.1:8004"),
            ("9000", "127.0.0.1:9000"),
            ("http://127.0.0.1:9000/stats", "127.0.0.1:9000"),
            ("[::1]:9000", "[::1]:9000"),
        ] {
            assert_eq!(resolve(text).map(|found| found.to_string()).as_deref(), Ok(found));
        }
        assert!(resolve("localhost:9000").is_ok_and(|found| found.ip().is_loopback()));
        assert!(resolve("no such host:x").is_err());
    }
}
