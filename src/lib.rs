//! The program around the actors: settings, commands, logging.
pub mod commands;
pub mod sink;
