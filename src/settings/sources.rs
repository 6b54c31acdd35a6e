//! Owns where settings come from: the command line over the environment over the file over the defaults, each value
//! remembering its source. Never judges a value, only whether its name is known.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::ArgMatches;
use config::{Config, ConfigError, FileFormat, Format, Map, Source, Value, ValueKind};
use zeroize::Zeroizing;

use super::ini::Ini;
use super::table::{ENVIRONMENT_PREFIX, ORIGINAL_NAMES, Setting, TABLE, setting};
use super::{Effective, Problem, rules};

/// What of the process the settings depend on, handed in so that tests need no process.
pub struct Surroundings<'a> {
    /// The environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// Reads the whole of a file.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<String>,
    /// Whether every user of this host can read a file.
    pub others_can_read: &'a dyn Fn(&Path) -> bool,
    /// The time: a datapoint may not outlive the last second that Cassandra can count to.
    pub now: SystemTime,
}

/// Where a value that no source gave comes from.
pub const DEFAULT_ORIGIN: &str = "default";

/// Where a value that was typed comes from.
pub const COMMAND_LINE_ORIGIN: &str = "command line";

/// The value of every setting, in the order of the table, and what went wrong while finding it.
#[derive(Debug, Default)]
pub struct Gathered {
    pub effective: Vec<Effective>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

impl Gathered {
    /// Reads every source. A source that can't be read is a problem, and the rest is read all the same.
    pub fn from(given: &ArgMatches, around: &Surroundings<'_>) -> Self {
        let mut gathered = Self::default();
        let command_line = command_line(given);
        let originals = gathered.originals_environment(&around.environment);
        let environment = gathered.environment(&around.environment);
        let named =
            [&command_line, &environment].into_iter().find_map(|layer| layer.0.get("config")).cloned();
        let file = match named {
            Some(path) if path.kind != ValueKind::from("") => gathered.file(&path, around),
            _ => Layer::default(),
        };
        let layers = [defaults(), file, originals, environment, command_line];
        match merge(layers) {
            Ok(mut values) => {
                let found = TABLE.iter().filter_map(|setting| Some((setting, values.remove(setting.key)?)));
                gathered.effective = found
                    .map(|(setting, value)| {
                        let origin = value.origin().unwrap_or(DEFAULT_ORIGIN).to_owned();
                        Effective { setting, text: value.kind.to_string(), origin }
                    })
                    .collect();
                gathered.place_spool(&around.environment);
                gathered.place_key(around);
            }
            Err(error) => gathered.problems.push(Problem::new("settings", "", error)),
        }
        gathered
    }

    /// A spool without a path has one that only the environment knows.
    fn place_spool(&mut self, environment: &BTreeMap<OsString, OsString>) {
        let unplaced =
            self.effective.iter_mut().find(|entry| entry.setting.key == "spool" && entry.text.is_empty());
        if let Some((entry, (path, variable))) = unplaced.zip(default_spool(environment)) {
            entry.text = path;
            entry.origin = format!("{DEFAULT_ORIGIN} by ${variable}");
        }
    }

    /// systemd's `LoadCredential=key:...` gives a key where no other source does.
    fn place_key(&mut self, around: &Surroundings<'_>) {
        let is_given = |entry: &Effective| !entry.text.is_empty() && entry.setting.key == "key";
        if self.effective.iter().any(is_given) {
            return;
        }
        let directory = around.environment.get(OsStr::new("CREDENTIALS_DIRECTORY"));
        let path = directory.map(|directory| Path::new(directory).join("key"));
        // The directory may be there for other credentials' sake.
        let path = path.filter(|path| (around.read_file)(path).map(Zeroizing::new).is_ok());
        let unplaced =
            self.effective.iter_mut().find(|entry| entry.setting.key == "key_file" && entry.text.is_empty());
        if let Some((entry, path)) =
            unplaced.zip(path.and_then(|path| path.into_os_string().into_string().ok()))
        {
            entry.text = path;
            entry.origin = format!("{DEFAULT_ORIGIN} by $CREDENTIALS_DIRECTORY");
        }
    }

