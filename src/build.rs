//! Tells the program which commit it was made of, and when that was, as `--version` shows it. Asks git, and does without it
//! where there is none, as in an archive of the sources. The same sources make the same program: the date is the commit's,
//! or that of SOURCE_DATE_EPOCH.

// This is how a build script speaks.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // The sources may lie within a repository of something else.
    let is_ours = git(&["rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix.is_empty());
    let asked = |arguments: &[&str]| git(arguments).filter(|_| is_ours);
    // They change with each commit, and with what is checked out.
    for name in ["HEAD", "logs/HEAD"] {
        let path = asked(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists());
        path.iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    }
    let commit = asked(&["log", "-1", "--format=%h"]);
    let seconds = std::env::var("SOURCE_DATE_EPOCH").ok().or_else(|| asked(&["log", "-1", "--format=%ct"]));
    let made: Vec<String> = commit.into_iter().chain(seconds.and_then(|seconds| day(&seconds))).collect();
    let made = if made.is_empty() { String::new() } else { format!(" ({})", made.join(", ")) };
    println!("cargo::rustc-env=MADE_OF={made}");
}

/// What git answers, if it is here and knows.
fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The day of a time in seconds since 1970.
fn day(seconds: &str) -> Option<String> {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.trim().parse().ok()?))?;
    // After the year 9999 there is no such form.
    if time > UNIX_EPOCH.checked_add(Duration::from_secs(253_402_300_799))? {
        return None;
    }
    humantime::format_rfc3339_seconds(time).to_string().split('T').next().map(str::to_owned)
}
