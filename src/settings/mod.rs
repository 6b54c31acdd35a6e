//! Owns the settings in two steps: what was typed and where (`sources`), then what it means, checked and in real types
//! (`table`, `rules`, `values`). Never reads the process's arguments, environment, files or clock by itself: they come in as
//! arguments.

mod arguments;
mod auth;
mod changes;
mod ini;
mod kind;
mod originals;
mod render;
mod rules;
mod schema;
mod sources;
mod table;
mod url;
mod values;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actors::core::confirm::Way;
use clap::ArgMatches;
use zeroize::Zeroize;

pub use arguments::{arguments, arguments_for};
pub use changes::Changes;
pub use kind::Kind;
pub use render::{example_toml, table_markdown};
pub use rules::LIMIT_BYTES_MAX;
pub use schema::schema;
pub use sources::{DEFAULT_ORIGIN, Surroundings};
pub use table::{ENVIRONMENT_PREFIX, Group, ORIGINAL_NAMES, Restart, Setting, Settings, TABLE, setting};
pub use values::{AuthType, CatchUp, Compress, LogFormat, QuerySide, SpoolFull, SpoolPlace, SpoolSync};

/// The port of Blueflood's query service, if nobody changed it.
const QUERY_PORT: u16 = 20000;

/// The text of one setting that counts, and the source that it came from.
#[derive(Clone)]
pub struct Effective {
    /// The row of the table.
    pub setting: &'static Setting,
    /// Its value as it was written; several, one a line. It may be a secret: [`Setting::shown`] is for people.
    pub text: String,
    /// `command line`, `environment BLUEFLOOD_FORWARD_TTL`, `file /etc/x.conf` or `default`.
    pub origin: String,
}

impl fmt::Debug for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?} ({})", self.setting.key, self.setting.masked(&self.text), self.origin)
    }
}

/// The key leaves no copy behind here. Those that the parsers of the sources made in passing are beyond our reach.
impl Drop for Effective {
    fn drop(&mut self) {
        if self.setting.kind.is_secret() {
            self.text.zeroize();
        }
    }
}

/// Settings that the daemon can run with.
#[derive(Debug)]
pub struct Loaded {
    /// What was set, in real types.
    pub settings: Settings,
    /// Every setting as it was written and where, in the order of the table.
    pub effective: Vec<Effective>,
    /// What an operator should hear of although it stops nothing.
    pub warnings: Vec<String>,
}

/// Settings that the daemon can't run with.
#[derive(Debug)]
pub struct Refused {
    /// All that is wrong, not only the first.
    pub problems: Vec<Problem>,
    /// Every setting as it was written and where, in the order of the table.
    pub effective: Vec<Effective>,
    /// What an operator should hear of besides.
    pub warnings: Vec<String>,
}

/// One thing that is wrong, in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting, or the source, that is at fault.
    pub key: String,
    /// Its value as it may be shown; empty if it has none.
    pub value: String,
    /// Where it comes from; empty if `key` says so already.
    pub origin: String,
    /// What is wrong, and what to do.
    pub why: String,
}

impl Problem {
    fn new(key: &str, origin: &str, why: impl fmt::Display) -> Self {
        Self { key: key.to_owned(), value: String::new(), origin: origin.to_owned(), why: why.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, " = {:?}", self.value)?;
        }
        if !self.origin.is_empty() {
            write!(f, " ({})", self.origin)?;
        }
        write!(f, ": {}", self.why)
    }
}

/// With less left before Cassandra's end than the default `--ttl`, it is no setting that is wrong.
const LEFT_MIN_S: u64 = 86_400;

/// What is wrong with `--ttl`.
enum TtlProblem {
    /// A shorter one would do.
    TooLong(String),
    /// None would: to refuse to start would lose more.
    NoneFits(String),
}

impl Settings {
    /// Finds out what counts among the arguments that were `given`, the environment, the file that they name and the
    /// defaults.
    ///
    /// # Errors
    /// Everything that is wrong, in every source and every setting at once.
    pub fn load(given: &ArgMatches, around: &Surroundings<'_>) -> Result<Loaded, Box<Refused>> {
        let sources::Gathered { mut effective, mut problems, mut warnings } =
            sources::Gathered::from(given, around);
        in_memory(&mut effective);
        warnings.extend(originals::doubts(&effective, &around.environment));
        let find = |key: &str| effective.iter().find(|entry| entry.setting.key == key);
        let problem = |key: &str, why: String| {
            let (value, origin) = find(key).map_or_else(Default::default, |entry| {
                (entry.setting.masked(&entry.text), entry.origin.clone())
            });
            Problem { key: key.to_owned(), value, origin, why }
        };
        let settings = Self::read(
            |key| find(key).map_or("", |entry| &entry.text),
            |key, why| problems.push(problem(key, why)),
        );
        if let Some(settings) = &settings {
            warnings.extend(settings.doubts());
            warnings.extend(quoted(&effective));
            warnings.extend(settings.auth_doubts(&effective, around));
            problems.extend(settings.auth_problems().map(|(key, why)| problem(key, why)));
            match settings.ttl_problem(around.now) {
                Some(TtlProblem::TooLong(why)) => problems.push(problem("ttl", why)),
                Some(TtlProblem::NoneFits(why)) => warnings.push(why),
                None => {}
            }
            problems.extend(settings.confirm_problem().map(|why| problem("confirm", why)));
        }
        match settings.filter(|_| problems.is_empty()) {
            Some(settings) => Ok(Loaded { settings, effective, warnings }),
            None => Err(Box::new(Refused { problems, effective, warnings })),
        }
    }

