//! The program around the actors: what is typed and read, what is started, and what is told to people.
//!
//! Metrics themselves never pass through here: they are the business of [`actors`], whose map is in its own page and in
//! `actors/DESIGN.md`, "The flow".
//!
//! ```text
//!  main ── cli ──┬── daemon ───── settings ──▶ actors        blueflood-forward [OPTIONS]
//!                │     └── logging, notify
//!                └── commands ─── settings                   blueflood-forward check, status, tap, send, ...
//!                      └── sink                              blueflood-forward sink
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`cli`] | the command line: which command is meant, its help |
//! | [`settings`] | every setting: one table of them, where each value comes from (command line, environment, file, default), and what it means |
//! | [`daemon`] | the daemon: what is there before the first actor, all actors, signals, a reload, a stop |
//! | [`commands`] | the commands beside the daemon, a file each |
//! | [`logging`] | the log: where records go, how they look, how many were lost |
//! | [`notify`] | what systemd is told: ready, the ledger in a line, the watchdog |
//! | [`terminal`] | what a person is told: lines, complaints, the exit codes |
//! | [`sink`] | a small Blueflood in memory, for trials and tests; it answers as the real one was seen to |
//!
//! | you look for | it is in |
//! | --- | --- |
//! | what an option does, its default, its checks | `settings/table.rs`, `settings/rules.rs` |
//! | what two options must agree on | `settings/mod.rs`, `settings/auth.rs` |
//! | what the options come to for an actor | `daemon/plan.rs` |
//! | which options need a restart | `settings/table.rs`, `restart` in the row |
//! | in which order actors start and stop | `daemon/start.rs`, `daemon/stop.rs` |
//! | the original's names, its INI and its environment | `settings/ini.rs`, `settings/originals.rs` |
//! | what `check` looks at | `commands/check.rs`, `commands/host.rs` (this host), `commands/connect.rs` (Blueflood and Keystone) |
//! | how a fault of Blueflood is played to a test | `sink/script.rs` |

pub mod cli;
pub mod commands;
pub mod daemon;
pub mod logging;
pub mod notify;
pub mod settings;
pub mod sink;
pub mod terminal;
