//! Owns the places where tests can make an actor die in the middle of its work. Without the feature `faults`,
//! which release builds do not have, there are none.

/// A place that a test may have chosen for a panic.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn point(_place: &'static str) {}

#[cfg(feature = "faults")]
pub use with_faults::{arm, point};

#[cfg(feature = "faults")]
mod with_faults {
    use std::sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    };

    static ARMED: AtomicBool = AtomicBool::new(false);
    static PLACES: Mutex<Vec<String>> = Mutex::new(Vec::new());

    /// The next time that `place` is reached, it panics.
    pub fn arm(place: String) {
        PLACES.lock().unwrap_or_else(PoisonError::into_inner).push(place);
        ARMED.store(true, Ordering::Release);
    }

    /// A place that a test may have chosen for a panic.
    #[expect(clippy::panic, reason = "what a test asked for")]
    pub fn point(place: &'static str) {
        if !ARMED.load(Ordering::Acquire) {
            return;
        }
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = places.iter().position(|armed| armed == place) else { return };
        places.swap_remove(at);
        ARMED.store(!places.is_empty(), Ordering::Release);
        drop(places);
        panic!("a test asked for it at {place}");
    }
}
