//! Owns the one table of settings: names, defaults, units, help, and the type each one becomes. The command line, the
//! environment's names, the files' keys, `check`, `config/blueflood-forward.toml` and `config/settings.md` all derive from
//! it. Never reads a source.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use actors::core::confirm::Way;
use actors::core::endpoint::Endpoint;
use actors::core::protocol::Protocol;
use actors::core::secret::{MASK, Secret};

use super::values::{self as read, bytes, choice, count, duration};
use super::values::{AuthType, CatchUp, Compress, LogFormat, QuerySide, SpoolFull, SpoolPlace, SpoolSync};

/// One setting, as people meet it.
#[derive(Debug)]
pub struct Setting {
    /// Its name in files and, behind two dashes, on the command line.
    pub key: &'static str,
    /// The letter of its short option.
    pub short: Option<char>,
    /// Under which heading it is shown.
    pub group: Group,
    /// What stands for its value in the help.
    pub value: &'static str,
    /// Its value when no source gives one.
    pub default: &'static str,
    /// What a plain number counts, if it is one.
    pub unit: &'static str,
    /// What an empty value means; "" if it may not be empty.
    pub empty: &'static str,
    /// Its environment variable in the original's image, if it had one.
    pub original: &'static str,
    /// Whether it may have several values.
    pub list: bool,
    /// Whether its value is never shown.
    pub secret: bool,
    help: &'static str,
}

impl Setting {
    const PLAIN: Self = Self {
        key: "",
        short: None,
        group: Group::General,
        value: "",
        default: "",
        unit: "",
        empty: "",
        original: "",
        list: false,
        secret: false,
        help: "",
    };

    /// What it does, in a sentence or two.
    pub fn help(&self) -> &'static str {
        self.help.trim()
    }

    /// Whether it may be any text at all: then a number in a typed file is no number, and its text counts.
    pub fn is_any_text(&self) -> bool {
        let is_judged =
            ["COUNT", "SECONDS", "SIZE", "TIME", "URL", "ADDRESS", "ENDPOINT"].contains(&self.value);
        !is_judged && !self.value.contains('|')
    }

    /// The name of its environment variable.
    pub fn environment(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.key.to_uppercase())
    }

    /// A value as it may be shown: with its unit, without secrets, in words if it is empty.
    pub fn shown(&self, value: &str) -> String {
        match value {
            "" => self.empty.to_owned(),
            number if !self.unit.is_empty() && number.parse::<f64>().is_ok() => {
                format!("{number} {}", self.unit)
            }
            text => self.masked(text),
        }
    }

    /// A value as it was written, without secrets.
    pub fn masked(&self, value: &str) -> String {
        if self.secret && !value.is_empty() {
            MASK.to_owned()
        } else {
            without_user(value).replace('\n', " ")
        }
    }
}

/// A URL with a user in it is refused, and the refusal must not show the password.
fn without_user(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (_, host))) => format!("{scheme}://{MASK}@{host}"),
        None => text.to_owned(),
    }
}

/// What every environment name of ours begins with.
pub const ENVIRONMENT_PREFIX: &str = "BLUEFLOOD_FORWARD_";

/// The environment variable that makes the names of the original's image count. They do not without it: on an ordinary
/// host `LIMIT` or `ENDPOINT` may be anybody's.
pub const ORIGINAL_NAMES: &str = "BLUEFLOOD_FORWARD_ORIGINAL_NAMES";

/// The headings under which settings are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Listeners and what they speak.
    In,
    /// Blueflood and how it is spoken to.
    Out,
    /// The spool.
    Kept,
    /// Log and figures.
    Seen,
    /// The rest.
    General,
}

impl Group {
    /// The heading in words.
    pub fn heading(self) -> &'static str {
        match self {
            Self::In => "What comes in",
            Self::Out => "Where it goes",
            Self::Kept => "What is kept",
            Self::Seen => "Seeing it",
            Self::General => "Options",
        }
    }
}

