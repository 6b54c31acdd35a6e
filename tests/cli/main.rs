//! The command line from outside: the real binary, its output and its exit codes; and the written forms of the table
//! of settings, which must be what the table says. `UPDATE=1 cargo test --test cli` writes those anew.
//! Never starts the daemon.

// A test that can't go on says so by a panic.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice
)]

#[path = "../shared.rs"]
mod shared;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use blueflood_forward::settings;
use serde_json::Value;

/// What a run of the binary came to.
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    /// The line of `check` about a setting, its columns apart.
    #[track_caller]
    fn setting(&self, key: &str) -> (&str, &str) {
        let line = self.stdout.lines().find(|line| line.split_whitespace().next() == Some(key));
        let line = line.unwrap_or_else(|| panic!("no {key} in {}", self.stdout));
        let (value, origin) = line.rsplit_once("  ").expect("two columns after the key");
        (value[key.len()..].trim(), origin)
    }

    #[track_caller]
    fn says(&self, text: &str) {
        assert!(self.stderr.contains(text), "{text:?} is not in:\n{}", self.stderr);
    }
}

/// The binary in an environment of its own, with nothing but `environment` set, and no port that another may have.
fn run(environment: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blueflood-forward"));
    command.env_clear().env("HOME", env!("CARGO_TARGET_TMPDIR")).args(arguments);
    command.envs([("BLUEFLOOD_FORWARD_ENDPOINT", "tcp:0"), ("BLUEFLOOD_FORWARD_STATS", "")]);
    command.envs(environment.iter().copied());
    let output = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn file_with(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(name);
    fs::write(&path, text).expect("a file");
    (directory, path.to_str().expect("UTF-8").to_owned())
}

/// In the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

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
fn check_shows_each_setting_and_its_origin() {
    let (_directory, file) = file_with("x.yaml", "tenant: filed\nttl: 60\n");
    let environment = [("BLUEFLOOD_FORWARD_TTL", "120"), ("BLUEFLOOD_FORWARD_KEY", "s3cret")];
    let check = run(&environment, &["check", "--config", &file, "-i", "0.5"]);
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    assert_eq!(check.stdout.lines().count(), settings::TABLE.len() + 1);
    let verdict = check.stdout.lines().last().unwrap();
    assert!(verdict.starts_with("ok: ") && verdict.ends_with("as tenant filed"), "{verdict}");
    assert_eq!(check.setting("interval"), ("0.5 s", "command line"));
    assert_eq!(check.setting("ttl"), ("120 s", "environment BLUEFLOOD_FORWARD_TTL"));
    assert_eq!(check.setting("tenant"), ("filed", format!("file {file}").as_str()));
    assert_eq!(check.setting("limit"), ("0 bytes", "default"));
    assert_eq!(check.setting("key"), ("********", "environment BLUEFLOOD_FORWARD_KEY"));
    assert_eq!(check.setting("user"), ("no authentication", "default"));
    check.says("warning: key is set but user is empty");

    let changed = run(&environment, &["check", "--changed", "--config", &file]);
    assert_eq!(
        changed.stdout.lines().count(),
        7,
        "endpoint, tenant, ttl, key, stats, config and the verdict: {}",
        changed.stdout
    );
    let json = run(&environment, &["check", "--json", "--changed", "--config", &file]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json["ok"].as_bool(), json["settings"].as_array().unwrap().len()), (Some(true), 6));
    assert!(
        json["settings"].to_string().contains("********") && !json.to_string().contains("s3cret"),
        "{json}"
    );

    let quiet = run(&environment, &["check", "--quiet", "--config", &file]);
    assert_eq!((quiet.code, quiet.stdout.as_str(), &quiet.stderr), (Some(0), "", &check.stderr));
    assert_eq!(run(&[], &["check", "-q", "--ttl", "x"]).code, Some(2));
}

#[test]
fn the_originals_example_can_be_run_with() {
    let check = run(&[], &["check", "-c", path("tests/data/example.conf").to_str().unwrap()]);
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    assert_eq!(check.setting("tenant"), ("tenant", "default"));
    assert!(check.setting("overwrite_collection_timestamp").0 == "False");
    check.says("warning: tenant is empty");
}

