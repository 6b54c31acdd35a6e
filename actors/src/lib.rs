//! The actors of blueflood-forward.
pub mod core;
pub mod spool;
pub mod supervisor;
