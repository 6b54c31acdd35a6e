//! Owns `GET /tap`: datapoints as they pass, a line of JSON each, until the reader has as many as it asked for or goes
//! away. It never makes anybody wait: a reader that does not read is shown less.

use std::time::Duration;

use actix_web::{
    Error, HttpResponse,
    web::{Bytes, Data, Query},
};
use futures_util::stream;
use serde::Deserialize;
use tokio::time::interval;

use super::{Glob, Line, Opened, TAPS_MAX, Taps};

/// How often the counts are told. It also finds out that a reader has gone.
const COUNTS_EVERY: Duration = Duration::from_millis(250);

/// Lines that are written at once, at most.
const LINES_AT_ONCE: usize = 100;

/// The query of a request.
#[derive(Deserialize)]
pub(crate) struct Asked {
    /// A glob that names must match.
    r#match: Option<String>,
    /// How many lines are wanted.
    limit: Option<u64>,
}

/// Opens a tap, and streams its lines.
pub(crate) async fn tap(taps: Data<Taps>, asked: Query<Asked>) -> HttpResponse {
    let glob = match asked.r#match.as_deref().map(Glob::new).transpose() {
        Ok(glob) => glob,
        Err(wrong) => return HttpResponse::BadRequest().body(format!("the glob is wrong: {wrong}\n")),
    };
    let Some(opened) = taps.open(glob) else {
        let text = format!("{TAPS_MAX} taps are open already, and there are no more: end one of them\n");
        return HttpResponse::ServiceUnavailable().body(text);
    };
    let tap = Some((opened, interval(COUNTS_EVERY), asked.limit.unwrap_or(u64::MAX)));
    let lines = stream::unfold(tap, |tap| async move {
        let (mut opened, mut ticks, left) = tap?;
        if left == 0 {
            return Some((Ok::<_, Error>(counts(&opened)), None));
        }
        let mut lines = Vec::new();
        let wanted = usize::try_from(left).map_or(LINES_AT_ONCE, |left| left.min(LINES_AT_ONCE));
        // Both by chance, so that neither a flood nor a quiet hour keeps the other waiting.
        tokio::select! {
            _ = opened.lines.recv_many(&mut lines, wanted) => {}
            _ = ticks.tick() => {}
        }
        let bytes = if lines.is_empty() { counts(&opened) } else { lines.concat().into() };
        let left = left.saturating_sub(lines.len() as u64);
        Some((Ok(bytes), Some((opened, ticks, left))))
    });
    HttpResponse::Ok().content_type("application/x-ndjson").streaming(Box::pin(lines))
}

fn counts(opened: &Opened) -> Bytes {
    // Numbers can be written.
    let mut text = serde_json::to_vec(&Line::Counts(opened.counts())).unwrap_or_default();
    text.push(b'\n');
    text.into()
}
