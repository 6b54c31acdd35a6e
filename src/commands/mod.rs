//! The commands beside the daemon itself, one file each: `command()` describes it to clap, `run()` does it.
//! None of them ever starts the daemon.

pub mod check;
pub mod connect;
pub mod dead_letters;
pub mod generate;
pub mod help;
mod host;
mod man;
pub mod port;
pub mod send;
pub mod sink;
pub mod spool;
pub mod status;
pub mod tap;
