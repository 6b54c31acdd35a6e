//! Owns the life of the actors: each is started again when it stops or panics, and its senders find the new one.
//! It never keeps a message: who sends waits for the reply, and sends again if the actor died over it.
//!
//! actix's own `Supervisor` sees a stop but no panic (`actors/TRAPS.md`, "The Supervisor sees no panic"), so this one
//! watches something that cannot be missed: a [`Lifeline`] that lies in the actor, and is dropped with it however it ends.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Addr, Context, Handler, Message, Recipient, dev::ToEnvelope};
use actix_rt::ArbiterHandle;
use slog::{Logger, error, warn};
use tokio::sync::{oneshot, watch};

/// How often each actor is asked whether it still answers. Tests of this have no half minute to wait.
const PING_EVERY: Duration = Duration::from_millis(if cfg!(feature = "faults") { 200 } else { 5_000 });

/// An actor that has not answered for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(if cfg!(feature = "faults") { 3 } else { 30 });

/// The span in which restarts are counted.
const STORM_SPAN: Duration = Duration::from_secs(60);

/// Asks an actor whether it still takes messages. The reply is empty: that it comes is the answer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ping;

/// Tells an actor to end: the next incarnation has other settings.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Retire;

/// An actor that tests can tell to end.
pub trait Endable: Actor {
    /// Tells it, without waiting for it.
    #[cfg(feature = "faults")]
    fn end(addr: Addr<Self>, how: crate::faults::Fault);
}

/// Gives an actor the messages that every supervised actor takes.
macro_rules! supervised {
    ($actor:ty) => {
        impl $crate::supervisor::Endable for $actor {
            #[cfg(feature = "faults")]
            fn end(addr: actix::Addr<Self>, how: $crate::faults::Fault) {
                actix_rt::spawn(async move {
                    let _ = addr.send(how).await;
                });
            }
        }

        impl actix::Handler<$crate::supervisor::Ping> for $actor {
            type Result = ();
            fn handle(&mut self, _: $crate::supervisor::Ping, _: &mut Self::Context) {}
        }

        impl actix::Handler<$crate::supervisor::Retire> for $actor {
            type Result = ();
            fn handle(&mut self, _: $crate::supervisor::Retire, ctx: &mut Self::Context) {
                actix::ActorContext::stop(ctx);
            }
        }

        #[cfg(feature = "faults")]
        impl actix::Handler<$crate::faults::Fault> for $actor {
            type Result = ();
            fn handle(&mut self, fault: $crate::faults::Fault, ctx: &mut Self::Context) {
                match fault {
                    $crate::faults::Fault::Panic => panic!("a test asked for it"),
                    $crate::faults::Fault::Stop => actix::ActorContext::stop(ctx),
                }
            }
        }
    };
}
pub(crate) use supervised;

/// The sign of life of an actor, which has to keep it: when it is dropped, the actor counts as ended and is started again.
#[derive(Debug)]
pub struct Lifeline {
    _dropped_with_the_actor: oneshot::Sender<()>,
}

/// The actor is gone for good: the daemon is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the actor is gone for good")
    }
}

impl std::error::Error for Gone {}

/// The way to an actor, whichever incarnation of it lives now.
pub struct Link<M>
where
    M: Message + Send,
    M::Result: Send,
{
    recipient: watch::Receiver<Recipient<M>>,
}

impl<M> Clone for Link<M>
where
    M: Message + Send,
    M::Result: Send,
{
    fn clone(&self) -> Self {
        Self { recipient: self.recipient.clone() }
    }
}

impl<M> Link<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// Sends until an incarnation has answered. The reply is the receipt; a message that is handled twice,
    /// because its handler died after its work and before its reply, must be harmless.
    ///
    /// # Errors
    /// [`Gone`] when there will be no other incarnation.
    pub async fn ask(&self, mut message: impl FnMut() -> M) -> Result<M::Result, Gone> {
        let mut recipient = self.recipient.clone();
        loop {
            let current = recipient.borrow_and_update().clone();
            match current.send(message()).await {
                Ok(reply) => return Ok(reply),
                Err(_) => recipient.changed().await.map_err(|_| Gone)?,
            }
        }
    }
}

