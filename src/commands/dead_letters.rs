//! Owns `blueflood-forward dead-letters`: the datapoints that Blueflood refused, to be read, sent again or thrown away.
//! It works beside a running daemon, and sends nothing itself: it marks, and the daemon sends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use actors::core::printable::printable;
use actors::spool::inspect::{Inspector, Letter, Which};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;

use super::spool::{age, arguments, with_path};
use crate::settings::Surroundings;
use crate::terminal::say;

/// How much of a text is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 2_000;

/// The name, options and help of the command, for clap.
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
             begins within a second if the daemon runs, else when it starts. What Blueflood refuses again comes back here.\n\n\
             Examples:\n  \
               blueflood-forward dead-letters list\n  \
               blueflood-forward dead-letters replay --reason metricName",
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
        expect_any(&inspector, &which)?;
        match what {
            "export" => export(&inspector, &which)?,
            "replay" => replay(&inspector, &which)?,
            "purge" => purge(&inspector, &which, changes)?,
            _ => list(&inspector, &which, around)?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Refuses a reason or a number that no dead letter has: it is probably misspelt.
fn expect_any(inspector: &Inspector, which: &Which) -> Result<(), Box<dyn std::error::Error>> {
    if which.reason.is_none() && which.id.is_none() || count(inspector, which)? > 0 {
        return Ok(());
    }
    let mut reasons = BTreeSet::new();
    inspector.letters::<rusqlite::Error>(&Which::default(), |letter| {
        reasons.insert(letter.reason.clone());
        Ok(())
    })?;
    let reasons: Vec<String> = reasons.into_iter().collect();
    let there = if reasons.is_empty() {
        "there is none at all".to_owned()
    } else {
        format!("there are some for {}", reasons.join(", "))
    };
    Err(format!("no dead letter has this reason and number: {there}").into())
}

fn count(inspector: &Inspector, which: &Which) -> rusqlite::Result<u64> {
    let mut count: u64 = 0;
    inspector.letters::<rusqlite::Error>(which, |_| {
        count = count.saturating_add(1);
        Ok(())
    })?;
    Ok(count)
}

/// Marks them, and says what waits for that now: some may have been marked before.
fn replay(inspector: &Inspector, which: &Which) -> Result<(), Box<dyn std::error::Error>> {
    say(format_args!("{} datapoints will be sent again", inspector.replay(which)?));
    let (waiting, holder) = (inspector.marked()?, inspector.holder());
    match holder {
        _ if waiting == 0 => {}
        Some(holder) => say(format_args!(
            "{waiting} wait for that: the daemon ({holder}) takes them within a second, and `dead-letters list` shows what \
             comes back"
        )),
        None => say(format_args!(
            "{waiting} wait for that: no daemon runs on this spool, and the next one takes them"
        )),
    }
    Ok(())
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
        say(format_args!("{count} refused for {reason}: {}", shown(&message)));
        say(format_args!("    the last {}: {}", age(Some(last.refused_ms), around.now), shown(&last.row)));
    }
    let marked = inspector.marked()?;
    if marked > 0 {
        say(format_args!("{marked} of all wait to be sent again"));
    }
    Ok(())
}

/// Words of Blueflood's, and a row as it was sent: somebody else's both.
fn shown(text: &str) -> String {
    printable(text.as_bytes(), SHOWN_BYTES_MAX)
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
    let count = count(inspector, which)?;
    say(format_args!("{count} dead letters would be gone for good: say it again with --yes"));
    Ok(())
}
