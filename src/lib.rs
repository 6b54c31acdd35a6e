//! The program around the actors: settings, commands, logging.
pub mod sink;
