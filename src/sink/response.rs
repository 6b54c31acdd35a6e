//! An answer of the stand-in as a value, and the bytes that it is on the wire.
//! It never decides which answer is due.
//!
//! Source, measured: `actors/contract/blueflood.md`, "The request". No Date, Server or Content-Type is ever sent.

use std::fmt::Write as _;

/// The body of one answer at most, in bytes: 16 MiB. A list of refused rows ends there.
const REFUSAL_BYTES_MAX: usize = 16 << 20;

/// An answer before it is written to the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Whole header lines, without their ends, that stand before `Content-Length`.
    pub headers: Vec<String>,
    /// The bytes behind the head.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    /// A status with a body.
    pub fn with_body(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Answer { status, headers: Vec::new(), body: body.into() }
    }

    /// Blueflood's complaint about a request as a whole.
    pub fn refusal(status: u16, tenant: &str, message: &str) -> Self {
        let body = format!(
            r#"{{"errors":[{{"tenantId":{},"timestamp":null,"metricName":"","source":null,"message":{}}}]}}"#,
            quoted(tenant),
            quoted(message)
        );
        Answer::with_body(status, body)
    }

    /// The answer's bytes. `keep_alive` is said as Blueflood says it: not at all when it then closes.
    pub(super) fn to_bytes(&self, keep_alive: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for line in &self.headers {
            head.extend([line, "\r\n"]);
        }
        // Writing into a String cannot fail.
        let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        head.push_str(if keep_alive { "Connection: keep-alive\r\n\r\n" } else { "\r\n" });
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The rows that were refused one by one, as the text of their list.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    text: String,
}

impl Refusals {
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub fn push(&mut self, tenant: &str, ms: i64, name: &str, source: &str, message: &str) {
        if self.text.len() > REFUSAL_BYTES_MAX {
            return;
        }
        let comma = if self.text.is_empty() { "" } else { "," };
        // Writing into a String cannot fail.
        let _ = write!(
            self.text,
            r#"{comma}{{"tenantId":{},"timestamp":{ms},"metricName":{},"source":"{source}","message":"{message}"}}"#,
            quoted(tenant),
            quoted(name)
        );
    }

    pub fn into_answer(self, status: u16) -> Answer {
        Answer::with_body(status, format!(r#"{{"errors":[{}]}}"#, self.text))
    }
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The words behind the number.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        207 => "Multi-Status",
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    }
}
