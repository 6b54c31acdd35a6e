//! Owns `blueflood-forward dead-letters`: the datapoints that Blueflood refused, to be read, sent again or thrown away.
//! It works beside a running daemon, and sends nothing itself: it marks, and the daemon sends.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use actors::spool::inspect::{Inspector, Letter, Which};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;

use super::say;
use super::spool::{age, arguments, with_path};
use crate::settings::Surroundings;

/// How clap knows it.
pub fn command() -> Command {
    let some = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .arg(
                Arg::new("reason")
                    .long("reason")
                    .value_name("REASON")
                    .help("Only those that were refused for this reason, as `list` names it"),
            )
            .arg(
                Arg::new("id")
                    .long("id")
                    .value_name("NUMBER")
                    .value_parser(value_parser!(i64))
                    .help("Only the one with this number, as `export` names it"),
            )
            .args(arguments())
    };
    Command::new("dead-letters")
        .about("The datapoints that Blueflood refused: read them, send them again, or throw them away")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(some("list", "How many there are, by reason, with Blueflood's words and the last name"))
        .subcommand(some(
            "export",
            "Print each as a line of JSON: the row, the reason, Blueflood's words, the time",
        ))
        .subcommand(some("replay", "Put them back on the normal way: the daemon sends them once more"))
        .subcommand(
            some("purge", "Throw them away for good").arg(
                Arg::new("yes")
                    .long("yes")
                    .action(ArgAction::SetTrue)
                    .help("Do it: without, it only says how many"),
            ),
        )
        .after_help(
            "All of these work beside a running daemon, as root or as the daemon's user; list and export only read. A replay \
             begins within a second if the daemon runs, else when it starts. What Blueflood refuses again comes back here.",
        )
}

/// Does what was asked.
pub fn run(given: &ArgMatches, around: &Surroundings<'_>) -> ExitCode {
    let Some((what, given)) = given.subcommand() else { return ExitCode::FAILURE };
    let which =
        Which { reason: given.get_one::<String>("reason").cloned(), id: given.get_one::<i64>("id").copied() };
    let changes = what == "replay" || what == "purge" && given.get_flag("yes");
    with_path(given, around, |path| {
        let inspector = if changes { Inspector::open_to_change(path)? } else { Inspector::open(path)? };
        match what {
            "export" => export(&inspector, &which)?,
            "replay" => say(format_args!("{} datapoints will be sent again", inspector.replay(&which)?)),
            "purge" => purge(&inspector, &which, changes)?,
            _ => list(&inspector, &which, around)?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn list(
    inspector: &Inspector,
    which: &Which,
    around: &Surroundings<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut by_cause: BTreeMap<(String, String), (u64, Letter)> = BTreeMap::new();
    inspector.letters::<rusqlite::Error>(which, |letter| {
        let cause = (letter.reason.clone(), letter.message.clone());
        let entry = by_cause.entry(cause).or_insert_with(|| (0, letter.clone()));
        *entry = (entry.0.saturating_add(1), letter.clone());
        Ok(())
    })?;
    if by_cause.is_empty() {
        say("none");
    }
    for ((reason, message), (count, last)) in by_cause {
        say(format_args!("{count} refused for {reason}: {}", message.escape_debug()));
        say(format_args!("    the last {}: {}", age(Some(last.refused_ms), around.now), last.row));
    }
    Ok(())
}

fn export(inspector: &Inspector, which: &Which) -> Result<(), Box<dyn std::error::Error>> {
    let mut out = BufWriter::new(io::stdout().lock());
    inspector.letters(which, |letter| -> Result<(), Box<dyn std::error::Error>> {
        let row: serde_json::Value = serde_json::from_str(&letter.row)?;
        let line = json!({
            "id": letter.id,
            "refused_ms": letter.refused_ms,
            "payload": letter.payload,
            "reason": letter.reason,
            "message": letter.message,
            "replay": letter.replay,
            "row": row,
        });
        Ok(writeln!(out, "{line}")?)
    })?;
    Ok(out.flush()?)
}

fn purge(inspector: &Inspector, which: &Which, really: bool) -> Result<(), Box<dyn std::error::Error>> {
    if really {
        say(format_args!("{} dead letters are gone for good", inspector.purge(which)?));
        return Ok(());
    }
    let mut count: u64 = 0;
    inspector.letters::<rusqlite::Error>(which, |_| {
        count = count.saturating_add(1);
        Ok(())
    })?;
    say(format_args!("{count} dead letters would be gone for good: say it again with --yes"));
    Ok(())
}
