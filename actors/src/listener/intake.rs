//! Owns the step from frames to rows in the collector's hand, with everything counted and said on the way.
//! It never reads a socket.

use std::{
    cell::RefCell,
    fmt::Display,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use slog::{o, warn};

use super::{Common, ListenerStats, Sample, now_ms};
use crate::{
    collector::{Frame as MetricRows, MetricFrame},
    core::{
        datapoint::{Datapoint, Malformed, Pull, Reason},
        framing::Frame,
        greeting::PROXY_ADVICE,
        ledger::Decoded,
        line::Lines,
        pickle::{Bounds, Decoder},
        protocol::Protocol,
        row::{Encoder, Rows, Skipped},
        senders::Sender,
    },
    supervisor::Gone,
    tap::{Look, Whence, skipped_sample},
};

/// Rows are handed on when there are so many bytes of them, even in the middle of a frame.
const HAND_OFF_BYTES: usize = 256 << 10;

/// Idle pickle decoders that a thread keeps. They hold memory, so connections share them.
const DECODERS_KEPT: usize = 4;

/// Idle row buffers that a thread keeps: a connection has one only while it has rows, so that a thousand connections
/// cost no more than those that are decoded at this moment.
const ROW_BUFFERS_KEPT: usize = 4;

/// A row buffer that is larger than this is given back, in bytes.
const ROW_BUFFER_BYTES_MAX: usize = 2 * HAND_OFF_BYTES;

/// The advice in the log for an item with an object in it.
const ITEM_CLASS_ADVICE: &str = "an object (Decimal, datetime, numpy.float64) stands where a number or a name should: what \
                                 it is worth only its code could tell, and none is run; let the sender write \
                                 float(value)";

thread_local! {
    static ROW_BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static DECODERS: RefCell<Vec<Decoder>> = const { RefCell::new(Vec::new()) };
}

/// Why no more of a frame was taken.
#[derive(PartialEq, Eq)]
enum Stopped {
    /// There is no more of it.
    AtEnd,
    /// The rows so far have to be handed on first.
    Full,
}

/// Takes the frames of one sender, and makes rows of them until it hands them to the collector.
pub(super) struct Intake<'a> {
    stats: &'a ListenerStats,
    common: &'a Common,
    /// The encoder of the rows so far: a reload may change it while the connection is open.
    encoder: Arc<Encoder>,
    /// The rows that the collector was handed last: shared while it takes them, and afterwards ours, so that their memory is used
    /// again.
    frame: Arc<MetricRows>,
    rows: Rows,
    decoded: Decoded,
    /// The sender of the next rows, and how many of the rows so far were counted as a sender's.
    sender: Sender,
    counted: u64,
    /// The first sample of each reason since the last hand-off: to keep all of them would cost too much.
    skipped: Vec<(Skipped, Sample)>,
    now_ms: i64,
}

impl<'a> Intake<'a> {
    pub(super) fn new(stats: &'a ListenerStats, common: &'a Common, sender: Sender) -> Self {
        let encoder = common.live.borrow().encoder.clone();
        let frame = Arc::default();
        Self {
            stats,
            common,
            encoder,
            frame,
            rows: Rows::default(),
            decoded: Decoded::default(),
            sender,
            counted: 0,
            skipped: Vec::new(),
            now_ms: now_ms(),
        }
    }

    /// Counts what is taken from now on as `sender`'s.
    pub(super) fn comes_from(&mut self, sender: Sender) {
        if sender != self.sender {
            self.count_sender();
            self.sender = sender;
        }
    }

    fn count_sender(&mut self) {
        let rows = self.decoded.rows.saturating_sub(self.counted);
        if rows > 0 {
            self.common.senders.count(self.sender, rows);
        }
        self.counted = self.decoded.rows;
    }

