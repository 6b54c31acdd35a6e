//! Owns the rules of values: how the text of one setting becomes a value, what is said when it does not, and of which
//! [`Kind`] it is. A row of the table names a rule, and all else follows from that. Never looks at a second setting: what
//! two of them must agree on is checked in `settings`.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use actors::core::confirm::Way;
use actors::core::endpoint::Endpoint;
use actors::core::protocol;
use actors::core::secret;

use super::kind::Kind;
use super::url;
use super::values::{QuerySide, SpoolPlace, Word, words};

/// How a setting is read.
pub trait Rule {
    /// What it is read as.
    type Value;

    /// What kind of value that is, for all who describe it.
    const KIND: Kind;

    /// Reads a text.
    ///
    /// # Errors
    /// What to write instead.
    fn read(text: &str) -> Result<Self::Value, String>;
}

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

/// One of a few words, in any case.
pub struct OneOf<T>(PhantomData<T>);

impl<T: Word> Rule for OneOf<T> {
    type Value = T;
    const KIND: Kind = Kind::Words(words::<T>);

    fn read(text: &str) -> Result<T, String> {
        let known = T::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        known.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
            format!("write one of {}", words.join(", "))
        })
    }
}

/// A whole number within bounds.
pub struct Count<const LEAST: u32, const MOST: u32>;

impl<const LEAST: u32, const MOST: u32> Rule for Count<LEAST, MOST> {
    type Value = u32;
    const KIND: Kind = Kind::Count;

    fn read(text: &str) -> Result<u32, String> {
        match text.parse() {
            Ok(number) if (LEAST..=MOST).contains(&number) => Ok(number),
            _ => Err(format!("write a whole number from {LEAST} to {MOST}")),
        }
    }
}

/// A size in bytes, not below `LEAST`: `1048576`, `10MiB`, `64M`. K, M, G and T are powers of 1024, with iB or B or
/// without, so that nothing hangs on a letter that people leave out.
pub struct Size<const LEAST: u64>;

impl<const LEAST: u64> Rule for Size<LEAST> {
    type Value = u64;
    const KIND: Kind = Kind::Size;

    fn read(text: &str) -> Result<u64, String> {
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
            Some(size) if size < LEAST => Err(format!("write at least {LEAST} bytes")),
            // SQLite and seek offsets are signed.
            Some(size) if i64::try_from(size).is_ok() => Ok(size),
            _ => Err("write bytes, or a size such as 10MiB or 1GiB".to_owned()),
        }
    }
}

/// A time that is not too short to wait for. The error proposes `USUAL` seconds.
pub struct Time<const USUAL: u32>;

impl<const USUAL: u32> Rule for Time<USUAL> {
    type Value = Duration;
    const KIND: Kind = Kind::Time;

    fn read(text: &str) -> Result<Duration, String> {
        long_enough(text, &USUAL.to_string())
    }
}

