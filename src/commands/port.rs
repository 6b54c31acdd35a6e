//! Owns the way to a running daemon: where its stats port is, and what it says there. It changes nothing.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use awc::error::{ConnectError, SendRequestError};
use awc::{Client, ClientResponse};
use clap::ArgMatches;
use serde_json::Value;

use crate::settings::{Settings, Surroundings};
use crate::terminal::{EXIT_USAGE, complain, refuse};

/// How long the daemon may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The most of an answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

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
            ExitCode::from(EXIT_USAGE)
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
        Err(refused) => Err(refuse(*refused)),
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

/// Asks the stats port for something. The answer has a head by then; its body is a stream.
///
/// # Errors
/// Why there is no answer.
pub async fn ask(address: SocketAddr, what: &str, patience: Duration) -> Result<ClientResponse, String> {
    let client = Client::builder().timeout(patience).disable_redirects().finish();
    let answer = client.get(format!("http://{address}{what}")).send().await;
    answer.map_err(|error| match error {
        SendRequestError::Connect(ConnectError::Io(error)) => error.to_string(),
        SendRequestError::Response(_) => "it does not speak HTTP".to_owned(),
        error => error.to_string(),
    })
}

/// The figures of a daemon, as `/stats` has them.
///
/// # Errors
/// Why there is no such answer.
pub fn stats(address: SocketAddr) -> Result<Value, Box<dyn std::error::Error>> {
    actix_rt::Runtime::new()?.block_on(async {
        let answer = ask(address, "/stats", TIMEOUT).await?;
        if !answer.status().is_success() {
            return Err(answer.status().to_string().into());
        }
        // awc bounds the time of the head only, unless it is told.
        let body = answer.timeout(TIMEOUT).body().limit(ANSWER_BYTES_MAX).await?;
        Ok(serde_json::from_slice(&body)?)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request so, and says what was asked.
    fn answering(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answered = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        (address, answered)
    }

    #[test]
    fn figures_are_read_however_the_answer_is_framed() {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\": 1}",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{\"a\r\n5\r\n\": 1}\r\n0\r\n\r\n",
        ] {
            let (address, answered) = answering(answer);
            assert_eq!(stats(address).unwrap(), serde_json::json!({ "a": 1 }), "{answer}");
            assert!(answered.join().unwrap().starts_with("GET /stats HTTP/1.1\r\n"));
        }
    }

    #[test]
    fn an_answer_that_is_none_is_explained() {
        for (answer, why) in [
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404 Not Found"),
            ("SSH-2.0-OpenSSH_9.6\r\n", "it does not speak HTTP"),
        ] {
            assert_eq!(stats(answering(answer).0).unwrap_err().to_string(), why);
        }
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(stats(nobody).unwrap_err().to_string().starts_with("Connection refused"));
    }

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
