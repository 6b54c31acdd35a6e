//! Owns the harmlessness of readable log lines: what strangers send us stays text in them. Never touches colours, nor
//! JSON, which has its own escapes.

use std::io::{self, Write};

use slog::{OwnedKVList, Record};
use slog_term::{Decorator, RecordDecorator};

/// Writes control characters in messages and values as `\n` or `\u{1b}`: a metric's name can neither forge a line of
/// the log nor command the terminal that shows it.
pub struct Escaped<D>(pub D);

impl<D: Decorator> Decorator for Escaped<D> {
    fn with_record<F>(&self, record: &Record<'_>, values: &OwnedKVList, write: F) -> io::Result<()>
    where
        F: FnOnce(&mut dyn RecordDecorator) -> io::Result<()>,
    {
        self.0.with_record(record, values, |to| write(&mut EscapedRecord { to, foreign: false }))
    }
}

struct EscapedRecord<'a> {
    to: &'a mut dyn RecordDecorator,
    /// Whether what is written now may come from outside.
    foreign: bool,
}

impl Write for EscapedRecord<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Formatting writes whole strings, so no character is cut in two here.
        let text = String::from_utf8_lossy(bytes);
        if self.foreign && text.contains(char::is_control) {
            for character in text.chars() {
                if character.is_control() {
                    write!(self.to, "{}", character.escape_default())?;
                } else {
                    write!(self.to, "{character}")?;
                }
            }
        } else {
            self.to.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Passes each beginning on, and notes whether something foreign follows it.
macro_rules! beginnings {
    ($($name:ident => $foreign:literal,)*) => {
        impl RecordDecorator for EscapedRecord<'_> {
            $(fn $name(&mut self) -> io::Result<()> {
                self.foreign = $foreign;
                self.to.$name()
            })*
        }
    };
}

beginnings! {
    reset => false,
    start_whitespace => false,
    start_msg => true,
    start_timestamp => false,
    start_level => false,
    start_comma => false,
    start_key => false,
    start_value => true,
    start_location => false,
    start_separator => false,
}
