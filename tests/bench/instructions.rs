//! Counts instructions with valgrind, where a clock on a busy machine would tell nothing: decoding, encoding and
//! sealing of fixed input. Never a test: it prints, and somebody compares.
//!
//! Started without arguments it runs itself under valgrind, each stage twice with different amounts of work: the
//! difference is the work alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, clippy::print_stderr)]

mod fixture;
mod load;

use std::hint::black_box;
use std::process::Command;

use actors::core::chunk::{Encoding, Sealer};
use actors::core::datapoint::Datapoint;
use actors::core::line::Lines;
use actors::core::row::{Array, Rows};
use load::{FRAME, Protocol};

const STAGES: [&str; 6] =
    ["decode pickle", "decode line", "pickle to rows", "line to rows", "seal gzip", "seal none"];

/// Frames of the larger of two runs, beyond those of the smaller.
const FRAMES: usize = 200;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [stage, frames] = &arguments[..] {
        return work(stage, frames.parse().unwrap());
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("instructions a datapoint: skipped, there is no valgrind");
        return;
    }
    println!("| stage | instructions a datapoint |\n| --- | --- |");
    for stage in STAGES {
        match (count(stage, 20), count(stage, 20 + FRAMES)) {
            (Some(few), Some(many)) => {
                println!("| {stage} | {:.1} |", (many - few) as f64 / (FRAMES * FRAME) as f64);
            }
            _ => println!("| {stage} | skipped: valgrind does not count |"),
        }
    }
}

/// Instructions of a whole run.
fn count(stage: &str, frames: usize) -> Option<u64> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap());
    let output = command.args([stage, &frames.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

fn work(stage: &str, frames: usize) {
    let encoder = fixture::encoder();
    let (pickle, lines) = (fixture::frame(Protocol::Pickle), fixture::frame(Protocol::Line));
    let (mut decoder, mut rows) = (fixture::decoder(), Rows::default());
    let (mut gzip, mut plain) = (Sealer::new(Encoding::Deflate), Sealer::new(Encoding::Plain));
    let four_frames = Array::from(fixture::rows(4));
    for k in 0..frames {
        rows.text.clear();
        rows.count = 0;
        let mut encode = |datapoint: &Datapoint<'_>| {
            black_box(encoder.encode(datapoint, fixture::NOW_MS, &mut rows)).unwrap();
        };
        match stage {
            "decode pickle" => {
                fixture::decode(&mut decoder, black_box(&pickle), |datapoint| {
                    black_box(datapoint);
                });
            }
            "decode line" => Lines::new(black_box(&lines)).for_each(|datapoint| {
                black_box(&datapoint);
            }),
            "pickle to rows" => {
                fixture::decode(&mut decoder, black_box(&pickle), encode);
            }
            "line to rows" => {
                Lines::new(black_box(&lines)).flatten().for_each(|datapoint| encode(&datapoint));
            }
            "seal gzip" if k % 4 == 0 => drop(black_box(gzip.seal(&four_frames))),
            "seal none" if k % 4 == 0 => drop(black_box(plain.seal(&four_frames))),
            _ => {}
        }
    }
}
