//! A comment names a page and a heading that exist (`actors/DESIGN.md`, "How to cite"), and a link leads somewhere.
//! Nobody who reads the one should have to look for the other outside of this repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{files, root, shown};

/// A run of comment lines as one text, and the line on which it begins.
struct Comment {
    line: usize,
    text: String,
}

/// The comments of a file, each run of them joined: a citation may go over the end of a line.
fn comments(text: &str, marks: &[&str]) -> Vec<Comment> {
    let mut comments: Vec<Comment> = Vec::new();
    let mut goes_on = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let whole = marks.iter().find_map(|mark| line.strip_prefix(mark));
        // One that stands behind code is a comment by itself.
        let behind =
            || marks.iter().find_map(|mark| line.split_once(&format!(" {mark} ")).map(|(_, text)| text));
        let Some(words) = whole.or_else(behind) else {
            goes_on = false;
            continue;
        };
        let words = words.trim_start_matches(['/', '!']).trim();
        match comments.last_mut().filter(|_| goes_on && whole.is_some()) {
            Some(comment) => comment.text = format!("{} {words}", comment.text),
            None => comments.push(Comment { line: number + 1, text: words.to_owned() }),
        }
        goes_on = whole.is_some();
    }
    comments
}

/// Every file that has comments, and how they begin in it.
fn commented() -> Vec<(PathBuf, &'static [&'static str])> {
    const SLASHES: &[&str] = &["//"];
    const HASH: &[&str] = &["#"];
    let kinds =
        [("rs", SLASHES), ("c", SLASHES), ("js", SLASHES), ("mjs", SLASHES), ("toml", HASH), ("py", HASH)];
    let more = [("sh", HASH), ("yml", HASH), ("yaml", HASH)];
    let of_kind = |(extension, marks): &(&str, &'static [&'static str])| {
        let marks = *marks;
        files("", extension).into_iter().map(move |path| (path, marks))
    };
    let mut all: Vec<_> = kinds.iter().chain(&more).flat_map(of_kind).collect();
    all.push((root().join("Makefile"), HASH));
    all
}

/// The headings of a page, but for what stands in a block of code.
fn headings(text: &str) -> Vec<String> {
    let mut code = false;
    let mut headings = Vec::new();
    for line in text.lines() {
        code ^= line.starts_with("```");
        if !code && line.starts_with('#') {
            headings.push(line.trim_start_matches('#').trim().to_owned());
        }
    }
    headings
}

/// What a heading is called in a link, by the rule of GitHub.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The paths of pages that a text names, each with what stands behind it.
fn pages_named(text: &str) -> Vec<(&str, &str)> {
    let of_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    let mut named = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find(".md").map(|at| from + at) {
        let end = at + ".md".len();
        let start = text[..at]
            .rfind(|c| !of_path(c))
            .map_or(0, |before| before + text[before..].chars().next().unwrap().len_utf8());
        if !text[end..].starts_with(|c: char| c.is_ascii_alphanumeric()) {
            named.push((&text[start..end], &text[end..]));
        }
        from = end;
    }
    named
}

/// The headings that stand behind the path of a page: `, "A"`, `, "A" and "B"`, `, "A", "B" and "C"`.
fn cited(behind: &str) -> Vec<&str> {
    let mut cited = Vec::new();
    let mut rest = behind.strip_prefix('`').unwrap_or(behind);
    while let Some(quoted) = [", \"", " and \""].iter().find_map(|before| rest.strip_prefix(before)) {
        let Some((heading, after)) = quoted.split_once('"') else { break };
        cited.push(heading);
        rest = after;
    }
    cited
}

/// A number in brackets by itself, as in "(2.6)" or "(2.3 to 2.5)": of which page, nobody knows. A status of HTTP has three
/// digits, and is none.
fn bare_number(text: &str) -> Option<&str> {
    text.match_indices(" (").find_map(|(at, _)| {
        let inner = text[at + 2..].split_once(')')?.0;
        let word = |word: &str| {
            let word = word.trim_end_matches(',');
            let section = word.chars().all(|c| c.is_ascii_digit() || c == '.')
                && word.len() < 3 + word.matches('.').count();
            matches!(word, "to" | "and") || section
        };
        let is_bare = inner.starts_with(|c: char| matches!(c, '1'..='9')) && inner.split(' ').all(word);
        is_bare.then_some(inner)
    })
}

