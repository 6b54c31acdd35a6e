//! blueflood-forward: Graphite metrics in, Blueflood out, nothing lost.

use std::process::ExitCode;
use std::time::SystemTime;

use blueflood_forward::cli;
use blueflood_forward::settings::Surroundings;

fn main() -> ExitCode {
    let around = Surroundings {
        environment: std::env::vars_os().collect(),
        read_file: &|path| std::fs::read_to_string(path),
        now: SystemTime::now(),
    };
    cli::run(std::env::args_os(), &around)
}
