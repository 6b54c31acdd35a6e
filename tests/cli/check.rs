//! What `check` says: each setting with its origin, all that is wrong, and what the daemon will need of its host.

use super::*;

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
