//! Owns the dialect of the original's configuration file, the INI of Python 2's `RawConfigParser`. Never judges a key
//! or a value.

use std::error::Error;

use config::{Format, Map, Value};

/// The one section that is read; others are ignored, as the original did. What `[DEFAULT]` holds counts where the
/// section itself says nothing.
const SECTION: &str = "blueflood_carbon_forwarder";

/// How many other sections are named where ours is missing.
const OTHERS_NAMED: usize = 5;

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
            let others: String = reader.others.iter().map(|name| format!("; it has [{name}]")).collect();
            return Err(format!("has no section [{SECTION}]{others}").into());
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
    /// Names of other sections, as an operator may have misspelt ours.
    others: Vec<String>,
    entries: Vec<Entry>,
    errors: Vec<String>,
}

struct Entry {
    section: String,
    key: String,
    value: String,
}

impl Reader {
    /// A section begins. The original read nothing of what stands behind its name on the line, nor of a section whose
    /// name is nearly ours, and said so of neither.
    fn begins(&mut self, name: &str, behind: &str) -> Result<(), String> {
        let is_read = name == SECTION || name == "DEFAULT";
        self.found |= name == SECTION;
        if !is_read && is_nearly_ours(name) {
            return Err(format!("[{name}] is another section: write [{SECTION}]"));
        }
        if !is_read && self.others.len() < OTHERS_NAMED {
            self.others.push(name.to_owned());
        }
        if is_read && !behind.is_empty() && !behind.starts_with(['#', ';']) {
            return Err(format!(
                "write what stands behind [{name}] on a line of its own, or it would not be read"
            ));
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.trim_end_matches('\r').contains('\r') {
            return Err("has a carriage return within it, and what follows that would not be read: end each line with \
                        a line feed"
                .to_owned());
        }
        if line.trim().is_empty() || line.starts_with(['#', ';']) || is_remark(line) {
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
        if let Some((name, behind)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            self.section = Some(name.to_owned());
            return self.begins(name, behind.trim());
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

/// `rem`, in any case, as the first word of a line that is not indented.
fn is_remark(line: &str) -> bool {
    let word = line.split(char::is_whitespace).next().unwrap_or_default();
    word.eq_ignore_ascii_case("rem")
}

/// Whether somebody who wrote this name probably meant our section.
fn is_nearly_ours(name: &str) -> bool {
    let plain = name.trim().to_ascii_lowercase().replace(['-', ' '], "_");
    [SECTION, "blueflood_forward", "blueflood_forwarder"].contains(&plain.as_str())
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
        assert_eq!(error("[other]\nttl=1\n"), "has no section [blueflood_carbon_forwarder]; it has [other]");
    }

    /// Python 2.7's `RawConfigParser` was asked.
    #[test]
    fn remarks_are_comments_as_they_were_to_python() {
        let text = "rem before any section\n[blueflood_carbon_forwarder]\nREM ttl=1\nRem\nrem\tx\nttl=60\nrem y=2\n\
                    remote=1\ntenant=a\n rem b\nrem=2\n";
        assert_eq!(
            read(text),
            pairs(&[("rem", "2"), ("remote", "1"), ("tenant", "a\nrem b"), ("ttl", "60")])
        );
    }

    #[test]
    fn what_would_not_be_read_is_said() {
        for (text, said) in [
            ("[blueflood_carbon_forwarder] tenant=acme\n", "line 1: write what stands behind"),
            ("[blueflood_carbon_forwarder]x\nttl=1\n", "line 1: write what stands behind"),
            ("[DEFAULT] ttl=1\n[blueflood_carbon_forwarder]\n", "line 1: write what stands behind [DEFAULT]"),
            ("[blueflood_carbon_forwarder]\rtenant=acme\r", "line 1: has a carriage return within it"),
            ("# a comment\r[blueflood_carbon_forwarder]\rttl=1\r", "line 1: has a carriage return within it"),
            ("[blueflood_carbon_forwarder]\nttl=1\rtenant=acme\n", "line 2: has a carriage return within it"),
            (
                "[blueflood-carbon-forwarder]\nttl=1\n",
                "line 1: [blueflood-carbon-forwarder] is another section",
            ),
            ("[Blueflood_Carbon_Forwarder]\nttl=1\n", "write [blueflood_carbon_forwarder]"),
            ("[ blueflood_carbon_forwarder ]\nttl=1\n", "write [blueflood_carbon_forwarder]"),
            (
                "[blueflood_carbon_forwarder]\n[blueflood-forward]\nttl=1\n",
                "line 2: [blueflood-forward] is another",
            ),
        ] {
            let error = Ini.parse(None, text).expect_err(text).to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
        let commented = "[blueflood_carbon_forwarder] ; ours\r\nttl=1\r\n[other] of somebody\n";
        assert_eq!(read(commented), pairs(&[("ttl", "1")]));
        assert_eq!(read("[blueflood_carbon_forwarder]# ours\nttl=1\r\r\n"), pairs(&[("ttl", "1")]));
    }
}
