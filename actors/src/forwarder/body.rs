//! Owns what is POSTed: the body that chunks come to, or a few rows of them. It never sends one.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    core::{
        chunk::{Chunk, Encoding},
        outbox::ChunkId,
        payload,
    },
    spool::{Bodies, Spool},
};

/// What is POSTed.
pub(super) enum What {
    /// These chunks, whose bodies are here.
    Here(Bodies),
    /// These chunks, whose bodies are in the spool.
    InSpool(Vec<ChunkId>),
    /// A few rows of these chunks.
    Few(Vec<ChunkId>, u32),
    /// This body.
    Body(Ready),
}

/// What can be POSTed.
#[derive(Clone)]
pub(super) struct Ready {
    /// Whose rows they are.
    pub(super) tenant: Arc<str>,
    pub(super) body: Bytes,
}

/// The body of a POST, and that of a single row of it if one is to be kept; `None` if its chunks cannot be read.
pub(super) async fn body(
    what: What,
    spool: &Spool,
    encoding: Encoding,
    keep_row: bool,
) -> Option<(Ready, Option<Ready>)> {
    let load = async |ids: Vec<ChunkId>| {
        spool.load_bodies(ids).await.ok().filter(|bodies| !bodies.chunks.is_empty())
    };
    let few = |chunks: &[Chunk], rows| {
        let rows = payload::sample(chunks, rows, |below| fastrand::u32(0..below.max(1))).ok()?;
        payload::of_rows(rows, encoding).ok()
    };
    let Bodies { tenant, chunks } = match what {
        What::Here(bodies) => bodies,
        What::InSpool(ids) => load(ids).await?,
        What::Few(ids, rows) => {
            let Bodies { tenant, chunks } = load(ids).await?;
            let ready = Ready { tenant, body: few(&chunks, rows)? };
            return Some((ready.clone(), keep_row.then_some(ready)));
        }
        What::Body(ready) => return Some((ready, None)),
    };
    let control = keep_row.then(|| few(chunks.get(..1)?, 1)).flatten();
    let control = control.map(|body| Ready { tenant: tenant.clone(), body });
    // A chunk that does not read back is found by the spool when it is loaded again.
    let body = payload::compose(&chunks, encoding).ok()?;
    Some((Ready { tenant, body }, control))
}
