//! What is written of the settings elsewhere: the example file, its schema, the text about settings, image and package.

use super::*;

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
