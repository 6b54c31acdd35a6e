//! Owns the types of the values that only the settings know, and the words that stand for them. Never reads a text.

use std::path::PathBuf;

use actors::core::confirm::Way;
use slog::Level;

/// A value that is written as one of a few words.
pub trait Word: Copy + 'static {
    /// The words, in the order in which they are shown, and what each means.
    const WORDS: &'static [(&'static str, Self)];

    /// Those of them that are understood, and not offered.
    const NOT_OFFERED: &'static [&'static str] = &[];
}

/// The words that are offered for a value.
pub fn words<T: Word>() -> Vec<&'static str> {
    T::WORDS.iter().map(|(word, _)| *word).filter(|word| !T::NOT_OFFERED.contains(word)).collect()
}

impl Word for Level {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("trace", Self::Trace),
        ("debug", Self::Debug),
        ("info", Self::Info),
        ("warning", Self::Warning),
        ("warn", Self::Warning),
        ("error", Self::Error),
        ("critical", Self::Critical),
    ];
    const NOT_OFFERED: &'static [&'static str] = &["warn"];
}

impl Word for Way {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("witness", Self::Witness), ("sample", Self::Sample), ("all", Self::All)];
}

/// How tokens are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// Identity v2.0, an API key: the original's only way.
    ApiKey,
    /// Identity v2.0, a password.
    Password,
    /// Identity v3, a password.
    V3Password,
    /// Identity v3, an application credential.
    V3ApplicationCredential,
}

impl Word for AuthType {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("apikey", Self::ApiKey),
        ("password", Self::Password),
        ("v3password", Self::V3Password),
        ("v3applicationcredential", Self::V3ApplicationCredential),
    ];
}

/// How request bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// `Content-Encoding: gzip`.
    Gzip,
    /// Plain JSON.
    None,
}

impl Word for Compress {
    const WORDS: &'static [(&'static str, Self)] = &[("gzip", Self::Gzip), ("none", Self::None)];
}

/// Where the spool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpoolPlace {
    /// Nowhere: what is held is lost with the process.
    Memory,
    /// In this file.
    File(PathBuf),
}

/// What the spool survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolSync {
    /// The end of the process by any means.
    Normal,
    /// A power cut too.
    Full,
}

impl Word for SpoolSync {
    const WORDS: &'static [(&'static str, Self)] = &[("normal", Self::Normal), ("full", Self::Full)];
}

/// What a full spool does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolFull {
    /// Drops the oldest, and counts them.
    DropOldest,
    /// Makes the senders wait.
    Block,
}

impl Word for SpoolFull {
    const WORDS: &'static [(&'static str, Self)] =
        &[("drop-oldest", Self::DropOldest), ("block", Self::Block)];
}

/// What goes first after an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// The order in which it came in.
    OldestFirst,
    /// What is fresh; the backlog fills what room is left.
    NewestFirst,
}

impl Word for CatchUp {
    const WORDS: &'static [(&'static str, Self)] =
        &[("oldest-first", Self::OldestFirst), ("newest-first", Self::NewestFirst)];
}

/// Where Blueflood's query service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuerySide {
    /// On port 20000 of Blueflood's host, if something answers there as it does.
    Auto,
    /// There is none for us: nothing is read back.
    Off,
    /// At this base URL.
    At(String),
}

/// How log records look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Text), ("text", Self::Text), ("json", Self::Json)];
}
