//! Owns the places where tests can make an actor die or hang in the middle of its work, and the way to tell any
//! actor to end. Without the feature `faults`, which release builds do not have, there are none.

/// A place where a test can have a panic or a hang. Without the feature it is nothing.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn point(_place: &'static str) {}

#[cfg(feature = "faults")]
pub use with_faults::{Fault, arm, end, point, register};

#[cfg(feature = "faults")]
mod with_faults {
    use std::{
        sync::{
            Mutex, PoisonError,
            atomic::{AtomicBool, Ordering},
        },
        time::Duration,
    };

    use actix::Message;

    /// How a test ends an actor.
    #[derive(Message, Debug, Clone, Copy)]
    #[rtype(result = "()")]
    pub enum Fault {
        /// Panic while handling a message.
        Panic,
        /// Stop, as an actor does that wants a fresh start.
        Stop,
    }

    type End = Box<dyn Fn(Fault) + Send>;

    static ACTORS: Mutex<Vec<(String, End)>> = Mutex::new(Vec::new());

    /// From now on an actor can be told to end, whichever incarnation of it lives then.
    pub fn register(name: String, end: End) {
        ACTORS.lock().unwrap_or_else(PoisonError::into_inner).push((name, end));
    }

    /// Tells an actor to end as its next message; false if there is none whose name begins so.
    pub fn end(name: &str, how: Fault) -> bool {
        let actors = ACTORS.lock().unwrap_or_else(PoisonError::into_inner);
        let found = actors.iter().find(|(known, _)| known.starts_with(name));
        found.iter().for_each(|(_, end)| end(how));
        found.is_some()
    }

    static ARMED: AtomicBool = AtomicBool::new(false);
    static PLACES: Mutex<Vec<String>> = Mutex::new(Vec::new());

    /// The next time that `place` is reached, it panics; with `hang:` before it, it never goes on.
    pub fn arm(place: String) {
        PLACES.lock().unwrap_or_else(PoisonError::into_inner).push(place);
        ARMED.store(true, Ordering::Release);
    }

    /// A place where a test can have a panic or a hang.
    #[expect(clippy::panic, reason = "what a test asked for")]
    pub fn point(place: &'static str) {
        if !ARMED.load(Ordering::Acquire) {
            return;
        }
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = |armed: &String| armed.strip_prefix("hang:").unwrap_or(armed) == place;
        let Some(at) = places.iter().position(chosen) else { return };
        let armed = places.swap_remove(at);
        ARMED.store(!places.is_empty(), Ordering::Release);
        drop(places);
        while armed.starts_with("hang:") {
            std::thread::sleep(Duration::from_secs(3600));
        }
        panic!("a test asked for it at {place}");
    }
}
