//! What a second team relies on: the oldest Rust that is claimed is true, and all tests draw and skip in one way.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::tidy::{root, sources};

/// Major, minor and patch of a version of Rust; a part that is left out is 0.
fn version(text: &str) -> [u32; 3] {
    let mut parts = text.split('.').map(|part| part.parse().unwrap());
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

/// What cargo says of this workspace and its dependencies on this host.
fn metadata() -> Value {
    let cargo = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO")).current_dir(root()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let about = cargo(&["-vV"]);
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata = cargo(&["metadata", "--format-version", "1", "--locked", "--filter-platform", host]);
    serde_json::from_str(&metadata).unwrap()
}

/// Whoever has that Rust would be told so only by a failed build.
#[test]
fn no_dependency_needs_a_later_rust_than_cargo_toml_claims() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let needs = |package: &Value| package["rust_version"].as_str().map(version);
    let ours = |package: &&Value| package["source"].is_null();
    assert_eq!(packages.iter().filter(ours).count(), 2, "this crate and its actors");
    for ours in packages.iter().filter(ours) {
        let claimed = needs(ours).expect("Cargo.toml says rust-version");
        let later: Vec<_> = packages
            .iter()
            .filter(|package| needs(package) > Some(claimed))
            .map(|package| {
                format!("{} {} needs {}", package["name"], package["version"], package["rust_version"])
            })
            .collect();
        assert!(later.is_empty(), "rust-version of {} is {claimed:?}: {later:#?}", ours["name"]);
    }
}

#[test]
fn every_random_test_draws_from_the_seed_and_every_skip_is_counted() {
    let allowed = ["tests/shared.rs", "tests/contract/safety_net.rs"].map(|path| root().join(path));
    for path in sources("tests").into_iter().filter(|path| !allowed.contains(path)) {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            // `fastrand::u8(..)` draws from what nobody can give again, `fastrand::Rng` from a seed.
            let drawn = line.split("fastrand::").skip(1).any(|rest| rest.starts_with(char::is_lowercase));
            assert!(!drawn, "{place} draws without the seed: take shared::random");
            assert!(
                !line.contains("println!(\"skipped"),
                "{place} skips and nobody sees it: take shared::skip"
            );
        }
    }
}

/// A newer program must open what each older one left: tests of the spool take the file of each version.
#[test]
fn there_is_a_spool_of_every_version() {
    for version in 1..=actors::spool::store::VERSION {
        let path = root().join(format!("tests/data/spools/v{version}.db"));
        assert!(
            Path::new(&path).is_file(),
            "{} is missing: tests/README.md says how one is made",
            path.display()
        );
    }
}
