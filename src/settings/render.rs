//! Owns the written forms of the table of settings: the file with every default, and the table of `config/settings.md`.
//! Never writes a file.

use std::fmt::Write;

use super::table::{Group, ORIGINAL_NAMES, Setting, TABLE};

const GROUPS: [Group; 4] = [Group::In, Group::Out, Group::Kept, Group::Seen];

/// `config/blueflood-forward.toml`: every setting that a file can have, commented out, at its default.
pub fn example_toml() -> String {
    let mut text = String::from(
        "# Every setting of blueflood-forward at its default, commented out.\n\
         # A time is a number of seconds or a text such as \"500ms\", \"10min\", \"2d\";\n\
         # a size is a number of bytes or a text such as \"64KiB\", \"10MiB\", \"1GiB\".\n\
         # The command line and the environment (BLUEFLOOD_FORWARD_...) win over this file.\n\
         # `blueflood-forward check --config FILE` says what counts, and where it comes from.\n\n",
    );
    let originals: Vec<&str> = TABLE.iter().filter_map(|setting| setting.original).collect();
    let originals = format!(
        "With {ORIGINAL_NAMES}=1 the environment of the original's image counts too, below ours and where it is not \
         empty: {}.",
        originals.join(", ")
    );
    for line in wrapped(&originals, 98) {
        let _ = writeln!(text, "# {line}");
    }
    for group in GROUPS {
        let _ = write!(text, "\n\n# === {} ===\n", group.heading());
        for setting in TABLE.iter().filter(|setting| setting.group == group) {
            text.push('\n');
            for line in wrapped(setting.help(), 98) {
                let _ = writeln!(text, "# {line}");
            }
            let _ = writeln!(text, "# Default: {}.", setting.shown(setting.default));
            let _ = writeln!(text, "#{} = {}", setting.key, toml_value(setting));
        }
    }
    text
}

/// The table in `config/settings.md`.
pub fn table_markdown() -> String {
    let mut text = String::new();
    for group in GROUPS.into_iter().chain([Group::General]) {
        let _ = write!(text, "\n**{}**\n\n| option | default | |\n| --- | --- | --- |\n", group.heading());
        for setting in TABLE.iter().filter(|setting| setting.group == group) {
            let short = setting.short.map(|letter| format!("`-{letter}` ")).unwrap_or_default();
            let value = setting.placeholder().replace('|', "\\|");
            let default = match setting.default {
                "" => setting.shown(""),
                text => setting.shown(text).replacen(text, &format!("`{text}`"), 1),
            };
            let help = setting.help();
            let _ = writeln!(text, "| {short}`--{}` {value} | {default} | {help} |", setting.key);
        }
    }
    text
}

fn toml_value(setting: &Setting) -> String {
    let default = setting.default;
    if setting.kind.is_list() {
        format!("[\"{default}\"]")
    } else if default.parse::<f64>().is_ok() || default.parse::<bool>().is_ok() {
        default.to_owned()
    } else {
        format!("\"{default}\"")
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len().saturating_add(word.len()) < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
