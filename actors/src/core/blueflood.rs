//! Owns Blueflood's contract: what each answer to an ingest POST means, and which rows it names.
//! It never decides what happens next; that is [`super::outbox`].
//!
//! Everything here was measured on the real server (`actors/contract/blueflood.md`, "How this was measured").

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use serde::Deserialize;

use super::{printable::printable, row::RowsRef};

/// Bytes of a body, after inflation, over which Blueflood does not answer at all (`actors/contract/blueflood.md`, "The body
/// and its limit").
pub const BODY_BYTES_MAX: usize = 1_048_576;

/// What one POST came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Every row is stored.
    Stored,
    /// Blueflood's store timed out: perhaps stored, and writing the same again is harmless (`actors/contract/blueflood.md`,
    /// "Cassandra away or slow").
    Unconfirmed,
    /// The named rows are refused, the rest is stored.
    StoredExcept {
        /// The named rows.
        errors: Vec<RowError>,
        /// What the answer says beside them: other rows are refused too, and it does not say which.
        unexplained: Option<String>,
    },
    /// Nothing is stored, and the named rows are why.
    Refused(Vec<RowError>),
    /// Nothing is stored, and the answer does not say which row is why.
    RefusedWhole(String),
    /// The token is missing, wrong or out of date.
    Unauthorized,
    /// The body is too large for something on the way.
    TooLarge,
    /// A setting of ours must be wrong: nothing will pass until somebody changes it.
    Misconfigured(String),
    /// Nothing that Blueflood is known to answer: nothing will pass until somebody looks.
    Unexpected(String),
    /// An answer that tells of a failure: it may pass by itself, or the payload may have caused it.
    Failing {
        /// The HTTP status: 408, 429, or 500 and more.
        status: u16,
        /// What was seen, for the log.
        cause: String,
        /// Blueflood's own word on when to come back.
        retry_after: Option<Duration>,
    },
    /// Nobody was reached: nothing was sent, and it passes by itself.
    Unreachable {
        /// What was seen, for the log.
        cause: String,
    },
    /// No whole answer came: the rows may be stored or not, and sending them again is harmless.
    NoAnswer {
        /// What was seen, for the log.
        cause: String,
        /// Whether it can come of the body's size: a time-out, or a pipe broken while it was sent
        /// (`actors/contract/blueflood.md`, "The body and its limit").
        may_be_size: bool,
    },
}

impl Verdict {
    /// Whether Blueflood says that it took the payload, but for rows that it names.
    pub fn took_payload(&self) -> bool {
        matches!(self, Verdict::Stored | Verdict::Unconfirmed | Verdict::StoredExcept { .. })
    }

    /// Whether Blueflood judged the payload, or rows of it, and so works.
    pub fn names_rows(&self) -> bool {
        matches!(self, Verdict::Refused(_) | Verdict::RefusedWhole(_) | Verdict::TooLarge)
    }

    /// Whether every row is stored, or its refusal is told: the operator need not look.
    pub fn is_success(&self) -> bool {
        matches!(
            self,
            Verdict::Stored | Verdict::StoredExcept { unexplained: None, .. } | Verdict::Refused(_)
        )
    }

    /// Whether something answered.
    pub fn reached_blueflood(&self) -> bool {
        !matches!(self, Verdict::Unreachable { .. } | Verdict::NoAnswer { .. })
    }

    /// What an answer speaks of that settles no row.
    pub fn blame(&self) -> Blame {
        match self {
            // Its store is slow. No payload is the cause of that.
            Verdict::Unconfirmed | Verdict::Failing { status: 408 | 429, .. } => Blame::RateLimit,
            Verdict::Failing { status: 503, .. } => Blame::Unavailable,
            Verdict::Failing { status: 502 | 504, .. } => Blame::Gateway,
            Verdict::Failing { .. } | Verdict::NoAnswer { .. } => Blame::Payload,
            _ => Blame::Endpoint,
        }
    }

    /// Whether what was in the payload may be the cause of a failure. Who says when to come back means it for all.
    pub fn may_be_the_payload(&self) -> bool {
        self.retry_after().is_none()
            && matches!(self.blame(), Blame::Unavailable | Blame::Gateway | Blame::Payload)
    }

