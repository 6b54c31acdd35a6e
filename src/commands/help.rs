//! Owns `blueflood-forward help TOPIC`: the README and the texts of `config/*.md`, for people who have only the program at
//! hand. The help of a command stays clap's. It never changes what a text says: it takes Markdown's signs away.

use std::process::ExitCode;

use clap::Command;

use crate::cli;
use crate::terminal::{EXIT_USAGE, complain, say};

/// Longer lines are hard to read.
const WIDTH_MAX: usize = 100;

/// A text that the program carries.
struct Topic {
    /// What is typed for it: the name of its file.
    name: &'static str,
    about: &'static str,
    markdown: &'static str,
}

/// Makes a topic of each file of `config/` that is named.
macro_rules! topics {
    ($($name:literal: $about:literal,)*) => {
        [
            Topic {
                name: "readme",
                about: "the first ten minutes, migrating, metrics that do not arrive",
                markdown: include_str!("../../README.md"),
            },
            $(Topic {
                name: $name,
                about: $about,
                markdown: include_str!(concat!("../../config/", $name, ".md")),
            },)*
        ]
    };
}

const TOPICS: [Topic; 10] = topics! {
    "settings": "every setting, the file, endpoints, signals",
    "install": "package, service, container, Kubernetes",
    "migration": "what differs from blueflood-carbon-forwarder",
    "operating": "commands, the verdict, the page, /stats, what it costs",
    "ledger": "where each datapoint is, and what can be lost",
    "confirm": "when a datapoint counts as delivered",
    "answers": "what each answer of Blueflood leads to",
    "spool-file": "the spool's file, upgrades and the way back",
    "security": "Keystone, TLS, secrets",
};

/// The topics on one line.
pub fn names() -> String {
    TOPICS.map(|topic| topic.name).join(", ")
}

/// The topics as a list.
pub fn topics() -> String {
    let lines = TOPICS.map(|topic| format!("  {:12}{}", topic.name, topic.about));
    format!("Topics, for `blueflood-forward help TOPIC`:\n{}", lines.join("\n"))
}

/// The help command as the shells complete it: clap's own knows the commands of `program` and no topics.
pub fn command(program: &Command) -> Command {
    let commands = program.get_subcommands().map(|command| {
        Command::new(command.get_name().to_owned())
            .about(command.get_about().map(ToString::to_string).unwrap_or_default())
    });
    Command::new("help")
        .about("Print this text, the help of a command, or a text about a topic")
        .subcommands(commands)
        .subcommands(TOPICS.map(|topic| Command::new(topic.name).about(topic.about)))
}

/// Prints the topic that was asked for, or says that there is none of this name. Nothing if clap is to answer: what was
/// typed is no `help` at all, or it asks for a command.
pub fn run(typed: &[String]) -> Option<ExitCode> {
    let [_, help, asked, ..] = typed else { return None };
    if help != "help" || asked.starts_with('-') || asked == "help" {
        return None;
    }
    if let Some(topic) = TOPICS.iter().find(|topic| topic.name == asked) {
        say(rendered(topic.markdown));
        return Some(ExitCode::SUCCESS);
    }
    let program = cli::command().subcommand(super::generate::command());
    if program.find_subcommand(asked).is_some() {
        return None;
    }
    let commands: Vec<&str> =
        program.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name).collect();
    complain(format_args!("error: there is no help about '{asked}'"));
    complain(format_args!("  topics:   {}", names()));
    complain(format_args!("  commands: {}", commands.join(", ")));
    Some(ExitCode::from(EXIT_USAGE))
}

/// A text as wide as clap's own helps are.
fn rendered(markdown: &str) -> String {
    let text = Command::new("help")
        .help_template("{after-help}")
        .after_help(plain(markdown))
        .max_term_width(WIDTH_MAX)
        .render_help();
    text.to_string().trim_matches('\n').to_owned()
}

/// A Markdown text without its signs: one line a paragraph, an item and a cell, to be wrapped.
fn plain(markdown: &str) -> String {
    let mut page = Page::default();
    let mut fenced = false;
    let mut table = Table::default();
    for line in markdown.lines() {
        if !line.starts_with('|') {
            std::mem::take(&mut table).print(&mut page);
        }
        let word = line.trim_start();
        if word.starts_with("```") {
            page.end_paragraph();
            fenced = !fenced;
        } else if fenced {
            page.line(&format!("  {line}"));
        } else if line.starts_with("    ") && page.paragraph.is_empty() {
            page.line(line);
        } else if line.starts_with('|') {
            page.end_paragraph();
            table.rows.push(cells(line));
        } else if word.is_empty() || word.starts_with("<!--") || word.starts_with("![") {
            page.end_paragraph();
            page.gap();
        } else if let Some(title) = line.strip_prefix('#') {
            let underline = match title {
                part if part.starts_with("##") => "",
                section if section.starts_with('#') => "-",
                _ => "=",
            };
            let title = inline(title.trim_start_matches('#').trim());
            page.gap();
            page.line(&title);
            page.line(&underline.repeat(title.chars().count()));
        } else if is_item(word) {
            page.end_paragraph();
            page.paragraph = format!("  {word}");
        } else {
            page.add(word);
        }
    }
    table.print(&mut page);
    page.end_paragraph();
    page.text
}

