//! Owns how the text of one setting becomes a value, and what is said when it does not. Never looks at a second
//! setting: what two of them must agree on is checked in `settings`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use actors::core::confirm::Way;
use actors::core::endpoint::Endpoint;
use actors::core::protocol::Protocol;
use actors::core::secret::Secret;
use slog::Level;

use super::url;

/// Blueflood never answers a body over this many bytes (measured), so none is sent.
pub const LIMIT_BYTES_MAX: u64 = 1_048_576;

/// The limit of the original's own tests. A smaller one could not hold a row with a name of ordinary length.
const LIMIT_BYTES_MIN: u64 = 1024;

/// Cassandra's own bound on a time to live: 20 years.
const TTL_SECONDS_MAX: u32 = 630_720_000;

/// A timer that is due more often than this would do nothing but wake up.
const DURATION_MIN: Duration = Duration::from_millis(1);

/// Longer waits are typing errors, and would overflow the clock if they were added to it.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The names of the levels, as they are written and read.
pub const LOG_LEVELS: &[(&str, Level)] = &[
    ("trace", Level::Trace),
    ("debug", Level::Debug),
    ("info", Level::Info),
    ("warning", Level::Warning),
    ("warn", Level::Warning),
    ("error", Level::Error),
    ("critical", Level::Critical),
];

/// How tokens are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// Identity v2.0, an API key: the original's only way.
    ApiKey,
    /// Identity v2.0, a password.
    Password,
    /// Identity v3, a password.
    V3Password,
    /// Identity v3, an application credential.
    V3ApplicationCredential,
}

/// How request bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// `Content-Encoding: gzip`.
    Gzip,
    /// Plain JSON.
    None,
}

/// Where the spool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpoolPlace {
    /// Nowhere: what is held is lost with the process.
    Memory,
    /// In this file.
    File(PathBuf),
}

/// What the spool survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolSync {
    /// The end of the process by any means.
    Normal,
    /// A power cut too.
    Full,
}

/// What a full spool does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolFull {
    /// Drops the oldest, and counts them.
    DropOldest,
    /// Makes the senders wait.
    Block,
}

/// What goes first after an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// The order in which it came in.
    OldestFirst,
    /// What is fresh; the backlog fills what room is left.
    NewestFirst,
}

/// Where Blueflood's query side is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuerySide {
    /// On port 20000 of Blueflood's host, if something answers there as it does.
    Auto,
    /// Nowhere for us.
    Off,
    /// Here.
    At(String),
}

/// How log records look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// The names of the ways to ask for a token.
pub const AUTH_TYPES: &[(&str, AuthType)] = &[
    ("apikey", AuthType::ApiKey),
    ("password", AuthType::Password),
    ("v3password", AuthType::V3Password),
    ("v3applicationcredential", AuthType::V3ApplicationCredential),
];

/// One of a few words.
pub fn choice<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let known = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        known.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("write one of {}", names.join(", "))
        })
    }
}

/// A whole number within bounds.
pub fn count(bounds: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> {
    move |text| match text.parse() {
        Ok(number) if bounds.contains(&number) => Ok(number),
        _ => Err(format!("write a whole number from {} to {}", bounds.start(), bounds.end())),
    }
}

/// A size in bytes, not below `least`: `1048576`, `10MiB`, `64M`. K, M, G and T are powers of 1024, with iB or B or
/// without, so that nothing hangs on a letter that people leave out.
pub fn bytes(least: u64) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (number, suffix) = text.split_at_checked(digits).unwrap_or((text, ""));
        let power = match suffix.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => Some(0),
            "k" | "kb" | "kib" => Some(1),
            "m" | "mb" | "mib" => Some(2),
            "g" | "gb" | "gib" => Some(3),
            "t" | "tb" | "tib" => Some(4),
            _ => None,
        };
        let factor = power.map(|power| 1024_u64.pow(power));
        let size =
            number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        match size {
            Some(size) if size < least => Err(format!("write at least {least} bytes")),
            // SQLite and seek offsets are signed.
            Some(size) if i64::try_from(size).is_ok() => Ok(size),
            _ => Err("write bytes, or a size such as 10MiB or 1GiB".to_owned()),
        }
    }
}

/// A time that is not too short to wait for; `usual` is what the error proposes.
pub fn duration(usual: &'static str) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| match duration_or_zero(text)? {
        time if time < DURATION_MIN => Err(format!("must be at least 0.001: write for example {usual}")),
        time => Ok(time),
    }
}

/// A time: plain seconds with fractions, or `500ms`, `10min`, `2d`.
pub fn duration_or_zero(text: &str) -> Result<Duration, String> {
    let time = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    match time {
        Some(time) if time > DURATION_MAX => Err("is more than ten years".to_owned()),
        Some(time) => Ok(time),
        None => Err("write seconds (30, 0.5) or a time such as 500ms, 10min or 2d".to_owned()),
    }
}

/// The time between two sends.
pub fn interval(text: &str) -> Result<Duration, String> {
    duration("0.1")(text).map_err(|why| match text {
        "0" => format!("{why} to send almost at once (the original took 0 for every turn of its reactor)"),
        _ => why,
    })
}

