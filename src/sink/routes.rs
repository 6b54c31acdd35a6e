//! Which request means what: paths, methods, media types.
//! It never reads a body, and stores nothing.
//!
//! Source, measured: `actors/contract/blueflood.md`, "Paths and methods" and "Headers and encodings". Left out: the
//! aggregated endpoints, events and the searches, which answer 404 here.

use super::http::Head;
use super::ingest::Tenancy;
use super::response::Answer;

/// What a request asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Route {
    /// Rows are brought, to be stored.
    Ingest { tenant: String, tenancy: Tenancy },
    /// One metric is read back.
    View { tenant: String, name: String },
    /// Several are, named by the body.
    Views { tenant: String },
    /// Blueflood never answers this.
    Nothing,
    /// This is the answer, whatever the body is.
    Plain(Answer),
}

impl Route {
    /// Where a head leads.
    pub fn of(head: &Head) -> Self {
        if head.method != "GET" && head.method != "POST" {
            return Route::Plain(Answer::empty(501));
        }
        let get = head.method == "GET";
        let path = percent_decoded(path(&head.target));
        let parts: Vec<&str> = path.split('/').collect();
        let tenant = |named: &str| head.header("tenantId").unwrap_or(named).to_owned();
        match *parts.as_slice() {
            ["", "v2.0" | "v1.0"] if get => Route::Plain(Answer::empty(200)),
            ["", "v2.0" | "v1.0"] => Route::Plain(not_allowed(&["Allow: GET"])),
            ["", "v1.0", "multitenant", "experimental", "metrics"] => {
                ingest(head, tenant("multitenant"), Tenancy::Row)
            }
            ["", "v2.0", named, "ingest", "multi"] if !named.is_empty() => {
                ingest(head, tenant(named), Tenancy::Row)
            }
            ["", "v2.0", named, "ingest"] | ["", "v1.0", named, "experimental", "metrics"]
                if !named.is_empty() =>
            {
                ingest(head, tenant(named), Tenancy::Path)
            }
            ["", "v2.0", named, "views"] if !get && !named.is_empty() => {
                Route::Views { tenant: tenant(named) }
            }
            ["", "v2.0", named, "views", name]
            | ["", "v1.0", named, "experimental", "views", "metric_data", name]
                if get && !named.is_empty() && !name.is_empty() =>
            {
                // Measured: a name with a newline is never answered here; `POST .../views` reads it.
                if name.contains('\n') {
                    return Route::Nothing;
                }
                Route::View { tenant: tenant(named), name: name.to_owned() }
            }
            _ => Route::Plain(Answer::empty(404)),
        }
    }
}

fn ingest(head: &Head, tenant: String, tenancy: Tenancy) -> Route {
    if head.method == "GET" {
        // Both lines twice, as the real thing sends them.
        return Route::Plain(not_allowed(&["Allow: GET", "Connection: keep-alive", "Allow: POST"]));
    }
    let unsupported = |header: &str, value: &str| {
        let message = format!("Unsupported media type for {header}: {value}");
        Route::Plain(Answer::refusal(415, "", &message))
    };
    if let Some(sent) = head.header("content-type").filter(|sent| !sent.is_empty()) {
        let kind = sent.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return unsupported("Content-Type", sent);
        }
    }
    if let Some(wanted) = head.header("accept").filter(|wanted| !wanted.is_empty())
        && !wanted.contains("*/*")
        && !wanted.to_ascii_lowercase().contains("application/json")
    {
        return unsupported("Accept", wanted);
    }
    Route::Ingest { tenant, tenancy }
}

fn not_allowed(lines: &[&str]) -> Answer {
    Answer { headers: lines.iter().map(|line| (*line).to_owned()).collect(), ..Answer::empty(405) }
}

fn path(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// The query of a target, still encoded.
pub(super) fn query(target: &str) -> Option<&str> {
    target.split_once('?').map(|(_, query)| query)
}

/// `%41` becomes `A`; what is no escape stays, and what is no UTF-8 afterwards becomes U+FFFD.
fn percent_decoded(path: &str) -> String {
    let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let escaped = match tail {
            [high, low, after @ ..] if *first == b'%' => {
                hex(*high).zip(hex(*low)).map(|(high, low)| (high << 4 | low, after))
            }
            _ => None,
        };
        match escaped {
            Some((byte, after)) => {
                decoded.push(byte);
                rest = after;
            }
            None => decoded.push(*first),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: &str, target: &str) -> Route {
        Route::of(&Head { method: method.into(), target: target.into(), ..Head::default() })
    }

    #[test]
    fn a_tenant_is_decoded_before_it_is_routed() {
        let tenant = "a é".to_owned();
        assert_eq!(
            route("POST", "/v2.0/a%20%C3%A9/ingest?x=1"),
            Route::Ingest { tenant, tenancy: Tenancy::Path }
        );
        assert_eq!(route("POST", "/v2.0/b%2Fc/ingest"), Route::Plain(Answer::empty(404)));
        assert_eq!(route("POST", "/v2.0//ingest"), Route::Plain(Answer::empty(404)));
        assert_eq!(route("GET", "/v2.0/a/views/b%0Ac?from=1&to=2&points=1"), Route::Nothing);
    }
}