    fn environment(&mut self, environment: &BTreeMap<OsString, OsString>) -> Layer {
        let mut layer = Layer::default();
        for (name, value) in environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENVIRONMENT_PREFIX)) else {
                continue;
            };
            let origin = format!("environment {name}");
            match (TABLE.iter().find(|setting| setting.environment() == name), value.to_str()) {
                (Some(setting), Some(text)) => layer.set(setting, several(setting, text), &origin),
                (Some(_), None) => self.problems.push(Problem::new(&origin, "", "is not UTF-8")),
                _ if name == ORIGINAL_NAMES => (),
                (None, text) if by_kubernetes(name, text.unwrap_or_default()) => (),
                (None, _) => {
                    let why = unknown(name, TABLE.iter().map(Setting::environment));
                    self.problems.push(Problem::new(name, "environment", why));
                }
            }
        }
        layer
    }

    /// The names of the original's image, where they are asked for. Its entrypoint passed on what was empty: here that
    /// is as if it were not set.
    fn originals_environment(&mut self, environment: &BTreeMap<OsString, OsString>) -> Layer {
        let mut layer = Layer::default();
        let asked = environment.get(OsStr::new(ORIGINAL_NAMES)).map(|asked| asked.to_string_lossy());
        match asked.as_deref().map(rules::boolean) {
            Some(Ok(true)) => {}
            Some(Err(why)) => {
                self.problems.push(Problem::new(ORIGINAL_NAMES, "environment", why));
                return layer;
            }
            _ => return layer,
        }
        for (setting, name) in TABLE.iter().filter_map(|setting| Some((setting, setting.original?))) {
            let origin = format!("environment {name}");
            match environment.get(OsStr::new(name)).map(|value| value.to_str()) {
                Some(Some(text)) if !text.is_empty() => layer.set(setting, several(setting, text), &origin),
                Some(None) => self.problems.push(Problem::new(&origin, "", "is not UTF-8")),
                _ => {}
            }
        }
        layer
    }

    fn file(&mut self, path: &Value, around: &Surroundings<'_>) -> Layer {
        let name = path.kind.to_string();
        let chosen_by = path.origin().unwrap_or(DEFAULT_ORIGIN);
        let path = PathBuf::from(&name);
        let origin = format!("file {name}");
        let format = FileKind::of(&path);
        let parsed = (around.read_file)(&path)
            .map_err(|error| format!("can't be read: {error} (it was named by the {chosen_by})"))
            .and_then(|text| {
                // Some editors put a byte order mark before the text.
                let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
                format.parse(None, text).map_err(|error| with_advice(without_snippet(&error.to_string())))
            });
        let entries = match parsed {
            Ok(entries) => BTreeMap::from_iter(entries),
            Err(why) => {
                self.problems.push(Problem::new(&origin, "", why));
                return Layer::default();
            }
        };
        let mut layer = Layer::default();
        for (key, value) in entries {
            match file_entry(&key, value.kind, format) {
                // The original ships an example in which `tenant=` is empty.
                Ok((setting, text))
                    if format == FileKind::Ini && text.is_empty() && setting.empty.is_none() =>
                {
                    let default = setting.shown(setting.default);
                    self.warnings.push(format!("{key} is empty in {origin}: its default is used, {default}"));
                }
                Ok((setting, text)) => layer.set(setting, text, &origin),
                Err(why) => self.problems.push(Problem::new(&key, &origin, why)),
            }
        }
        layer
    }
}

fn command_line(given: &ArgMatches) -> Layer {
    let mut layer = Layer::default();
    for setting in TABLE {
        if let Ok(Some(values)) = given.try_get_many::<String>(setting.key) {
            let values: Vec<&str> = values.map(String::as_str).collect();
            layer.set(setting, values.join("\n"), COMMAND_LINE_ORIGIN);
        }
    }
    layer
}

/// Kubernetes puts where each service is into the environment of every container beside it, and `blueflood-forward` is
/// what people call the service in front of us: these names are no mistakes.
fn by_kubernetes(name: &str, value: &str) -> bool {
    let of_service = ["SERVICE_HOST", "SERVICE_PORT", "PORT_"].iter().any(|part| name.contains(part));
    of_service || (name.ends_with("_PORT") && value.contains("://"))
}

/// One source's values, all of them text, under names that are known.
#[derive(Debug, Clone, Default)]
struct Layer(Map<String, Value>);

