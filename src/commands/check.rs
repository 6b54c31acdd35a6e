//! Owns `blueflood-forward check`: every setting that counts, where it comes from, and all that is wrong with them.
//! Never starts the daemon, never shows a secret.

use std::io::{self, Write};
use std::process::ExitCode;

use actors::tls::Outgoing;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::connect;
use super::host::{self, Host};
use crate::daemon::descriptors;
use crate::settings::{self, DEFAULT_ORIGIN, Effective, Loaded, Refused, Settings, Surroundings};
use crate::terminal::{EXIT_USAGE, complain_of, say};

/// The name, options and help of the command, for clap: it takes every option of the daemon.
pub fn command() -> Command {
    Command::new("check")
        .about("Show every setting that counts and where it comes from, and whether the daemon could run with them")
        .arg(
            Arg::new("schema")
                .long("schema")
                .action(ArgAction::SetTrue)
                .help("Print the JSON Schema of the configuration file, and do nothing else"),
        )
        .args(settings::arguments())
        .arg(
            Arg::new("quiet")
                .long("quiet")
                .short('q')
                .action(ArgAction::SetTrue)
                .help("Print only what is wrong"),
        )
        .arg(
            Arg::new("changed")
                .long("changed")
                .action(ArgAction::SetTrue)
                .help("Print only settings that are not at their defaults"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .conflicts_with("connect")
                .help("Print settings, errors, warnings and notes as one line of JSON, secrets masked"),
        )
        .arg(
            Arg::new("connect")
                .long("connect")
                .action(ArgAction::SetTrue)
                .help("Reach Keystone and Blueflood too, and say what to change if that fails"),
        )
        .arg(
            Arg::new("send")
                .long("send")
                .action(ArgAction::SetTrue)
                .requires("connect")
                .help("With --connect: send one datapoint, blueflood-forward.check, all the way"),
        )
        .after_long_help(
            "It looks with the rights of the user who runs it, so run it as the daemon's: at ports, folders, keys and certificates. \
             A port that a running daemon has is no error.\n\n\
             Exit status: 0 if the daemon could run with these settings; 1 if this host keeps it from that (a port, a file, a \
             folder) or, with --connect, what they name cannot be reached; 2 if a setting is wrong.\n\n\
             Examples:\n  \
               blueflood-forward check --changed --config example.conf\n  \
               blueflood-forward check --connect --send -b http://blueflood:19000 -t acme",
        )
}

/// Prints settings to standard output, warnings and errors to standard error, and a verdict at the end.
pub fn run(given: &ArgMatches, around: &Surroundings<'_>) -> ExitCode {
    if given.get_flag("schema") {
        say(format_args!("{:#}", settings::schema()));
        return ExitCode::SUCCESS;
    }
    let (quiet, as_json) = (given.get_flag("quiet"), given.get_flag("json"));
    let loaded = Settings::load(given, around);
    let effective = match &loaded {
        Ok(loaded) => &loaded.effective,
        Err(refused) => &refused.effective,
    };
    let wanted: Vec<&Effective> = effective
        .iter()
        .filter(|entry| !given.get_flag("changed") || !entry.origin.starts_with(DEFAULT_ORIGIN))
        .collect();
    let found = Found::by(&loaded);
    if as_json {
        say(found.json(&wanted));
        return found.code;
    }
    if !quiet {
        // A reader that went away (`check | head`) is no error of the settings.
        let _ = print(&wanted, &mut io::stdout().lock());
        found.notes.iter().for_each(|note| say(format_args!("note: {note}")));
    }
    complain_of("warning", &found.warnings);
    complain_of("error", &found.errors);
    let (verdict, code) = match (&loaded, found.outgoing) {
        (Ok(Loaded { settings, .. }), Some(outgoing)) if found.errors.is_empty() => {
            let reached = given
                .get_flag("connect")
                .then(|| connect::run(settings, outgoing.config, given.get_flag("send")));
            match reached {
                None => (
                    format!("ok: the daemon could run with these, and {}", goal(settings, effective)),
                    found.code,
                ),
                Some(Some(proven)) => {
                    (format!("ok: the daemon could run with these, and {proven}"), found.code)
                }
                Some(None) => (
                    "not ok: the daemon could run with these, and deliver nothing".to_owned(),
                    ExitCode::FAILURE,
                ),
            }
        }
        _ => ("not ok: the daemon could not run with these".to_owned(), found.code),
    };
    if !quiet {
        say(verdict);
    }
    code
}

/// What there is to say of the settings and of this host.
struct Found {
    errors: Vec<String>,
    warnings: Vec<String>,
    notes: Vec<String>,
    outgoing: Option<Outgoing>,
    code: ExitCode,
}

impl Found {
    fn by(loaded: &Result<Loaded, Box<Refused>>) -> Self {
        match loaded {
            Ok(Loaded { settings, warnings, .. }) => {
                let Host { errors, warnings: of_host, notes, outgoing } = host::look(settings);
                let mut warnings = warnings.clone();
                warnings.extend(of_host);
                warnings.extend(descriptors::fit(settings, descriptors::most()).1);
                warnings.extend(outgoing.as_ref().and_then(|outgoing| outgoing.warning.clone()));
                let code = if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
                Self { errors, warnings, notes, outgoing, code }
            }
            Err(refused) => Self {
                errors: refused.problems.iter().map(ToString::to_string).collect(),
                warnings: refused.warnings.clone(),
                notes: Vec::new(),
                outgoing: None,
                code: ExitCode::from(EXIT_USAGE),
            },
        }
    }

    fn json(&self, settings: &[&Effective]) -> Value {
        let shown = |entry: &&Effective| {
            let value = entry.setting.shown(&entry.text);
            json!({ "key": entry.setting.key, "value": value, "origin": entry.origin })
        };
        json!({
            "ok": self.errors.is_empty(),
            "errors": self.errors,
            "warnings": self.warnings,
            "notes": self.notes,
            "settings": settings.iter().map(shown).collect::<Vec<_>>(),
        })
    }
}

/// Where the daemon would deliver to. A tenant that nobody chose is probably not meant.
fn goal(settings: &Settings, effective: &[Effective]) -> String {
    let Settings { tenant, blueflood, .. } = settings;
    let is_left = |entry: &Effective| entry.setting.key == "tenant" && entry.origin == DEFAULT_ORIGIN;
    let doubt = if effective.iter().any(is_left) {
        " (the default: set --tenant if there is none of that name)"
    } else {
        ""
    };
    format!("deliver to {blueflood} as tenant {tenant}{doubt}")
}

fn print(effective: &[&Effective], to: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<_> = effective
        .iter()
        .map(|entry| (entry.setting.key, entry.setting.shown(&entry.text), &entry.origin))
        .collect();
    let key_width = rows.iter().map(|(key, ..)| key.len()).max().unwrap_or_default();
    let value_width = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or_default();
    for (key, value, origin) in rows {
        writeln!(to, "{key:key_width$}  {value:value_width$}  {origin}")?;
    }
    Ok(())
}