/// What is wrong with a comment.
fn faults(text: &str, pages: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut faults = Vec::new();
    if text.contains("shared/") {
        faults.push("it names shared/, which is not in this repository".to_owned());
    }
    faults.extend(bare_number(text).map(|number| format!("it cites ({number}), and no page")));
    for (path, behind) in pages_named(text).into_iter().filter(|(path, _)| path.contains('/')) {
        let Some(headings) = pages.get(path) else {
            faults.push(format!("there is no page {path}"));
            continue;
        };
        let cited = cited(behind);
        if cited.is_empty() && path.starts_with("actors/") {
            faults.push(format!("it names {path} without a heading: write `{path}`, \"Heading\""));
        }
        for heading in cited.into_iter().filter(|cited| !headings.iter().any(|heading| heading == cited)) {
            faults.push(format!("{path} has no heading \"{heading}\""));
        }
    }
    faults
}

/// The Rust files that a text names between backticks: `gate.rs`, `core/outbox/gate.rs`.
fn sources_named(text: &str) -> impl Iterator<Item = &str> {
    let is_path = |part: &&str| {
        part.ends_with(".rs")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-'))
    };
    text.split('`').skip(1).step_by(2).filter(is_path)
}

/// Those of them that are the end of no path in the repository.
fn sources_gone<'t>(text: &'t str, sources: &[String]) -> Vec<&'t str> {
    let is_there = |named: &&str| {
        let end = format!("/{}", named.trim_start_matches("../"));
        sources.iter().any(|source| format!("/{source}").ends_with(&end))
    };
    sources_named(text).filter(|named| !is_there(named)).collect()
}

/// Every page of the repository with its headings.
fn pages() -> BTreeMap<String, Vec<String>> {
    let read = |path: PathBuf| (shown(&path), headings(&fs::read_to_string(&path).unwrap()));
    files("", "md").into_iter().map(read).collect()
}