#[test]
fn wrong_settings_are_all_named_and_end_check_and_daemon_alike() {
    let (_directory, file) = file_with("x.conf", "[blueflood_carbon_forwarder]\nmetric_prefx=a\n");
    for command in [&["check"][..], &[]] {
        let arguments = [command, &["-c", &file, "--ttl", "-5", "-b", "localhost:19000"]].concat();
        let refused = run(&[("BLUEFLOOD_FORWARD_TENNANT", "a")], &arguments);
        assert_eq!(refused.code, Some(2));
        refused.says("metric_prefx");
        refused.says("did you mean metric_prefix?");
        refused.says("did you mean BLUEFLOOD_FORWARD_TENANT?");
        refused.says("error: ttl = \"-5\" (command line): write a whole number from 1");
        refused.says("write http://localhost:19000");
    }
}

#[test]
fn a_log_file_that_cannot_be_opened_is_named() {
    let refused =
        run(&[], &["--log_file", "/proc/none/x.log", "-e", "tcp:0:interface=127.0.0.1", "--stats="]);
    assert_eq!(refused.code, Some(1));
    refused.says("log_file /proc/none/x.log: can't be opened");
}

#[test]
fn keys_are_warned_of_and_never_shown() {
    let check = run(&[], &["check", "-u", "bob", "-k", "s3cret", "--insecure", "true"]);
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    check.says("warning: key stands on the command line");
    check.says("warning: INSECURE");
    assert!(!check.stdout.contains("s3cret") && !check.stderr.contains("s3cret"));

    let (_directory, file) = file_with("x.toml", "user = 'bob'\nkey = 's3cret'\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("they can be set");
    run(&[], &["check", "-c", &file]).says(&format!("chmod o-r {file}"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("they can be set");
    assert_eq!(run(&[], &["check", "-c", &file]).stderr, "");
}

#[test]
fn certificates_that_cannot_be_read_are_named() {
    let check = run(&[], &["check", "--ca_file", "/nosuch"]);
    assert_eq!(check.code, Some(1));
    check.says("error: ca_file /nosuch: can't be read");
}

#[test]
fn a_check_looks_at_what_the_daemon_will_need() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address");
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("a file");
    let in_file = format!("{}/x", file.display());
    let endpoint = format!("tcp:{}:interface=127.0.0.1", taken.port());
    let unix = format!("unix:{}", file.display());
    for (wrong, said) in [
        (["-e", &endpoint], "Address already in use (os error 98); stop whatever listens there"),
        (["-e", &unix], "stop whatever listens there"),
        (["-e", "tls:0:privateKey=/nosuch:certKey=/nosuch"], "/nosuch: can't be read"),
        (["--stats", &taken.to_string()], "in use (os error 98); set another --stats"),
        (["--spool", &in_file], "not a directory"),
        (["--log_file", &in_file], "not a directory"),
    ] {
        let check = run(&[], &[&["check"][..], &wrong].concat());
        assert_eq!(check.code, Some(1), "{wrong:?}: {}", check.stderr);
        check.says("error: ");
        check.says(said);
        assert_eq!(check.stdout.lines().last(), Some("not ok: the daemon could not run with these"));
        let json = run(&[], &[&["check", "--json"][..], &wrong].concat());
        let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert!(
            json["ok"] == false && json["errors"][0].as_str().is_some_and(|error| error.contains(said)),
            "{json}"
        );
    }
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "it leaves nothing behind");
}

#[test]
fn a_system_without_roots_is_warned_of_only_where_they_are_needed() {
    let no_roots = [("SSL_CERT_FILE", "/nosuch"), ("SSL_CERT_DIR", "/nosuch")];
    let plain = run(&no_roots, &["check"]);
    assert_eq!((plain.code, plain.stderr.as_str()), (Some(0), ""));
    let encrypted = run(&no_roots, &["check", "-b", "https://blueflood.example.com"]);
    assert_eq!(encrypted.code, Some(0));
    encrypted.says("warning: this system has no root certificates, so no https can work: set ca_file");
}

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

#[test]
fn options_take_dashes_underscores_and_the_last_of_several() {
    let check = run(
        &[],
        &["check", "--metric-prefix", "a", "--metric_pre=b", "--overwrite-collection-timestamp", "no"],
    );
    assert_eq!(check.setting("metric_prefix"), ("b", "command line"));
    assert_eq!(check.setting("overwrite_collection_timestamp"), ("no", "command line"));
}

#[test]
fn the_example_file_is_what_the_table_says() {
    written_as("config/blueflood-forward.toml", |_| settings::example_toml());
}

#[test]
fn the_text_about_settings_lists_the_options_of_the_table() {
    written_as("config/settings.md", |text| {
        let (before, rest) =
            text.split_once("<!-- options -->").expect("settings.md has a first <!-- options -->");
        let (_, after) =
            rest.split_once("<!-- options -->").expect("settings.md has a second <!-- options -->");
        format!("{before}<!-- options -->\n{}\n<!-- options -->{after}", settings::table_markdown())
    });
}

#[test]
fn the_example_file_fits_the_schema() {
    let printed = run(&[], &["check", "--schema"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""));
    let schema: Value = serde_json::from_str(&printed.stdout).expect("JSON");
    assert_eq!(schema["additionalProperties"], false);
    let properties = schema["properties"].as_object().expect("properties");

    let text = fs::read_to_string(path("config/blueflood-forward.toml")).expect("the example file");
    let settings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix('#')).collect();
    let settings = settings.iter().filter(|line| !line.starts_with([' ', '#'])).copied();
    let settings = config::Config::builder()
        .add_source(config::File::from_str(
            &settings.collect::<Vec<_>>().join("\n"),
            config::FileFormat::Toml,
        ))
        .build()
        .and_then(config::Config::try_deserialize::<Value>)
        .expect("TOML");
    let settings = settings.as_object().expect("a table");
    assert_eq!(settings.keys().collect::<Vec<_>>(), properties.keys().collect::<Vec<_>>());
    for (key, value) in settings {
        let property = &properties[key];
        let description = property["description"].as_str().expect("a description");
        match property.get("default") {
            Some(default) => assert_eq!(default, value, "{key}"),
            None => assert!(value == "" && description.contains("Default: "), "{key}"),
        }
        assert!(value == "" || fits(property, value), "{key} = {value} does not fit {property:#}");
    }
    assert!(!fits(&properties["ttl"], &"1 day".into()) && !fits(&properties["compress"], &"zip".into()));
    assert!(!fits(&properties["limit"], &true.into()) && fits(&properties["limit"], &"64KiB".into()));
}

