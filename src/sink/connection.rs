//! One connection: requests in, answers out in the same order, or whatever the script says instead.
//! It never decides what Blueflood would answer, and never outlives its client.

use super::Shared;
use super::http::{Head, Next, Reader, is_announced_too_large};
use super::inflate::Body;
use super::ingest::{self, Tenancy, Terms};
use super::response::Answer;
use super::routes::{self, Route};
use super::script::{Act, Plan};
use super::state::Received;
use super::store::{Row, share};
use super::views;
use bytes::Bytes;
use std::borrow::Cow;
use std::io;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Bytes that are neither HTTP nor text.
const GARBAGE: &[u8] = b"\x00\xff\x16\x03\x01 this is not HTTP \xfe\r\n\r\n";
const HALF: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Le";
const STALLED_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: keep-alive\r\n\r\n";
const ENDLESS_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n";
/// One chunk of an endless body, and the pause after it: about 1 MB a second, for as long as it is read.
const ENDLESS_CHUNK_BYTES: usize = 1024;
const ENDLESS_PAUSE: Duration = Duration::from_millis(1);

/// Whether the connection goes on after a request.
enum After {
    Open,
    Closed,
}

/// Serves one client until either side ends it.
pub(super) async fn serve(stream: TcpStream, shared: &Shared) {
    // A client that goes away in the middle is no news to a server that keeps nothing.
    let _ = requests(&mut Reader::new(stream), shared).await;
}

async fn requests(client: &mut Reader, shared: &Shared) -> io::Result<()> {
    loop {
        let after = match client.next().await? {
            Next::Request(head) => request(client, head, shared).await?,
            Next::HeadTooLarge(head) => {
                // What would have been the body is lost with the headers, and an empty one cannot be parsed.
                let answer = match Route::of(&head) {
                    Route::Ingest { tenant, .. } => Answer::refusal(400, &tenant, "Cannot parse content"),
                    _ => Answer::empty(404),
                };
                client.close_after(&answer.to_bytes(false)).await?;
                After::Closed
            }
            Next::NotHttp => {
                client.close_after(&Answer::empty(404).to_bytes(false)).await?;
                After::Closed
            }
            Next::End => After::Closed,
        };
        if let After::Closed = after {
            return Ok(());
        }
    }
}

