//! Owns `blueflood-forward check --connect`: whether Keystone and Blueflood can be reached with these settings, and what
//! to change if not. It sends a datapoint only when it is told to.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::System;
use actix_rt::Arbiter;
use actors::confirmer::query::Query;
use actors::core::blueflood::Verdict;
use actors::core::chunk::Sealer;
use actors::core::confirm::Way;
use actors::core::datapoint::Datapoint;
use actors::core::look::{self, Row};
use actors::core::payload;
use actors::core::row::{Encoder, RowSettings, Rows, Skipped};
use actors::forwarder::post::{self, Target};
use actors::keystone_auth::{self, GetToken, KeystoneAuth, Token};
use actors::supervisor::{Storms, Supervised};
use rustls::ClientConfig;
use slog::{Discard, Logger, o};
use tokio::sync::mpsc;

use crate::daemon;
use crate::settings::{QuerySide, Settings};
use crate::terminal::{complain, say};

/// How long an answer to a mere probe may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a datapoint that was sent is looked for, and the pause between.
const READS: u32 = 5;
const READ_PAUSE: Duration = Duration::from_millis(500);

/// The name of the datapoint that `--send` sends, behind the prefix.
const NAME: &[u8] = b"blueflood-forward.check";

/// Tries each of them in the order in which the daemon needs them. What is proven then, and what is not; nothing if one
/// of them failed, which was said.
pub fn run(settings: &Settings, tls: Arc<ClientConfig>, send: bool) -> Option<String> {
    System::new().block_on(all(settings, tls, send))
}

async fn all(settings: &Settings, tls: Arc<ClientConfig>, send: bool) -> Option<String> {
    let (token, granted) = keystone(settings, tls.clone()).await;
    let target = daemon::target(settings, tls);
    if !blueflood(settings, &target).await || !granted {
        return None;
    }
    let query = read_back(settings, &target, token.clone()).await?;
    let tenant = &settings.tenant;
    if !send {
        return Some(format!(
            "Blueflood was reached; not proven: that it takes datapoints of tenant {tenant}, for none was sent (add --send)"
        ));
    }
    let is_taken = datapoint(settings, &target, token.as_deref(), query.as_ref()).await;
    is_taken.then(|| match query {
        Some(_) => format!("Blueflood stored a datapoint of tenant {tenant}"),
        None if settings.confirm == Some(Way::Witness) => {
            format!("Blueflood stored a witness of tenant {tenant}")
        }
        None => format!(
            "Blueflood took a datapoint of tenant {tenant}; not proven: that it is stored, for it was not read back"
        ),
    })
}

/// Whether what Blueflood takes can be read back, which it says. The query service, if there is one; nothing if there should
/// be.
async fn read_back(settings: &Settings, target: &Target, token: Option<Arc<Token>>) -> Option<Option<Query>> {
    if let Some(Way::Off | Way::Witness) = settings.confirm {
        let is_off = settings.confirm == Some(Way::Off);
        say(if is_off {
            "Read back  not tried: confirm is off, so what Blueflood acknowledges is not read back"
        } else {
            "Read back  not tried: confirm is witness, and --send sends one"
        });
        return Some(None);
    }
    let url = match &settings.query {
        QuerySide::Off => {
            say("Read back  not tried: query is off, so what Blueflood acknowledges is not read back");
            return Some(None);
        }
        QuerySide::Auto => settings.query_usual(),
        QuerySide::At(url) => url.clone(),
    };
    let is_wanted = settings.query != QuerySide::Auto || settings.confirm.is_some_and(Way::reads);
    let query = Query::new(&url, target.tls.clone(), None).with_token(token);
    if !query.is_there(&settings.tenant).await {
        if !is_wanted {
            say(format_args!(
                "Read back  nothing answers as Blueflood's query service at {url}, so what Blueflood acknowledges is not \
                 read back; --query names another place"
            ));
            return Some(None);
        }
        complain(format_args!("error: nothing answers as Blueflood's query service at {url}; check --query"));
        return None;
    }
    // Whether it is there or not tells nothing: that there is an answer does.
    let row = sample(settings).ok()?;
    match query.look(&settings.tenant, Row::of(&row.text).as_slice(), &[0], PATIENCE).await {
        Ok(_) => {
            say(format_args!("Read back  works ({url})"));
            Some(Some(query))
        }
        Err(cause) => {
            complain(format_args!(
                "error: Blueflood's query service at {url} cannot be asked: {cause}; check --query, the credentials, and \
                 Blueflood's Cassandra"
            ));
            None
        }
    }
}

