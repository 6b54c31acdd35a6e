//! Owns the command-line form of the settings. Never reads a value: every one of them stays text until all sources are
//! merged.

use clap::{Arg, ArgAction};

use super::table::{Group, Setting, TABLE};

/// One argument a setting, with the original's names; dashes do as well as underscores.
pub fn arguments() -> impl Iterator<Item = Arg> {
    TABLE.iter().map(argument)
}

/// The same, of which a command needs only some: the others are taken too, so that one line of options does for every
/// command, and are not shown in its help.
pub fn arguments_for(shown: &'static [&'static str]) -> impl Iterator<Item = Arg> {
    arguments().map(move |argument| {
        let is_shown = shown.contains(&argument.get_id().as_str());
        argument.hide(!is_shown).hide_short_help(!is_shown)
    })
}

fn argument(setting: &'static Setting) -> Arg {
    let default = format!("[default: {}]", setting.shown(setting.default));
    let what = setting.help();
    let short = [": ", ". ", "; "].iter().filter_map(|end| what.split_once(end)).map(|(short, _)| short);
    let short = short.min_by_key(|short| short.len()).unwrap_or(what).trim_end_matches('.');
    let mut argument = Arg::new(setting.key)
        .long(setting.key)
        .value_name(setting.placeholder())
        .help(format!("{short} {default}"))
        .long_help(format!("{what} {default}"))
        .hide_short_help(!setting.usual)
        .help_heading((setting.group != Group::General).then(|| setting.group.heading()))
        // A negative number is a value like any other here: it is refused later, with what to write instead.
        .allow_negative_numbers(true)
        .action(if setting.kind.is_list() { ArgAction::Append } else { ArgAction::Set });
    if let Some(letter) = setting.short {
        argument = argument.short(letter);
    }
    if setting.key.contains('_') {
        argument = argument.alias(setting.key.replace('_', "-"));
    }
    argument
}
