//! One file a subcommand: `command()` describes it to clap, `run()` does it.
pub mod check;
