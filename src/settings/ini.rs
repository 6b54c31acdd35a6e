//! Owns the dialect of the original's configuration file, the INI of Python 2's `RawConfigParser`. Never judges a key
//! or a value.

use std::error::Error;

use config::{Format, Map, Value};

/// The one section that is read; others are ignored, as the original did. What `[DEFAULT]` holds counts where the
/// section itself says nothing.
const SECTION: &str = "blueflood_carbon_forwarder";

/// The original's INI, as a format of the `config` crate.
#[derive(Debug)]
pub struct Ini;

impl Format for Ini {
    /// Reads keys in lower case, every value a string.
    ///
    /// # Errors
    /// Names every line that is neither section, `key = value`, comment nor the continuation of a value.
    fn parse(
        &self,
        uri: Option<&String>,
        text: &str,
    ) -> Result<Map<String, Value>, Box<dyn Error + Send + Sync>> {
        let mut reader = Reader::default();
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if let Err(why) = reader.line(line) {
                reader.errors.push(format!("line {}: {why}", number.saturating_add(1)));
            }
        }
        if !reader.errors.is_empty() {
            return Err(reader.errors.join("; ").into());
        }
        if !reader.found {
            return Err(format!("has no section [{SECTION}]").into());
        }
        // The last of several wins, and our own section comes last.
        let (defaults, ours): (Vec<_>, Vec<_>) =
            reader.entries.into_iter().partition(|entry| entry.section == "DEFAULT");
        Ok(defaults.into_iter().chain(ours).map(|entry| (entry.key, Value::new(uri, entry.value))).collect())
    }
}

#[derive(Default)]
struct Reader {
    section: Option<String>,
    /// Whether the last line was an entry, or went on with one: then an indented line goes on with it too.
    open: bool,
    found: bool,
    entries: Vec<Entry>,
    errors: Vec<String>,
}

struct Entry {
    section: String,
    key: String,
    value: String,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.trim().is_empty() || line.starts_with(['#', ';']) {
            return Ok(());
        }
        if line.starts_with(char::is_whitespace) && self.open {
            if let Some(entry) =
                self.entries.last_mut().filter(|entry| self.section.as_ref() == Some(&entry.section))
            {
                entry.value.push('\n');
                entry.value.push_str(line.trim());
            }
            return Ok(());
        }
        self.open = false;
        if let Some((name, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            self.found |= name == SECTION;
            self.section = Some(name.to_owned());
            return Ok(());
        }
        let Some(section) = &self.section else {
            return Err(format!("stands before any section: begin the file with [{SECTION}]"));
        };
        let Some((key, value)) = line.split_once(['=', ':']).filter(|(key, _)| !key.trim().is_empty()) else {
            // Without the line itself: a secret may stand in it.
            return Err("is no key = value".to_owned());
        };
        self.open = true;
        if section == SECTION || section == "DEFAULT" {
            let (key, value) = (key.trim().to_lowercase(), without_comment(value).trim());
            // Python's own exception: quotes are kept, but two of them with nothing between are nothing.
            let value = if value == "\"\"" { "" } else { value };
            self.entries.push(Entry { section: section.clone(), key, value: value.to_owned() });
        }
        Ok(())
    }
}

/// A semicolon after white space begins a comment; only the first semicolon is looked at, as Python does.
fn without_comment(value: &str) -> &str {
    match value.split_once(';') {
        Some((before, _)) if before.ends_with(char::is_whitespace) => before,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let map = Ini.parse(None, text).expect(text);
        let mut pairs: Vec<_> = map.into_iter().map(|(key, value)| (key, value.kind.to_string())).collect();
        pairs.sort();
        pairs
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn the_dialect_is_pythons() {
        let text = "# comment\n[other]\nttl=1\nnonsense=2\n[blueflood_carbon_forwarder]\n; comment\nTTL = 60 ; a minute\n\
                    tenant: a;b\nmetric_prefix = \"100%\"\nuser=\"\"\nkey=\n[other]\nttl=2\n  more\n\
                    [blueflood_carbon_forwarder]\ninterval=5\ninterval=6\nendpoint=tcp:1\n  tcp:2\n\r\n";
        assert_eq!(
            read(text),
            pairs(&[
                ("endpoint", "tcp:1\ntcp:2"),
                ("interval", "6"),
                ("key", ""),
                ("metric_prefix", "\"100%\""),
                ("tenant", "a;b"),
                ("ttl", "60"),
                ("user", ""),
            ])
        );
    }

    #[test]
    fn the_default_section_counts_where_ours_says_nothing() {
        let text = "[blueflood_carbon_forwarder]\nttl=60\n[DEFAULT]\nttl=1\ntenant=x\n";
        assert_eq!(read(text), pairs(&[("tenant", "x"), ("ttl", "60")]));
    }

    #[test]
    fn every_line_that_cannot_be_read_is_named() {
        let error = |text: &str| Ini.parse(None, text).unwrap_err().to_string();
        assert!(
            error("ttl=1\n[blueflood_carbon_forwarder]\nhuh\n").contains("line 1: stands before any section")
        );
        assert!(error("ttl=1\n[blueflood_carbon_forwarder]\nhuh\n").contains("line 3: is no key = value"));
        assert!(error("[other]\nttl=1\n").contains("has no section [blueflood_carbon_forwarder]"));
    }
}