/// As much of JSON Schema as ours needs, but for patterns.
fn fits(schema: &Value, value: &Value) -> bool {
    let of_type = |kind: &str| match kind {
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => {
            value.as_array().is_some_and(|items| items.iter().all(|item| fits(&schema["items"], item)))
        }
        other => panic!("{other} is no type that is known here"),
    };
    let one_of = |key: &str, holds: &dyn Fn(&Value) -> bool| {
        schema.get(key).and_then(Value::as_array).is_none_or(|all| all.iter().any(holds))
    };
    schema.get("type").and_then(Value::as_str).is_none_or(of_type)
        && one_of("enum", &|allowed| allowed == value)
        && one_of("anyOf", &|allowed| fits(allowed, value))
}

/// No engine runs in the tests, but what the files tell the daemon can be asked of it.
#[test]
fn the_image_and_the_pod_set_what_the_daemon_understands() {
    let dockerfile = fs::read_to_string(path("config/Dockerfile")).expect("the Dockerfile");
    let words = dockerfile.split([' ', '\n']).filter(|word| word.starts_with(settings::ENVIRONMENT_PREFIX));
    let image: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
    assert_eq!(image.len(), 3, "{image:?}");

    let pod = fs::read_to_string(path("config/kubernetes.yaml")).expect("the manifest");
    let pod: Vec<(&str, &str)> = pod
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- {name: ")?.strip_suffix('}')?.split_once(", value: "))
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect();
    assert!(pod.len() >= 6, "{pod:?}");

    let both = [&image[..], &pod[..]].concat();
    // This host may lack the port or the folder, but no setting is wrong.
    let check = run(&both, &["check"]);
    assert!(check.code.is_some_and(|code| code < 2), "{}", check.stderr);
    for (name, value) in pod {
        let origin = format!("environment {name}");
        let line = check.stdout.lines().find(|line| line.ends_with(&origin));
        assert!(line.is_some_and(|line| line.contains(value)), "{name}:\n{}", check.stdout);
    }
    let state = check.setting("spool");
    assert_eq!(state, ("/var/lib/blueflood-forward/spool.db", "environment BLUEFLOOD_FORWARD_SPOOL"));
}

#[test]
fn what_a_package_needs_is_generated() {
    for (what, words) in [
        ("man", [".TH blueflood-forward 1", "metric_prefix", "dead\\-letters"]),
        ("bash", ["complete -F _blueflood__forward", "--metric_prefix", "dead-letters"]),
        ("zsh", ["#compdef blueflood-forward", "--metric_prefix", "dead-letters"]),
        ("fish", ["complete -c blueflood-forward", "-l metric_prefix", "dead-letters"]),
        ("unit", ["Type=notify", "DynamicUser=yes", "WantedBy="]),
    ] {
        let generated = run(&[], &["generate", what]);
        assert_eq!((generated.code, generated.stderr.as_str()), (Some(0), ""), "{what}");
        for word in words {
            assert!(generated.stdout.contains(word), "{what} has no {word:?}:\n{}", generated.stdout);
        }
        assert!(what == "unit" || !generated.stdout.contains("generate"), "{what}");
    }
    let folder = tempfile::tempdir().expect("a directory");
    let generated = run(&[], &["generate", "man", "--into", folder.path().to_str().expect("UTF-8")]);
    assert_eq!(generated.code, Some(0), "{}", generated.stderr);
    for page in ["", "-check", "-tap", "-spool-info", "-dead-letters-replay", "-send"] {
        assert!(folder.path().join(format!("blueflood-forward{page}.1")).exists(), "{page}");
    }
    assert!(!folder.path().join("blueflood-forward-generate.1").exists());
    let page = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a page");
    let whole = page("blueflood-forward.1");
    for section in ["SYNOPSIS", "EXIT STATUS", "FILES", "ENVIRONMENT", "SIGNALS", "EXAMPLES", "SEE ALSO"] {
        assert!(
            whole.contains(&format!(".SH {section}\n")) || whole.contains(&format!(".SH \"{section}\"\n")),
            "{section}:\n{whole}"
        );
    }
    for entry in fs::read_dir(folder.path()).expect("a folder") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a page");
        assert!(text.contains(".SH \"EXIT STATUS\"") && text.contains("\n.nh\n"), "{text}");
    }
    // Examples are not filled, and their dashes are those of a shell.
    let check = page("blueflood-forward-check.1");
    let pasted = "  blueflood\\-forward check \\-\\-changed \\-\\-config example.conf\n";
    assert!(check.split(".nf\n").nth(1).is_some_and(|kept| kept.starts_with(pasted)), "{check}");
    assert!(!run(&[], &["--help"]).stdout.contains("generate"));
    let refused = run(&[], &["generate", "man", "--into", "/nosuch"]);
    assert_eq!(refused.code, Some(1));
    refused.says("error: man can't be written: ");
}