async fn request(client: &mut Reader, head: Head, shared: &Shared) -> io::Result<After> {
    let _in_flight = shared.enter();
    let route = Route::of(&head);
    let scripted = matches!(route, Route::Ingest { .. });
    if scripted && let Some(plan) = shared.change(|state| state.script.take_early()) {
        shared.change(|state| state.record(received(&head, Bytes::new(), 0)));
        if let Act::Early(status) = plan.act {
            client.close_after(&own_words(status, Vec::new(), "").to_bytes(false)).await?;
        } else {
            client.stream.set_zero_linger()?;
        }
        return Ok(After::Closed);
    }
    if head.expects_continue() {
        if is_announced_too_large(&head) {
            client.write(&Answer::empty(417).to_bytes(head.keep_alive())).await?;
            return Ok(After::Open);
        }
        client.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let (body, raw_bytes) = client.body(&head).await?;
    let body = match body {
        Body::Whole(body) => Bytes::from(body),
        Body::TooLarge => {
            shared.change(|state| state.record(received(&head, Bytes::new(), raw_bytes)));
            return Ok(After::Open);
        }
        Body::Undecodable => {
            shared.change(|state| state.record(received(&head, Bytes::new(), raw_bytes)));
            client.swallow().await?;
            return Ok(After::Closed);
        }
    };
    let received = received(&head, body, raw_bytes);
    let answer = match route {
        Route::Ingest { tenant, tenancy } => {
            return ingest(client, &head, received, &tenant, tenancy, shared).await;
        }
        Route::View { tenant, name } => {
            let Some(act) = read_act(&name, shared).await else { return Ok(After::Open) };
            shared.read(|state| {
                let knows = state.knows(&tenant, &name);
                let answer = || views::one(&state.store, &tenant, &name, routes::query(&head.target), &act);
                views::instead(&act, &tenant, routes::query(&head.target), knows, false)
                    .unwrap_or_else(answer)
            })
        }
        Route::Views { tenant } => {
            let body = String::from_utf8_lossy(&received.body);
            let Some(act) = read_act(&body, shared).await else { return Ok(After::Open) };
            shared.read(|state| {
                let answer = || views::many(&state.store, &tenant, routes::query(&head.target), &body, &act);
                views::instead(&act, &tenant, routes::query(&head.target), false, true).unwrap_or_else(answer)
            })
        }
        Route::Plain(answer) => answer,
        Route::Nothing => return Ok(After::Open),
    };
    send(client, &head, &answer).await
}

/// What a request that reads back meets; none if it is never answered.
async fn read_act(body: &str, shared: &Shared) -> Option<Act> {
    let act = shared.change(|state| {
        state.look();
        state.reads.take(body).act
    });
    if let Act::Late(delay) = act {
        tokio::time::sleep(delay).await;
    }
    (act != Act::Silence).then_some(act)
}

async fn ingest(
    client: &mut Reader,
    head: &Head,
    received: Received,
    tenant: &str,
    tenancy: Tenancy,
    shared: &Shared,
) -> io::Result<After> {
    let (authorizer, request) = (shared.authorizer.clone(), received.clone());
    let refused = tokio::task::spawn_blocking(move || authorizer(&request)).await;
    if let Some(status) = refused.map_err(io::Error::other)? {
        shared.change(|state| state.record(received));
        return send(client, head, &Answer::empty(status)).await;
    }
    let body = received.body.clone();
    let body = String::from_utf8_lossy(&body);
    let Plan { act, stored } = shared.change(|state| state.script.take(&body));
    if let Act::Late(delay) = act {
        tokio::time::sleep(delay).await;
    }
    let normal = matches!(act, Act::Normal | Act::Late(_) | Act::Refuse(_) | Act::Empty | Act::Short(_));
    let refuse = match &act {
        Act::Refuse(part) => Some(part.as_str()),
        _ => None,
    };
    let now_ms = shared.now_ms();
    let terms = Terms { tenant, tenancy, now_ms, refuse };
    let (rows, answer) = ingest::judge(terms, &body);
    // The rows that a store keeps which fails without a word.
    let kept = |at: usize, name: &str| match act {
        Act::Part(percent) => share(name) < percent,
        Act::Miss(rows) => at >= rows,
        _ => normal || stored,
    };
    let admits_loss = shared.change(|state| {
        state.record(received);
        let rows = || rows.iter().map(|row| as_row(row, tenant, tenancy));
        for (at, row) in rows().enumerate() {
            if kept(at, row.name) {
                state.put(&row);
                state.note_late(&row, now_ms);
            }
        }
        act == Act::Away && state.lose(rows(), now_ms)
    });
    match act {
        Act::Away if admits_loss => send(client, head, &own_words(500, Vec::new(), tenant)).await,
        Act::Normal | Act::Late(_) | Act::Refuse(_) | Act::Away | Act::Part(_) | Act::Miss(_) => {
            send(client, head, &answer).await
        }
        Act::Empty | Act::Short(_) => send(client, head, &answer).await,
        Act::Status(status, headers) => send(client, head, &own_words(status, headers, tenant)).await,
        Act::Answer(answer) => send(client, head, &answer).await,
        Act::Silence => Ok(After::Open),
        Act::Half => {
            client.close_after(HALF).await?;
            Ok(After::Closed)
        }
        Act::Garbage => {
            client.close_after(GARBAGE).await?;
            Ok(After::Closed)
        }
        Act::Close => Ok(After::Closed),
        Act::Reset => {
            client.stream.set_zero_linger()?;
            Ok(After::Closed)
        }
        Act::Endless => endless(client).await,
        Act::Stall => {
            client.write(STALLED_HEAD).await?;
            client.swallow().await?;
            Ok(After::Closed)
        }
        // Taken before the body was read; another connection's script may have changed since.
        Act::Early(_) | Act::ResetUnread => Ok(After::Closed),
    }
}

async fn send(client: &mut Reader, head: &Head, answer: &Answer) -> io::Result<After> {
    let keep_alive = head.keep_alive();
    client.write(&answer.to_bytes(keep_alive)).await?;
    Ok(if keep_alive { After::Open } else { After::Closed })
}

/// Ends when the client goes away, as a write to it then fails.
async fn endless(client: &mut Reader) -> io::Result<After> {
    client.write(ENDLESS_HEAD).await?;
    let chunk = format!("{ENDLESS_CHUNK_BYTES:x}\r\n{}\r\n", " ".repeat(ENDLESS_CHUNK_BYTES));
    loop {
        client.write(chunk.as_bytes()).await?;
        tokio::time::sleep(ENDLESS_PAUSE).await;
    }
}

/// A status with what Blueflood says when it is the one that answers so.
fn own_words(status: u16, headers: Vec<String>, tenant: &str) -> Answer {
    let answer = match status {
        202 => Answer::refusal(202, tenant, "Timed out persisting metrics"),
        400 => Answer::refusal(400, tenant, "Cannot parse content"),
        500 => Answer::refusal(500, tenant, "Persisted failed for metrics"),
        _ => Answer::empty(status),
    };
    Answer { headers, ..answer }
}

fn received(head: &Head, body: Bytes, body_bytes_raw: u64) -> Received {
    Received {
        method: head.method.clone(),
        target: head.target.clone(),
        headers: head.headers.clone(),
        body,
        body_bytes_raw,
        at: Instant::now(),
    }
}

fn as_row<'a>(row: &'a ingest::Accepted<'_>, tenant: &'a str, tenancy: Tenancy) -> Row<'a> {
    let tenant = if tenancy == Tenancy::Row { row.tenant.as_ref() } else { tenant };
    Row { tenant, name: &row.name, unit: row.unit.as_ref().map(Cow::as_ref), ms: row.ms, value: row.value }
}
