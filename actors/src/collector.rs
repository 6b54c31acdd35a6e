//! Owns the open chunk: it gathers rows until they are many or old enough to be stored, and says when the send
//! interval is over. It never drops a row, and never touches a disk or a socket.
//!
//! What it gathers outlives it: an incarnation that dies leaves its [`Hand`] to the next.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt, ActorResponse, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture,
};
use tokio::sync::oneshot;

use crate::{
    core::{
        payload::punctuation_bytes,
        row::{OpenArray, Rows},
    },
    faults,
    forwarder::{Flush, Store},
    spool::Batch,
    supervisor::{Lifeline, Link, supervised},
};

/// Batches that wait for the spool, at most, before senders have to.
const SEALED_MAX: usize = 4;

/// A frame's worth of metrics, as rows. The reply is the receipt: from then on they are the collector's, and
/// outlive it. Sent again, it is taken once.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct MetricFrame(pub Arc<Frame>);

/// The rows of a [`MetricFrame`].
#[derive(Debug, Default)]
pub struct Frame {
    /// Already counted as received.
    pub rows: Rows,
    /// When they came, in milliseconds since 1970.
    pub received_ms: i64,
    /// Whose they are.
    pub tenant: Arc<str>,
    taken: AtomicBool,
}

impl Frame {
    /// Rows that came at `received_ms`, and whose they are.
    pub fn new(rows: Rows, received_ms: i64, tenant: Arc<str>) -> Self {
        Self { rows, received_ms, tenant, taken: AtomicBool::new(false) }
    }
}

/// Go on with other settings.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Configure(pub Options);

/// Seal what is here, and answer when the spool has all of it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain;

/// What bounds a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The most rows in a chunk, for a payload holds whole chunks.
    pub rows_max: u32,
    /// The largest payload, in bytes before compression.
    pub payload_bytes_max: usize,
    /// The longest that a row waits here.
    pub seal_interval: Duration,
    /// How often everything is sent, full payload or not.
    pub send_interval: Duration,
}

/// What the collector holds. It is shared by its incarnations.
#[derive(Debug, Clone, Default)]
pub struct Hand(Arc<Mutex<InHand>>);

#[derive(Debug, Default)]
struct InHand {
    open: OpenArray,
    opened: Option<(Instant, i64)>,
    /// Whose the open rows are.
    tenant: Arc<str>,
    sealed: VecDeque<Arc<Batch>>,
}

impl Hand {
    fn lock(&self) -> MutexGuard<'_, InHand> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InHand {
    /// Takes all rows of a frame; the batches that became full over it.
    fn take(&mut self, frame: &Frame, options: &Options, now: Instant) -> Vec<Arc<Batch>> {
        let mut full = Vec::new();
        if frame.taken.load(Ordering::Acquire) {
            return full;
        }
        if *self.tenant != *frame.tenant {
            full.extend(self.seal(false));
            self.tenant = frame.tenant.clone();
        }
        let bytes_max = options.payload_bytes_max.saturating_sub(punctuation_bytes(1));
        let mut rest = frame.rows.as_ref();
        while rest.count > 0 {
            let rows_left = options.rows_max.saturating_sub(self.open.count());
            let comma = usize::from(self.open.count() > 0);
            let bytes_left = bytes_max.saturating_sub(self.open.bytes()).saturating_sub(comma);
            let (head, tail) = rest.split(rows_left, bytes_left);
            if head.count == 0 && self.open.count() == 0 {
                // One row over the bound: the encoder lets none through, and a chunk of one is sent as it is.
                let (row, tail) = rest.split(1, usize::MAX);
                self.open(now, frame.received_ms);
                self.open.append(row);
                rest = tail;
            } else {
                if head.count > 0 {
                    self.open(now, frame.received_ms);
                }
                self.open.append(head);
                rest = tail;
            }
            if rest.count > 0 || self.open.count() >= options.rows_max {
                full.extend(self.seal(false));
            }
        }
        frame.taken.store(true, Ordering::Release);
        full
    }

    fn open(&mut self, now: Instant, received_ms: i64) {
        self.opened.get_or_insert((now, received_ms));
    }

    fn seal(&mut self, due: bool) -> Option<Arc<Batch>> {
        let (_, received_ms) = self.opened.take()?;
        // The next chunk will be about as large.
        let room = self.open.bytes().saturating_add(self.open.bytes() / 8);
        let open = std::mem::replace(&mut self.open, OpenArray::with_room(room));
        let batch = Arc::new(Batch::new(open.close(), received_ms).of(self.tenant.clone()).due(due));
        self.sealed.push_back(batch.clone());
        Some(batch)
    }
}

/// The actor.
pub struct Collector {
    _lifeline: Lifeline,
    options: Options,
    hand: Hand,
    store: Link<Store>,
    flush: Link<Flush>,
    /// Frames that wait for the spool to take what is sealed.
    waiting: VecDeque<(Arc<Frame>, oneshot::Sender<()>)>,
    /// Who waits for everything to be stored.
    draining: Vec<oneshot::Sender<()>>,
    seal_timer: Option<SpawnHandle>,
    flush_timer: Option<SpawnHandle>,
}