/// What is known of an actor from outside: how often it was started again, and when it last answered.
#[derive(Debug)]
pub struct Vitals {
    /// The name of the actor.
    pub name: String,
    restarts: AtomicU64,
    answered: Mutex<Instant>,
}

impl Vitals {
    /// How often it was started again.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// How long ago it last answered, if that is so long that it must be stuck.
    pub fn stuck_for(&self) -> Option<Duration> {
        let ago = self.answered.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        (ago > STUCK_AFTER).then_some(ago)
    }

    fn answered(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// Counts the restarts of all actors. Too many within a minute end the daemon: one more restart would not help.
#[derive(Clone)]
pub struct Storms {
    restarts_max: usize,
    recent: Arc<Mutex<VecDeque<Instant>>>,
    /// Takes the last line of the log, and with it ends the daemon.
    fatal: tokio::sync::mpsc::Sender<String>,
}

impl Storms {
    /// Allows `restarts_max` restarts a minute. One more sends a last line through `fatal`.
    pub fn new(restarts_max: usize, fatal: tokio::sync::mpsc::Sender<String>) -> Self {
        Self { restarts_max, recent: Arc::default(), fatal }
    }

    fn allow(&self, name: &str) -> bool {
        let now = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(now);
        while recent.front().is_some_and(|&at| now.duration_since(at) > STORM_SPAN) {
            recent.pop_front();
        }
        if recent.len() <= self.restarts_max {
            return true;
        }
        let text = format!(
            "actors were started again {} times within a minute, the last of them the {name}: giving up, so that \
             whatever runs this daemon starts it afresh; nothing that was stored is lost",
            recent.len()
        );
        // A full channel already holds such a line.
        let _ = self.fatal.try_send(text);
        false
    }
}

/// Tells one link of a new incarnation; false if the link is gone.
type Publish<A> = Box<dyn Fn(&Addr<A>) -> bool + Send>;

/// Starts an incarnation: its address, and a channel that closes when it ends.
type Start<A> = Box<dyn Fn() -> (Addr<A>, oneshot::Receiver<()>) + Send>;

struct Shared<A: Actor> {
    /// The living incarnation, and the links that are told of the next.
    current: Mutex<(Addr<A>, Vec<Publish<A>>)>,
    /// Makes the next incarnation; `None` once there is to be none.
    start: Mutex<Option<Start<A>>>,
    /// Whether the next end is one that we asked for, which is no restart.
    renewing: AtomicBool,
    stopping: AtomicBool,
}

/// An actor that is started again whenever it ends.
pub struct Supervised<A: Actor> {
    shared: Arc<Shared<A>>,
    vitals: Arc<Vitals>,
    arbiter: ArbiterHandle,
}

impl<A> Supervised<A>
where
    A: Actor<Context = Context<A>> + Handler<Ping> + Handler<Retire> + Endable,
    Context<A>: ToEnvelope<A, Ping> + ToEnvelope<A, Retire>,
{
    /// Starts an actor on an arbiter, and again on the same whenever it ends. The supervision itself runs where
    /// this is called: on the system's arbiter, where no actor's work can hold it up.
    pub fn start(
        name: impl Into<String>,
        arbiter: ArbiterHandle,
        storms: Storms,
        log: Logger,
        make: impl Fn(Lifeline) -> A + Clone + Send + 'static,
    ) -> Self {
        let start = starter(arbiter.clone(), make);
        let (addr, died) = start();
        let vitals = Arc::new(Vitals {
            name: name.into(),
            restarts: AtomicU64::new(0),
            answered: Mutex::new(Instant::now()),
        });
        let current = Mutex::new((addr, Vec::new()));
        let shared = Arc::new(Shared {
            current,
            start: Mutex::new(Some(start)),
            renewing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        #[cfg(feature = "faults")]
        {
            // Not held by what tests may ask: a socket must be closed when the daemon ends.
            let shared = Arc::downgrade(&shared);
            let end = move |how| {
                let Some(shared) = shared.upgrade() else { return };
                let addr = shared.current.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
                A::end(addr, how);
            };
            crate::faults::register(vitals.name.clone(), Box::new(end));
        }
        actix_rt::spawn(supervise(shared.clone(), vitals.clone(), storms, log.clone(), died));
        actix_rt::spawn(watch_over(shared.clone(), vitals.clone(), log));
        Self { shared, vitals, arbiter }
    }

    /// A link to this actor, which finds the next incarnation too.
    pub fn link<M>(&self) -> Link<M>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        Context<A>: ToEnvelope<A, M>,
    {
        let mut current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (tell, recipient) = watch::channel(current.0.clone().recipient());
        current.1.push(Box::new(move |addr| tell.send(addr.clone().recipient()).is_ok()));
        Link { recipient }
    }

    /// What is known of it from outside.
    pub fn vitals(&self) -> Arc<Vitals> {
        self.vitals.clone()
    }

    /// Ends the living incarnation, and starts the next by `make`: with other settings. What an actor has in hand
    /// outlives it on any end, so this one loses nothing either.
    pub fn renew(&self, make: impl Fn(Lifeline) -> A + Clone + Send + 'static) {
        self.make_next_by(make);
        self.shared.renewing.store(true, Ordering::Release);
        self.retire();
    }

    fn make_next_by(&self, make: impl Fn(Lifeline) -> A + Clone + Send + 'static) {
        *self.shared.start.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(starter(self.arbiter.clone(), make));
    }

    /// Tells the living incarnation of other settings, and starts the next by `make`: nothing that it has in hand is
    /// touched.
    pub fn configure<M>(&self, make: impl Fn(Lifeline) -> A + Clone + Send + 'static, settings: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        Context<A>: ToEnvelope<A, M>,
    {
        self.make_next_by(make);
        let addr = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        // If it has just ended by itself, the next incarnation is made with them.
        actix_rt::spawn(async move { drop(addr.send(settings).await) });
    }

    /// Ends the living incarnation, without waiting for it.
    pub fn retire(&self) {
        let addr = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        // If it has just ended by itself, there is nobody to tell.
        actix_rt::spawn(async move {
            let _ = addr.send(Retire).await;
        });
    }

    /// From now on its end is its end. What the next incarnation would have been made of is dropped.
    pub fn let_go(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.start.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Those who wait for the next incarnation learn that there is none.
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).1.clear();
    }
}

fn starter<A: Actor<Context = Context<A>>>(
    arbiter: ArbiterHandle,
    make: impl Fn(Lifeline) -> A + Clone + Send + 'static,
) -> Start<A> {
    Box::new(move || {
        let (lifeline, died) = oneshot::channel();
        let make = make.clone();
        let addr =
            A::start_in_arbiter(&arbiter, move |_| make(Lifeline { _dropped_with_the_actor: lifeline }));
        (addr, died)
    })
}

async fn supervise<A: Actor<Context = Context<A>>>(
    shared: Arc<Shared<A>>,
    vitals: Arc<Vitals>,
    storms: Storms,
    log: Logger,
    mut died: oneshot::Receiver<()>,
) {
    loop {
        // It is never sent: the sender lies in the actor and is dropped with it.
        let _ = died.await;
        let planned = shared.renewing.swap(false, Ordering::AcqRel);
        if shared.stopping.load(Ordering::Acquire) || !(planned || storms.allow(&vitals.name)) {
            return;
        }
        if !planned {
            let restarts = vitals.restarts.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            warn!(log, "an actor ended and is started again"; "actor" => &vitals.name, "restarts" => restarts);
        }
        let made = shared.start.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|start| start());
        let Some((addr, next)) = made else { return };
        died = next;
        vitals.answered();
        let mut current = shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Ways that were given up are forgotten, or each reload would leave some behind.
        current.1.retain(|publish| publish(&addr));
        current.0 = addr;
    }
}

/// Says when an actor no longer answers. It cannot be replaced, for what holds it holds its thread too.
async fn watch_over<A>(shared: Arc<Shared<A>>, vitals: Arc<Vitals>, log: Logger)
where
    A: Actor<Context = Context<A>> + Handler<Ping>,
    Context<A>: ToEnvelope<A, Ping>,
{
    let mut said = false;
    while !shared.stopping.load(Ordering::Acquire) {
        let addr = shared.current.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        // A ping that is given up un-sends itself, which is harmless for this message only.
        if let Ok(Ok(())) = tokio::time::timeout(PING_EVERY, addr.send(Ping)).await {
            vitals.answered();
            said = false;
        }
        if let Some(stuck) = vitals.stuck_for().filter(|_| !said) {
            error!(log, "an actor no longer answers"; "actor" => &vitals.name, "seconds" => stuck.as_secs());
            said = true;
        }
        tokio::time::sleep(PING_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use actix::ActorContext;

    use super::*;

    struct Fragile {
        _lifeline: Lifeline,
        handled: u32,
    }

    impl Actor for Fragile {
        type Context = Context<Self>;
    }

    supervised!(Fragile);

    #[derive(Message, Clone, Copy)]
    #[rtype(result = "u32")]
    enum Do {
        Work,
        Panic,
        Stop,
    }

    impl Handler<Do> for Fragile {
        type Result = u32;
        fn handle(&mut self, what: Do, ctx: &mut Self::Context) -> u32 {
            self.handled += 1;
            match what {
                Do::Work => {}
                Do::Panic => panic!("a test asked for it"),
                Do::Stop => ctx.stop(),
            }
            self.handled
        }
    }

    fn start(restarts_max: usize) -> (Supervised<Fragile>, tokio::sync::mpsc::Receiver<String>) {
        let (fatal, ended) = tokio::sync::mpsc::channel(1);
        let log = Logger::root(slog::Discard, slog::o!());
        let make = |lifeline| Fragile { _lifeline: lifeline, handled: 0 };
        let arbiter = actix_rt::Arbiter::current();
        (Supervised::start("fragile", arbiter, Storms::new(restarts_max, fatal), log, make), ended)
    }

    /// Sends `what` once, whatever comes of it.
    async fn send_once(supervised: &Supervised<Fragile>, what: Do) {
        let addr = supervised.shared.current.lock().unwrap().0.clone();
        let _ = addr.send(what).await;
    }

    #[actix_rt::test]
    async fn an_actor_that_stops_or_panics_is_started_again_and_its_senders_find_it() {
        let (supervised, _ended) = start(10);
        let link = supervised.link::<Do>();
        assert_eq!(link.ask(|| Do::Work).await, Ok(1));
        assert_eq!(link.ask(|| Do::Work).await, Ok(2));
        for (died, how) in [(1, Do::Panic), (2, Do::Stop), (3, Do::Panic)] {
            send_once(&supervised, how).await;
            assert_eq!(link.ask(|| Do::Work).await, Ok(1), "a new incarnation");
            assert_eq!(supervised.vitals().restarts(), died);
        }
    }

    #[actix_rt::test]
    async fn a_renewed_actor_is_made_anew_and_that_is_no_restart() {
        let (supervised, _ended) = start(0);
        let link = supervised.link::<Do>();
        assert_eq!(link.ask(|| Do::Work).await, Ok(1));
        supervised.renew(|lifeline| Fragile { _lifeline: lifeline, handled: 100 });
        while link.ask(|| Do::Work).await != Ok(101) {
            tokio::task::yield_now().await;
        }
        assert_eq!(supervised.vitals().restarts(), 0);
    }

    #[actix_rt::test]
    async fn a_message_over_which_the_actor_dies_is_sent_again() {
        let (supervised, _ended) = start(10);
        let mut left = [Do::Panic, Do::Panic, Do::Work].into_iter();
        let reply = supervised.link::<Do>().ask(|| left.next().unwrap()).await;
        assert_eq!(reply, Ok(1));
    }

    #[actix_rt::test]
    async fn a_storm_of_restarts_ends_the_daemon() {
        let (supervised, mut ended) = start(3);
        let link = supervised.link::<Do>();
        drop(actix_rt::spawn(async move { link.ask(|| Do::Panic).await }));
        let last_line = ended.recv().await.unwrap();
        assert!(last_line.contains("4 times within a minute, the last of them the fragile"), "{last_line}");
    }

    #[actix_rt::test]
    async fn who_waits_for_an_actor_that_was_let_go_is_told() {
        let (supervised, _ended) = start(10);
        let link = supervised.link::<Do>();
        supervised.let_go();
        assert_eq!(link.ask(|| Do::Stop).await, Ok(1), "it still answers");
        assert_eq!(link.ask(|| Do::Work).await, Err(Gone));
    }
}
