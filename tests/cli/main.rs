//! The command line from outside: the real binary, its output and its exit codes; and the written forms of the table
//! of settings, which must be what the table says. `UPDATE=1 cargo test --test cli` writes those anew.
//! Never starts the daemon.

// A test that can't go on says so by a panic.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice
)]

mod check;
mod completion;
mod help;
#[path = "../shared.rs"]
mod shared;
mod usage;
mod written;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use blueflood_forward::settings;
use serde_json::Value;

/// What a run of the binary came to.
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    /// The line of `check` about a setting, its columns apart.
    #[track_caller]
    fn setting(&self, key: &str) -> (&str, &str) {
        let line = self.stdout.lines().find(|line| line.split_whitespace().next() == Some(key));
        let line = line.unwrap_or_else(|| panic!("no {key} in {}", self.stdout));
        let (value, origin) = line.rsplit_once("  ").expect("two columns after the key");
        (value[key.len()..].trim(), origin)
    }

    #[track_caller]
    fn says(&self, text: &str) {
        assert!(self.stderr.contains(text), "{text:?} is not in:\n{}", self.stderr);
    }
}

/// The binary in an environment of its own, with nothing but `environment` set, and no port that another may have.
fn run(environment: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"));
    command.env_clear().env("HOME", env!("CARGO_TARGET_TMPDIR")).args(arguments);
    command.envs([("BLUEFLOOD_FORWARD_ENDPOINT", "tcp:0"), ("BLUEFLOOD_FORWARD_STATS", "")]);
    command.envs(environment.iter().copied());
    let output = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn file_with(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(name);
    fs::write(&path, text).expect("a file");
    (directory, path.to_str().expect("UTF-8").to_owned())
}

/// In the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
