//! Owns when Keystone is asked for a token, and which token counts. It never asks by itself, and knows nobody who
//! waits: [`Renewal::apply`] turns an event into actions.
//!
//! - There is one token, and one attempt to get one at a time, however many want it.
//! - It is renewed ahead of its end, and at once when Blueflood refuses it: by its generation, so that ten payloads
//!   which are refused together renew it once.
//! - A Blueflood that refuses fresh tokens is no reason to hammer Keystone: see [`REJECTED_PAUSE`].

use std::{sync::Arc, time::Duration};

use super::{Grant, LIFE_MIN, Verdict};
use crate::core::{backoff::Backoff, secret::Secret};

/// Time since some fixed moment of this process, on a clock that never jumps.
pub type Now = Duration;

/// A token is renewed at most this long before its end.
pub const AHEAD_MAX: Duration = Duration::from_secs(300);

/// And at most this part of its life before its end: a fifth.
const AHEAD_PART: u32 = 5;

/// The waits after the first attempts that failed.
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(8) };

/// How many they are. From then on there is one attempt in [`FAILED_EVERY`].
const BACKOFF_TRIES: u32 = 4;

/// From the beginning of one attempt to that of the next, while Keystone fails: its return is noticed within 10 s, and
/// what was lost with it costs it no more than that.
pub const FAILED_EVERY: Duration = Duration::from_secs(9);

/// Daemons that failed together are to drift apart: the time is longer or shorter by up to this.
const FAILED_JITTER: Duration = Duration::from_millis(500);

/// The least wait after an attempt that took longer than that.
const FAILED_PAUSE_MIN: Duration = Duration::from_secs(1);

/// The wait after credentials were refused: only somebody who changes them can help.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// The least time between two renewals for Blueflood's refusals.
pub const REJECTED_PAUSE: Duration = Duration::from_secs(30);

/// A token that may be sent to Blueflood.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    /// The text of `X-Auth-Token`.
    pub secret: Secret,
    /// The text of `X-Tenant-Id`, where there is one.
    pub tenant_id: Option<String>,
    /// Which token it is, counted from the first.
    pub generation: u64,
}

/// Why there is no token, and when it is worth to ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoToken {
    /// What was seen, for the log.
    pub cause: String,
    /// Whether the credentials were refused, so that only somebody who changes them can help.
    pub refused: bool,
    /// When there will be another attempt.
    pub retry_in: Duration,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants a token.
    Asked,
    /// Blueflood refused the token of this generation, and somebody wants a newer one.
    Rejected(u64),
    /// The attempt came to an end.
    Ended(Verdict),
    /// The credentials are others than those of the last attempt.
    CredentialsChanged,
    /// Time has passed.
    Tick,
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask Keystone, and come back with [`Event::Ended`].
    Attempt,
    /// Answer all who wait.
    Answer(Result<Arc<Token>, NoToken>),
}

/// A token and its times.
#[derive(Debug)]
struct Held {
    token: Arc<Token>,
    renew: Now,
    expires: Now,
}

/// What the last attempts came to, if not to a token.
#[derive(Debug)]
struct Trouble {
    cause: String,
    refused: bool,
    /// Failures in a row.
    tries: u32,
    /// No attempt is begun before.
    pause_until: Now,
}

impl Trouble {
    fn no_token(&self, now: Now) -> NoToken {
        let retry_in = self.pause_until.saturating_sub(now);
        NoToken { cause: self.cause.clone(), refused: self.refused, retry_in }
    }
}

/// The brain of the KeystoneAuth actor.
#[derive(Debug)]
pub struct Renewal {
    held: Option<Held>,
    /// The generation of the last token.
    generation: u64,
    /// When the attempt under way began.
    attempt: Option<Now>,
    trouble: Option<Trouble>,
    /// When Blueflood's refusal last led to an attempt.
    rejected: Option<Now>,
}

impl Renewal {
    /// Knows no token yet, and gives the next one the generation after `generation`.
    pub fn new(generation: u64) -> Self {
        Self { held: None, generation, attempt: None, trouble: None, rejected: None }
    }

    /// Takes what happened. `random` is in `0.0..1.0`.
    pub fn apply(&mut self, event: Event, now: Now, random: f64) -> Vec<Action> {
        let answer = match event {
            Event::Asked => self.asked(now),
            Event::Rejected(generation) => self.rejected(generation, now),
            Event::Ended(verdict) => Some(self.ended(verdict, now, random)),
            Event::CredentialsChanged => {
                self.trouble = None;
                None
            }
            Event::Tick => None,
        };
        // The same after every event, so that an attempt that is due depends on no single one.
        let attempt = self.next(now).is_some_and(|due| due <= now).then(|| {
            self.attempt = Some(now);
            Action::Attempt
        });
        attempt.into_iter().chain(answer.map(Action::Answer)).collect()
    }

