//! Owns `blueflood-forward check`: every setting that counts, where it comes from, and all that is wrong with them.
//! Never starts the daemon, never shows a secret.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use actors::core::endpoint::Transport;
use actors::expiry::Expiry;
use actors::listener::Identity;
use actors::tls::Outgoing;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::{connect, say};
use crate::cli;
use crate::daemon::{descriptors, refused_spool};
use crate::settings::{self, DEFAULT_ORIGIN, Effective, Settings, Surroundings};

/// How clap knows it: it takes every option of the daemon.
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
                .help("Print the settings as one line of JSON, secrets masked"),
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
        .after_help(
            "Exit status: 0 if the daemon could run with these settings, 2 if not, 1 if a file that they name is wrong\n\
             or, with --connect, what they name cannot be reached.",
        )
}

/// Prints settings to standard output, warnings and errors to standard error.
pub fn run(given: &ArgMatches, around: &Surroundings<'_>) -> ExitCode {
    if given.get_flag("schema") {
        say(format_args!("{:#}", settings::schema()));
        return ExitCode::SUCCESS;
    }
    let loaded = Settings::load(given, around);
    if !given.get_flag("quiet") {
        let effective = match &loaded {
            Ok(loaded) => &loaded.effective,
            Err(refused) => &refused.effective,
        };
        // A reader that went away (`check | head`) is no error of the settings.
        let wanted: Vec<&Effective> = effective
            .iter()
            .filter(|entry| !given.get_flag("changed") || !entry.origin.starts_with(DEFAULT_ORIGIN))
            .collect();
        let _ = if given.get_flag("json") {
            let shown = |entry: &&Effective| {
                let value = entry.setting.shown(&entry.text);
                json!({ "key": entry.setting.key, "value": value, "origin": entry.origin })
            };
            let settings: Vec<Value> = wanted.iter().map(shown).collect();
            writeln!(io::stdout(), "{}", json!({ "ok": loaded.is_ok(), "settings": settings }))
        } else {
            print(&wanted, &mut io::stdout().lock())
        };
    }
    match loaded {
        Ok(loaded) => {
            cli::complain("warning", loaded.warnings);
            cli::complain("warning", descriptors::fit(&loaded.settings, descriptors::most()).1);
            if let Some(error) = refused_spool(&loaded.settings) {
                cli::complain("error", [error]);
                return ExitCode::FAILURE;
            }
            // The files that they name are no part of the settings, and yet nothing works without them.
            match files(&loaded.settings) {
                Ok((outgoing, expiries)) => {
                    cli::complain("warning", outgoing.warning.clone());
                    let is_quiet = given.get_flag("quiet") || given.get_flag("json");
                    say_expiries(&expiries, is_quiet);
                    match given.get_flag("connect") {
                        true => connect::run(&loaded.settings, outgoing.config, given.get_flag("send")),
                        false => {
                            if !is_quiet {
                                let Settings { tenant, blueflood, .. } = &loaded.settings;
                                let is_left = |entry: &Effective| {
                                    entry.setting.key == "tenant" && entry.origin == DEFAULT_ORIGIN
                                };
                                let doubt = if loaded.effective.iter().any(is_left) {
                                    " (the default: set --tenant if there is none of that name)"
                                } else {
                                    ""
                                };
                                say(format_args!(
                                    "ok: the daemon could run with these, and deliver to {blueflood} as tenant {tenant}{doubt}"
                                ));
                            }
                            ExitCode::SUCCESS
                        }
                    }
                }
                Err(error) => {
                    cli::complain("error", [error]);
                    ExitCode::FAILURE
                }
            }
        }
        Err(refused) => cli::refuse(*refused),
    }
}

/// Reads the files of certificates and keys; when the certificates end.
///
/// # Errors
/// What is wrong with which file.
fn files(settings: &Settings) -> Result<(Outgoing, Vec<Expiry>), String> {
    let outgoing = Outgoing::new(&settings.tls())?;
    let mut expiries = outgoing.expiries.clone();
    for endpoint in &settings.endpoint {
        if let Transport::Tls { files, .. } = &endpoint.transport {
            let identity = Identity::read(files).map_err(|wrong| format!("endpoint {endpoint}: {wrong}"))?;
            expiries.extend(identity.expiries());
        }
    }
    Ok((outgoing, expiries))
}

/// Says when certificates end; of those that end soon in any case.
fn say_expiries(expiries: &[Expiry], is_quiet: bool) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for expiry in expiries {
        if expiry.is_soon(now) {
            cli::complain("warning", [format!("{}: renew it", expiry.words(now))]);
        } else if !is_quiet {
            say(expiry.words(now));
        }
    }
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
