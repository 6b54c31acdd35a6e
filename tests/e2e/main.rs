//! The daemon as a whole, as its users meet it: the real binary, real sockets, and a Blueflood that each test scripts.
//!
//! One binary, so that it links once. [`world`] has the helpers; a module tells the stories of one subject.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr
)]

mod answers;
mod boxes;
mod captures;
mod clients;
mod confirm;
mod crash;
mod desk;
mod disk;
mod harm;
mod hostile;
mod main_job;
mod matrix;
mod original;
mod outages;
mod page;
mod prometheus;
mod reload;
#[path = "../running.rs"]
mod running;
mod senders;
mod service;
#[path = "../shared.rs"]
mod shared;
#[cfg(feature = "faults")]
mod supervision;
mod tap;
mod tools;
mod verdict;
mod world;
