//! What of the original's image, its environment and its file is taken over.

use super::*;

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
fn the_originals_example_is_read_as_it_ships() {
    let loaded =
        User::writes("example.conf", include_str!("../../../tests/data/example.conf")).loads().unwrap();
    assert_eq!(loaded.settings.tenant, "tenant");
    assert!(!loaded.settings.overwrite_collection_timestamp);
    assert_eq!(loaded.warnings, ["tenant is empty in file example.conf: its default is used, tenant"]);
}