    /// What only another setting mends, where there are credentials or not.
    pub fn misfit(&self, authenticates: bool) -> Option<&str> {
        match self {
            Verdict::Unauthorized if !authenticates => {
                Some("HTTP 401: Blueflood wants a token, and no --user is set")
            }
            Verdict::Misconfigured(text) | Verdict::Unexpected(text) => Some(text),
            _ => None,
        }
    }

    /// Blueflood's own word on when to come back.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Verdict::Failing { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the payload's size may be the cause.
    pub fn may_be_its_size(&self) -> bool {
        matches!(self, Verdict::NoAnswer { may_be_size: true, .. })
    }

    /// The class of the status that was answered, or what came instead of one; nothing if no request was made.
    pub fn class(&self) -> Option<&'static str> {
        let class = |status: u16| Self::CLASSES.get(usize::from(status / 100).saturating_sub(2)).copied();
        match self {
            Verdict::Stored | Verdict::Unconfirmed | Verdict::StoredExcept { .. } => class(200),
            Verdict::Refused(_) | Verdict::RefusedWhole(_) | Verdict::Unauthorized | Verdict::TooLarge => {
                class(400)
            }
            Verdict::Failing { status, .. } => class(*status),
            Verdict::Misconfigured(text) | Verdict::Unexpected(text) => {
                let digit = text.split_once("HTTP ").and_then(|(_, rest)| rest.chars().next()?.to_digit(10));
                digit
                    .and_then(|digit| class(u16::try_from(digit).ok()?.saturating_mul(100)))
                    .or(Some(Self::NO_ANSWER))
            }
            Verdict::NoAnswer { .. } => Some(Self::NO_ANSWER),
            Verdict::Unreachable { .. } => None,
        }
    }

    /// No whole answer came, or none that is HTTP.
    const NO_ANSWER: &'static str = "no_answer";

    /// Every class.
    pub const CLASSES: [&'static str; 5] = ["2xx", "3xx", "4xx", "5xx", Self::NO_ANSWER];

    /// What it is, in words for an operator.
    pub fn words(&self) -> String {
        let named = |errors: &[RowError]| match errors.first() {
            Some(error) => format!("refused for {}: {}", error.field, error.message),
            None => "refused".to_owned(),
        };
        match self {
            Verdict::Stored => "stored".to_owned(),
            Verdict::Unconfirmed => "HTTP 202: Blueflood's store timed out".to_owned(),
            Verdict::StoredExcept { unexplained: Some(text), .. } => format!("HTTP 207: {text}"),
            Verdict::StoredExcept { errors, .. } | Verdict::Refused(errors) => named(errors),
            Verdict::Unauthorized => "HTTP 401: the token is missing, wrong or out of date".to_owned(),
            Verdict::TooLarge => "the payload is too large".to_owned(),
            Verdict::RefusedWhole(text)
            | Verdict::Misconfigured(text)
            | Verdict::Unexpected(text)
            | Verdict::Failing { cause: text, .. }
            | Verdict::Unreachable { cause: text }
            | Verdict::NoAnswer { cause: text, .. } => text.clone(),
        }
    }
}

/// Whom a failure speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Of Blueflood, or of the way there, and of nothing else.
    Endpoint,
    /// Of how many requests there are, says somebody: 408 and 429.
    RateLimit,
    /// 503: likewise, or nobody is there; and a proxy may dislike a payload.
    Unavailable,
    /// 502 and 504: a proxy reaches nobody, or dislikes a payload.
    Gateway,
    /// Of the payload, which may well have caused it: 500, a reset or silence after it was sent.
    Payload,
}

/// One row that Blueflood names in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The row's metric name.
    pub name: String,
    /// The row's `collectionTime`, in milliseconds.
    pub time_ms: i64,
    /// The field that is wrong, as Blueflood names it: `collectionTime`, `ttlInSeconds` and so on.
    pub field: String,
    /// Blueflood's own words.
    pub message: String,
}

/// An answer as it came.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<&'a str>,
    /// The body, or as much of it as came.
    pub body: &'a [u8],
    /// Our clock, for the form of `Retry-After` that is a date.
    pub now: SystemTime,
}

/// What is said of a 207 whose list of refused rows is none.
const UNREADABLE: &str = "its list of refused rows could not be read";

