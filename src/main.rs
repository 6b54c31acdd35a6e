//! blueflood-forward: Graphite metrics in, Blueflood out, each loss counted.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use blueflood_forward::cli;
use blueflood_forward::settings::Surroundings;

fn main() -> ExitCode {
    let around = Surroundings {
        environment: std::env::vars_os().collect(),
        read_file: &|path| std::fs::read_to_string(path),
        others_can_read: &others_can_read,
        now: SystemTime::now(),
    };
    cli::run(std::env::args_os(), &around)
}

/// By the file's mode: that of its directories may yet keep them out.
fn others_can_read(path: &Path) -> bool {
    const READ_BY_OTHERS: u32 = 0o004;
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & READ_BY_OTHERS != 0)
}