    /// Cassandra counts the second in which a datapoint ends in 32 bits. Beyond, Blueflood answers 200 and stores
    /// nothing.
    fn ttl_problem(&self, now: SystemTime) -> Option<TtlProblem> {
        let last = UNIX_EPOCH.checked_add(Duration::from_secs(i32::MAX.unsigned_abs().into()))?;
        let left = last.duration_since(now).unwrap_or_default().as_secs();
        let too_long = u64::from(self.ttl) > left;
        too_long.then(|| match left {
            LEFT_MIN_S.. => TtlProblem::TooLong(format!(
                "ends after 2038-01-19, which Cassandra can't count to: Blueflood would answer 200 and store nothing; \
                 write {left} or less"
            )),
            _ => TtlProblem::NoneFits(
                "by the clock of this host what is stored now ends after 2038-01-19, to which Cassandra counts from 5.0 \
                 on: an older one answers 200 and stores nothing; set the clock, if it is wrong"
                    .to_owned(),
            ),
        })
    }

    /// Nothing can be read back where there is nobody to ask.
    fn confirm_problem(&self) -> Option<String> {
        let reads = self.confirm.is_some_and(Way::reads);
        (reads && self.query == QuerySide::Off).then(|| {
            "wants Blueflood's query service, and query is off: write its URL there, or witness here"
                .to_owned()
        })
    }

    /// Where Blueflood's query service usually is: on another port of the same host.
    pub fn query_usual(&self) -> String {
        url::with_port(&self.blueflood, QUERY_PORT)
    }

    /// What is allowed, and probably not meant.
    fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.tenant.contains('.') {
            doubts.push(format!(
                "tenant {:?} has a dot in it: Blueflood joins tenant and metric by a dot, so a.b with metric c and \
                 tenant a with metric b.c are the same to it",
                self.tenant
            ));
        }
        doubts.extend(doubts_of_tenant(&self.tenant));
        doubts.extend(doubts_of_prefix("metric_prefix", &self.metric_prefix));
        doubts.extend(doubts_of_prefix("self_metrics", &self.self_metrics));
        if let Some(address) = self.stats.filter(|address| !address.ip().is_loopback()) {
            doubts.push(format!("stats {address} can be reached from other hosts, and asks for no password"));
        }
        doubts
    }
}

/// Docker's env files and INI files leave quotes, and comments behind a value, where they are: the tenant becomes
/// another, which nobody reads.
fn doubts_of_tenant(tenant: &str) -> Option<String> {
    let found: Vec<&str> = [
        (tenant.contains(QUOTES), "quotes"),
        (tenant.contains(char::is_whitespace), "a blank"),
        (tenant.contains(['#', ';']), "the sign of a comment"),
    ]
    .into_iter()
    .filter_map(|(is_there, what)| is_there.then_some(what))
    .collect();
    (!found.is_empty()).then(|| {
        format!(
            "tenant {tenant:?} has {} in it, and is used with that: an env file and an INI leave quotes, and what stands \
             behind a value, where they are; write only the tenant",
            found.join(" and ")
        )
    })
}

fn doubts_of_prefix(key: &str, prefix: &str) -> Option<String> {
    let found = if prefix.contains(char::is_whitespace) {
        "has a blank in it: Graphite's line protocol and its queries end a name there"
    } else if prefix.starts_with('.') || prefix.ends_with('.') || prefix.contains("..") {
        "makes names with an empty part in them: write it without dots at its ends, for one is put behind it"
    } else {
        return None;
    };
    Some(format!("{key} {prefix:?} {found}"))
}

const QUOTES: [char; 2] = ['"', '\''];

/// Values that stand in quotes, which count as part of them. The tenant's are told of with all else that it may have.
fn quoted(effective: &[Effective]) -> impl Iterator<Item = String> {
    let is_quoted = |text: &str| {
        QUOTES.iter().any(|&quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote))
    };
    let quoted = effective
        .iter()
        .filter(move |entry| entry.setting.key != "tenant" && entry.text.lines().any(is_quoted));
    quoted.map(|entry| {
        format!(
            "{} ({}) stands in quotes, which are taken for part of it: write it without",
            entry.setting.key, entry.origin
        )
    })
}

/// A spool in memory has other defaults: it is smaller than a file may be, and makes the senders wait, since what it
/// would drop is nowhere else.
fn in_memory(effective: &mut [Effective]) {
    if !effective.iter().any(|entry| entry.setting.key == "spool" && entry.text == ":memory:") {
        return;
    }
    for (key, text) in [("spool_max", "256MiB"), ("spool_full", "block")] {
        let unset =
            |entry: &&mut Effective| entry.setting.key == key && entry.origin == sources::DEFAULT_ORIGIN;
        if let Some(entry) = effective.iter_mut().find(unset) {
            entry.text = text.to_owned();
            entry.origin = "default of a spool in :memory:".to_owned();
        }
    }
}

#[cfg(test)]
mod tests;
