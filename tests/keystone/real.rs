//! Owns a real Keystone in a directory of its own, and the few requests that the tests make of it. Never listens
//! anywhere but on loopback.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::until;
use crate::shared::skip;

/// The password of its user `admin`, of project `admin` in domain `default`.
pub const PASSWORD: &str = "s3cret-of-admin";

/// A Keystone whose tokens live 12 s.
pub struct Keystone {
    /// Where tokens are asked for.
    pub url: String,
    pub port: u16,
    directory: tempfile::TempDir,
    running: Option<Child>,
}

impl Keystone {
    /// Starts one; nothing where there is no Python for it.
    pub async fn start() -> Option<Self> {
        static IS_PREPARED: OnceLock<bool> = OnceLock::new();
        if !*IS_PREPARED.get_or_init(prepare) {
            skip("python3 is missing, which the real Keystone needs");
            return None;
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let directory = tempfile::tempdir().expect("a directory");
        let url = format!("http://127.0.0.1:{port}/v3");
        let mut keystone = Self { url, port, directory, running: None };
        keystone.starts_again().await;
        Some(keystone)
    }

    /// On the same port, with the same users.
    pub async fn starts_again(&mut self) {
        let mut serve = script("serve");
        serve.arg(self.directory.path()).arg(self.port.to_string()).stdin(Stdio::piped());
        self.running = Some(serve.spawn().expect("it runs"));
        until("Keystone", async || (self.get("/v3", &[]).await?.0 == 200).then_some(())).await;
    }

    pub fn stops(&mut self) {
        if let Some(mut running) = self.running.take() {
            // It ends with its input.
            drop(running.stdin.take());
            running.wait().expect("it ends");
        }
    }

    /// What Keystone itself says of a token.
    pub async fn knows(&self, token: &str) -> Result<(), String> {
        let headers = [("X-Auth-Token", token), ("X-Subject-Token", token)];
        match self.get("/v3/auth/tokens", &headers).await.expect("it answers") {
            (200, ..) => Ok(()),
            (status, _, body) => Err(format!("HTTP {status} {body}")),
        }
    }

    /// Makes an application credential of the user, as an administrator would: its id and secret.
    pub async fn gives_an_application_credential(&self) -> (String, String) {
        let (user, token) = self.logs_in(PASSWORD).await;
        let wanted = json!({"application_credential": {"name": "test"}}).to_string();
        let path = format!("/v3/users/{user}/application_credentials");
        let (_, _, body) =
            self.request("POST", &path, &[("X-Auth-Token", &token)], &wanted).await.expect("an answer");
        let text = |name: &str| body["application_credential"][name].as_str().expect(name).to_owned();
        (text("id"), text("secret"))
    }

    /// Changes the password of its user, which ends every token that it had.
    pub async fn changes_the_password(&self, from: &str, to: &str) {
        let (user, token) = self.logs_in(from).await;
        let wanted = json!({"user": {"original_password": from, "password": to}}).to_string();
        let path = format!("/v3/users/{user}/password");
        let (status, _, body) =
            self.request("POST", &path, &[("X-Auth-Token", &token)], &wanted).await.expect("an answer");
        assert_eq!(status, 204, "{body}");
    }

    /// The id of its user, and a token.
    async fn logs_in(&self, password: &str) -> (String, String) {
        let domain = json!({"id": "default"});
        let login = json!({"auth": {
            "identity": {"methods": ["password"],
                "password": {"user": {"name": "admin", "domain": domain, "password": password}}},
            "scope": {"project": {"name": "admin", "domain": domain}}}});
        let (_, head, body) =
            self.request("POST", "/v3/auth/tokens", &[], &login.to_string()).await.expect("an answer");
        let token = head.lines().find_map(|line| line.strip_prefix("X-Subject-Token: ")).expect("a token");
        (body["token"]["user"]["id"].as_str().expect("a user").to_owned(), token.to_owned())
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Option<(u16, String, Value)> {
        self.request("GET", path, headers, "").await
    }

    async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<(u16, String, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, head.to_owned(), serde_json::from_str(body).unwrap_or_default()))
    }
}

impl Drop for Keystone {
    fn drop(&mut self) {
        self.stops();
    }
}

/// Installs it once for all runs; false where there is no Python.
fn prepare() -> bool {
    if Command::new("python3").arg("--version").output().is_err() {
        return false;
    }
    let prepared = script("prepare").output().expect("it runs");
    assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
    true
}

fn script(what: &str) -> Command {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(here.join("tests/keystone/keystone"));
    command.arg(what).arg(here.join(".cache/keystone"));
    command
}
