//! Secrets stay where they belong: whatever the daemon writes, through every failure and at the most talkative level,
//! neither a key nor a token is in it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use blueflood_forward::sink::{self, Received};

use crate::stand_in::{StandIn, http};
use crate::until as until_async;
use crate::world::*;

/// Unlike anything else that could be written.
const KEY: &str = "zq7-kEy-xv3";

const TOKENS: [&str; 2] = ["zq7-t0ken-one-wj8", "zq7-t0ken-two-wj8"];

/// How a key reaches the daemon.
enum Way {
    CommandLine,
    Environment,
    File,
    Config,
    Credentials,
}

/// A daemon of which every word is kept.
struct Talker {
    child: Child,
    words: std::path::PathBuf,
}

impl Talker {
    fn said(&self) -> String {
        fs::read_to_string(&self.words).unwrap()
    }

    fn stats_address(&self) -> Option<String> {
        let said = self.said();
        let line = said.lines().rfind(|line| line.contains("showing its figures"))?;
        Some(line.split_once("http://")?.1.split('/').next()?.to_owned())
    }

    fn request(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(self.stats_address().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = "Content-Length: 0\r\nConnection: close";
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n").unwrap();
        let mut answer = String::new();
        // What a stream of events has said by now is enough.
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// The figures; none while those that show them are started again.
    fn stats(&self) -> serde_json::Value {
        let answer = self.request("GET", "/stats");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_default()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn granted(token: &str) -> String {
    let token = format!(r#"{{"id":"{token}","expires":"2099-12-14T22:54:49Z","tenant":{{"id":"42"}}}}"#);
    http("200 OK", &format!(r#"{{"access":{{"token":{token}}}}}"#))
}

/// The program with a key that reaches it this way, and what it is to write to.
fn program(way: &Way, world: &World, words: &File) -> (Command, Vec<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"));
    command.env_clear().stdin(Stdio::null());
    command.stdout(words.try_clone().unwrap()).stderr(words.try_clone().unwrap());
    let file = |name: &str, text: &str| {
        let path = world.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let arguments = match way {
        Way::CommandLine => vec!["--key".to_owned(), KEY.to_owned()],
        Way::Environment => {
            command.env("BLUEFLOOD_FORWARD_KEY", KEY);
            Vec::new()
        }
        Way::File => vec!["--key_file".to_owned(), file("k", KEY)],
        Way::Config => vec!["--config".to_owned(), file("c.toml", &format!("key = '{KEY}'\n"))],
        Way::Credentials => {
            file("key", KEY);
            command.env("CREDENTIALS_DIRECTORY", world.folder.path());
            Vec::new()
        }
    };
    (command, arguments)
}

async fn is_never_seen(way: Way) {
    let keystone = StandIn::start().await;
    let echo = format!(r#"{{"error":{{"message":"wrong key {KEY}"}}}}"#);
    let refusal = http("401 Unauthorized", &echo);
    let (garbled, broken) = (http("200 OK", &format!("<{KEY}>")), http("500 Internal Server Error", KEY));
    keystone.answers(&[&refusal]);
    // A Blueflood that takes no token but the second.
    let door = |request: &Received| (request.header("X-Auth-Token") != Some(TOKENS[1])).then_some(401);
    let world = World::with(sink::Options { authorizer: Arc::new(door), ..Default::default() });
    let words = world.folder.path().join("words");
    let out = OpenOptions::new().create(true).append(true).open(&words).unwrap();
    let url = format!("http://127.0.0.1:{}/v2.0/tokens", keystone.port);
    let blueflood = world.blueflood.url();
    let spool = world.spool();
    let plain = [
        "--user",
        "bob",
        "--auth_url",
        &url,
        "--blueflood",
        &blueflood,
        "--spool",
        spool.to_str().unwrap(),
        "--endpoint",
        "tcp:port=0:interface=127.0.0.1:protocol=line",
        "--stats",
        "127.0.0.1:0",
        "--interval",
        "0.1",
        "--seal_interval",
        "0.05",
        "--backoff_max",
        "0.3",
        "--shutdown_timeout",
        "0",
        "--log_level",
        "trace",
    ];
    let (mut check, arguments) = program(&way, &world, &out);
    assert!(check.arg("check").args(plain).args(&arguments).status().unwrap().success());
    let (mut wrong, _) = program(&way, &world, &out);
    wrong.args(plain).args(&arguments).args(["--auth_type", "v3password"]);
    assert!(!wrong.status().unwrap().success(), "it has no project");
    let start = || {
        let (mut command, _) = program(&way, &world, &out);
        Talker { child: command.args(plain).args(&arguments).spawn().unwrap(), words: words.clone() }
    };
    let sees = async |what: &str, sees: &dyn Fn() -> bool| {
        until_async(what, async || sees().then_some(())).await;
    };
    // Keystone refuses at first. Nothing but a new key or a start would have it asked again soon.
    let refused = start();
    sees("refusal", &|| refused.said().contains("Keystone refuses the credentials")).await;
    let mut pages = refused.request("GET", "/stats");
    drop(refused);
    keystone.answers(&[&garbled, &broken, &granted(TOKENS[0]), &granted(TOKENS[1])]);
    let talker = start();
    sees("start", &|| talker.said().matches("forwarding").count() == 2).await;
    let look = |pages: &mut String| {
        for path in ["/", "/page.js", "/settings", "/stats", "/metrics", "/readyz", "/healthz", "/history"] {
            pages.push_str(&talker.request("GET", path));
        }
    };
    let said = talker.said();
    let port = said.rsplit("tcp:127.0.0.1:").next().unwrap();
    let port: u16 = port[..port.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap();
    let send = |name: &str| {
        TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(lines(name, 5).as_bytes()).unwrap();
    };

    send("one");
    look(&mut pages);
    sees("delivery", &|| talker.stats()["datapoints"]["delivered"] == 5).await;
    if cfg!(feature = "faults") {
        for place in ["forwarder.answered", "collector.frame", "metrics.snapshot"] {
            pages.push_str(&talker.request("POST", &format!("/fault/{place}")));
        }
        send("two");
        sees("delivery", &|| talker.stats()["datapoints"]["delivered"] == 10).await;
    }
    look(&mut pages);
    let pid = talker.child.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    sees("end", &|| talker.said().contains("stopped")).await;
    let sent = world.blueflood.requests();
    for token in TOKENS {
        assert!(sent.iter().any(|request| request.header("X-Auth-Token") == Some(token)), "{token} was sent");
    }
    let panicked = talker.said().contains("a test asked for it at forwarder.answered");
    assert_eq!(panicked, cfg!(feature = "faults"));
    assert!(talker.said().contains("TRCE"), "the most talkative level");
    for (place, text) in [("a page", pages), ("what it said", talker.said())] {
        assert!(text.len() > 500, "{place}: {text}");
        for secret in [KEY, TOKENS[0], TOKENS[1]] {
            let at = text.find(secret);
            let around = at.map(|at| String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(300)..at]));
            assert!(at.is_none(), "{place} shows {secret} after {around:?}");
        }
    }
}

#[actix_rt::test]
async fn a_key_on_the_command_line_is_never_seen() {
    is_never_seen(Way::CommandLine).await;
}

#[actix_rt::test]
async fn a_key_in_the_environment_is_never_seen() {
    is_never_seen(Way::Environment).await;
}

#[actix_rt::test]
async fn a_key_in_a_file_is_never_seen() {
    is_never_seen(Way::File).await;
}

#[actix_rt::test]
async fn a_key_in_the_configuration_is_never_seen() {
    is_never_seen(Way::Config).await;
}

#[actix_rt::test]
async fn a_key_that_systemd_gives_is_never_seen() {
    is_never_seen(Way::Credentials).await;
}
