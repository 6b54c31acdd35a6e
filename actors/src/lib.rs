//! The actors of blueflood-forward.
pub mod collector;
pub mod core;
pub mod faults;
pub mod forwarder;
pub mod listener;
pub mod metrics;
pub mod spool;
pub mod supervisor;
