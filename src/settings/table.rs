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

use super::kind::Kind;
use super::rules::{self as rule, Count, OneOf, Rule, Size, Time};
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
    /// What kind of value it has.
    pub kind: Kind,
    /// What stands for its value in the help, where there is a better word than that of its kind.
    pub value: Option<&'static str>,
    /// Its text when no source gives one.
    pub default: &'static str,
    /// What an empty value means; `None` if it may not be empty.
    pub empty: Option<&'static str>,
    /// Its environment variable in the original's image, if it had one.
    pub original: Option<&'static str>,
    /// Whether a change of it waits for a restart.
    pub restart: Restart,
    /// Whether nearly everybody sets it: `-h` shows it then.
    pub usual: bool,
    help: &'static str,
}

/// Which change of a setting a reload can't apply: what the setting decides is made once, before the first actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// No change: each is applied.
    Never,
    /// Any change.
    Always,
    /// From empty to a value, and back.
    WhereSetOrUnset,
}

impl Setting {
    const PLAIN: Self = Self {
        key: "",
        short: None,
        group: Group::General,
        kind: Kind::Text,
        value: None,
        default: "",
        empty: None,
        original: None,
        restart: Restart::Never,
        usual: false,
        help: "",
    };

    /// What it does, in a sentence or two.
    pub fn help(&self) -> &'static str {
        self.help.trim()
    }

    /// What stands for its value in the help.
    pub fn placeholder(&self) -> String {
        self.value.map_or_else(|| self.kind.placeholder(), str::to_owned)
    }

    /// Whether a change takes effect at the next start only.
    pub fn needs_restart(&self, old: &str, new: &str) -> bool {
        match self.restart {
            Restart::Never => false,
            Restart::Always => old != new,
            Restart::WhereSetOrUnset => old.is_empty() != new.is_empty(),
        }
    }

    /// The name of its environment variable.
    pub fn environment(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.key.to_uppercase())
    }

    /// A value as it may be shown: with its unit, without secrets, in words if it is empty.
    pub fn shown(&self, value: &str) -> String {
        match value {
            "" => self.empty.unwrap_or_default().to_owned(),
            number if !self.kind.unit().is_empty() && number.parse::<f64>().is_ok() => {
                format!("{number} {}", self.kind.unit())
            }
            text => self.masked(text),
        }
    }

    /// A value as it was written, without secrets.
    pub fn masked(&self, value: &str) -> String {
        if self.kind.is_secret() && !value.is_empty() {
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
    /// The spool, and how long it keeps what.
    Kept,
    /// The log, and the figures of the daemon.
    Seen,
    /// What belongs under no other heading.
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
/// forgotten, and neither the type nor what is said of the kind can disagree with the rule.
macro_rules! settings {
    ($($(#[doc = $help:literal])+ $key:ident: $type:ty = $rule:ty, { $($field:ident: $value:expr,)* })*) => {
        /// Every setting, in the order in which they are shown.
        pub const TABLE: &[Setting] = &[$(
            Setting {
                key: stringify!($key),
                kind: <$rule as Rule>::KIND,
                help: concat!($($help),+),
                $($field: $value,)*
                ..Setting::PLAIN
            },
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
                $(let $key = <$rule>::read(text(stringify!($key))).map_err(|why| refuse(stringify!($key), why)).ok();)*
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
    endpoint: Vec<Endpoint> = rule::Endpoints, {
        group: Group::In, usual: true, short: Some('e'), default: "tcp:2004",
        original: Some("ENDPOINT"),
    }
    /// What senders speak: pickle (from carbon-relay), line, or auto, which takes both and tells them apart by the first
    /// byte.
    protocol: Protocol = rule::Protocol, {
        group: Group::In, default: "auto",
    }
    /// Replace the time that each metric brings by the time of this host.
    overwrite_collection_timestamp: bool = rule::Flag, {
        group: Group::In, default: "false", empty: Some("false"),
    }
    /// How many senders may be connected at once; more have to wait.
    connections: u32 = Count<1, 1_000_000>, {
        group: Group::In, restart: Restart::Always, default: "1024",
    }
    /// How long a sender may be silent before its connection is closed.
    idle_timeout: Duration = Time<600>, {
        group: Group::In, default: "600",
    }

    /// The URL of Blueflood's ingest service.
    blueflood: String = rule::BluefloodUrl, {
        group: Group::Out, usual: true, short: Some('b'), default: "http://localhost:19000",
        original: Some("BLUEFLOOD_URL"),
    }
    /// The URL of Blueflood's query service, where what it took is read back; off for none. auto is port 20000 of
    /// Blueflood's host, if a query service answers there.
    query: QuerySide = rule::Query, {
        group: Group::Out, default: "auto",
    }
    /// When a datapoint counts as delivered. off: when Blueflood acknowledged it. witness: when a datapoint of our own
    /// (blueflood-forward.witness.HOST.SPOOL), sent after it, was stored. sample: when some datapoints of its request were
    /// read back, or all of them if there was a doubt. all: when it was read back itself.
    confirm: Option<Way> = rule::Confirm, {
        group: Group::Out, empty: Some("sample where there is a query service, else off"),
    }
    /// How long after Blueflood's answer it is read back. Cassandra marks what it wrote each 0.1 s: of what is younger, a
    /// kill of Cassandra can take away what was read back already.
    confirm_delay: Duration = rule::TimeOrZero, {
        group: Group::Out, default: "0.25",
    }
    /// The Blueflood tenant that owns the metrics.
    tenant: String = rule::Tenant, {
        group: Group::Out, usual: true, short: Some('t'), value: Some("TENANT"), default: "tenant",
        original: Some("TENANT_ID"),
    }
    /// Put this and a dot before every metric's name.
    metric_prefix: String = rule::Text, {
        group: Group::Out, usual: true, short: Some('p'), value: Some("PREFIX"), empty: Some("no prefix"),
        original: Some("METRIC_PREFIX"),
    }
    /// How long Blueflood keeps each datapoint.
    ttl: u32 = rule::Ttl, {
        group: Group::Out, default: "86400",
        original: Some("DEFAULT_TTL"),
    }
    /// How often metrics are sent.
    interval: Duration = rule::Interval, {
        group: Group::Out, usual: true, short: Some('i'), default: "30",
        original: Some("METRICS_SEND_INTERVAL"),
    }
    /// The user to authenticate as; with v3applicationcredential, the credential's id.
    user: String = rule::Text, {
        group: Group::Out, usual: true, restart: Restart::WhereSetOrUnset, short: Some('u'), value: Some("USER"), empty: Some("no authentication"),
        original: Some("KEYSTONE_USER"),
    }
    /// The user's API key, password or the credential's secret. Prefer --key_file, because everyone on this host can see a
    /// command line.
    key: Secret = rule::Secret, {
        group: Group::Out, short: Some('k'), value: Some("KEY"), empty: Some("none"),
        original: Some("KEYSTONE_KEY"),
    }
    /// A file that holds the key and nothing else. It is read again for every token, so a changed key needs no
    /// restart.
    key_file: Option<PathBuf> = rule::File, {
        group: Group::Out, usual: true, empty: Some("$CREDENTIALS_DIRECTORY/key, if systemd gives one"),
    }
    /// How tokens are asked for: Identity v2.0 with an API key or a password, or Keystone's v3 with a password or an
    /// application credential.
    auth_type: AuthType = OneOf<AuthType>, {
        group: Group::Out, default: "apikey",
    }
    /// The project of the token, for v3password. Write id:X or name:X if the value could be either.
    auth_project: String = rule::Text, {
        group: Group::Out, value: Some("PROJECT"), empty: Some("none"),
    }
    /// The domain of user and project, for v3password. Write id:X or name:X if the value could be either.
    auth_domain: String = rule::Text, {
        group: Group::Out, value: Some("DOMAIN"), default: "default",
    }
    /// Where tokens are asked for when a user is set.
    auth_url: String = rule::Url, {
        group: Group::Out, default: "https://identity.api.rackspacecloud.com/v2.0/tokens",
        original: Some("AUTH_URL"),
    }
    /// Certificates in PEM that are trusted besides the system's.
    ca_file: Option<PathBuf> = rule::File, {
        group: Group::Out, empty: Some("none"),
    }
    /// A certificate of ours in PEM, for servers that ask who we are.
    cert_file: Option<PathBuf> = rule::File, {
        group: Group::Out, empty: Some("none"),
    }
    /// The private key of --cert_file, in PEM.
    private_key_file: Option<PathBuf> = rule::File, {
        group: Group::Out, empty: Some("none"),
    }
    /// Trust whoever answers, without looking at certificates. For trials only: it gives key and metrics to anyone.
    insecure: bool = rule::Flag, {
        group: Group::Out, default: "false", empty: Some("false"),
    }
    /// How large a request may be before compression. 0 means the most that Blueflood takes, 1048576.
    limit: u64 = rule::Limit, {
        group: Group::Out, default: "0",
        original: Some("LIMIT"),
    }
    /// How many datapoints a request may hold.
    max_rows: u32 = Count<1, 100_000>, {
        group: Group::Out, default: "2000",
    }
    /// How requests are compressed.
    compress: Compress = OneOf<Compress>, {
        group: Group::Out, restart: Restart::Always, default: "gzip",
    }
    /// How many requests may be under way at once.
    concurrency: u32 = Count<1, 256>, {
        group: Group::Out, default: "4",
    }
    /// How long Blueflood may take for its whole answer. Then the request is sent again.
    timeout: Duration = Time<60>, {
        group: Group::Out, default: "60",
    }
    /// The longest pause between two tries while Blueflood is down.
    backoff_max: Duration = Time<60>, {
        group: Group::Out, default: "60",
    }

    /// The file that holds what is not yet delivered. With :memory: there is no file, and the end of the process loses all
    /// of it; then the defaults are spool_full block and spool_max 256MiB.
    spool: SpoolPlace = rule::Spool, {
        group: Group::Kept, usual: true, restart: Restart::Always, value: Some("PATH"),
        empty: Some("$STATE_DIRECTORY/spool.db, else blueflood-forward/spool.db in $XDG_STATE_HOME or ~/.local/state"),
    }
    /// What the spool survives. normal: the end of the process by any means. full: a power cut too; it writes more often.
    spool_sync: SpoolSync = OneOf<SpoolSync>, {
        group: Group::Kept, restart: Restart::Always, default: "normal",
    }
    /// How large the spool may grow.
    spool_max: u64 = Size<{ 1 << 20 }>, {
        group: Group::Kept, default: "1GiB",
    }
    /// What a full spool does. drop-oldest: it drops and counts the oldest metrics. block: it makes the senders wait.
    spool_full: SpoolFull = OneOf<SpoolFull>, {
        group: Group::Kept, default: "drop-oldest",
    }
    /// Drop and count what could not be delivered for this long.
    max_age: Option<Duration> = rule::MaxAge, {
        group: Group::Kept, empty: Some("never"),
    }
    /// How long a metric may wait before it is written to the spool: the most that kill -9 can take.
    seal_interval: Duration = Time<1>, {
        group: Group::Kept, default: "1",
    }
    /// How long a sealed chunk may wait for Blueflood's answer before it is written, always within seal_interval. A chunk
    /// that is confirmed within this time is never written to disk. 0 writes everything first.
    spool_hold: Duration = rule::TimeOrZero, {
        group: Group::Kept, default: "0.1",
    }
    /// How much room the datapoints that Blueflood refused may take. The oldest go first.
    dead_letters_max: u64 = Size<0>, {
        group: Group::Kept, default: "64MiB",
    }
    /// What goes first after an outage.
    catch_up: CatchUp = OneOf<CatchUp>, {
        group: Group::Kept, restart: Restart::Always, default: "oldest-first",
    }
    /// How long a stop may take to deliver what is held. What is left stays in the spool.
    shutdown_timeout: Duration = rule::TimeOrZero, {
        group: Group::Kept, default: "20",
    }

    /// Where its own figures are served over HTTP: /stats, /metrics, /healthz, /readyz, /delivering. Empty turns it off.
    stats: Option<SocketAddr> = rule::Stats, {
        group: Group::Seen, usual: true, restart: Restart::Always, default: "127.0.0.1:8004", empty: Some("off"),
    }
    /// Send its own figures as metrics too, as often as others, with this and a dot before their names.
    self_metrics: String = rule::Text, {
        group: Group::Seen, value: Some("PREFIX"), empty: Some("off"),
    }
    /// The least important messages to log.
    log_level: slog::Level = OneOf<slog::Level>, {
        group: Group::Seen, usual: true, default: "info",
    }
    /// How messages look: text for people, json for machines. auto is text.
    log_format: LogFormat = OneOf<LogFormat>, {
        group: Group::Seen, restart: Restart::Always, default: "auto",
    }
    /// Log to this file. If the daemon makes it, only its owner may read it. A device, a pipe or the target of a link is
    /// written to, and never put aside.
    log_file: Option<PathBuf> = rule::File, {
        group: Group::Seen, restart: Restart::Always, value: Some("PATH"), empty: Some("standard error"),
    }
    /// At which size a log file is put aside and a new one begun.
    log_file_max: u64 = Size<{ 1 << 10 }>, {
        group: Group::Seen, restart: Restart::Always, default: "10MiB",
    }
    /// How many log files put aside are kept.
    log_file_keep: u32 = Count<0, 1000>, {
        group: Group::Seen, restart: Restart::Always, default: "5",
    }

    /// Read settings from this file: .toml, .yaml or .yml; any other name is the original's INI.
    config: Option<PathBuf> = rule::File, {
        group: Group::General, usual: true, restart: Restart::Always, short: Some('c'), empty: Some("none"),
    }
}

/// The row of a key.
pub fn setting(key: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.key == key)
}