/// Holds a file of the repository to what it should be, or makes it so if asked.
#[track_caller]
fn written_as(name: &str, should_be: impl Fn(&str) -> String) {
    let is = fs::read_to_string(path(name)).unwrap_or_default();
    let should_be = should_be(&is);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path(name), should_be).expect("can be written");
    } else {
        assert!(
            is == should_be,
            "{name} is not what the table of settings says: UPDATE=1 cargo test --test cli"
        );
    }
}

/// What is typed, and what a shell offers for it, in order.
const OFFERED: [(&str, &str); 7] = [
    ("blueflood-forward sp", "spool"),
    ("blueflood-forward dead-letters re", "replay"),
    ("blueflood-forward --metric", "--metric_prefix"),
    ("blueflood-forward --spool_full ", "block drop-oldest"),
    ("blueflood-forward check --log_level w", "warning"),
    ("blueflood-forward check --sch", "--schema"),
    ("blueflood-forward help ans", "answers"),
];

/// A folder with the completions for a shell, if that is here.
fn completions(shell: &str, name: &str) -> Option<tempfile::TempDir> {
    if Command::new(shell).arg("--version").output().is_err() {
        shared::skip(format_args!("no {shell} here, whose completions are tried"));
        return None;
    }
    let folder = tempfile::tempdir().expect("a directory");
    fs::write(folder.path().join(name), run(&[], &["generate", shell]).stdout).expect("it can be written");
    Some(folder)
}

