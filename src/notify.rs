//! Owns what the service manager is told (`Type=notify`): ready, the ledger in a line, the watchdog's food, and that a
//! stop takes its time. Never holds anything up: it has a thread of its own, and is not there where nobody listens.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use actors::core::ledger::sum;
use actors::core::printable::printable;
use actors::metrics::{SharedSources, View};
use sd_notify::NotifyState::{self, ExtendTimeoutUsec, Ready, Status, Stopping, Watchdog};
use slog::{Logger, warn};

/// How often the status is renewed, unless the watchdog must be fed more often.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// By how much the end of a stop is put off each time; a tick that comes late must not end it.
const PUT_OFF_BY: Duration = Duration::from_secs(30);

/// How much of the verdict is said, in bytes.
const STATUS_BYTES_MAX: usize = 2_000;

/// How long the way out waits for the last word. A manager that hangs must not keep us here.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the service manager's ear. Dropped, the manager hears the ledger for the last time.
#[derive(Debug)]
pub struct Notifier {
    stopping: Option<Sender<Instant>>,
    ended: Receiver<()>,
}

impl Notifier {
    /// Says that the daemon is ready, and goes on telling; nothing, if no service manager asked for it.
    pub fn start(sources: SharedSources, log: &Logger) -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
        let watchdog = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero());
        let (stopping, told_to_stop) = channel();
        let (end, ended) = channel();
        let teller = Teller { sources, watchdog, log: log.clone(), failing: false };
        let started = thread::Builder::new().name("notify".to_owned()).spawn(move || {
            teller.run(&told_to_stop);
            drop(end);
        });
        match started {
            Ok(_) => Some(Self { stopping: Some(stopping), ended }),
            Err(error) => {
                warn!(log, "the service manager is told nothing: there is no thread for it"; "error" => %error);
                None
            }
        }
    }

    /// Says that the settings are read again (`Type=notify-reload`).
    pub fn reloading(&self) {
        // What cannot be told changes nothing.
        let _ =
            NotifyState::monotonic_usec_now().map(|now| sd_notify::notify(&[NotifyState::Reloading, now]));
    }

    /// Says that it is ready again.
    pub fn ready(&self) {
        let _ = sd_notify::notify(&[Ready]);
    }

    /// Says that it stops, and asks for patience until `deadline`.
    pub fn stopping(&self, deadline: Instant) {
        if let Some(stopping) = &self.stopping {
            // A thread that is gone has nothing to say any more.
            let _ = stopping.send(deadline);
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.stopping = None;
        let _ = self.ended.recv_timeout(LAST_WORD_TIMEOUT);
    }
}

/// What the thread has.
struct Teller {
    /// Looked at anew each time: a reload makes other actors, and those that are gone no longer answer.
    sources: SharedSources,
    watchdog: Option<Duration>,
    log: Logger,
    failing: bool,
}

impl Teller {
    fn run(mut self, told_to_stop: &Receiver<Instant>) {
        let mut deadline = None;
        self.tell(&[Ready]);
        loop {
            self.tell_of_state(deadline);
            match told_to_stop.recv_timeout(tick(self.watchdog)) {
                Ok(until) => {
                    deadline = Some(until);
                    self.tell(&[Stopping]);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.tell_of_state(deadline),
            }
        }
    }

    fn tell_of_state(&mut self, deadline: Option<Instant>) {
        let view = self.sources.view();
        let status = status(&view);
        let mut state = vec![Status(&status)];
        // While it stops, actors end one after the other: then the deadline alone says what is too long.
        let alive = match deadline {
            Some(deadline) => Instant::now() < deadline,
            None => view.is_alive(),
        };
        if alive && self.watchdog.is_some() {
            state.push(Watchdog);
        }
        if alive && deadline.is_some() {
            state.push(ExtendTimeoutUsec(u32::try_from(PUT_OFF_BY.as_micros()).unwrap_or(u32::MAX)));
        }
        self.tell(&state);
    }

    /// A manager that cannot be reached is worth one line, not one each time.
    fn tell(&mut self, state: &[NotifyState<'_>]) {
        let failed = sd_notify::notify(state).err();
        if let Some(error) = failed.as_ref().filter(|_| !self.failing) {
            warn!(self.log, "the service manager cannot be told how it goes"; "error" => %error);
        }
        self.failing = failed.is_some();
    }
}

/// Twice as often as the watchdog wants it, as systemd advises.
fn tick(watchdog: Option<Duration>) -> Duration {
    let feed_every = watchdog.map(|interval| interval / 2);
    feed_every.unwrap_or(STATUS_EVERY).clamp(Duration::from_millis(10), STATUS_EVERY)
}

/// The ledger's law on one line, as `systemctl status` shows it, behind what keeps metrics from being delivered.
fn status(view: &View) -> String {
    let ledger = view.ledger();
    let law = format!(
        "received {} = skipped {} + buffered {} + delivered {} + refused {} + dropped {}",
        ledger.received,
        sum(&ledger.skipped),
        ledger.buffered(),
        ledger.delivered,
        sum(&ledger.refused),
        sum(&ledger.dropped),
    );
    // Whoever answers in Blueflood's place could end the line, and tell the manager something of its own.
    format!("{}; {law}", printable(view.line().as_bytes(), STATUS_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_it_wants() {
        let seconds = Duration::from_secs;
        for (watchdog, every) in [(None, 5), (Some(60), 5), (Some(4), 2)] {
            assert_eq!(tick(watchdog.map(seconds)), seconds(every), "{watchdog:?}");
        }
        assert_eq!(tick(Some(Duration::from_micros(1))), Duration::from_millis(10));
    }
}
