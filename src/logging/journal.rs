//! Owns what the journal wants of a line: how important it is, so that `journalctl -p warning` finds it. JSON says that
//! by itself, to whoever reads it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use slog::{Level, OwnedKVList, Record};
use slog_term::{Decorator, RecordDecorator};

/// Whether standard error is the journal. systemd names the stream that it opened, for another may be there by now.
pub fn is_stderr_the_journal() -> bool {
    let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return false };
    fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| format!("{}:{}", stderr.dev(), stderr.ino()) == journal)
}

/// Begins each record with its priority, as systemd takes it off again: `<4>` is a warning.
pub struct Prioritized<D>(pub D);

impl<D: Decorator> Decorator for Prioritized<D> {
    fn with_record<F>(&self, record: &Record<'_>, values: &OwnedKVList, write: F) -> io::Result<()>
    where
        F: FnOnce(&mut dyn RecordDecorator) -> io::Result<()>,
    {
        self.0.with_record(record, values, |to| {
            write!(to, "<{}>", priority(record.level()))?;
            write(to)
        })
    }
}

/// The priority of a level, as syslog numbers them.
fn priority(level: Level) -> u8 {
    match level {
        Level::Critical => 2,
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