/// Makes of each entry a field of [`Settings`], a row of [`TABLE`] and a line of [`Settings::read`]: so none can be
/// forgotten, and the type can't disagree with the reader.
macro_rules! settings {
    ($($(#[doc = $help:literal])+ $key:ident: $type:ty = $read:expr, { $($field:ident: $value:expr,)* })*) => {
        /// Every setting, in the order in which they are shown.
        pub const TABLE: &[Setting] = &[$(
            Setting { key: stringify!($key), help: concat!($($help),+), $($field: $value,)* ..Setting::PLAIN },
        )*];

        /// What the daemon was told, checked and in real types. One field a row of the table.
        #[derive(Debug, Clone)]
        pub struct Settings { $($(#[doc = $help])+ pub $key: $type,)* }

        impl Settings {
            /// Reads every value, so that every error is heard: `text` finds a setting's text, `refuse` takes what
            /// is wrong with it. Nothing if anything was refused.
            pub(super) fn read<'a>(
                text: impl Fn(&str) -> &'a str,
                mut refuse: impl FnMut(&'static str, String),
            ) -> Option<Self> {
                $(let $key = $read(text(stringify!($key))).map_err(|why| refuse(stringify!($key), why)).ok();)*
                Some(Self { $($key: $key?,)* })
            }
        }
    };
}

settings! {
    /// Where metrics come in: tcp:2004, tcp:port=2004:interface=127.0.0.1:backlog=100, tcp6:2004, udp:2003,
    /// unix:/path:mode=660, tls:2004:privateKey=key.pem:certKey=cert.pem:caCerts=ca.pem or systemd:domain=INET:index=0
    /// (the first of a socket unit), each with :protocol=line, pickle or auto if it differs from --protocol, and
    /// :allow=10.0.0.0/8,127.0.0.1 if not everyone may send. May be repeated.
    endpoint: Vec<Endpoint> = read::endpoints, {
        group: Group::In, short: Some('e'), value: "ENDPOINT", default: "tcp:2004", list: true,
        original: "ENDPOINT",
    }
    /// What senders speak: pickle (from carbon-relay), line, or auto, which takes both and tells them apart by the first
    /// byte.
    protocol: Protocol = read::protocol, {
        group: Group::In, value: "pickle|line|auto", default: "auto",
    }
    /// Replace the time that each metric brings by the time of this host.
    overwrite_collection_timestamp: bool = read::boolean, {
        group: Group::In, value: "true|false", default: "false", empty: "false",
    }
    /// How many senders may be connected at once; more have to wait.
    connections: u32 = count(1..=1_000_000), {
        group: Group::In, value: "COUNT", default: "1024",
    }
    /// How long a sender may be silent before its connection is closed.
    idle_timeout: Duration = duration("600"), {
        group: Group::In, value: "TIME", default: "600", unit: "s",
    }

    /// The URL of Blueflood's ingest service.
    blueflood: String = read::blueflood_url, {
        group: Group::Out, short: Some('b'), value: "URL", default: "http://localhost:19000",
        original: "BLUEFLOOD_URL",
    }
    /// The URL of Blueflood's query service, where what it took is read back; off for none. auto is port 20000 of
    /// Blueflood's host, if a query service answers there.
    query: QuerySide = read::query, {
        group: Group::Out, value: "URL|auto|off", default: "auto",
    }
    /// When a datapoint counts as delivered. off: when Blueflood acknowledged it. witness: when a datapoint of our own
    /// (blueflood-forward.witness.HOST.SPOOL), sent after it, was stored. sample: when some datapoints of its request were
    /// read back, or all of them if there was a doubt. all: when it was read back itself.
    confirm: Option<Way> = read::confirm, {
        group: Group::Out, value: "off|witness|sample|all", empty: "sample where there is a query service, else off",
    }
    /// How long after Blueflood's answer it is read back. Cassandra marks what it wrote each 0.1 s: of what is younger, a
    /// kill of Cassandra can take away what was read back already.
    confirm_delay: Duration = read::duration_or_zero, {
        group: Group::Out, value: "TIME", default: "0.25", unit: "s",
    }
    /// The Blueflood tenant that owns the metrics.
    tenant: String = read::tenant, {
        group: Group::Out, short: Some('t'), value: "TENANT", default: "tenant",
        original: "TENANT_ID",
    }
    /// Put this and a dot before every metric's name.
    metric_prefix: String = read::text, {
        group: Group::Out, short: Some('p'), value: "PREFIX", empty: "no prefix",
        original: "METRIC_PREFIX",
    }
    /// How long Blueflood keeps each datapoint.
    ttl: u32 = read::ttl, {
        group: Group::Out, value: "SECONDS", default: "86400", unit: "s",
        original: "DEFAULT_TTL",
    }
    /// How often metrics are sent.
    interval: Duration = read::interval, {
        group: Group::Out, short: Some('i'), value: "TIME", default: "30", unit: "s",
        original: "METRICS_SEND_INTERVAL",
    }
    /// The user to authenticate as; with v3applicationcredential, the credential's id.
    user: String = read::text, {
        group: Group::Out, short: Some('u'), value: "USER", empty: "no authentication",
        original: "KEYSTONE_USER",
    }
    /// The user's API key, password or the credential's secret. Prefer --key_file, because everyone on this host can see a
    /// command line.
    key: Secret = read::secret, {
        group: Group::Out, short: Some('k'), value: "KEY", empty: "none", secret: true,
        original: "KEYSTONE_KEY",
    }
    /// A file that holds the key and nothing else. It is read again for every token, so a changed key needs no
    /// restart.
    key_file: Option<PathBuf> = read::path, {
        group: Group::Out, value: "FILE", empty: "$CREDENTIALS_DIRECTORY/key, if systemd gives one",
    }
    /// How tokens are asked for: Identity v2.0 with an API key or a password, or Keystone's v3 with a password or an
    /// application credential.
    auth_type: AuthType = choice(read::AUTH_TYPES), {
        group: Group::Out, value: "apikey|password|v3password|v3applicationcredential", default: "apikey",
    }
    /// The project of the token, for v3password. Write id:X or name:X if the value could be either.
    auth_project: String = read::text, {
        group: Group::Out, value: "PROJECT", empty: "none",
    }
    /// The domain of user and project, for v3password. Write id:X or name:X if the value could be either.
    auth_domain: String = read::text, {
        group: Group::Out, value: "DOMAIN", default: "default",
    }
    /// Where tokens are asked for when a user is set.
    auth_url: String = read::http_url, {
        group: Group::Out, value: "URL", default: "https://identity.api.rackspacecloud.com/v2.0/tokens",
        original: "AUTH_URL",
    }
    /// Certificates in PEM that are trusted besides the system's.
    ca_file: Option<PathBuf> = read::path, {
        group: Group::Out, value: "FILE", empty: "none",
    }
    /// A certificate of ours in PEM, for servers that ask who we are.
    cert_file: Option<PathBuf> = read::path, {
        group: Group::Out, value: "FILE", empty: "none",
    }
    /// The private key of --cert_file, in PEM.
    private_key_file: Option<PathBuf> = read::path, {
        group: Group::Out, value: "FILE", empty: "none",
    }
    /// Trust whoever answers, without looking at certificates. For trials only: it gives key and metrics to anyone.
    insecure: bool = read::boolean, {
        group: Group::Out, value: "true|false", default: "false", empty: "false",
    }
    /// How large a request may be before compression. 0 means the most that Blueflood takes, 1048576.
    limit: u64 = read::limit, {
        group: Group::Out, value: "SIZE", default: "0", unit: "bytes",
        original: "LIMIT",
    }
    /// How many datapoints a request may hold.
    max_rows: u32 = count(1..=100_000), {
        group: Group::Out, value: "COUNT", default: "2000",
    }
    /// How requests are compressed.
    compress: Compress = choice(&[("gzip", Compress::Gzip), ("none", Compress::None)]), {
        group: Group::Out, value: "gzip|none", default: "gzip",
    }
    /// How many requests may be under way at once.
    concurrency: u32 = count(1..=256), {
        group: Group::Out, value: "COUNT", default: "4",
    }
    /// How long Blueflood may take for its whole answer. Then the request is sent again.
    timeout: Duration = duration("60"), {
        group: Group::Out, value: "TIME", default: "60", unit: "s",
    }
    /// The longest pause between two tries while Blueflood is down.
    backoff_max: Duration = duration("60"), {
        group: Group::Out, value: "TIME", default: "60", unit: "s",
    }

    /// The file that holds what is not yet delivered. With :memory: there is no file, and the end of the process loses all
    /// of it; then the defaults are spool_full block and spool_max 256MiB.
    spool: SpoolPlace = read::spool, {
        group: Group::Kept, value: "PATH",
        empty: "$STATE_DIRECTORY/spool.db, else blueflood-forward/spool.db in $XDG_STATE_HOME or ~/.local/state",
    }
    /// What the spool survives. normal: the end of the process by any means. full: a power cut too; it writes more often.
    spool_sync: SpoolSync = choice(&[("normal", SpoolSync::Normal), ("full", SpoolSync::Full)]), {
        group: Group::Kept, value: "normal|full", default: "normal",
    }
    /// How large the spool may grow.
    spool_max: u64 = bytes(1 << 20), {
        group: Group::Kept, value: "SIZE", default: "1GiB", unit: "bytes",
    }
    /// What a full spool does. drop-oldest: it drops and counts the oldest metrics. block: it makes the senders wait.
    spool_full: SpoolFull = choice(&[("drop-oldest", SpoolFull::DropOldest), ("block", SpoolFull::Block)]), {
        group: Group::Kept, value: "drop-oldest|block", default: "drop-oldest",
    }
    /// Drop and count what could not be delivered for this long.
    max_age: Option<Duration> = read::max_age, {
        group: Group::Kept, value: "TIME", unit: "s", empty: "never",
    }
    /// How long a metric may wait before it is written to the spool: the most that kill -9 can take.
    seal_interval: Duration = duration("1"), {
        group: Group::Kept, value: "TIME", default: "1", unit: "s",
    }
    /// How long a sealed chunk may wait for Blueflood's answer before it is written, always within seal_interval. A chunk
    /// that is confirmed within this time is never written to disk. 0 writes everything first.
    spool_hold: Duration = read::duration_or_zero, {
        group: Group::Kept, value: "TIME", default: "0.1", unit: "s",
    }
    /// How much room the datapoints that Blueflood refused may take. The oldest go first.
    dead_letters_max: u64 = bytes(0), {
        group: Group::Kept, value: "SIZE", default: "64MiB", unit: "bytes",
    }
    /// What goes first after an outage.
    catch_up: CatchUp = choice(&[("oldest-first", CatchUp::OldestFirst), ("newest-first", CatchUp::NewestFirst)]), {
        group: Group::Kept, value: "oldest-first|newest-first", default: "oldest-first",
    }
    /// How long a stop may take to deliver what is held. What is left stays in the spool.
    shutdown_timeout: Duration = read::duration_or_zero, {
        group: Group::Kept, value: "TIME", default: "20", unit: "s",
    }

    /// Where its own figures are served over HTTP: /stats, /metrics, /healthz, /readyz, /delivering. Empty turns it off.
    stats: Option<SocketAddr> = read::stats, {
        group: Group::Seen, value: "ADDRESS", default: "127.0.0.1:8004", empty: "off",
    }
    /// Send its own figures as metrics too, as often as others, with this and a dot before their names.
    self_metrics: String = read::text, {
        group: Group::Seen, value: "PREFIX", empty: "off",
    }
    /// The least important messages to log.
    log_level: slog::Level = choice(read::LOG_LEVELS), {
        group: Group::Seen, value: "trace|debug|info|warning|error|critical", default: "info",
    }
    /// How messages look: text for people, json for machines. auto is text.
    log_format: LogFormat = choice(&[("auto", LogFormat::Text), ("text", LogFormat::Text), ("json", LogFormat::Json)]), {
        group: Group::Seen, value: "auto|text|json", default: "auto",
    }
    /// Log to this file. If the daemon makes it, only its owner may read it. A device, a pipe or the target of a link is
    /// written to, and never put aside.
    log_file: Option<PathBuf> = read::path, {
        group: Group::Seen, value: "PATH", empty: "standard error",
    }
    /// At which size a log file is put aside and a new one begun.
    log_file_max: u64 = bytes(1 << 10), {
        group: Group::Seen, value: "SIZE", default: "10MiB", unit: "bytes",
    }
    /// How many log files put aside are kept.
    log_file_keep: u32 = count(0..=1000), {
        group: Group::Seen, value: "COUNT", default: "5",
    }

    /// Read settings from this file: .toml, .yaml or .yml; any other name is the original's INI.
    config: Option<PathBuf> = read::path, {
        group: Group::General, short: Some('c'), value: "FILE", empty: "none",
    }
}

/// The row of a key.
pub fn setting(key: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.key == key)
}