/// What is printed, and the paragraph that is not yet.
#[derive(Default)]
struct Page {
    text: String,
    paragraph: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// An empty line, unless there is one.
    fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    fn add(&mut self, words: &str) {
        if !self.paragraph.is_empty() {
            self.paragraph.push(' ');
        }
        self.paragraph.push_str(words);
    }

    fn end_paragraph(&mut self) {
        let paragraph = std::mem::take(&mut self.paragraph);
        if !paragraph.is_empty() {
            self.line(&inline(&paragraph));
        }
    }
}

/// A table: the names of its columns, the line of dashes, and the rest.
#[derive(Default)]
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// The first cell of a row on a line of its own, the others indented below it.
    fn print(self, page: &mut Page) {
        let mut rows = self.rows.into_iter();
        let Some(columns) = rows.next() else { return };
        let are_many = columns.len() > 2;
        if !are_many && columns.iter().all(|name| !name.is_empty()) {
            page.line(&format!("  {}:", columns.join(" | ")));
            page.gap();
        }
        for row in rows.skip(1) {
            for (at, (cell, column)) in row.iter().zip(&columns).enumerate() {
                match at {
                    _ if cell.is_empty() => {}
                    0 => page.line(&format!("  {cell}")),
                    _ if are_many && !column.is_empty() => page.line(&format!("      {column}: {cell}")),
                    _ => page.line(&format!("      {cell}")),
                }
            }
        }
    }
}

/// The cells of a row. A bar that belongs to a cell has a backslash before it.
fn cells(line: &str) -> Vec<String> {
    const BAR: &str = "\u{1}";
    let line = line.replace("\\|", BAR);
    let inner = line.trim().trim_matches('|');
    inner.split('|').map(|cell| inline(cell.trim()).replace(BAR, "|")).collect()
}

/// Whether a line begins an item of a list.
fn is_item(line: &str) -> bool {
    let number = line.trim_start_matches(|sign: char| sign.is_ascii_digit());
    line.starts_with("- ") || (number.len() < line.len() && number.starts_with(". "))
}

/// A text without its emphasis and links. Code of several words keeps its quotes, to be told from the text.
fn inline(text: &str) -> String {
    let mut plain = String::new();
    for (at, part) in text.split('`').enumerate() {
        match at % 2 {
            0 => plain.push_str(&without_links(&part.replace('*', ""))),
            _ if part.contains(' ') => plain.push_str(&format!("`{part}`")),
            _ => plain.push_str(part),
        }
    }
    plain
}

/// A text with the target of each link behind its words.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('[') {
        plain.push_str(before);
        rest = behind;
        let link = behind.split_once("](").and_then(|(words, link)| Some((words, link.split_once(')')?)));
        match link {
            Some((words, (target, behind))) => {
                plain.push_str(&linked(words, target));
                rest = behind;
            }
            None => plain.push('['),
        }
    }
    plain.push_str(rest);
    plain
}

fn linked(words: &str, target: &str) -> String {
    let file = target.rsplit('/').next().unwrap_or(target).to_lowercase();
    let topic = file.strip_suffix(".md").filter(|name| TOPICS.iter().any(|topic| topic.name == *name));
    match topic {
        Some(name) if words == name => format!("`help {name}`"),
        Some(name) => format!("{words} (`help {name}`)"),
        None if words == target => words.to_owned(),
        None => format!("{words} ({target})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_is_shown_without_its_signs() {
        let text = "# A title\n\nOne paragraph\nof **two** lines, `code` and `two words`.\n\n<!-- x -->\n\n- an item\n  that \
                    goes on\n- another\n\n1. first\n2. second\n\n    code | as it is\n\n```\nfenced **too**\n```\nEnd.";
        assert_eq!(
            plain(text),
            "A title\n=======\n\nOne paragraph of two lines, code and `two words`.\n\n  - an item that goes on\n  - \
             another\n\n  1. first\n  2. second\n\n    code | as it is\n\n  fenced **too**\nEnd.\n"
        );
    }

    #[test]
    fn a_row_of_a_table_is_its_first_cell_with_the_others_below_it() {
        let two = "| what | then |\n| --- | --- |\n| `a\\|b` | it is |\n";
        assert_eq!(plain(two), "  what | then:\n\n  a|b\n      it is\n");
        let three = "| option | default | |\n| --- | --- | --- |\n| `-x` | none | It does. |\nText";
        assert_eq!(plain(three), "  -x\n      default: none\n      It does.\nText\n");
    }

    #[test]
    fn a_link_shows_where_it_leads() {
        for (link, shown) in [
            ("[ledger](ledger.md)", "`help ledger`"),
            ("[The README](../README.md).", "The README (`help readme`)."),
            ("[Blueflood](https://example.com/)", "Blueflood (https://example.com/)"),
            ("[config/alerts.yml](config/alerts.yml)", "config/alerts.yml"),
            ("a [b] c [d](e", "a [b] c [d](e"),
        ] {
            assert_eq!(inline(link), shown);
        }
    }
}
