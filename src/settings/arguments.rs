//! Owns the command-line form of the settings. Never reads a value: every one of them stays text until all sources are
//! merged.

use clap::{Arg, ArgAction};

use super::table::{Setting, TABLE};

/// One argument a setting, with the original's names; dashes do as well as underscores.
pub fn arguments() -> impl Iterator<Item = Arg> {
    TABLE.iter().map(argument)
}

/// The same, of which a command needs only some: the others are taken too, so that one line of options does for every
/// command, and are not shown in its help.
pub fn arguments_for(shown: &'static [&'static str]) -> impl Iterator<Item = Arg> {
    arguments().map(move |argument| {
        let is_shown = shown.contains(&argument.get_id().as_str());
        argument.hide(!is_shown)
    })
}

fn argument(setting: &'static Setting) -> Arg {
    let default = format!("{} [default: {}]", setting.help(), setting.shown(setting.default));
    let mut argument = Arg::new(setting.key)
        .long(setting.key)
        .value_name(setting.value)
        .help(default)
        .help_heading(setting.group.heading())
        // A negative number is a value like any other here: it is refused later, with what to write instead.
        .allow_negative_numbers(true)
        .action(if setting.list { ArgAction::Append } else { ArgAction::Set });
    if let Some(letter) = setting.short {
        argument = argument.short(letter);
    }
    if setting.key.contains('_') {
        argument = argument.alias(setting.key.replace('_', "-"));
    }
    argument
}
