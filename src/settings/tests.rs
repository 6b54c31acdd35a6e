//! The settings from outside: sources handed in as text, and what comes of them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use actors::core::endpoint::Endpoint;
use actors::core::keystone::{Account, Named};
use actors::core::protocol::Protocol;
use actors::keystone_auth::KeySource;
use proptest::prelude::*;

use super::*;

/// A file with a key in it, which every user has.
const KEY_FILE: &str = "/run/credentials/key";

/// What a user did: typed arguments, set variables, wrote a file.
#[derive(Default)]
struct User {
    arguments: Vec<String>,
    environment: BTreeMap<std::ffi::OsString, std::ffi::OsString>,
    file: Option<(&'static str, String)>,
    /// Whether everyone can read every file.
    open: bool,
    /// The clock, in seconds since 1970; 0: a day of 2026.
    now_s: u64,
}

impl User {
    fn types(line: &str) -> Self {
        Self { arguments: line.split_whitespace().map(str::to_owned).collect(), ..Self::default() }
            .sets("HOME", "/h")
    }

    fn writes(name: &'static str, text: &str) -> Self {
        let user = Self::types("--config").and_types(name);
        Self { file: Some((name, text.to_owned())), ..user }
    }

    fn and_types(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    fn sets(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    fn loads(self) -> Result<Loaded, Box<Refused>> {
        let command = clap::Command::new("test").no_binary_name(true).args(arguments()).infer_long_args(true);
        let given = command.try_get_matches_from(&self.arguments).expect("clap takes it");
        let read_file = |path: &Path| match &self.file {
            Some((name, text)) if path == Path::new(name) => Ok(text.clone()),
            _ if path == Path::new(KEY_FILE) => Ok("s3cret\n".to_owned()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        // 2026-11-24
        let now = UNIX_EPOCH + Duration::from_secs(if self.now_s == 0 { 1_795_500_000 } else { self.now_s });
        let others_can_read = |_: &Path| self.open;
        Settings::load(
            &given,
            &Surroundings {
                environment: self.environment.clone(),
                read_file: &read_file,
                others_can_read: &others_can_read,
                now,
            },
        )
    }

    fn leaves_files_open(self) -> Self {
        Self { open: true, ..self }
    }

    #[track_caller]
    fn warnings(self) -> Vec<String> {
        self.loads().expect("can be run with").warnings
    }

    #[track_caller]
    fn settings(self) -> Settings {
        self.loads().expect("can be run with").settings
    }

    #[track_caller]
    fn problems(self) -> Vec<String> {
        self.loads().expect_err("can't be run with").problems.iter().map(ToString::to_string).collect()
    }

    /// The one thing that is wrong.
    #[track_caller]
    fn problem(self) -> String {
        let problems = self.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.concat()
    }
}

fn origin<'a>(effective: &'a [Effective], key: &str) -> &'a str {
    &effective.iter().find(|entry| entry.setting.key == key).expect(key).origin
}

fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
    texts.iter().map(|text| text.parse().expect(text)).collect()
}

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
fn the_names_of_the_originals_image_count_where_they_are_asked_for() {
    let names = [
        ("TENANT_ID", "tenant", "acme"),
        ("ENDPOINT", "endpoint", "tcp:2010"),
        ("BLUEFLOOD_URL", "blueflood", "http://b:1"),
        ("METRIC_PREFIX", "metric_prefix", "site"),
        ("DEFAULT_TTL", "ttl", "60"),
        ("METRICS_SEND_INTERVAL", "interval", "5"),
        ("LIMIT", "limit", "2000"),
        ("KEYSTONE_USER", "user", "bob"),
        ("KEYSTONE_KEY", "key", "s3cret"),
        ("AUTH_URL", "auth_url", "http://k:1"),
    ];
    let user = || names.iter().fold(User::types(""), |user, (name, _, value)| user.sets(name, value));
    let loaded = user().sets(ORIGINAL_NAMES, "1").loads().unwrap();
    for (name, key, value) in names {
        let entry = loaded.effective.iter().find(|entry| entry.setting.key == key).unwrap();
        assert_eq!((entry.text.as_str(), &entry.origin), (value, &format!("environment {name}")));
    }
    for unasked in [user(), user().sets(ORIGINAL_NAMES, "0"), user().sets(ORIGINAL_NAMES, "")] {
        let loaded = unasked.loads().unwrap();
        assert!(loaded.effective.iter().all(|entry| entry.origin.starts_with("default")));
    }
    let ours = user().sets(ORIGINAL_NAMES, "yes").sets("BLUEFLOOD_FORWARD_TENANT", "ours").settings();
    assert_eq!((ours.tenant.as_str(), ours.ttl), ("ours", 60));
}

/// Its entrypoint turned an empty user and key into the user `-k`, and a URL without a scheme never worked.
#[test]
fn what_of_the_originals_image_does_not_count_is_said() {
    assert_eq!(
        User::types("").sets("TENANT_ID", "acme").warnings(),
        [
            "TENANT_ID is set, and does not count: set BLUEFLOOD_FORWARD_TENANT, or BLUEFLOOD_FORWARD_ORIGINAL_NAMES=1 for all \
          names of the original's image"
        ]
    );
    // Somebody else's, or said otherwise.
    assert_eq!(User::types("").sets("LIMIT", "5").warnings(), [""; 0]);
    assert_eq!(User::types("--tenant acme").sets("TENANT_ID", "other").warnings(), [""; 0]);
    assert_eq!(User::types("").sets("TENANT_ID", "a").sets(ORIGINAL_NAMES, "0").warnings(), [""; 0]);

    let image = || User::types("").sets(ORIGINAL_NAMES, "1").sets("TENANT_ID", "acme");
    let [port] = &image().warnings()[..] else { panic!("one warning") };
    assert!(port.contains("port 2007") && port.contains("ENDPOINT=tcp:2007"), "{port}");
    let logging =
        image().sets("ENDPOINT", "tcp:2007").sets("TWISTED_LOG_LEVEL", "INFO").sets("LOG_DIR", "/var/log/x");
    assert_eq!(
        logging.sets("LOG_ROTATE_LENGTH", "5").sets("MAX_LOG_ROTATED_FILES", "").warnings(),
        [
            "TWISTED_LOG_LEVEL of the original's image does not count: set BLUEFLOOD_FORWARD_LOG_LEVEL",
            "LOG_DIR of the original's image does not count: set BLUEFLOOD_FORWARD_LOG_FILE",
            "LOG_ROTATE_LENGTH of the original's image does not count: set BLUEFLOOD_FORWARD_LOG_FILE_MAX",
        ]
    );
}

#[test]
fn the_originals_image_had_faults_that_are_not_repeated() {
    let user = || User::types("").sets(ORIGINAL_NAMES, "1");
    let unset = user().sets("KEYSTONE_USER", "").sets("KEYSTONE_KEY", "").sets("TENANT_ID", "").settings();
    assert_eq!((unset.user.as_str(), unset.tenant.as_str()), ("", "tenant"));
    assert!(unset.credentials().is_none());
    let wrong = user().sets("BLUEFLOOD_URL", "localhost:19000").sets("DEFAULT_TTL", "x");
    let problems: Vec<_> = wrong.loads().unwrap_err().problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("(environment BLUEFLOOD_URL): has no scheme: write http://localhost:19000"));
    assert!(problems[1].contains("(environment DEFAULT_TTL): "), "{problems:?}");
    let unclear = User::types("").sets(ORIGINAL_NAMES, "perhaps").loads().unwrap_err();
    assert_eq!(unclear.problems[0].key, ORIGINAL_NAMES);
}

#[test]
fn an_empty_value_wins_where_it_means_something() {
    let user = User::writes("/x.toml", "metric_prefix = 'a'\nstats = '127.0.0.1:1'")
        .sets("BLUEFLOOD_FORWARD_STATS", "");
    let settings = user.and_types("--metric_prefix=").settings();
    assert_eq!((settings.metric_prefix.as_str(), settings.stats), ("", None));
}

#[test]
fn the_originals_example_is_read_as_it_ships() {
    let loaded = User::writes("example.conf", include_str!("../../tests/data/example.conf")).loads().unwrap();
    assert_eq!(loaded.settings.tenant, "tenant");
    assert!(!loaded.settings.overwrite_collection_timestamp);
    assert_eq!(loaded.warnings, ["tenant is empty in file example.conf: its default is used, tenant"]);
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
fn a_tenant_is_never_silently_another_one() {
    for (tenant, said) in [
        ("\"acme\"", "has quotes in it"),
        ("'acme'", "has quotes in it"),
        ("acme ", "has a blank in it"),
        ("acme # production", "has a blank and the sign of a comment in it"),
        ("acme;x", "has the sign of a comment in it"),
    ] {
        let warnings = User::types("").sets("BLUEFLOOD_FORWARD_TENANT", tenant).warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings.concat().contains(said), "{tenant}: {warnings:?}");
    }
    for line in ["tenant=\"acme\"", "tenant = 'acme'", "tenant=acme # production"] {
        let text = format!("[blueflood_carbon_forwarder]\n{line}\n");
        assert_eq!(User::writes("/x.conf", &text).warnings().len(), 1, "{line}");
    }
    for tenant in ["acme", "00836986", "a-b_c:d@e", "größe"] {
        assert_eq!(User::types("-t").and_types(tenant).warnings(), [""; 0], "{tenant}");
    }
}

#[test]
fn a_value_that_stands_in_quotes_is_warned_of_and_a_secret_not_shown() {
    for key in ["USER", "KEY", "METRIC_PREFIX", "KEY_FILE", "SPOOL", "LOG_FILE"] {
        let user = User::types("").sets(&format!("BLUEFLOOD_FORWARD_{key}"), "\"s3cret\"");
        let warnings = match user.loads() {
            Ok(loaded) => loaded.warnings,
            Err(refused) => refused.warnings,
        }
        .join("\n");
        let said = format!("{} (environment BLUEFLOOD_FORWARD_{key}) stands in quotes", key.to_lowercase());
        assert!(warnings.contains(&said) && !warnings.contains("s3cret"), "{warnings}");
    }
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
fn a_prefix_that_makes_odd_names_is_warned_of() {
    for (prefix, said) in [
        ("a b", "has a blank"),
        (" a", "has a blank"),
        ("a\t", "has a blank"),
        ("a.", "an empty part"),
        (".a", "an empty part"),
        ("a..b", "an empty part"),
    ] {
        for key in ["metric_prefix", "self_metrics"] {
            let warnings = User::types("").and_types(&format!("--{key}={prefix}")).warnings().join("\n");
            assert!(warnings.contains(said) && warnings.starts_with(key), "{prefix:?}: {warnings}");
        }
    }
    assert_eq!(User::types("-p a.b --self_metrics c.d").warnings(), [""; 0]);
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

fn credentials(user: User) -> (Account, KeySource) {
    user.settings().credentials().expect("a user")
}

#[test]
fn the_ways_to_authenticate() {
    let (account, key) = credentials(User::types("-u bob -k s3cret"));
    assert_eq!(account, Account::ApiKey { user: "bob".into() });
    assert_eq!(key.read().unwrap().reveal(), "s3cret");
    let typed = |line: &str| {
        credentials(User::types("-u bob --key_file /k").and_types("--auth-type").and_types(line)).0
    };
    assert_eq!(typed("password"), Account::Password { user: "bob".into() });
    let v3 = "-u bob --key_file /k --auth_url https://k:5000/v3 --auth_project p --auth_type v3password";
    let (account, key) = credentials(User::types(v3));
    assert!(matches!(key, KeySource::File(path) if path == Path::new("/k")));
    let default = Named::Id("default".into());
    let (user, project) = (Named::Name("bob".into()), Named::Name("p".into()));
    assert_eq!(account, Account::V3Password { user, project, domain: default });
    let credential = "-u c --key_file /k --auth_url https://k --auth_type v3applicationcredential";
    assert_eq!(credentials(User::types(credential)).0, Account::V3ApplicationCredential { id: "c".into() });
    assert!(User::types("").settings().credentials().is_none());
    assert!(!User::types("").settings().uses_tls());
    assert!(User::types("-u bob -k k").settings().uses_tls(), "by the default auth_url");
}

#[test]
fn credentials_that_cannot_work_are_refused() {
    let v3 = "-u bob --auth_type v3password --key_file /k";
    for (line, expected) in [
        ("-u bob".to_owned(), "key (default): is empty, but user is set"),
        ("-u bob -k k --key_file /k".to_owned(), "key_file = \"/k\" (command line): is set, and so is key"),
        (format!("{v3} --auth_url https://k"), "auth_project (default): is empty"),
        (
            format!("{v3} --auth_url https://k --auth_project p --auth_domain="),
            "auth_domain (command line): is empty",
        ),
        (format!("{v3} --auth_project p"), "is version 2.0's, but auth_type is version 3's"),
        ("-u bob -k k --auth_url https://k/v3".to_owned(), "is version 3's, but auth_type is version 2.0's"),
        ("--auth_type v2".to_owned(), "write one of apikey, password, v3password, v3applicationcredential"),
        ("--cert_file /c".to_owned(), "private_key_file (default): is empty"),
        ("--private_key_file /k".to_owned(), "cert_file (default): is empty"),
    ] {
        let problem = User::types(&line).problem();
        assert!(problem.contains(expected), "{line}: {problem}");
    }
}

#[test]
fn systemds_credential_is_the_key_where_there_is_no_other() {
    let user = |line| User::types(line).sets("CREDENTIALS_DIRECTORY", "/run/credentials");
    let loaded = user("-u bob").loads().unwrap();
    assert_eq!(loaded.settings.key_file.as_deref(), Some(Path::new(KEY_FILE)));
    assert_eq!(origin(&loaded.effective, "key_file"), "default by $CREDENTIALS_DIRECTORY");
    assert!(matches!(credentials(user("-u bob -k k")).1, KeySource::Fixed(_)));
    assert_eq!(user("-u bob --key_file /k").settings().key_file.as_deref(), Some(Path::new("/k")));
    assert_eq!(user("").warnings(), [""; 0], "it may be there for the sake of others");
    let without = User::types("-u bob").sets("CREDENTIALS_DIRECTORY", "/run/others");
    assert!(without.problem().starts_with("key (default): is empty"));
}

#[test]
fn a_key_that_others_can_find_is_warned_of() {
    let one = |user: User| {
        let warnings = user.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        warnings.concat()
    };
    assert!(one(User::types("-u bob -k s3cret")).contains("on the command line"));
    assert!(User::types("-u bob").sets("BLUEFLOOD_FORWARD_KEY", "s3cret").warnings().is_empty());
    let file = || User::writes("/x.toml", "user = 'bob'\nkey = 's3cret'");
    assert!(file().warnings().is_empty());
    assert!(one(file().leaves_files_open()).contains("key stands in /x.toml, which everyone"));
    assert!(User::writes("/x.toml", "ttl = 1").leaves_files_open().warnings().is_empty());
    let key_file = || User::types("-u bob --key_file").and_types(KEY_FILE);
    assert!(key_file().warnings().is_empty());
    assert!(one(key_file().leaves_files_open()).contains("can be read by everyone"));
    assert!(one(User::types("-u bob --key_file /nosuch")).starts_with("key_file /nosuch can't be read"));
    assert!(one(key_file().and_types("--auth_url=http://k/")).contains("is not https"));
    assert!(key_file().and_types("--auth_url=http://127.0.0.1:5000/").warnings().is_empty());
    assert!(one(User::types("--insecure true")).starts_with("INSECURE: "));
    let unused = User::types("-k s3cret").warnings().join("\n");
    assert!(unused.contains("key is set but user is empty"), "{unused}");
}

/// Uncommented, the file with every default is the default: so neither its names nor its values can be wrong.
#[test]
fn the_example_file_says_the_defaults() {
    let uncommented: String = example_toml()
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with([' ', '#']))
        .map(|line| format!("{line}\n"))
        .collect();
    let loaded = User::writes("/x.toml", &uncommented).loads().unwrap();
    let mut expected = User::types("").settings();
    assert_eq!(loaded.settings.spool, expected.spool);
    expected.config = Some("/x.toml".into());
    assert_eq!(format!("{:?}", loaded.settings), format!("{expected:?}"));
    let from_file = loaded
        .effective
        .iter()
        .filter(|entry| entry.origin == "file /x.toml" || entry.setting.key == "spool")
        .count();
    assert_eq!(from_file, TABLE.len() - 1, "all but --config itself");
}

proptest! {
    #[test]
    fn no_file_brings_it_down(name in prop::sample::select(&["/x.toml", "/x.yaml", "/x.conf"][..]), text in "[\\[\\]=:;# \\na-e{}\"'_&*-]{0,60}") {
        let _ = User::writes(name, &text).loads();
    }

    #[test]
    fn no_value_brings_it_down(index in 0..TABLE.len(), value in ".{0,20}") {
        let _ = User::types("").and_types(&format!("--{}={value}", TABLE[index].key)).loads();
    }
}