impl Collector {
    /// A collector that goes on with what is in `hand`.
    pub fn new(
        lifeline: Lifeline,
        options: Options,
        hand: Hand,
        store: Link<Store>,
        flush: Link<Flush>,
    ) -> Self {
        Self {
            _lifeline: lifeline,
            options,
            hand,
            store,
            flush,
            waiting: VecDeque::new(),
            draining: Vec::new(),
            seal_timer: None,
            flush_timer: None,
        }
    }

    fn take(&mut self, frame: &Frame, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let mut hand = self.hand.lock();
        let mut sealed = hand.take(frame, &self.options, now);
        // A flood of messages keeps timers waiting, so what must be on time is looked at here too.
        if hand.opened.is_some_and(|(at, _)| now.duration_since(at) >= self.options.seal_interval) {
            sealed.extend(hand.seal(false));
        }
        let open = hand.opened.is_some();
        drop(hand);
        if !sealed.is_empty() || !open {
            self.seal_timer.take().map(|timer| ctx.cancel_future(timer));
        }
        if open && self.seal_timer.is_none() {
            self.seal_timer =
                Some(ctx.run_later(self.options.seal_interval, |collector, ctx| collector.seal(false, ctx)));
        }
        sealed.into_iter().for_each(|batch| self.dispatch(batch, ctx));
    }

    fn seal(&mut self, due: bool, ctx: &mut Context<Self>) {
        self.seal_timer.take().map(|timer| ctx.cancel_future(timer));
        let sealed = self.hand.lock().seal(due);
        sealed.into_iter().for_each(|batch| self.dispatch(batch, ctx));
    }

    fn dispatch(&self, batch: Arc<Batch>, ctx: &mut Context<Self>) {
        let store = self.store.clone();
        let sent = batch.clone();
        // The forwarder is only gone for good once there is nothing left to be stored.
        let stored = async move { store.ask(|| Store(sent.clone())).await.is_ok() };
        ctx.spawn(stored.into_actor(self).map(move |stored, collector, ctx| {
            if stored {
                faults::point("collector.stored");
                collector.stored(&batch, ctx);
            }
        }));
    }

    fn stored(&mut self, batch: &Arc<Batch>, ctx: &mut Context<Self>) {
        self.hand.lock().sealed.retain(|sealed| !Arc::ptr_eq(sealed, batch));
        while self.has_room() {
            let Some((frame, receipt)) = self.waiting.pop_front() else { break };
            self.take(&frame, ctx);
            // Who sent it may be gone: it is taken all the same.
            let _ = receipt.send(());
        }
        self.tell_if_drained();
    }

    fn has_room(&self) -> bool {
        self.hand.lock().sealed.len() < SEALED_MAX
    }

    /// The send interval is over.
    fn flush(&mut self, ctx: &mut Context<Self>) {
        // The chunk that is sealed now is due with those that the spool has already.
        self.seal(true, ctx);
        let flush = self.flush.clone();
        // This does not wait until that chunk is stored: a full spool takes it only when something has left.
        ctx.spawn(async move { flush.ask(|| Flush).await }.into_actor(self).map(|_, _, _| ()));
    }

    fn tell_if_drained(&mut self) {
        let hand = self.hand.lock();
        if self.waiting.is_empty() && hand.sealed.is_empty() && hand.open.count() == 0 {
            drop(hand);
            for waiting in self.draining.drain(..) {
                let _ = waiting.send(());
            }
        }
    }
}

impl Actor for Collector {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (left, open) = {
            let hand = self.hand.lock();
            (hand.sealed.iter().cloned().collect::<Vec<_>>(), hand.opened.is_some())
        };
        left.into_iter().for_each(|batch| self.dispatch(batch, ctx));
        if open {
            self.seal(false, ctx);
        }
        self.flush_timer = Some(ctx.run_interval(self.options.send_interval, Self::flush));
    }
}

supervised!(Collector);

impl Handler<MetricFrame> for Collector {
    type Result = ActorResponse<Self, ()>;

    fn handle(&mut self, MetricFrame(frame): MetricFrame, ctx: &mut Self::Context) -> Self::Result {
        faults::point("collector.frame");
        if self.waiting.is_empty() && self.has_room() {
            self.take(&frame, ctx);
            faults::point("collector.taken");
            return ActorResponse::reply(());
        }
        let (receipt, taken) = oneshot::channel();
        self.waiting.push_back((frame, receipt));
        // Within this actor's context: if this incarnation ends first, the sender is told, and sends to the next.
        ActorResponse::r#async(async move { drop(taken.await) }.into_actor(self))
    }
}

impl Handler<Configure> for Collector {
    type Result = ();

    fn handle(&mut self, Configure(options): Configure, ctx: &mut Self::Context) {
        let timer = options.send_interval != self.options.send_interval;
        self.options = options;
        if timer {
            self.flush_timer.take().map(|timer| ctx.cancel_future(timer));
            self.flush_timer = Some(ctx.run_interval(self.options.send_interval, Self::flush));
        }
    }
}

impl Handler<Drain> for Collector {
    type Result = ActorResponse<Self, ()>;

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) -> Self::Result {
        let (tell, drained) = oneshot::channel();
        self.draining.push(tell);
        self.seal(true, ctx);
        self.tell_if_drained();
        ActorResponse::r#async(async move { drop(drained.await) }.into_actor(self))
    }
}
