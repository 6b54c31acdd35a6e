//! Owns one connection: its bytes, its framing, its patience. It never reads ahead of an unanswered reply, so a
//! slow collector slows the sender through TCP's own window.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::future::{Either, select};
use slog::{debug, warn};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Semaphore;
use tokio_util::codec::Decoder;

use super::{Common, ListenerStats, UNDECODED_BYTES_MAX, intake::Intake, socket::Peer};
use crate::core::{
    datapoint::{Reason, SAMPLE_BYTES_MAX},
    framing::Framing,
};

/// What is read at once, at least, in bytes.
const READ_BYTES: usize = 64 << 10;

/// A buffer that one large frame has made larger than this is given back, in bytes.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// While the daemon stops, a socket that has nothing for so long holds nothing.
const DRAIN_PATIENCE: Duration = Duration::from_millis(50);

/// While the daemon stops, a socket is read for so long at most, however much its sender still has.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Connections that are decoded at once: each holds rows until the collector has them, and when it is slow all wait.
static DECODING: Semaphore = Semaphore::const_new(DECODING_MAX);

/// See [`DECODING`]. Enough for every thread that decodes to have others to go on with.
const DECODING_MAX: usize = 32;

/// Idle buffers that a thread keeps.
const BUFFERS_KEPT: usize = 4;

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Reads what there is, [`READ_BYTES`] or more. As long as there is nothing, an empty buffer is left to others: a
/// thousand connections that wait need no memory to wait in.
async fn read(stream: &mut (impl AsyncRead + Unpin), bytes: &mut BytesMut) -> io::Result<usize> {
    let mut left = bytes.is_empty() && bytes.capacity() == 0;
    poll_fn(|context| {
        if left {
            *bytes = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        bytes.reserve(READ_BYTES);
        let read = pin!(stream.read_buf(bytes)).poll(context);
        left = read.is_pending() && bytes.is_empty();
        if left {
            let buffer = std::mem::take(bytes);
            BUFFERS.with_borrow_mut(|buffers| {
                if buffers.len() < BUFFERS_KEPT {
                    buffers.push(buffer);
                }
            });
        }
        read
    })
    .await
}

/// Bytes of one connection, counted among those of all.
struct Undecoded<'a> {
    bytes: BytesMut,
    counted: usize,
    common: &'a Common,
}

impl<'a> Undecoded<'a> {
    fn new(common: &'a Common) -> Self {
        Self { bytes: BytesMut::new(), counted: 0, common }
    }

    /// Counts what is in the buffer now; false if that is too much for all connections together.
    fn count(&mut self) -> bool {
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_BYTES_MAX {
            self.bytes = BytesMut::new();
        }
        let all = &self.common.undecoded_bytes;
        let others = all.fetch_sub(self.counted, Ordering::Relaxed).saturating_sub(self.counted);
        self.counted = self.bytes.len();
        all.fetch_add(self.counted, Ordering::Relaxed);
        self.counted <= READ_BYTES || others.saturating_add(self.counted) <= UNDECODED_BYTES_MAX
    }
}

impl Drop for Undecoded<'_> {
    fn drop(&mut self) {
        self.common.undecoded_bytes.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// Serves a connection until it ends, falls silent, breaks the protocol, or the daemon stops.
pub(super) async fn serve(
    mut stream: impl AsyncRead + Unpin,
    peer: Peer,
    stats: &Arc<ListenerStats>,
    common: &Common,
) -> io::Result<()> {
    let mut framing = Framing::new(stats.protocol);
    let mut undecoded = Undecoded::new(common);
    let mut intake = Intake::new(stats, common, peer.into());
    let peer = peer.to_string();
    let mut stop = common.stop.clone();
    let mut read_until = None;
    loop {
        let stopping = *stop.borrow();
        if stopping && Instant::now() >= *read_until.get_or_insert_with(|| Instant::now() + DRAIN_MAX) {
            // It never falls silent. Closed now, its sender learns that the rest was not taken.
            cut_off(&undecoded, &mut intake, &peer);
            return Ok(());
        }
        let patience = if stopping { DRAIN_PATIENCE } else { common.live.borrow().idle_timeout };
        let read = {
            let read = pin!(tokio::time::timeout(patience, read(&mut stream, &mut undecoded.bytes)));
            let stopped = pin!(async {
                if stopping {
                    std::future::pending::<()>().await;
                }
                // The sender of this channel lives as long as the daemon.
                let _ = stop.wait_for(|stop| *stop).await;
            });
            match select(read, stopped).await {
                Either::Left((read, _)) => read,
                Either::Right(((), _)) => continue,
            }
        };
        match read {
            Ok(Ok(0)) => {
                finish(&mut framing, &mut undecoded, &mut intake, &peer).await;
                return Ok(());
            }
            Ok(Ok(_)) => {}
            // What came before it has been taken, and what is left was cut.
            Ok(Err(error)) => {
                cut_off(&undecoded, &mut intake, &peer);
                return Err(error);
            }
            Err(_) => {
                if !stopping {
                    debug!(common.log, "closing a silent connection"; "peer" => &peer);
                }
                cut_off(&undecoded, &mut intake, &peer);
                return Ok(());
            }
        }
        // It is never closed.
        let decoding = DECODING.acquire().await;
        loop {
            match framing.decode(&mut undecoded.bytes) {
                Ok(Some(frame)) => {
                    if intake.take(frame, &peer).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    let sample = undecoded.bytes.get(..SAMPLE_BYTES_MAX).unwrap_or(&undecoded.bytes);
                    let reason = error.reason().unwrap_or(Reason::Truncated);
                    stats.turn_away(common, reason, &peer, sample, &error.to_string());
                    let _ = intake.hand_off().await;
                    return Ok(());
                }
            }
        }
        if intake.hand_off().await.is_err() {
            return Ok(());
        }
        drop(decoding);
        if !undecoded.count() {
            intake.malformed(Reason::Truncated, b"", &peer);
            warn!(common.log, "closing a connection in the middle of a frame: all senders together have sent more \
                               unfinished frames than there is room for"; "peer" => &peer, "bytes" => UNDECODED_BYTES_MAX);
            return Ok(());
        }
    }
}

/// The connection ended, but not by its sender's will: what is left may look like a whole line and be none, for
/// nothing says that its last number has come to its end.
fn cut_off(undecoded: &Undecoded<'_>, intake: &mut Intake<'_>, peer: &str) {
    if !undecoded.bytes.is_empty() {
        let sample = undecoded.bytes.get(..SAMPLE_BYTES_MAX).unwrap_or(&undecoded.bytes);
        intake.malformed(Reason::Truncated, sample, &peer);
    }
}

/// The sender closed: what is whole is taken, and what is not is counted.
async fn finish(framing: &mut Framing, undecoded: &mut Undecoded<'_>, intake: &mut Intake<'_>, peer: &str) {
    while let Ok(Some(frame)) = framing.decode_eof(&mut undecoded.bytes) {
        if intake.take(frame, &peer).await.is_err() {
            return;
        }
    }
    // Refused only when the daemon is at its end, and then nobody waits for these rows.
    let _ = intake.hand_off().await;
}
