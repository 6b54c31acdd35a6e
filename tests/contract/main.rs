//! What crosses the daemon's borders, compared with what was measured there. It never needs a network.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice
)]

mod raw_http;
mod send;
mod sink_conformance;
mod sink_faults;
