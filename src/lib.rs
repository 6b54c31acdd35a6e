//! The program around the actors: settings, commands, logging, and what systemd is told.

pub mod cli;
pub mod commands;
pub mod daemon;
pub mod logging;
pub mod notify;
pub mod settings;
pub mod sink;
pub mod terminal;