#[test]
fn a_comment_names_a_page_and_a_heading_that_exist() {
    let pages = pages();
    let mut wrong = Vec::new();
    for (path, marks) in commented() {
        // Its own examples of what is wrong.
        if path.ends_with("tests/tidy/documents.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for comment in comments(&text, marks) {
            let faults = faults(&comment.text, &pages);
            wrong.extend(
                faults.into_iter().map(|fault| format!("{}:{}: {fault}", shown(&path), comment.line)),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A line without its links, which lead from the page and not from the top.
fn without_links(line: &str) -> String {
    let mut left = String::new();
    let mut rest = line;
    while let Some((before, target)) = rest.split_once("](") {
        left.push_str(before.rsplit_once('[').map_or(before, |(before, _)| before));
        rest = target.split_once(')').map_or("", |(_, after)| after);
    }
    left + rest
}

#[test]
fn a_page_cites_headings_that_exist_and_nothing_outside_the_repository() {
    let pages = pages();
    let mut wrong = Vec::new();
    for page in pages.keys() {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for (number, line) in text.lines().enumerate() {
            let found = faults(&without_links(line), &pages).into_iter();
            // A page that is named in running text is known by its name alone, and has figures in brackets.
            let found =
                found.filter(|fault| !fault.contains("without a heading") && !fault.contains("it cites ("));
            wrong.extend(found.map(|fault| format!("{page}:{}: {fault}", number + 1)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_source_file_that_a_page_or_a_comment_names_is_there() {
    let sources: Vec<String> = files("", "rs").iter().map(|path| shown(path)).collect();
    let mut wrong = Vec::new();
    for path in files("", "md") {
        // What the changes of a day were called stays as it was.
        if path.ends_with("CHANGELOG.md") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let gone = sources_gone(line, &sources).into_iter();
            wrong.extend(gone.map(|named| format!("{}:{}: no {named}", shown(&path), number + 1)));
        }
    }
    for (path, marks) in commented() {
        let text = fs::read_to_string(&path).unwrap();
        for comment in comments(&text, marks) {
            let gone = sources_gone(&comment.text, &sources).into_iter();
            wrong.extend(gone.map(|named| format!("{}:{}: no {named}", shown(&path), comment.line)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The targets of the links of a page, but for those in code.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        if fenced || line.starts_with("    ") {
            continue;
        }
        // Every other part stands between backticks.
        let outside: String = line.split('`').step_by(2).collect::<Vec<_>>().join("");
        let targets = outside.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
        links.extend(targets);
    }
    links
}

/// Why a link of a page leads nowhere.
fn broken(page: &Path, link: &str, pages: &BTreeMap<String, Vec<String>>) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = link.split_once('#').map_or((link, None), |(path, heading)| (path, Some(heading)));
    let target = if path.is_empty() { page.to_owned() } else { page.parent().unwrap().join(path) };
    let Ok(target) = fs::canonicalize(&target) else { return Some(format!("{link} leads to no file")) };
    let heading = heading?;
    let headings = pages.get(&shown(&target));
    let is_there = headings.is_some_and(|headings| headings.iter().any(|known| anchor(known) == heading));
    (!is_there).then(|| format!("{link} leads to no heading"))
}

#[test]
fn every_relative_link_of_a_page_leads_somewhere() {
    let pages = pages();
    let mut wrong = Vec::new();
    for page in pages.keys() {
        let path = fs::canonicalize(root().join(page)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let found = links(&text).into_iter().filter_map(|link| broken(&path, &link, &pages));
        wrong.extend(found.map(|fault| format!("{page}: {fault}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_page_has_a_heading_twice() {
    for (page, mut headings) in pages() {
        // Or a comment that names it would mean either.
        let all = headings.len();
        headings.sort();
        headings.dedup();
        assert_eq!(headings.len(), all, "{page}");
    }
}

#[test]
fn what_is_wrong_is_found() {
    let pages = BTreeMap::from([("actors/A.md".to_owned(), vec!["One".to_owned(), "Two".to_owned()])]);
    let faults = |text: &str| faults(text, &pages).len();
    assert_eq!(faults("as said (`actors/A.md`, \"One\" and \"Two\"), and more"), 0);
    assert_eq!(faults("as said (`actors/A.md`, \"One\" and \"Three\")"), 1);
    assert_eq!(faults("as said in `actors/A.md`"), 1, "without a heading");
    assert_eq!(faults("as said in `actors/A.md#one`"), 1, "without a heading");
    assert_eq!(faults("as said in `actors/B.md`, \"One\""), 1);
    assert_eq!(faults("see shared/contract"), 1);
    assert_eq!(faults("over which it does not answer (2.6)"), 1);
    assert_eq!(faults("measured (2.3 to 2.5, 2.7)"), 1);
    assert_eq!(faults("interim answers (100, 102) and refusals (207)"), 0);
    assert_eq!(faults("so that `file(1)` can tell (RFC 9110, 15.2), and README.md"), 0);
    let code = "fn a() {} // one\n// as (`actors/A.md`,\n// \"One\")\nlet b = 1;\n";
    let texts: Vec<_> = comments(code, &["//"]).into_iter().map(|comment| comment.text).collect();
    assert_eq!(texts, ["one", "as (`actors/A.md`, \"One\")"]);
    let sources = ["actors/src/core/gate.rs".to_owned()];
    assert_eq!(
        sources_gone("`gate.rs`, `core/gate.rs`, `ate.rs` and `gone.rs`", &sources),
        ["ate.rs", "gone.rs"]
    );
    assert_eq!(without_links("as [a](b/c.md#d), and `e/f.md`"), "as , and `e/f.md`");
    assert_eq!(links("[a](b.md#c), `[d](e)`\n```\n[f](g)\n```\n"), ["b.md#c"]);
    assert_eq!(anchor("awc's time-out ends at the head"), "awcs-time-out-ends-at-the-head");
}
