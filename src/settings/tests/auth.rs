//! Credentials and certificates: what they come to, what can't work, and what others could see.

use actors::core::keystone::{Account, Named};
use actors::keystone_auth::KeySource;

use super::*;

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
