//! Where settings come from: command line, environment, files and defaults, and which of them counts.

use proptest::prelude::*;

use super::*;

#[test]
fn the_command_line_wins_over_the_environment_over_the_file_over_the_default() {
    let file = "[blueflood_carbon_forwarder]\ntenant=file\nttl=1\nlimit=2000\n";
    let user = User::writes("/etc/x.conf", file)
        .and_types("--tenant=typed")
        .sets("BLUEFLOOD_FORWARD_TENANT", "environment")
        .sets("BLUEFLOOD_FORWARD_TTL", "2");
    let loaded = user.loads().unwrap();
    assert_eq!(loaded.settings.tenant, "typed");
    assert_eq!(loaded.settings.ttl, 2);
    assert_eq!(loaded.settings.limit, 2000);
    assert_eq!(origin(&loaded.effective, "tenant"), "command line");
    assert_eq!(origin(&loaded.effective, "ttl"), "environment BLUEFLOOD_FORWARD_TTL");
    assert_eq!(origin(&loaded.effective, "limit"), "file /etc/x.conf");
    assert_eq!(origin(&loaded.effective, "interval"), "default");
    assert_eq!(loaded.effective.len(), TABLE.len());
}

#[test]
fn an_empty_value_wins_where_it_means_something() {
    let user = User::writes("/x.toml", "metric_prefix = 'a'\nstats = '127.0.0.1:1'")
        .sets("BLUEFLOOD_FORWARD_STATS", "");
    let settings = user.and_types("--metric_prefix=").settings();
    assert_eq!((settings.metric_prefix.as_str(), settings.stats), ("", None));
}

#[test]
fn endpoints_are_a_list_in_every_source() {
    let expected = endpoints(&["tcp:2004", "udp:2003"]);
    for user in [
        User::types("-e tcp:2004 --endpoint udp:2003"),
        User::writes("/x.toml", "endpoint = ['tcp:2004', 'udp:2003']"),
        User::writes("/x.yaml", "endpoint:\n  - tcp:2004\n  - udp:2003\n"),
        User::writes("/x.ini", "[blueflood_carbon_forwarder]\nendpoint=tcp:2004, udp:2003\n"),
        User::types("").sets("BLUEFLOOD_FORWARD_ENDPOINT", "tcp:2004 udp:2003"),
    ] {
        assert_eq!(user.settings().endpoint, expected);
    }
    let networks = "tcp:2004:allow=10.0.0.0/8,fd00\\:\\:/8,127.0.0.1:backlog=9";
    let expected = endpoints(&[networks, r"udp:2003:allow=\:\:1", "tcp:2005"]);
    for separator in [",", ", ", " "] {
        let list = [networks, r"udp:2003:allow=\:\:1", "tcp:2005"].join(separator);
        let text = format!("[blueflood_carbon_forwarder]\nendpoint={list}\n");
        assert_eq!(User::writes("/x.ini", &text).settings().endpoint, expected, "{list}");
        assert_eq!(User::types("").sets("BLUEFLOOD_FORWARD_ENDPOINT", &list).settings().endpoint, expected);
    }
    let spaced = User::types("-e").and_types("unix:/a b, c").settings();
    assert_eq!(spaced.endpoint, endpoints(&["unix:/a b, c"]));
    assert!(User::types("-e tcp:2004 -e tcp:2004:protocol=line").problem().contains("given twice"));
}

#[test]
fn typed_files_give_numbers_and_booleans_their_types() {
    for (name, text) in [
        ("/x.toml", "interval = 0.5\nttl = 60\noverwrite = 1"),
        ("/x.yml", "interval: 0.5\nttl: 60\noverwrite: 1"),
    ] {
        let problem = User::writes(name, text).problem();
        assert!(problem.contains("did you mean overwrite_collection_timestamp?"), "{problem}");
    }
    let settings =
        User::writes("/x.toml", "interval = 0.5\nttl = 60\noverwrite_collection_timestamp = true").settings();
    assert_eq!(settings.interval, Duration::from_millis(500));
    assert!(settings.overwrite_collection_timestamp);
    let problems = User::writes("/x.toml", "ttl = [1, 2]\ntenant.a = 1\nconfig = 'y'").problems().join("\n");
    assert!(problems.contains("ttl (file /x.toml): is a list: write one value"), "{problems}");
    assert!(problems.contains("tenant (file /x.toml): has keys of its own"), "{problems}");
    assert!(problems.contains("a file can't name another one"), "{problems}");
}

#[test]
fn underscores_dashes_and_abbreviations() {
    assert_eq!(User::types("--metric_prefix a").settings().metric_prefix, "a");
    assert_eq!(User::types("--metric-prefix a").settings().metric_prefix, "a");
    assert_eq!(User::types("--metric=a").settings().metric_prefix, "a");
    assert_eq!(User::types("-p a").settings().metric_prefix, "a");
}