/// What an answer means: the table in `config/answers.md`.
pub fn classify(answer: &Answer<'_>) -> Verdict {
    let status = answer.status;
    match status {
        // Blueflood's own success has no body, and what it refuses it names in JSON or in plain words.
        200..=202 | 204 | 207 | 400 if is_page(answer.body) => Verdict::Misconfigured(format!(
            "something else answers at this URL: HTTP {status} with a web page"
        )),
        200 | 201 | 204 => Verdict::Stored,
        202 => Verdict::Unconfirmed,
        207 => match Errors::read(answer.body) {
            Some(Errors { rows, whole }) if !rows.is_empty() || whole.is_some() => {
                Verdict::StoredExcept { errors: rows, unexplained: whole }
            }
            _ => Verdict::StoredExcept { errors: Vec::new(), unexplained: Some(UNREADABLE.to_owned()) },
        },
        400 => match Errors::read(answer.body) {
            Some(Errors { rows, whole: None }) if !rows.is_empty() => Verdict::Refused(rows),
            Some(Errors { whole: Some(message), .. }) => Verdict::RefusedWhole(message),
            _ => Verdict::RefusedWhole(describe(answer)),
        },
        401 => Verdict::Unauthorized,
        413 | 417 => Verdict::TooLarge,
        300..=399 | 403 | 404 | 405 => Verdict::Misconfigured(describe(answer)),
        // 501 is a method that Blueflood does not know, so no failure of its store.
        501 => Verdict::Unexpected(describe(answer)),
        408 | 429 | 500..=599 => Verdict::Failing {
            status,
            cause: describe(answer),
            retry_after: answer.retry_after.and_then(|header| retry_after(header, answer.now)),
        },
        _ => Verdict::Unexpected(describe(answer)),
    }
}

/// How a request went that was answered like this.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The HTTP status of the answer.
    pub status: u16,
    /// Its header `Location`.
    pub location: Option<&'a str>,
    /// The URL that was posted to.
    pub url: &'a str,
    /// Whether the request had a token.
    pub had_token: bool,
}

impl Asked<'_> {
    /// The same verdict, with what an operator needs to mend it, if a setting must be wrong.
    pub fn told(&self, verdict: Verdict) -> Verdict {
        let Verdict::Misconfigured(text) = verdict else { return verdict };
        let advice = match (self.status, self.location) {
            (300..=399, Some(location)) => {
                format!("; it leads to {}", printable(location.as_bytes(), LOCATION_BYTES_SHOWN))
            }
            (404 | 405, _) => format!("; {} was posted to", path_of(self.url)),
            (401 | 403, _) if !self.had_token => "; no token was sent: set --user".to_owned(),
            _ => String::new(),
        };
        Verdict::Misconfigured(format!("{text}{advice}"))
    }
}

/// How much of a `Location` is shown, in bytes.
const LOCATION_BYTES_SHOWN: usize = 200;

/// The path of a URL.
fn path_of(url: &str) -> &str {
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    host.split_once('/').map_or("/", |(name, _)| host.strip_prefix(name).unwrap_or("/"))
}

/// Whether a body is HTML or the like, as a login or a proxy shows it.
fn is_page(body: &[u8]) -> bool {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start();
    matches!(text, [b'<', second, ..] if matches!(second, b'!' | b'?') || second.is_ascii_alphabetic())
}

/// `Retry-After` in both its forms, seconds and a date (RFC 9110, 10.2.3).
fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    match header.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(header).ok()?.duration_since(now).unwrap_or_default()),
    }
}

fn describe(answer: &Answer<'_>) -> String {
    described(answer.status, answer.body)
}

/// The status and the first words of the body, in one line that is safe in a log.
pub fn described(status: u16, body: &[u8]) -> String {
    const WORDS_MAX: usize = 200;
    let message = match Errors::read(body) {
        Some(Errors { whole: Some(message), .. }) => message,
        _ => String::from_utf8_lossy(body.get(..WORDS_MAX).unwrap_or(body)).into_owned(),
    };
    let words: String =
        message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect();
    let words = words.trim();
    if words.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {words}") }
}

/// The list of errors in a body.
struct Errors {
    rows: Vec<RowError>,
    /// An error that names no row.
    whole: Option<String>,
}

