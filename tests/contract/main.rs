//! The contracts: what others send, and what others answer, held against this project's code. It never needs a network.
//!
//! One binary, so that it links once. A module a contract; helpers of more than one of them in `support`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr
)]

mod captures;
mod corpus;
mod hostile;
mod original_cases;
mod pickle_properties;
mod python_pickles;
mod raw_http;
mod send;
mod sink_conformance;
mod sink_faults;
mod support;
mod tidy;