    /// When [`Event::Tick`] is wanted; never while an attempt is under way.
    pub fn next(&self, now: Now) -> Option<Now> {
        if self.attempt.is_some() {
            return None;
        }
        let wanted = self.valid(now).map_or(Now::ZERO, |held| held.renew);
        let allowed = self.trouble.as_ref().map_or(Now::ZERO, |trouble| trouble.pause_until);
        Some(wanted.max(allowed))
    }

    /// When the token that counts now ends.
    pub fn expires(&self, now: Now) -> Option<Now> {
        self.valid(now).map(|held| held.expires)
    }

    /// Whether an attempt is under way.
    pub fn is_attempting(&self) -> bool {
        self.attempt.is_some()
    }

    fn valid(&self, now: Now) -> Option<&Held> {
        self.held.as_ref().filter(|held| now < held.expires)
    }

    /// The answer that can be given now; nothing if it has to wait for an attempt.
    fn asked(&self, now: Now) -> Option<Result<Arc<Token>, NoToken>> {
        if let Some(held) = self.valid(now) {
            return Some(Ok(held.token.clone()));
        }
        let pausing = self.trouble.as_ref().filter(|trouble| now < trouble.pause_until);
        pausing.filter(|_| !self.is_attempting()).map(|trouble| Err(trouble.no_token(now)))
    }

    fn rejected(&mut self, generation: u64, now: Now) -> Option<Result<Arc<Token>, NoToken>> {
        let is_current = self.valid(now).is_some_and(|held| held.token.generation == generation);
        if is_current && !self.is_attempting() {
            let again = self.rejected.map_or(Now::ZERO, |at| at.saturating_add(REJECTED_PAUSE));
            if now < again {
                // The token is kept: if it was Blueflood that erred, it may do yet.
                return Some(Err(NoToken {
                    cause: "Blueflood refuses a token that Keystone has only just given".to_owned(),
                    refused: false,
                    retry_in: again.saturating_sub(now),
                }));
            }
            self.rejected = Some(now);
        }
        if is_current {
            self.held = None;
        }
        self.asked(now)
    }

    fn ended(&mut self, verdict: Verdict, now: Now, random: f64) -> Result<Arc<Token>, NoToken> {
        let began = self.attempt.take().unwrap_or(now);
        let (cause, refused) = match verdict {
            Verdict::Granted(grant) => {
                self.trouble = None;
                return Ok(self.hold(grant, began, now, random));
            }
            Verdict::Refused(cause) => (cause, true),
            Verdict::Failed(cause) => (cause, false),
        };
        let tries = self.trouble.as_ref().map_or(0, |trouble| trouble.tries).saturating_add(1);
        let steady = began.saturating_add(failed_every(random)).max(now.saturating_add(FAILED_PAUSE_MIN));
        let pause_until = match tries {
            _ if refused => now.saturating_add(REFUSED_PAUSE),
            0..=BACKOFF_TRIES => now.saturating_add(BACKOFF.wait(tries, random)).min(steady),
            _ => steady,
        };
        let trouble = Trouble { cause, refused, tries, pause_until };
        let no_token = trouble.no_token(now);
        self.trouble = Some(trouble);
        // A token that is being renewed ahead of its end still serves.
        self.valid(now).map(|held| held.token.clone()).ok_or(no_token)
    }

    /// A token's life is counted from when it was asked for, so that a slow answer makes nothing late; but the answer
    /// that took longer than that is worth a try.
    fn hold(&mut self, grant: Grant, began: Now, now: Now, random: f64) -> Arc<Token> {
        self.generation = self.generation.saturating_add(1);
        let token =
            Arc::new(Token { secret: grant.token, tenant_id: grant.tenant_id, generation: self.generation });
        let expires = began.saturating_add(grant.life).max(now.saturating_add(LIFE_MIN));
        let renew = expires.saturating_sub(ahead(grant.life, random));
        self.held = Some(Held { token: token.clone(), renew, expires });
        token
    }
}

fn failed_every(random: f64) -> Duration {
    let least = FAILED_EVERY.saturating_sub(FAILED_JITTER);
    least.saturating_add(FAILED_JITTER.mul_f64(random.clamp(0.0, 1.0) * 2.0))
}