/// A time after which undelivered metrics are given up; empty for never.
pub fn max_age(text: &str) -> Result<Option<Duration>, String> {
    if text.is_empty() { Ok(None) } else { duration("7d")(text).map(Some) }
}

/// Whole seconds that Cassandra can keep a datapoint.
pub fn ttl(text: &str) -> Result<u32, String> {
    count(1..=TTL_SECONDS_MAX)(text).map_err(|why| format!("{why} (seconds; Cassandra keeps nothing longer)"))
}

/// The words for yes and no. The original took every word for yes, `False` and `0` among them.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// Endpoints, one a line, none of them twice.
pub fn endpoints(text: &str) -> Result<Vec<Endpoint>, String> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for line in text.lines() {
        let endpoint: Endpoint = line.parse().map_err(|why| format!("{line:?}: {why}"))?;
        if endpoints.iter().any(|other| other.transport == endpoint.transport) {
            return Err(format!("{line:?} is given twice"));
        }
        endpoints.push(endpoint);
    }
    if endpoints.is_empty() { Err("write for example tcp:2004".to_owned()) } else { Ok(endpoints) }
}

/// What senders speak.
pub fn protocol(text: &str) -> Result<Protocol, String> {
    text.parse()
}

/// The part of Blueflood's payload in bytes, 0 being all that it takes.
pub fn limit(text: &str) -> Result<u64, String> {
    match bytes(0)(text)? {
        0 => Ok(LIMIT_BYTES_MAX),
        size if size > LIMIT_BYTES_MAX => Err(format!(
            "write {LIMIT_BYTES_MAX} or less, or 0 for just that: Blueflood never answers a larger request"
        )),
        size if size < LIMIT_BYTES_MIN => {
            Err(format!("write at least {LIMIT_BYTES_MIN}: less may not hold a single datapoint"))
        }
        size => Ok(size),
    }
}

/// A base URL, without the slashes at its end.
pub fn http_url(text: &str) -> Result<String, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("has no scheme: write http://{}", text.trim_start_matches('/')));
    };
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(format!("the scheme is {scheme}: write http:// or https://"));
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err("has a user in it: write it without, and set user and key".to_owned());
    }
    if rest.contains(['?', '#']) {
        return Err("has a query in it: write only scheme, host, port and path".to_owned());
    }
    if rest.chars().any(|character| character.is_whitespace() || character.is_control()) {
        return Err("has white space in it: write it without".to_owned());
    }
    // An IPv6 address has colons of its own, within brackets.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if host.is_empty() {
        return Err(format!("has no host: write for example {scheme}://localhost:19000"));
    }
    // It knows more of addresses that stand there without their brackets.
    url::addressed(text)?;
    match port.map(str::parse::<u16>) {
        Some(Err(_) | Ok(0)) => Err("its port is no number from 1 to 65535".to_owned()),
        _ => url::requestable(text).map(|()| text.trim_end_matches('/').to_owned()),
    }
}

/// Blueflood's base URL, to which the paths that it knows are added.
pub fn blueflood_url(text: &str) -> Result<String, String> {
    let url = http_url(text)?;
    url::base_of_blueflood(&url).map(|()| url)
}

/// Blueflood's query side: its base URL, `auto` or `off`.
pub fn query(text: &str) -> Result<QuerySide, String> {
    match text {
        "auto" => Ok(QuerySide::Auto),
        "off" => Ok(QuerySide::Off),
        url => blueflood_url(url).map(QuerySide::At).map_err(|why| format!("{why}, or auto, or off")),
    }
}

/// The ways to confirm what Blueflood acknowledged; empty: by samples where that can be done.
pub fn confirm(text: &str) -> Result<Option<Way>, String> {
    const WORDS: &[(&str, Way)] =
        &[("off", Way::Off), ("witness", Way::Witness), ("sample", Way::Sample), ("all", Way::All)];
    if text.is_empty() { Ok(None) } else { choice(WORDS)(text).map(Some) }
}

/// A tenant's name as Blueflood can tell it from the rest of a path.
pub fn tenant(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty: write the name of your Blueflood tenant".to_owned());
    }
    if text.contains('/') || text.chars().any(char::is_control) {
        return Err(
            "write it without slashes and control characters: Blueflood could not find it again".to_owned()
        );
    }
    Ok(text.to_owned())
}

/// The address of the figures; empty for none.
pub fn stats(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let example = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok()).unwrap_or("8004");
    text.parse()
        .map(Some)
        .map_err(|_| format!("write an IP address and a port, for example 127.0.0.1:{example}"))
}

/// The spool's file.
pub fn spool(text: &str) -> Result<SpoolPlace, String> {
    match text {
        ":memory:" => Ok(SpoolPlace::Memory),
        "" => Err("none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set to find a place for it: write a path, \
                   or :memory: to keep nothing"
            .to_owned()),
        path => Ok(SpoolPlace::File(path.into())),
    }
}

/// A path; empty for none.
pub fn path(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| text.into()))
}

/// Any text.
pub fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// Any text that is not shown.
pub fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::new(text.to_owned()))
}
