//! The settings from outside: sources handed in as text, and what comes of them.

mod auth;
mod changes;
mod doubts;
mod originals;
mod sources;
mod values;
mod written;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use actors::core::endpoint::Endpoint;

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