impl Layer {
    fn set(&mut self, setting: &Setting, text: String, origin: &str) {
        self.0.insert(setting.key.to_owned(), Value::new(Some(&origin.to_owned()), text));
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// Later layers win.
fn merge(layers: [Layer; 5]) -> Result<Map<String, Value>, ConfigError> {
    let builder = layers.into_iter().fold(Config::builder(), |builder, layer| builder.add_source(layer));
    builder.build()?.collect()
}

fn defaults() -> Layer {
    let mut layer = Layer::default();
    for setting in TABLE {
        layer.set(setting, setting.default.to_owned(), DEFAULT_ORIGIN);
    }
    layer
}

/// The spool's usual place, and the variable that decided it.
fn default_spool(environment: &BTreeMap<OsString, OsString>) -> Option<(String, &'static str)> {
    let places = [
        ("STATE_DIRECTORY", "spool.db"),
        ("XDG_STATE_HOME", "blueflood-forward/spool.db"),
        ("HOME", ".local/state/blueflood-forward/spool.db"),
    ];
    places.into_iter().find_map(|(variable, file)| {
        // systemd separates several directories by colons; the first one is as good as any.
        let directory = environment.get(OsStr::new(variable))?.to_str()?.split(':').next()?;
        let path = Path::new(directory).join(file).into_os_string().into_string().ok()?;
        (!directory.is_empty()).then_some((path, variable))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Toml,
    Yaml,
    Ini,
}

impl FileKind {
    /// Told by the name, the original's format being whatever is neither TOML nor YAML: it took any name.
    fn of(path: &Path) -> Self {
        let suffix = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
        match suffix.as_deref() {
            Some("toml") => Self::Toml,
            Some("yaml" | "yml") => Self::Yaml,
            _ => Self::Ini,
        }
    }
}

impl Format for FileKind {
    fn parse(
        &self,
        uri: Option<&String>,
        text: &str,
    ) -> Result<Map<String, Value>, Box<dyn std::error::Error + Send + Sync>> {
        match self {
            Self::Toml => FileFormat::Toml.parse(uri, text),
            Self::Yaml => FileFormat::Yaml.parse(uri, text),
            Self::Ini => Ini.parse(uri, text),
        }
    }
}

/// What a parser has to say, on one line and without the text of the file: a secret may stand in it.
fn without_snippet(error: &str) -> String {
    let lines = error.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains('|'));
    lines.collect::<Vec<_>>().join(": ")
}

/// TOML's parser gives up at a number that is too large, before anybody knows that it was to be a text.
fn with_advice(error: String) -> String {
    let is_of_numbers = ["number too large", "number too small", "overflowed", "invalid digit"];
    match is_of_numbers.iter().any(|words| error.contains(words)) {
        true => format!("{error}; a text of digits is written in quotes"),
        false => error,
    }
}

/// A file's key and value, if the one is known and the other is of a possible kind.
fn file_entry(key: &str, value: ValueKind, format: FileKind) -> Result<(&'static Setting, String), String> {
    let setting =
        setting(key).ok_or_else(|| unknown(key, TABLE.iter().map(|setting| setting.key.to_owned())))?;
    if setting.key == "config" {
        return Err("a file can't name another one: use the command line or the environment".to_owned());
    }
    let text = text_of(setting, value)?;
    Ok((setting, if format == FileKind::Ini { several(setting, &text) } else { text }))
}

/// Several values in one text: one a line, as the readers of values expect them.
fn several(setting: &Setting, text: &str) -> String {
    if !setting.kind.is_list() {
        return text.to_owned();
    }
    let mut values = String::new();
    for word in text.split_whitespace() {
        let mut before = "\n";
        for value in word.split(',').filter(|value| !value.is_empty()) {
            // The comma of `allow=10.0.0.0/8,127.0.0.1` is the endpoint's own: no network looks like `tcp:`.
            let kind = value.split_once(':').map_or("", |(kind, _)| kind);
            let begins = kind.starts_with(|first: char| first.is_ascii_alphabetic())
                && kind.chars().all(|character| character.is_ascii_alphanumeric());
            let goes_on = !begins && values.rsplit('\n').next().is_some_and(|last| last.contains(":allow="));
            values.push_str(if goes_on && before == "," { "," } else { "\n" });
            values.push_str(value);
            before = ",";
        }
    }
    values.trim_start().to_owned()
}

/// A value of a typed file as text.
fn text_of(setting: &Setting, kind: ValueKind) -> Result<String, String> {
    match kind {
        ValueKind::Nil => Ok(String::new()),
        ValueKind::Table(_) => Err("has keys of its own: write a plain value".to_owned()),
        ValueKind::Array(values) if setting.kind.is_list() => {
            let texts: Result<Vec<String>, String> =
                values.into_iter().map(|value| text_of(setting, value.kind)).collect();
            Ok(texts?.join("\n"))
        }
        ValueKind::Array(_) => Err("is a list: write one value".to_owned()),
        ValueKind::String(text) => Ok(text),
        _ if setting.kind.is_any_text() => Err(
            "is read as a number, or as true or false, whose text may be another (007 is 7): write it in \
                 quotes"
                .to_owned(),
        ),
        plain => Ok(plain.to_string()),
    }
}

/// What is said of a name that is not known, with the one that was probably meant.
fn unknown(name: &str, known: impl Iterator<Item = String>) -> String {
    let scored = known.map(|known| (strsim::jaro_winkler(name, &known), known));
    match scored.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
        Some((score, nearest)) if score > 0.8 => format!("is no setting: did you mean {nearest}?"),
        _ => "is no setting: see --help for all of them".to_owned(),
    }
}
