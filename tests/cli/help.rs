//! What the program says of itself: its help, its version, and the texts that it carries.

use super::*;

#[test]
fn help_teaches_and_version_tells() {
    let help = run(&[], &["--help"]);
    assert_eq!(help.code, Some(0));
    for text in
        ["What comes in", "Where it goes", "What is kept", "Seeing it", "Examples:", "[default: 30 s]"]
    {
        assert!(help.stdout.contains(text), "{text}");
    }
    let short = run(&[], &["-h"]).stdout;
    assert!(
        short.lines().count() < 55 && short.contains("--tenant") && short.contains("dead-letters"),
        "{short}"
    );
    assert!(!short.contains("--spool_hold") && help.stdout.contains("--spool_hold"));
    assert_eq!(run(&[], &["-V"]).stdout, format!("{VERSION}\n"));
}

const VERSION: &str = concat!("blueflood-forward ", env!("CARGO_PKG_VERSION"));

#[test]
fn the_version_has_the_commit_and_its_date_where_git_is() {
    let version = run(&[], &["--version"]).stdout;
    let mut git = Command::new("git");
    git.args(["log", "-1", "--date=format-local:%Y-%m-%d", "--format=%h, %cd"]).env("TZ", "UTC");
    let asked = git.current_dir(path("")).output().ok().filter(|asked| asked.status.success());
    match asked.filter(|_| path(".git").exists() && std::env::var_os("SOURCE_DATE_EPOCH").is_none()) {
        Some(made) => {
            let made = String::from_utf8_lossy(&made.stdout);
            assert_eq!(version, format!("{VERSION} ({})\n", made.trim()));
        }
        None => assert!(version.starts_with(VERSION), "{version}"),
    }
}

/// All commands, and those within them.
const COMMANDS: [&[&str]; 16] = [
    &[],
    &["check"],
    &["status"],
    &["tap"],
    &["spool"],
    &["spool", "info"],
    &["spool", "export"],
    &["spool", "verify"],
    &["spool", "compact"],
    &["dead-letters"],
    &["dead-letters", "list"],
    &["dead-letters", "export"],
    &["dead-letters", "replay"],
    &["dead-letters", "purge"],
    &["send"],
    &["sink"],
];

#[test]
fn help_fits_the_terminal_and_its_examples_can_be_pasted() {
    // What a shell would be given, whole, however wide the help may be.
    let examples = |text: &str| -> Vec<String> {
        let is_example = |line: &&str| {
            ["blueflood-forward ", "curl ", "echo "].iter().any(|word| line.trim_start().starts_with(word))
                && line.starts_with("  ")
        };
        text.lines().filter(is_example).map(|line| line.trim().to_owned()).collect()
    };
    for command in COMMANDS {
        let help = |columns: &str| run(&[("COLUMNS", columns)], &[command, &["--help"]].concat()).stdout;
        let (narrow, wide) = (help("80"), help("500"));
        for line in narrow.lines().filter(|line| line.contains(' ')) {
            let is_one_word = line.split_whitespace().count() == 1;
            assert!(line.chars().count() <= 80 || is_one_word, "{command:?}: {line}");
        }
        assert_eq!(examples(&narrow), examples(&wide), "{command:?}");
    }
    assert_eq!(examples(&run(&[("COLUMNS", "80")], &["--help"]).stdout).len(), 5);
    assert!(run(&[("COLUMNS", "200")], &["--help"]).stdout.lines().any(|line| line.len() > 150));
}

#[test]
fn help_has_a_text_about_each_topic() {
    let texts = fs::read_dir(path("config")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut topics: Vec<PathBuf> = texts
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .filter(|path| !path.ends_with("CHANGELOG.md"))
        .collect();
    assert!(topics.len() > 5, "{topics:?}");
    topics.push(path("README.md"));
    let refused = run(&[], &["help", "nosuch"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""));
    refused.says("there is no help about 'nosuch'");
    let listed = run(&[], &["help"]).stdout;
    for file in topics {
        let topic = file.file_stem().expect("a name").to_str().expect("UTF-8").to_lowercase();
        let help = run(&[("COLUMNS", "80")], &["help", &topic]);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{topic}");
        let text = fs::read_to_string(&file).expect("a text");
        let title = text.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a title");
        assert_eq!(help.stdout.lines().next(), Some(title), "{topic}");
        for sign in ["**", "| ---", "](", "<!--"] {
            assert!(!help.stdout.contains(sign), "{topic} shows {sign}:\n{}", help.stdout);
        }
        for line in help.stdout.lines() {
            let is_one_word = line.split_whitespace().count() == 1;
            assert!(line.chars().count() <= 80 || is_one_word, "{topic}: {line}");
        }
        assert!(listed.contains(&format!("\n  {topic} ")), "{topic} is not in:\n{listed}");
        refused.says(&topic);
    }
    // The answer of a table in a line of its own, below what it answers to.
    let answers = run(&[], &["help", "answers"]).stdout;
    assert!(
        answers.contains("\n  413, 417\n      halved, and payloads are smaller from then on\n"),
        "{answers}"
    );
}

#[test]
fn the_texts_lead_to_each_other_and_to_nothing_that_is_not_there() {
    for entry in fs::read_dir(path("config")).expect("a folder") {
        let file = entry.expect("an entry").path();
        if file.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&file).expect("a text");
            for (_, behind) in text.match_indices("](").map(|(at, _)| text.split_at(at + 2)) {
                let target = behind.split([')', '#']).next().unwrap_or_default();
                let is_there = target.contains("://") || path("config").join(target).exists();
                assert!(is_there, "{} leads to {target}", file.display());
            }
        }
    }
}

#[test]
fn help_of_a_command_is_what_the_command_says_of_itself() {
    for command in COMMANDS.into_iter().filter(|command| !command.is_empty()) {
        let asked = run(&[], &[&["help"], command].concat());
        assert_eq!(asked.code, Some(0), "{command:?}");
        assert_eq!(asked.stdout, run(&[], &[command, &["--help"]].concat()).stdout, "{command:?}");
    }
}
