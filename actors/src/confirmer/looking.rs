//! Owns one look from chunks to what was seen, and one witness from a row to whether Blueflood took it. It never decides
//! what follows.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::query::{self, Query};
use crate::{
    core::{
        blueflood::Verdict,
        chunk::Encoding,
        confirm::{Seen, What},
        look,
        outbox::ChunkId,
        payload,
        row::{Rows, RowsRef},
    },
    forwarder::{
        Auth,
        post::{self, Target},
        token,
    },
    spool::{Bodies, Spool},
};

/// Rows, and whose they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Of {
    pub(super) tenant: Arc<str>,
    pub(super) rows: Rows,
}

/// The rows of chunks, and whose they are; `None` if one cannot be read.
pub(super) async fn load(spool: &Spool, ids: Vec<ChunkId>) -> Option<(Arc<str>, Vec<Rows>)> {
    let n = ids.len();
    let Bodies { tenant, chunks } =
        spool.load_bodies(ids).await.ok().filter(|found| found.chunks.len() == n)?;
    // Off the spool's thread, which has to serve others.
    let rows: Option<Vec<Rows>> = chunks.iter().map(|chunk| chunk.open().ok()).collect();
    Some((tenant, rows?))
}

/// Looks for some of the rows of a tenant: what was seen, which were absent, and one that was there.
pub(super) async fn look_for(
    query: &Query,
    tenant: &str,
    all: &[Rows],
    what: What,
    control: Option<Of>,
) -> (Seen, Rows, Option<Rows>) {
    let all = all.iter().map(Rows::as_ref);
    let rows = match what {
        What::Sample => look::sample(all, now_ms(), |below| fastrand::u32(0..below.max(1))),
        What::All | What::Absent => look::rows(all, now_ms()),
    };
    let wanted: Vec<u32> = (0..).take(rows.len()).collect();
    let absent = match query.look(tenant, &rows, &wanted, query::LOOK_MAX).await {
        Ok(absent) => absent,
        Err(cause) => return (Seen::Failed(cause), Rows::default(), None),
    };
    let present = wanted.iter().rev().find(|at| !absent.contains(at));
    let of = |at: &u32| rows.get(*at as usize).map(|row| RowsRef { text: row.text, count: 1 });
    let there = present.and_then(of).map(|row| Rows { text: row.text.to_vec(), count: 1 });
    if absent.is_empty() {
        return (Seen::AllThere, Rows::default(), there);
    }
    let mut missing = Rows::default();
    absent.iter().filter_map(of).for_each(|row| missing.append(row));
    let control_there = match (&there, control) {
        (Some(_), _) => true,
        (None, Some(control)) => match look::Row::of(&control.rows.text) {
            Some(row) => {
                let looked = query.look(&control.tenant, &[row], &[0], query::LOOK_MAX).await;
                matches!(looked, Ok(absent) if absent.is_empty())
            }
            None => false,
        },
        (None, None) => false,
    };
    (Seen::Absent { rows: missing.count.into(), control: control_there }, missing, there)
}

/// Sends rows as a payload is sent; an error unless Blueflood says that it stored them.
pub(super) async fn send(
    target: &Target,
    auth: Option<Auth>,
    encoding: Encoding,
    rows: Rows,
) -> Result<(), String> {
    let body = payload::of_rows(rows, encoding).map_err(|damaged| damaged.to_string())?;
    // Of its own: a connection that is kept for POSTs of metrics is for these.
    let client = post::client(target);
    let mut refused = None;
    for _ in 0..2 {
        let token = token(auth.clone(), refused).await.map_err(|missing| missing.cause)?;
        match post::post(&client, target, &target.tenant, token.as_deref(), encoding, body.clone()).await {
            Verdict::Stored => return Ok(()),
            Verdict::Unauthorized if token.is_some() && refused.is_none() => {
                refused = token.map(|token| token.generation);
            }
            other => return Err(other.words()),
        }
    }
    Err(Verdict::Unauthorized.words())
}

pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