#[test]
fn a_text_of_digits_is_kept_as_it_is_written_or_refused() {
    for text in [
        "00836986",
        "12345678901234567890123456789012",
        "5e400",
        "1.10",
        "5319E7",
        "0x1F",
        "true",
        "-0",
        ".5",
    ] {
        for key in ["tenant", "user", "key", "metric_prefix", "auth_project", "log_file"] {
            let yaml = User::writes("/x.yaml", &format!("{key}: {text}\n"));
            let problem = yaml.loads().expect_err(text).problems[0].to_string();
            assert!(problem.contains("in quotes"), "{key}: {text}: {problem}");
        }
        // TOML knows fewer numbers; none of them may become another tenant.
        let toml = User::writes("/x.toml", &format!("tenant = {text}\n"));
        assert!(toml.loads().is_err(), "{text}");
        for (name, line) in
            [("/x.yaml", format!("tenant: \"{text}\"")), ("/x.toml", format!("tenant = '{text}'"))]
        {
            let settings = User::writes(name, &line).loads().expect(&line).settings;
            assert_eq!(settings.tenant, text, "{name}");
        }
    }
    for text in ["12345678901234567890123456789012", "5e400"] {
        let problem = User::writes("/x.toml", &format!("tenant = {text}\n")).problem();
        assert!(problem.contains("in quotes"), "{problem}");
    }
    let kinds = "ttl: 60\ninterval: 0.5\nlimit: 2000\noverwrite_collection_timestamp: 1\nlog_file_keep: 3\n";
    User::writes("/x.yaml", kinds).settings();
}

#[test]
fn a_suffix_in_capitals_and_a_byte_order_mark_change_nothing() {
    for (name, text) in [
        ("/x.TOML", "tenant = 'acme'\n"),
        ("/x.Yaml", "tenant: acme\n"),
        ("/x.YML", "tenant: acme\n"),
        ("/x.yaml", "\u{feff}tenant: acme\r\n"),
        ("/x.toml", "\u{feff}tenant = 'acme'\r\n"),
        ("/x.conf", "\u{feff}[blueflood_carbon_forwarder]\r\ntenant=acme\r\n"),
    ] {
        assert_eq!(User::writes(name, text).settings().tenant, "acme", "{name}");
    }
}

#[test]
fn the_spool_finds_its_place() {
    let place = |user: User| user.settings().spool;
    let file = |path: &str| SpoolPlace::File(path.into());
    assert_eq!(place(User::types("--spool :memory:")), SpoolPlace::Memory);
    assert_eq!(place(User::types("--spool /s")), file("/s"));
    assert_eq!(place(User::types("")), file("/h/.local/state/blueflood-forward/spool.db"));
    assert_eq!(place(User::types("").sets("XDG_STATE_HOME", "/x")), file("/x/blueflood-forward/spool.db"));
    let systemd =
        User::types("").sets("XDG_STATE_HOME", "/x").sets("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
    let loaded = systemd.loads().unwrap();
    assert_eq!(loaded.settings.spool, file("/var/lib/a/spool.db"));
    assert_eq!(origin(&loaded.effective, "spool"), "default by $STATE_DIRECTORY");
    assert!(User::types("").sets("HOME", "").problem().contains(":memory: to keep nothing"));
}

#[test]
fn what_kubernetes_says_of_a_service_of_our_name_is_no_mistake() {
    let user = User::types("")
        .sets("BLUEFLOOD_FORWARD_SERVICE_HOST", "10.0.0.1")
        .sets("BLUEFLOOD_FORWARD_SERVICE_PORT", "2004")
        .sets("BLUEFLOOD_FORWARD_SERVICE_PORT_PICKLE", "2004")
        .sets("BLUEFLOOD_FORWARD_PORT", "tcp://10.0.0.1:2004")
        .sets("BLUEFLOOD_FORWARD_PORT_2004_TCP_ADDR", "10.0.0.1")
        .sets("BLUEFLOOD_FORWARD_STATS_PORT", "tcp://10.0.0.2:8004");
    user.settings();
    assert!(User::types("").sets("BLUEFLOOD_FORWARD_PORT", "2004").problem().contains("is no setting"));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let problem = User::types("--config /nosuch").problem();
    assert!(problem.starts_with("file /nosuch: can't be read"), "{problem}");
    assert!(problem.contains("named by the command line"), "{problem}");
    for (name, text) in [("/x.toml", "ttl = "), ("/x.yaml", "a: [\n"), ("/x.conf", "ttl=1\n"), ("/x", "{}")] {
        let problem = User::writes(name, text).problem();
        assert!(problem.starts_with(&format!("file {name}: ")), "{problem}");
    }
}

proptest! {
    #[test]
    fn no_file_brings_it_down(name in prop::sample::select(&["/x.toml", "/x.yaml", "/x.conf"][..]), text in "[\\[\\]=:;# \\na-e{}\"'_&*-]{0,60}") {
        let _ = User::writes(name, &text).loads();
    }
}