/// The row that `--send` sends: of now, or as late as a witness, which Blueflood stores before it answers.
fn sample(settings: &Settings) -> Result<Rows, Skipped> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut rows = Rows::default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let is_witness = settings.confirm == Some(Way::Witness);
    let ms = if is_witness { look::witness_ms(now_ms) } else { now_ms };
    let datapoint = Datapoint { name: NAME, timestamp: ms as f64 / 1000.0, value: 1.0 };
    let how = RowSettings { overwrite_time: false, ..daemon::rows(settings) };
    Encoder::new(&how).encode(&datapoint, now_ms, &mut rows)?;
    Ok(rows)
}

/// Whether a row was read back, at once or a little later.
async fn is_back(settings: &Settings, query: &Query, row: &Rows) -> bool {
    for _ in 0..READS {
        let absent = query.look(&settings.tenant, Row::of(&row.text).as_slice(), &[0], PATIENCE).await;
        if absent.is_ok_and(|absent| absent.is_empty()) {
            return true;
        }
        actix_rt::time::sleep(READ_PAUSE).await;
    }
    false
}

/// Asks Keystone for a token, if there are credentials; whether nothing stands in the way of a request.
async fn keystone(settings: &Settings, tls: Arc<ClientConfig>) -> (Option<Arc<Token>>, bool) {
    let Some((account, key)) = settings.credentials() else {
        say("Keystone   not asked: no user is set");
        return (None, true);
    };
    let log = Logger::root(Discard, o!());
    let status = keystone_auth::SharedStatus::default();
    let auth_url = settings.auth_url.clone();
    let options = keystone_auth::Options { account, key, auth_url, tls, status, log: log.clone() };
    let (fatal, _) = mpsc::channel(1);
    let make = move |line| KeystoneAuth::new(options.clone(), line);
    let actor = Supervised::start("keystone", Arbiter::current(), Storms::new(0, fatal), log, make);
    match actor.link().ask(|| GetToken).await {
        Ok(Ok(token)) => {
            say(format_args!("Keystone   gives a token ({})", settings.auth_url));
            (Some(token), true)
        }
        Ok(Err(no)) => {
            let what = if no.refused { "refuses the credentials" } else { "gives no token" };
            complain(format_args!(
                "error: Keystone {what} ({}): {}; check --user, --key or --key_file, --auth_type and --auth_url",
                settings.auth_url, no.cause
            ));
            (None, false)
        }
        Err(gone) => {
            complain(format_args!("error: Keystone could not be asked: {gone}"));
            (None, false)
        }
    }
}

/// Whether Blueflood answers at all: `GET /v2.0` touches nothing there (`actors/contract/blueflood.md`, "Paths and
/// methods").
async fn blueflood(settings: &Settings, target: &Target) -> bool {
    let url = format!("{}/v2.0", settings.blueflood.trim_end_matches('/'));
    match post::reach(&post::client(target), &url, PATIENCE).await {
        Ok(200) => {
            say(format_args!("Blueflood  answers ({url})"));
            true
        }
        Ok(status) => {
            complain(format_args!(
                "error: something answers at {url}, but not as Blueflood does: HTTP {status}; check --blueflood"
            ));
            false
        }
        Err(cause) => {
            complain(format_args!(
                "error: nothing answers at {url}: {cause}; check --blueflood, and that it runs"
            ));
            false
        }
    }
}

/// Sends one datapoint on the very way that the daemon's go.
async fn datapoint(
    settings: &Settings,
    target: &Target,
    token: Option<&Token>,
    query: Option<&Query>,
) -> bool {
    let row = match sample(settings) {
        Ok(row) => row,
        Err(skipped) => {
            complain(format_args!(
                "error: the datapoint cannot be sent: {}; check --metric_prefix and --limit",
                skipped.label()
            ));
            return false;
        }
    };
    let encoding = daemon::encoding(settings);
    let chunk = Sealer::new(encoding).seal(&row.clone().into());
    let verdict = match payload::compose(&[chunk], encoding) {
        Ok(body) => post::post(&post::client(target), target, &settings.tenant, token, encoding, body).await,
        Err(damaged) => Verdict::RefusedWhole(damaged.to_string()),
    };
    let name = String::from_utf8_lossy(NAME);
    match verdict {
        Verdict::Stored => match query {
            None => {
                say(format_args!(
                    "Blueflood  stored a datapoint {name}, or says so: it is not read back ({})",
                    target.ingest_url("")
                ));
                true
            }
            Some(query) if is_back(settings, query, &row).await => {
                say(format_args!(
                    "Blueflood  stored a datapoint {name}, and it was read back ({})",
                    target.ingest_url("")
                ));
                true
            }
            Some(_) => {
                complain(format_args!(
                    "error: Blueflood says that it stored a datapoint {name} ({}), and it cannot be read back; check \
                     --query, and Blueflood's Cassandra",
                    target.ingest_url("")
                ));
                false
            }
        },
        other => {
            complain(format_args!(
                "error: Blueflood did not store a datapoint {name} ({}): {}; check --tenant, the credentials and --ttl",
                target.ingest_url(""),
                other.words()
            ));
            false
        }
    }
}