impl Errors {
    fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Body {
            errors: Vec<Entry>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Entry {
            timestamp: Option<i64>,
            metric_name: Option<String>,
            source: Option<String>,
            message: Option<String>,
        }
        let body: Body = serde_json::from_slice(body).ok()?;
        let mut errors = Errors { rows: Vec::new(), whole: None };
        for entry in body.errors {
            let message = entry.message.unwrap_or_default();
            match (entry.timestamp, entry.metric_name) {
                (Some(time_ms), Some(name)) => errors.rows.push(RowError {
                    name,
                    time_ms,
                    field: entry.source.unwrap_or_default(),
                    message,
                }),
                _ => errors.whole = Some(message),
            }
        }
        Some(errors)
    }
}

/// The rows of a payload, told apart by an answer that names some of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sorted<'a> {
    /// Rows that the answer names, each with the error that names it. Rows of one name and one time share
    /// their fate: Blueflood keeps one of them only.
    pub named: Vec<(&'a [u8], RowError)>,
    /// The others.
    pub unnamed: Vec<&'a [u8]>,
    /// How many of the answer's errors name no row of this payload.
    pub unmatched: usize,
}

/// Finds the rows that `errors` name.
pub fn sort<'a>(rows: RowsRef<'a>, errors: &[RowError]) -> Sorted<'a> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Row {
        collection_time: i64,
        metric_name: String,
    }
    let rows: Vec<(&[u8], Option<Row>)> =
        rows.iter().map(|text| (text, serde_json::from_slice(text).ok())).collect();
    let mut wanted: HashMap<(&str, i64), (&RowError, bool)> = HashMap::with_capacity(errors.len());
    for error in errors {
        wanted.entry((error.name.as_str(), error.time_ms)).or_insert((error, false));
    }
    let mut sorted = Sorted::default();
    for (text, row) in &rows {
        let found =
            row.as_ref().and_then(|row| wanted.get_mut(&(row.metric_name.as_str(), row.collection_time)));
        match found {
            Some((error, seen)) => {
                *seen = true;
                sorted.named.push((text, RowError::clone(error)));
            }
            None => sorted.unnamed.push(text),
        }
    }
    sorted.unmatched = wanted.values().filter(|(_, seen)| !seen).count();
    sorted
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::core::chunk::tests::rows;

    fn verdict(status: u16, body: &str) -> Verdict {
        classify(&Answer { status, retry_after: None, body: body.as_bytes(), now: UNIX_EPOCH })
    }

    const WHOLE: &str = r#"{"errors":[{"tenantId":"bb","timestamp":null,"metricName":"","source":null,"message":"Cannot parse content"}]}"#;
    const TTL: &str = r#"{"errors":[{"tenantId":"bb","timestamp":1795546551915,"metricName":"bb.mixed.badttl","source":"ttlInSeconds","message":"must be between 1 and 2147483647"}]}"#;

    fn ttl_error() -> RowError {
        RowError {
            name: "bb.mixed.badttl".into(),
            time_ms: 1_795_546_551_915,
            field: "ttlInSeconds".into(),
            message: "must be between 1 and 2147483647".into(),
        }
    }

    #[test]
    fn what_a_human_has_to_mend_is_said_with_what_he_needs() {
        let told = |status, location, had_token| {
            let url = "http://blueflood:19000/v2.0/acme/ingest";
            Asked { status, location, url, had_token }.told(verdict(status, "")).words()
        };
        assert_eq!(told(301, Some("http://x/\u{1b}"), true), "HTTP 301; it leads to http://x/\\u{1b}");
        assert_eq!(told(301, None, true), "HTTP 301");
        assert_eq!(told(404, None, true), "HTTP 404; /v2.0/acme/ingest was posted to");
        assert_eq!(told(403, None, false), "HTTP 403; no token was sent: set --user");
        assert_eq!(told(403, None, true), "HTTP 403");
        assert_eq!(told(200, None, true), "stored");
        assert_eq!(path_of("http://host"), "/");
    }

    #[test]
    fn a_request_that_was_made_has_a_class() {
        for (status, class) in [
            (200, "2xx"),
            (207, "2xx"),
            (301, "3xx"),
            (400, "4xx"),
            (404, "4xx"),
            (413, "4xx"),
            (503, "5xx"),
            (501, "5xx"),
        ] {
            assert_eq!(verdict(status, "").class(), Some(class), "{status}");
        }
        let silent = Verdict::NoAnswer { cause: "a reset".into(), may_be_size: false };
        assert_eq!(silent.class(), Some("no_answer"));
        assert_eq!(Verdict::Unreachable { cause: "refused".into() }.class(), None);
    }

    #[test]
    fn the_answers_of_the_real_blueflood_mean_what_the_table_says() {
        assert_eq!(verdict(200, ""), Verdict::Stored);
        assert_eq!(verdict(202, WHOLE), Verdict::Unconfirmed);
        assert_eq!(verdict(207, TTL), Verdict::StoredExcept { errors: vec![ttl_error()], unexplained: None });
        assert_eq!(verdict(400, TTL), Verdict::Refused(vec![ttl_error()]));
        assert_eq!(verdict(400, WHOLE), Verdict::RefusedWhole("Cannot parse content".into()));
        assert_eq!(verdict(401, ""), Verdict::Unauthorized);
        for status in [413, 417] {
            assert_eq!(verdict(status, ""), Verdict::TooLarge);
        }
        for status in [301, 302, 307, 308, 403, 404, 405] {
            assert!(matches!(verdict(status, ""), Verdict::Misconfigured(_)), "{status}");
        }
        for status in [100, 203, 206, 402, 406, 415, 418, 501, 600] {
            assert!(matches!(verdict(status, ""), Verdict::Unexpected(_)), "{status}");
        }
        for status in [408, 429, 500, 502, 503, 504, 599] {
            assert!(matches!(verdict(status, ""), Verdict::Failing { .. }), "{status}");
        }
    }

    #[test]
    fn a_207_that_names_a_row_and_says_more_keeps_what_it_does_not_explain() {
        let both = TTL.replace("]}", r#",{"timestamp":null,"metricName":"","message":"Persisted failed"}]}"#);
        assert_eq!(
            verdict(207, &both),
            Verdict::StoredExcept { errors: vec![ttl_error()], unexplained: Some("Persisted failed".into()) }
        );
    }

    #[test]
    fn a_page_that_something_else_shows_is_no_answer_of_blueflood() {
        for page in [
            "<!DOCTYPE html>\n<html>",
            "\u{feff}\r\n <HTML><body>Log in",
            "<?xml version='1.0'?><a/>",
            "<head>",
        ] {
            for status in [200, 201, 202, 204, 207, 400] {
                let Verdict::Misconfigured(why) = verdict(status, page) else { panic!("{page}") };
                assert!(why.contains("something else answers at this URL"), "{why}");
            }
        }
        for body in ["", "OK", "{}", "<", "< 5", "a<b>"] {
            assert_eq!(verdict(200, body), Verdict::Stored, "{body}");
            assert!(matches!(verdict(400, body), Verdict::RefusedWhole(_)), "{body}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        for body in ["", "No valid metrics", "{\"errors\":[", "{\"errors\":[]}", WHOLE, "null", "[]"] {
            assert!(
                matches!(verdict(207, body), Verdict::StoredExcept { errors, unexplained: Some(_) } if errors.is_empty()),
                "{body}"
            );
            assert!(matches!(verdict(400, body), Verdict::RefusedWhole(_)), "{body}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_its_forms() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let wait = |header| match classify(&Answer { status: 429, retry_after: Some(header), body: b"", now })
        {
            Verdict::Failing { retry_after, .. } => retry_after,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Sun, 06 Nov 1994 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("99999999999"), Some(Duration::from_secs(99_999_999_999)));
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn what_stands_in_a_log_is_one_short_line() {
        let Verdict::Failing { cause, .. } = verdict(503, &"a\nb".repeat(1000)) else { panic!() };
        assert!(
            cause.starts_with("HTTP 503: a ba b") && cause.len() < 300 && !cause.contains('\n'),
            "{cause}"
        );
        assert!(
            matches!(verdict(500, WHOLE), Verdict::Failing { cause, .. } if cause == "HTTP 500: Cannot parse content")
        );
    }

    #[test]
    fn rows_are_found_by_name_and_time_and_duplicates_share_their_fate() {
        let mut all = rows("a", 3);
        all.append(rows("a", 2).as_ref());
        let error = |name: &str, time_ms| RowError { name: name.into(), time_ms, ..ttl_error() };
        let errors = [error("a.1", 1_700_000_000_000), error("a.2", 1), error("nobody", 1_700_000_000_000)];
        let sorted = sort(all.as_ref(), &errors);
        assert_eq!((sorted.named.len(), sorted.unnamed.len(), sorted.unmatched), (2, 3, 2));
        assert!(sorted.named.iter().all(|(_, error)| error.name == "a.1"));
    }
}
