//! What is typed: in which order, in which spelling, and what a wrong usage ends with.

use super::*;

#[test]
fn wrong_usage_ends_with_two() {
    for arguments in [
        &["--metrik_prefix", "a"][..],
        &["--ttl"],
        &["extra"],
        &["-t", "a", "extra"],
        &["--log", "x"],
        &["send", "a", "x"],
        &["send", "--to", "udp:127.0.0.1:1", "--protocol", "pickle", "a", "1"],
    ] {
        let refused = run(&[], arguments);
        assert_eq!(refused.code, Some(2), "{arguments:?}");
        refused.says("error: ");
    }
}

#[test]
fn a_command_line_of_the_original_is_told_what_to_leave_out() {
    for (typed, left_out) in [
        ("twistd -n blueflood-forward -t a", "`twistd -n blueflood-forward`"),
        (
            "/usr/bin/twistd --pidfile=/x --nodaemon blueflood-forward -k s3cret",
            "`/usr/bin/twistd --pidfile=/x --nodaemon blueflood-forward`",
        ),
        ("blueflood-forward -t a", "`blueflood-forward`"),
        ("-k s3cret --pidfile /x --nodaemon", "--pidfile, --nodaemon, with"),
    ] {
        let refused = run(&[], &typed.split(' ').collect::<Vec<_>>());
        assert_eq!((refused.code, refused.stderr.lines().count()), (Some(2), 1), "{}", refused.stderr);
        refused.says(&format!("leave out {left_out}"));
        assert!(!refused.stderr.contains("s3cret"));
    }
    let another = run(&[], &["tap", "-n", "x"]);
    assert!(another.code == Some(2) && !another.stderr.contains("twistd"), "{}", another.stderr);
}

/// As with `BF="blueflood-forward -t acme"; $BF check`.
#[test]
fn options_may_stand_before_a_command() {
    let check = run(&[], &["-t", "acme", "--ttl=60", "check", "-i", "5"]);
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    for (key, value) in [("tenant", "acme"), ("ttl", "60 s"), ("interval", "5 s")] {
        assert_eq!(check.setting(key), (value, "command line"));
    }
    let spool = run(&[], &["--spool", "/nosuch/spool.db", "spool", "info"]);
    assert_eq!(spool.code, Some(1));
    spool.says("/nosuch/spool.db: there is no spool");
    // A command takes what another needs, and does not show it.
    let status = run(&[], &["-t", "acme", "status", "--stats", "127.0.0.1:1"]);
    assert_eq!(status.code, Some(1), "{}", status.stderr);
    let help = run(&[], &["status", "--help"]).stdout;
    assert!(
        help.contains("--stats")
            && help.contains("Exit status: 0 well, 3 losing")
            && !help.contains("--tenant"),
        "{help}"
    );
}

#[test]
fn options_take_dashes_underscores_and_the_last_of_several() {
    let check = run(
        &[],
        &["check", "--metric-prefix", "a", "--metric_pre=b", "--overwrite-collection-timestamp", "no"],
    );
    assert_eq!(check.setting("metric_prefix"), ("b", "command line"));
    assert_eq!(check.setting("overwrite_collection_timestamp"), ("no", "command line"));
}
