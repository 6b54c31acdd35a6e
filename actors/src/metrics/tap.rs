//! Owns `GET /tap`: datapoints as they pass, a line of JSON each, until the reader has as many as it asked for or goes
//! away. It never makes anybody wait: a reader that does not read is shown less.

use std::time::Duration;

use actix_web::{
    Error, HttpResponse,
    web::{Data, Query},
};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use serde::Deserialize;
use tokio::time::Interval;

use super::http::Shared;
use crate::{
    core::{glob::Glob, tap::Line},
    tap::{Opened, TAPS_MAX},
};

/// How often the counts are told. It also finds out that a reader has gone.
const COUNTS_EVERY: Duration = Duration::from_millis(250);

/// Bytes that are written at once, about.
const WRITE_BYTES: usize = 16 << 10;

/// What is asked for.
#[derive(Deserialize)]
pub(super) struct Asked {
    /// A glob that names must match.
    r#match: Option<String>,
    /// How many lines are wanted.
    limit: Option<u64>,
}

/// Opens a tap.
pub(super) async fn tap(shared: Data<Shared>, asked: Query<Asked>) -> HttpResponse {
    let glob = match asked.r#match.as_deref().map(Glob::new).transpose() {
        Ok(glob) => glob,
        Err(wrong) => return HttpResponse::BadRequest().body(format!("the glob is wrong: {wrong}\n")),
    };
    let Some(opened) = shared.board.read().taps.open(glob) else {
        let text = format!("{TAPS_MAX} taps are open already, and there are no more: end one of them\n");
        return HttpResponse::ServiceUnavailable().body(text);
    };
    let ticks = tokio::time::interval(COUNTS_EVERY);
    let tap = Some(Tap { opened, ticks, left: asked.limit });
    let lines = stream::unfold(tap, |tap| async move {
        let (bytes, tap) = tap?.next().await;
        Some((Ok::<_, Error>(bytes), tap))
    });
    HttpResponse::Ok().content_type("application/x-ndjson").streaming(Box::pin(lines))
}

struct Tap {
    opened: Opened,
    ticks: Interval,
    /// Lines that are still wanted; `None`: all.
    left: Option<u64>,
}

impl Tap {
    /// What is written next, and the tap unless it has come to its end.
    async fn next(mut self) -> (Bytes, Option<Self>) {
        if self.left == Some(0) {
            return (self.counts(), None);
        }
        // Both by chance, so that neither a flood nor a quiet hour keeps the other waiting.
        let first = tokio::select! {
            line = self.opened.lines.recv() => line,
            _ = self.ticks.tick() => return (self.counts(), Some(self)),
        };
        let mut bytes = BytesMut::new();
        let mut next = first;
        while let Some(line) = next {
            bytes.extend_from_slice(&line);
            self.left = self.left.map(|left| left.saturating_sub(1));
            let enough = self.left == Some(0) || bytes.len() >= WRITE_BYTES;
            next = if enough { None } else { self.opened.lines.try_recv().ok() };
        }
        (bytes.freeze(), Some(self))
    }

    fn counts(&self) -> Bytes {
        // Numbers can be written.
        let mut text = serde_json::to_vec(&Line::Counts(self.opened.counts())).unwrap_or_default();
        text.push(b'\n');
        text.into()
    }
}
