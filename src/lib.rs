//! The program around the actors: settings, commands, logging.

pub mod cli;
pub mod commands;
pub mod daemon;
pub mod logging;
pub mod settings;
pub mod sink;