/// How long before its end a token is renewed: a time drawn evenly from half the most that is allowed to all of it, so
/// that many daemons which began together do not renew together.
fn ahead(life: Duration, random: f64) -> Duration {
    let most = AHEAD_MAX.min(life / AHEAD_PART);
    most.mul_f64(random.clamp(0.0, 1.0).mul_add(0.5, 0.5)).min(most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn granted(life: u64) -> Event {
        let token = Secret::new("t".into());
        Event::Ended(Verdict::Granted(Grant { token, tenant_id: None, life: seconds(life) }))
    }

    fn failed() -> Event {
        Event::Ended(Verdict::Failed("HTTP 500".into()))
    }

    fn refused() -> Event {
        Event::Ended(Verdict::Refused("HTTP 401".into()))
    }

    /// The generation that is answered, or the pause.
    fn answer(actions: &[Action]) -> Option<Result<u64, Duration>> {
        actions.iter().find_map(|action| match action {
            Action::Answer(Ok(token)) => Some(Ok(token.generation)),
            Action::Answer(Err(no)) => Some(Err(no.retry_in)),
            Action::Attempt => None,
        })
    }

    fn attempts(actions: &[Action]) -> bool {
        actions.contains(&Action::Attempt)
    }

    /// With a token of generation 1 that lives 100 s from second 0.
    fn with_token() -> Renewal {
        let mut renewal = Renewal::new(0);
        assert!(attempts(&renewal.apply(Event::Tick, seconds(0), 0.0)));
        assert_eq!(answer(&renewal.apply(granted(100), seconds(1), 0.0)), Some(Ok(1)));
        renewal
    }

    #[test]
    fn who_asks_first_waits_for_the_one_attempt() {
        let mut renewal = Renewal::new(0);
        assert_eq!(renewal.apply(Event::Asked, seconds(0), 0.0), [Action::Attempt]);
        assert_eq!(renewal.apply(Event::Asked, seconds(0), 0.0), []);
        assert_eq!(answer(&renewal.apply(granted(100), seconds(1), 0.0)), Some(Ok(1)));
        assert_eq!(answer(&renewal.apply(Event::Asked, seconds(1), 0.0)), Some(Ok(1)));
    }

    #[test]
    fn a_token_is_renewed_ahead_while_it_still_serves() {
        let mut renewal = with_token();
        assert_eq!(renewal.next(seconds(1)), Some(seconds(90)), "half of a fifth before its end");
        assert!(!attempts(&renewal.apply(Event::Tick, seconds(89), 0.0)));
        assert!(attempts(&renewal.apply(Event::Tick, seconds(90), 0.0)));
        assert_eq!(answer(&renewal.apply(Event::Asked, seconds(91), 0.0)), Some(Ok(1)));
        assert_eq!(answer(&renewal.apply(failed(), seconds(92), 0.5)), Some(Ok(1)), "it is valid yet");
        assert_eq!(answer(&renewal.apply(Event::Asked, seconds(92), 0.5)), Some(Ok(1)));
        assert!(attempts(&renewal.apply(Event::Tick, seconds(93), 0.5)));
        assert_eq!(answer(&renewal.apply(granted(100), seconds(94), 0.5)), Some(Ok(2)));
    }

    #[test]
    fn ten_payloads_refused_together_renew_once() {
        let mut renewal = with_token();
        let began: Vec<bool> =
            (0..10).map(|_| attempts(&renewal.apply(Event::Rejected(1), seconds(2), 0.0))).collect();
        assert_eq!(began.iter().filter(|&&began| began).count(), 1);
        assert_eq!(renewal.apply(Event::Asked, seconds(2), 0.0), [], "the refused one serves nobody");
        assert_eq!(answer(&renewal.apply(granted(100), seconds(3), 0.0)), Some(Ok(2)));
        assert_eq!(answer(&renewal.apply(Event::Rejected(1), seconds(3), 0.0)), Some(Ok(2)), "a late one");
    }

    #[test]
    fn a_blueflood_that_refuses_every_token_costs_keystone_one_request_a_pause() {
        let mut renewal = with_token();
        let mut generation = 1;
        let mut renewals = 0;
        for second in 2..302 {
            let actions = renewal.apply(Event::Rejected(generation), seconds(second), 0.0);
            if attempts(&actions) {
                renewals += 1;
                generation += 1;
                assert_eq!(answer(&renewal.apply(granted(100), seconds(second), 0.0)), Some(Ok(generation)));
            } else {
                assert!(matches!(answer(&actions), Some(Err(pause)) if pause <= REJECTED_PAUSE));
                let asked = renewal.apply(Event::Asked, seconds(second), 0.0);
                assert_eq!(answer(&asked), Some(Ok(generation)), "the fresh one may do yet");
            }
        }
        assert_eq!(renewals, 10);
    }

    #[test]
    fn who_asks_between_two_attempts_is_told_when_the_next_is() {
        let mut renewal = Renewal::new(0);
        renewal.apply(Event::Asked, seconds(0), 0.0);
        assert_eq!(answer(&renewal.apply(failed(), seconds(1), 0.5)), Some(Err(Duration::from_millis(500))));
        assert_eq!(
            answer(&renewal.apply(Event::Asked, seconds(1), 0.5)),
            Some(Err(Duration::from_millis(500)))
        );
        assert!(attempts(&renewal.apply(Event::Asked, seconds(2), 0.5)));
        let Some(Action::Answer(Err(no))) = renewal.apply(refused(), seconds(3), 0.5).pop() else { panic!() };
        assert_eq!(no, NoToken { cause: "HTTP 401".into(), refused: true, retry_in: REFUSED_PAUSE });
        assert!(attempts(&renewal.apply(Event::CredentialsChanged, seconds(4), 0.5)));
    }

    /// It took 39.6 s with waits of up to a minute.
    #[test]
    fn the_return_of_keystone_is_noticed_within_10_s_however_long_it_was_away() {
        for (random, took) in [(0.0, 0), (0.5, 0), (1.0, 0), (1.0, 7), (0.3, 30)] {
            let mut renewal = Renewal::new(0);
            let mut now = Now::ZERO;
            let mut attempts_in_an_hour = 0;
            assert!(attempts(&renewal.apply(Event::Tick, now, random)));
            while now < seconds(3600) {
                attempts_in_an_hour += 1;
                now += seconds(took);
                renewal.apply(failed(), now, random);
                let due = renewal.next(now).unwrap();
                assert!(due - now + seconds(took) <= seconds(10).max(seconds(took) + FAILED_PAUSE_MIN));
                now = due;
                assert!(attempts(&renewal.apply(Event::Tick, now, random)));
            }
            assert!(attempts_in_an_hour <= 3600 / 8, "{attempts_in_an_hour}");
        }
    }

    #[test]
    fn generations_go_on_after_a_restart() {
        let mut renewal = Renewal::new(7);
        renewal.apply(Event::Tick, seconds(0), 0.0);
        assert_eq!(answer(&renewal.apply(granted(100), seconds(1), 0.0)), Some(Ok(8)));
        assert_eq!(answer(&renewal.apply(Event::Rejected(7), seconds(1), 0.0)), Some(Ok(8)));
    }

    fn events() -> impl Strategy<Value = Vec<(u8, u64, f64)>> {
        prop::collection::vec((0..7_u8, 0..40_000_u64, 0.0..1.0), 0..200)
    }

    proptest! {
        #[test]
        fn a_token_is_renewed_within_the_last_fifth_of_its_life(life in 1..1_000_000_u64, random in 0.0..1.0f64) {
            let ahead = ahead(seconds(life), random);
            prop_assert!(ahead <= AHEAD_MAX && ahead * 5 <= seconds(life) && !ahead.is_zero());
        }

        /// Whatever happens: one attempt at a time, nobody waits without one, no token is given after its end, the
        /// pauses are kept, and a tick is always due.
        #[test]
        fn the_promises_hold(events in events()) {
            let mut renewal = Renewal::new(0);
            let mut now = Now::ZERO;
            let mut in_flight = false;
            let mut waiting = false;
            let mut pause_until = Now::ZERO;
            for (what, millis, random) in events {
                now += Duration::from_millis(millis);
                let event = match what {
                    0 => Event::Asked,
                    1 => Event::Rejected(renewal.generation),
                    2 => Event::CredentialsChanged,
                    3 => Event::Tick,
                    _ if !in_flight => continue,
                    4 => granted(20 + millis % 100),
                    5 => refused(),
                    _ => failed(),
                };
                let ended = matches!(event, Event::Ended(_));
                in_flight &= !ended;
                waiting |= matches!(event, Event::Asked | Event::Rejected(_));
                if event == Event::CredentialsChanged { pause_until = Now::ZERO; }
                let was_refused = matches!(event, Event::Ended(Verdict::Refused(_)));
                for action in renewal.apply(event, now, random) {
                    match action {
                        Action::Attempt => {
                            prop_assert!(!in_flight, "two attempts at once");
                            prop_assert!(now >= pause_until, "a pause was not kept");
                            in_flight = true;
                        }
                        Action::Answer(answer) => {
                            waiting = false;
                            if let Ok(token) = answer {
                                prop_assert!(token.generation == renewal.generation);
                                prop_assert!(renewal.expires(now).is_some_and(|expires| now < expires));
                            }
                        }
                    }
                }
                if was_refused { pause_until = now + REFUSED_PAUSE; }
                prop_assert_eq!(in_flight, renewal.is_attempting());
                prop_assert!(!waiting || in_flight, "somebody waits for nothing");
                prop_assert_eq!(renewal.next(now).is_none(), in_flight);
            }
        }
    }
}
