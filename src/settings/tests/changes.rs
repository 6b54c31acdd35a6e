//! Settings that are read again: what a daemon that runs can take of them, and what waits for a restart.

use std::collections::BTreeSet;

use super::*;

fn reread(before: &str, after: &str) -> (Loaded, Changes) {
    let read = |line| User::types(line).loads().expect("can be run with");
    read(after).after(&read(before))
}

#[test]
fn what_waits_for_a_restart_stays_as_it_was_and_all_else_changes() {
    let (loaded, changes) = reread("--spool /a --ttl 60", "--spool /b --ttl 61 --stats= --log_file /l");
    assert_eq!(changes.now, ["ttl from 60 s to 61 s"]);
    assert_eq!(
        changes.later,
        ["spool from /a to /b", "stats from 127.0.0.1:8004 to off", "log_file from standard error to /l",]
    );
    let settings = &loaded.settings;
    assert_eq!((&settings.spool, settings.ttl), (&SpoolPlace::File("/a".into()), 61));
    assert_eq!((settings.stats.is_some(), &settings.log_file), (true, &None));
    let spool = loaded.effective.iter().find(|entry| entry.setting.key == "spool").unwrap();
    assert_eq!(spool.text, "/a");
}

#[test]
fn another_user_is_taken_and_the_first_or_none_waits_for_a_restart() {
    let user = |name: &str| format!("--key k --user={name}");
    let (loaded, changes) = reread(&user("a"), &user("b"));
    assert_eq!((loaded.settings.user.as_str(), changes.later.len()), ("b", 0));
    for (before, after) in [("a", ""), ("", "a")] {
        let (loaded, changes) = reread(&user(before), &user(after));
        assert_eq!((loaded.settings.user.as_str(), changes.now.len()), (before, 0));
        assert_eq!(changes.later.len(), 1);
    }
}

#[test]
fn nothing_that_is_the_same_counts_as_a_change() {
    let (_, changes) = reread("--tenant acme", "--tenant acme");
    assert_eq!(changes, Changes::default());
}

#[test]
fn a_key_that_changes_is_not_shown() {
    let (_, changes) = reread("--user a --key s3cret", "--user a --key s4cret");
    assert_eq!(changes.now, ["key from ******** to ********"]);
}

/// The list stands in the table, and once more in words for an operator.
#[test]
fn the_text_about_settings_names_what_only_a_restart_changes() {
    let text = include_str!("../../../config/settings.md");
    let (_, after) = text.split_once("Only a restart can change").unwrap();
    let (sentence, _) = after.split_once("whether there is a `user` at all").unwrap();
    let named: BTreeSet<&str> = sentence.split('`').skip(1).step_by(2).collect();
    // Which file is read is no setting of a file.
    let always = TABLE.iter().filter(|setting| setting.restart == Restart::Always && setting.key != "config");
    assert_eq!(named, always.map(|setting| setting.key).collect());
    let in_part = TABLE.iter().filter(|setting| setting.restart == Restart::WhereSetOrUnset);
    assert!(in_part.map(|setting| setting.key).eq(["user"]));
}
