//! What a text comes to: values in real types, or all that is wrong with them at once.

use actors::core::protocol::Protocol;
use proptest::prelude::*;

use super::*;

#[test]
fn the_defaults_are_the_originals_where_it_has_them() {
    let settings = User::types("").settings();
    assert_eq!(settings.endpoint, endpoints(&["tcp:2004"]));
    // It takes all that the original did, and the first line of a newcomer.
    assert_eq!(settings.protocol, Protocol::Auto);
    assert_eq!(settings.interval, Duration::from_secs(30));
    assert_eq!(settings.blueflood, "http://localhost:19000");
    assert_eq!(settings.tenant, "tenant");
    assert_eq!(settings.metric_prefix, "");
    assert_eq!(settings.ttl, 86_400);
    assert_eq!(settings.limit, LIMIT_BYTES_MAX);
    assert_eq!(settings.auth_url, "https://identity.api.rackspacecloud.com/v2.0/tokens");
    assert!(!settings.overwrite_collection_timestamp);
    assert_eq!(settings.spool_max, 1 << 30);
    assert_eq!(settings.max_age, None);
    assert_eq!(settings.stats, Some("127.0.0.1:8004".parse().unwrap()));
}

#[test]
fn words_for_yes_and_no() {
    for (word, meaning) in
        [("False", false), ("0", false), ("no", false), ("off", false), ("", false), ("True", true)]
    {
        let user = User::types("--overwrite_collection_timestamp").and_types(word);
        assert_eq!(user.settings().overwrite_collection_timestamp, meaning, "{word}");
    }
    assert!(User::types("--overwrite_collection_timestamp X").problem().contains("write true or false"));
}

#[test]
fn sizes_and_times() {
    for (text, size) in
        [("1048576", 1 << 20), ("10MiB", 10 << 20), ("64M", 64 << 20), ("2 gb", 2 << 30), ("5T", 5 << 40)]
    {
        assert_eq!(User::types("--spool_max").and_types(text).settings().spool_max, size, "{text}");
    }
    for text in ["", "x", "-1", "1.5MiB", "1Q", "99999999999999999999", "9999999T", "MiB", "1000"] {
        assert!(
            User::types("").and_types(&format!("--spool_max={text}")).problem().contains("write"),
            "{text}"
        );
    }
    for (text, milliseconds) in
        [("30", 30_000), ("0.5", 500), ("500ms", 500), ("10min", 600_000), ("2d", 172_800_000)]
    {
        let interval = User::types("-i").and_types(text).settings().interval;
        assert_eq!(interval, Duration::from_millis(milliseconds), "{text}");
    }
    for text in ["", "0", "-1", "nan", "inf", "1e99", "0.0001", "abc", "5 parsecs", "20years"] {
        User::types("").and_types(&format!("--interval={text}")).problem();
    }
    assert!(User::types("-i 0").problem().contains("write for example 0.1"));
    assert_eq!(User::types("--shutdown_timeout 0").settings().shutdown_timeout, Duration::ZERO);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let user = User::writes("/x.toml", "tenent = 'a'\nttl = 0\nlog_level = 'loud'")
        .sets("BLUEFLOOD_FORWARD_INTERVALL", "1")
        .sets("BLUEFLOOD_FORWARD_MAX_ROWS", "none")
        .and_types("--limit=1048577");
    assert_eq!(
        user.problems(),
        [
            "BLUEFLOOD_FORWARD_INTERVALL (environment): is no setting: did you mean BLUEFLOOD_FORWARD_INTERVAL?",
            "tenent (file /x.toml): is no setting: did you mean tenant?",
            "ttl = \"0\" (file /x.toml): write a whole number from 1 to 630720000 (seconds; Cassandra keeps nothing \
             longer)",
            "limit = \"1048577\" (command line): write 1048576 or less, or 0 for just that: Blueflood never answers a \
             larger request",
            "max_rows = \"none\" (environment BLUEFLOOD_FORWARD_MAX_ROWS): write a whole number from 1 to 100000",
            "log_level = \"loud\" (file /x.toml): write one of trace, debug, info, warning, warn, error, critical",
        ]
    );
}