/// A rule without parameters: its kind, and the function that reads a text.
macro_rules! rule {
    ($(#[doc = $doc:literal])+ $name:ident: $value:ty = $kind:expr, $read:expr) => {
        $(#[doc = $doc])+
        pub struct $name;

        impl Rule for $name {
            type Value = $value;
            const KIND: Kind = $kind;

            fn read(text: &str) -> Result<$value, String> {
                let read: fn(&str) -> Result<$value, String> = $read;
                read(text)
            }
        }
    };
}

rule! {
    /// A time that may be nothing.
    TimeOrZero: Duration = Kind::Time, time
}
rule! {
    /// The time between two sends.
    Interval: Duration = Kind::Time, interval
}
rule! {
    /// A time after which undelivered metrics are given up; empty for never.
    MaxAge: Option<Duration> = Kind::Time, |text| optional(text, |text| long_enough(text, "7d"))
}
rule! {
    /// Whole seconds that Cassandra can keep a datapoint.
    Ttl: u32 = Kind::Seconds, |text| {
        Count::<1, TTL_SECONDS_MAX>::read(text)
            .map_err(|why| format!("{why} (seconds; Cassandra keeps nothing longer)"))
    }
}
rule! {
    /// Yes or no.
    Flag: bool = Kind::Flag, boolean
}
rule! {
    /// Endpoints, one a line, none of them twice.
    Endpoints: Vec<Endpoint> = Kind::Endpoints, endpoints
}
rule! {
    /// What senders speak. The original's names of it are read too.
    Protocol: protocol::Protocol = Kind::Words(|| vec!["pickle", "line", "auto"]), str::parse
}
rule! {
    /// The part of Blueflood's payload in bytes, 0 being all that it takes.
    Limit: u64 = Kind::Size, limit
}
rule! {
    /// A base URL, without the slashes at its end.
    Url: String = Kind::Url, http_url
}
rule! {
    /// Blueflood's base URL, to which the paths that it knows are added.
    BluefloodUrl: String = Kind::Url, blueflood_url
}
rule! {
    /// Blueflood's query service: its base URL, `auto` or `off`.
    Query: QuerySide = Kind::UrlOr(&["auto", "off"]), query
}
rule! {
    /// The ways to confirm what Blueflood acknowledged; empty: by samples where that can be done.
    Confirm: Option<Way> = Kind::Words(words::<Way>), |text| optional(text, OneOf::<Way>::read)
}
rule! {
    /// A tenant's name as Blueflood can tell it from the rest of a path.
    Tenant: String = Kind::Text, tenant
}
rule! {
    /// The address of the figures; empty for none.
    Stats: Option<SocketAddr> = Kind::Address, |text| optional(text, stats)
}
rule! {
    /// The spool's file.
    Spool: SpoolPlace = Kind::File, spool
}
rule! {
    /// A path; empty for none.
    File: Option<PathBuf> = Kind::File, |text| optional(text, |text| Ok(text.into()))
}
rule! {
    /// Any text.
    Text: String = Kind::Text, |text: &str| Ok(text.to_owned())
}
rule! {
    /// Any text that is not shown.
    Secret: secret::Secret = Kind::Secret, |text: &str| Ok(secret::Secret::new(text.to_owned()))
}

/// Reads a text that may be empty.
fn optional<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { read(text).map(Some) }
}

/// A time that is not too short to wait for; `usual` is what the error proposes.
fn long_enough(text: &str, usual: &str) -> Result<Duration, String> {
    match time(text)? {
        time if time < DURATION_MIN => Err(format!("must be at least 0.001: write for example {usual}")),
        time => Ok(time),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    long_enough(text, "0.1").map_err(|why| match text {
        "0" => format!("{why} to send almost at once (the original took 0 for every turn of its reactor)"),
        _ => why,
    })
}

/// A time: plain seconds with fractions, or `500ms`, `10min`, `2d`.
fn time(text: &str) -> Result<Duration, String> {
    let read = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    match read {
        Some(time) if time > DURATION_MAX => Err("is more than ten years".to_owned()),
        Some(time) => Ok(time),
        None => Err("write seconds (30, 0.5) or a time such as 500ms, 10min or 2d".to_owned()),
    }
}

/// The words for yes and no. The original took every word for yes, `False` and `0` among them.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

fn endpoints(text: &str) -> Result<Vec<Endpoint>, String> {
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

fn limit(text: &str) -> Result<u64, String> {
    match Size::<0>::read(text)? {
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

fn http_url(text: &str) -> Result<String, String> {
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

fn blueflood_url(text: &str) -> Result<String, String> {
    let url = http_url(text)?;
    url::base_of_blueflood(&url).map(|()| url)
}

fn query(text: &str) -> Result<QuerySide, String> {
    match text {
        "auto" => Ok(QuerySide::Auto),
        "off" => Ok(QuerySide::Off),
        url => blueflood_url(url).map(QuerySide::At).map_err(|why| format!("{why}, or auto, or off")),
    }
}

fn tenant(text: &str) -> Result<String, String> {
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

fn stats(text: &str) -> Result<SocketAddr, String> {
    let example = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok()).unwrap_or("8004");
    text.parse().map_err(|_| format!("write an IP address and a port, for example 127.0.0.1:{example}"))
}

fn spool(text: &str) -> Result<SpoolPlace, String> {
    match text {
        ":memory:" => Ok(SpoolPlace::Memory),
        "" => Err("none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set to find a place for it: write a path, \
                   or :memory: to keep nothing"
            .to_owned()),
        path => Ok(SpoolPlace::File(path.into())),
    }
}
