//! The rules of the house that a compiler cannot see. Each is a promise of the design; break one only with it.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn the_core_has_no_runtime_clock_socket_log_or_randomness() {
    let forbidden = [
        "actix",
        "awc::",
        "tokio::",
        "slog",
        "fastrand",
        "rusqlite",
        "Instant::now",
        "SystemTime::now",
        "std::fs",
        "std::thread",
        "TcpListener",
        "TcpStream",
        "UdpSocket",
        "println!",
    ];
    // A model draws its weather at random, from a seed that is printed.
    let is_core = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name != "tests.rs") && !path.iter().any(|part| part == "tests")
    };
    for path in sources("actors/src/core").into_iter().filter(is_core) {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            for word in forbidden {
                assert!(!code.contains(word), "{}:{}: {word}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn every_file_says_first_what_it_is_for_and_has_one_job() {
    for path in ["actors", "src", "tests"].into_iter().flat_map(sources) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("//!") || text.starts_with("#!["),
            "{} begins without a word",
            path.display()
        );
    }
}

#[test]
fn the_top_level_is_as_our_user_gave_it() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "Makefile",
        "README.md",
        "actors",
        "config",
        "src",
        "target",
        "tests",
    ];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()), "{name}");
    }
}