#[test]
fn urls_are_checked_before_anything_is_sent_to_them() {
    for (url, advice) in [
        ("localhost:19000", "write http://localhost:19000"),
        ("ftp://host", "write http:// or https://"),
        ("http://user:pass@host", "has a user in it"),
        ("http://host/?a=b", "has a query"),
        ("http://:1", "has no host"),
        ("http://", "has no host"),
        ("http://host:0", "its port"),
        ("http://host:x", "its port"),
        ("http://host:99999", "its port"),
        ("http://ho\tst", "white space"),
        ("http://::1:19000", "write http://[::1]:19000"),
        ("http://[::1", "does not close"),
        ("http://b\u{fc}cher.example:19000", "xn--"),
        ("http://h/\u{e4}", "% and two digits"),
        ("http://h:19000/v2.0/acme/ingest", "write http://h:19000, and set tenant"),
    ] {
        let problem = User::types("-b").and_types(url).problem();
        assert!(problem.contains(advice), "{url}: {problem}");
        assert!(!problem.contains("pass"), "{problem}");
    }
    for (url, base) in [
        ("http://h:1/", "http://h:1"),
        ("https://[::1]:1/a//", "https://[::1]:1/a"),
        ("HTTP://[::1]", "HTTP://[::1]"),
    ] {
        assert_eq!(User::types("-b").and_types(url).settings().blueflood, base);
    }
}

#[test]
fn what_blueflood_would_swallow_is_refused() {
    assert!(User::types("--tenant a/b").problem().contains("slashes"));
    assert!(User::types("--tenant=").problem().contains("is empty"));
    let warnings = User::types("--tenant a.b --stats 0.0.0.0:1").warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let last = u64::from(i32::MAX.unsigned_abs()) - 1_795_500_000;
    assert_eq!(u64::from(User::types("--ttl").and_types(&last.to_string()).settings().ttl), last);
    let problem = User::types("--ttl").and_types(&(last + 1).to_string()).problem();
    assert!(
        problem.contains("2038-01-19") && problem.contains(&format!("write {last} or less")),
        "{problem}"
    );
    assert!(User::types("--limit 1000").problem().contains("at least 1024"));
}

#[test]
fn a_clock_far_ahead_is_warned_of_and_keeps_no_daemon_from_its_start() {
    let end = u64::from(i32::MAX.unsigned_abs());
    for now_s in [end - 86_399, end, end + 1_000_000_000] {
        let warnings = User { now_s, ..User::types("") }.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("2038-01-19"), "{warnings:?}");
    }
    let user = |line| User { now_s: end - 86_400, ..User::types(line) };
    assert_eq!(user("").warnings(), Vec::<String>::new());
    assert!(user("--ttl 86401").problem().contains("write 86400 or less"));
}

#[test]
fn a_secret_is_never_shown() {
    let loaded = User::types("--key s3cret").loads().unwrap();
    assert_eq!(loaded.settings.key.reveal(), "s3cret");
    assert!(!format!("{:?}", loaded.settings).contains("s3cret"));
    assert!(!format!("{:?}", loaded.effective).contains("s3cret"));
    for (name, text) in
        [("/x.toml", "key = \"s3cret"), ("/x.conf", "[blueflood_carbon_forwarder]\nkey s3cret\n")]
    {
        let problem = User::writes(name, text).problem();
        assert!(!problem.contains("s3cret") && problem.contains("line "), "{problem}");
    }
    let shown = loaded.effective.iter().map(|entry| entry.setting.shown(&entry.text)).collect::<String>();
    assert!(!shown.contains("s3cret"));
}

proptest! {
    #[test]
    fn no_value_brings_it_down(index in 0..TABLE.len(), value in ".{0,20}") {
        let _ = User::types("").and_types(&format!("--{}={value}", TABLE[index].key)).loads();
    }
}
