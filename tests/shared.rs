//! Owns what every test target does alike: a test that cannot run on this host says so, and random tests draw from one seed.
//! It never decides which tests there are, nor when one is skipped.

// A target may need only a part of it.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::fmt::Display;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::sync::LazyLock;

use fastrand::Rng;

/// What was skipped, a line each. `make test` empties it first and shows it last: cargo shows no output of a test that passes.
const SKIPPED: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/skipped");

/// A variable of the environment, if it says something.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Says that a test, or a part of it, is not run on this host, and why. With `REQUIRE_ALL=1` that is a failure.
#[track_caller]
pub fn skip(why: impl Display) {
    assert!(variable("REQUIRE_ALL").is_none(), "REQUIRE_ALL is set, and this cannot be run here: {why}");
    eprintln!("skipped: {why}");
    let mut file = File::options().create(true).append(true).open(SKIPPED).unwrap();
    // One write, for tests run side by side.
    file.write_all(format!("skipped: {why}\n").as_bytes()).unwrap();
}

/// The seed of this run: `SEED`, or a number that nobody chose.
pub fn seed() -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(|| match variable("SEED") {
        Some(given) => given.parse().unwrap_or_else(|_| panic!("SEED={given} is not a whole number")),
        None => u64::from(fastrand::u32(..)),
    });
    *SEED
}

/// Random numbers for one test, or for one of its cases. They are its own: whichever tests run beside it, the same seed
/// gives the same numbers.
pub fn random(test: &str) -> Rng {
    // Shown if the test fails.
    eprintln!("SEED={} draws {test:?} again", seed());
    drawn_for(test)
}

/// The same for who says the seed itself.
pub fn drawn_for(test: &str) -> Rng {
    let mut hasher = DefaultHasher::new();
    test.hash(&mut hasher);
    Rng::with_seed(seed() ^ hasher.finish())
}

/// A host of this machine that nobody else is likely to use. Not from the seed: two runs side by side would share it, and
/// what answers at port 20000 of a Blueflood's host is taken for its query service.
pub fn host_of_its_own() -> std::net::Ipv4Addr {
    [127, fastrand::u8(1..255), fastrand::u8(1..255), fastrand::u8(2..255)].into()
}