/// Asks a shell what it offers for each of [`OFFERED`]: `script` gets the text as its argument, and prints words.
fn offers(folder: &Path, shell: &[&str], script: &str) {
    for (typed, offered) in OFFERED {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", script]).env_clear().env("PATH", "/usr/bin:/bin");
        command.current_dir(folder).env("HOME", folder).env("TYPED", typed);
        let output = command.output().expect("the shell runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut words: Vec<_> = text.split_whitespace().collect();
        words.sort_unstable();
        assert_eq!(words.join(" "), offered, "{shell:?} for {typed:?}: {output:?}");
    }
}

#[test]
fn bash_completes() {
    let Some(folder) = completions("bash", "completions") else { return };
    // What it does with what a user typed, by itself: a line's last word is completed.
    let script = r#"
        source ./completions
        read -ra COMP_WORDS <<<"$TYPED"; [[ $TYPED != *" " ]] || COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _blueflood__forward blueflood-forward "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        echo "${COMPREPLY[@]}""#;
    offers(folder.path(), &["bash", "--norc"], script);
}

#[test]
fn fish_completes() {
    let Some(folder) = completions("fish", "completions") else { return };
    offers(folder.path(), &["fish", "--no-config"], "source ./completions; complete -C $TYPED | cut -f 1");
}

#[test]
fn zsh_completes() {
    let Some(folder) = completions("zsh", "_blueflood-forward") else { return };
    // It completes at a terminal only, so another one is started at one, and asked to list its choices.
    let settings = r#"
        PS1= RPS1= PROMPT_SP= LISTMAX=9999; unset zle_bracketed_paste; stty -echo
        fpath=($HOME $fpath); autoload -Uz compinit; compinit -u -D
        zstyle ":completion:*" verbose no
        bindkey "^O" list-choices
        zle-line-init() { print ready; }; zle -N zle-line-init"#;
    fs::write(folder.path().join(".zshrc"), settings).expect("it can be written");
    let script = r#"
        zmodload zsh/zpty
        zpty asked env TERM=dumb zsh -d -i
        zpty -r asked seen "*ready*"
        # Once what was typed is taken away, it says that it has done all before.
        zpty -w -n asked "$TYPED"$'\x0f\x15print do""ne\n'
        zpty -r asked seen "*done*"
        print -r -- "$seen""#;
    for (typed, offered) in OFFERED {
        let output = Command::new("zsh")
            .args(["-f", "-c", script])
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("TYPED", typed)])
            .env("HOME", folder.path())
            .output()
            .expect("zsh runs");
        let seen = String::from_utf8_lossy(&output.stdout);
        let list = seen.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        assert!(list.into_iter().any(|line| line == offered), "zsh for {typed:?}: {seen:?}");
    }
}

#[test]
fn more_connections_than_open_files_are_warned_of() {
    let check = |limit: &str, connections: &str| {
        let script = format!(
            "ulimit {limit} && exec \"$0\" check --quiet --tenant acme --spool :memory: -e tcp:0 --stats= --connections {connections}"
        );
        let mut shell = Command::new("/bin/bash");
        let output =
            shell.args(["-c", &script, env!("CARGO_BIN_EXE_blueflood-forward")]).output().expect("bash");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let warning = check("-n 1024", "1024");
    assert!(warning.contains("connections 1024 does not fit the limit of 1024 open files"), "{warning}");
    assert_eq!(check("-n 1024", "300"), "");
    // It is raised as far as it may be.
    assert_eq!(check("-Sn 256", "300"), "");
}
