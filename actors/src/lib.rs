//! The actors of blueflood-forward.
pub mod core;
pub mod keystone_auth;
pub mod spool;
pub mod supervisor;
pub mod tls;