    /// Decodes a frame; its rows are handed on when they are many.
    pub(super) async fn take(&mut self, frame: Frame, peer: &dyn Display) -> Result<(), Gone> {
        self.now_ms = now_ms();
        let encoder = self.common.live.borrow().encoder.clone();
        if !Arc::ptr_eq(&encoder, &self.encoder) {
            // The rows so far may be another tenant's.
            self.hand_off().await?;
            self.encoder = encoder;
        }
        if self.rows.text.capacity() == 0 {
            self.rows.text = ROW_BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        match frame {
            Frame::Lines(block) => self.take_all(&mut Lines::new(&block), Protocol::Line, peer).await?,
            Frame::Pickle(pickle) => {
                let kept = DECODERS.with_borrow_mut(Vec::pop);
                let mut decoder = kept.unwrap_or_else(|| Decoder::new(Bounds::default()));
                let taken = match decoder.decode(&pickle) {
                    Ok(mut datapoints) => self.take_all(&mut datapoints, Protocol::Pickle, peer).await,
                    Err(bad) => {
                        let whence = self.whence(Protocol::Pickle, peer);
                        self.count_malformed(bad.reason, bad.sample, whence, &mut self.common.taps.look());
                        Ok(())
                    }
                };
                DECODERS.with_borrow_mut(|decoders| {
                    if decoders.len() < DECODERS_KEPT {
                        decoders.push(decoder);
                    }
                });
                taken?;
            }
            Frame::Malformed { reason, sample } => self.malformed(reason, &sample, peer),
        }
        Ok(())
    }

    /// Takes what a frame yields, to its end.
    async fn take_all(
        &mut self,
        frame: &mut impl Pull,
        protocol: Protocol,
        peer: &dyn Display,
    ) -> Result<(), Gone> {
        while self.take_some(frame, protocol, peer) == Stopped::Full {
            self.hand_off().await?;
        }
        Ok(())
    }

    /// Takes what fits into a hand-off. It waits for nothing, and so is a loop that the compiler can see through.
    fn take_some(&mut self, frame: &mut impl Pull, protocol: Protocol, peer: &dyn Display) -> Stopped {
        let whence = self.whence(protocol, peer);
        let mut look = self.common.taps.look();
        while self.rows.text.len() < HAND_OFF_BYTES {
            match frame.pull() {
                Some(item) => self.take_item(item, whence, &mut look),
                None => return Stopped::AtEnd,
            }
        }
        Stopped::Full
    }

    #[inline]
    fn take_item(
        &mut self,
        item: Result<Datapoint<'_>, Malformed<'_>>,
        whence: Whence<'_>,
        look: &mut Option<Look<'_>>,
    ) {
        match item {
            Ok(datapoint) => {
                let encoded = self.encoder.encode(&datapoint, self.now_ms, &mut self.rows);
                self.decoded.count(encoded.map(|()| false));
                match (encoded, look) {
                    (Ok(()), None) => {}
                    (Ok(()), Some(look)) => look.datapoint(whence, &datapoint),
                    (Err(reason), look) => self.skipped(reason, &datapoint, whence, look),
                }
            }
            Err(bad) => self.count_malformed(bad.reason, bad.sample, whence, look),
        }
    }

    #[cold]
    fn skipped(
        &mut self,
        reason: Skipped,
        datapoint: &Datapoint<'_>,
        whence: Whence<'_>,
        look: &mut Option<Look<'_>>,
    ) {
        if !self.skipped.iter().any(|(noted, _)| *noted == reason) {
            let (peer, text) = (whence.peer.to_string(), skipped_sample(datapoint));
            self.skipped.push((reason, Sample { peer, text, at: SystemTime::now() }));
        }
        if let Some(look) = look {
            look.skipped(whence, reason, datapoint);
        }
    }

    fn whence<'p>(&self, protocol: Protocol, peer: &'p dyn Display) -> Whence<'p>
    where
        'a: 'p,
    {
        Whence { time_ms: self.now_ms, endpoint: &self.stats.endpoint, protocol, peer }
    }

    /// Hands all rows so far to the collector, and waits until it has them.
    pub(super) async fn hand_off(&mut self) -> Result<(), Gone> {
        self.count_sender();
        self.counted = 0;
        let decoded = std::mem::take(&mut self.decoded);
        if decoded != Decoded::default() {
            self.stats.datapoints.fetch_add(decoded.rows, Ordering::Relaxed);
            self.stats.last_received_ms.store(self.now_ms.unsigned_abs(), Ordering::Relaxed);
            self.common.ledger.change(|ledger| ledger.decoded(&decoded));
        }
        for (reason, sample) in self.skipped.drain(..) {
            let count = decoded.skipped.get(reason as usize).copied().unwrap_or(0);
            self.stats.note_skipped(reason, count, sample);
        }
        if self.rows.is_empty() {
            self.release();
            return Ok(());
        }
        let tenant = self.encoder.tenant().clone();
        let frame = Arc::new(MetricRows::new(std::mem::take(&mut self.rows), self.now_ms, tenant));
        self.frame = frame.clone();
        self.common.collector.ask(|| MetricFrame(frame.clone())).await?;
        drop(frame);
        if let Some(frame) = Arc::get_mut(&mut self.frame) {
            self.rows = std::mem::take(&mut frame.rows);
            self.rows.text.clear();
            self.rows.count = 0;
            self.release();
        }
        Ok(())
    }

    /// Leaves the memory of the row buffer, if it is empty, to the next connection that has rows.
    fn release(&mut self) {
        let buffer = std::mem::take(&mut self.rows.text);
        if (1..=ROW_BUFFER_BYTES_MAX).contains(&buffer.capacity()) {
            ROW_BUFFERS.with_borrow_mut(|buffers| {
                if buffers.len() < ROW_BUFFERS_KEPT {
                    buffers.push(buffer);
                }
            });
        }
    }

    /// Counts malformed input, and says it at a bounded rate.
    pub(super) fn malformed(&self, reason: Reason, sample: &[u8], peer: &dyn Display) {
        let whence = self.whence(self.stats.protocol, peer);
        self.count_malformed(reason, sample, whence, &mut self.common.taps.look());
    }

    fn count_malformed(
        &self,
        reason: Reason,
        sample: &[u8],
        whence: Whence<'_>,
        look: &mut Option<Look<'_>>,
    ) {
        let peer = whence.peer;
        self.common.ledger.change(|ledger| ledger.malformed(reason.label()));
        if let Some(look) = look {
            look.malformed(whence, reason, sample);
        }
        if let Some(unsaid) = self.stats.note_malformed(reason, peer, sample) {
            let log = match reason {
                Reason::ProxyHeader => &self.common.log.new(o!("cause" => PROXY_ADVICE)),
                Reason::ItemClass => &self.common.log.new(o!("cause" => ITEM_CLASS_ADVICE)),
                _ => &self.common.log,
            };
            warn!(log, "malformed input is not forwarded";
                "reason" => reason.label(), "peer" => %peer, "sample" => %sample.escape_ascii(), "unsaid_before" => unsaid);
        }
    }
}
