//! Owns the gate before one endpoint: whether a POST may leave now, how many at once, and at which pace. It learns from
//! every answer, and never looks at what was in the payload.
//!
//! | what is seen | what the gate does |
//! | --- | --- |
//! | a failure that speaks of Blueflood only (refused connection, no name, no token) | closes at once |
//! | a failure that a payload may have caused, three times with nothing that passed between | closes |
//! | a 429 or 503 | POSTs leave at a pace a quarter ahead of what passes; the gate closes when nothing has passed for a while |
//! | an answer that shows that Blueflood works | opens; concurrency and pace climb again |
//!
//! Closed, it lets one probe through after each pause. The pause grows with the failures, is drawn at random, and is not
//! forgotten at once when something passes.

use std::{collections::VecDeque, time::Duration};

use super::vocabulary::{Notice, Now, Who};
use crate::core::{backoff::Backoff, blueflood::Blame};

/// Failures in a row after which the gate closes, where a payload may have caused them.
const SETBACKS_TO_CLOSE: u32 = 3;

/// Latency that is this many times the usual one, and over [`LATENCY_HIGH_MIN`], lowers concurrency.
const LATENCY_HIGH: u32 = 4;

/// See [`LATENCY_HIGH`].
const LATENCY_HIGH_MIN: Duration = Duration::from_secs(2);

/// How likely a payload causes what is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Likely {
    Never,
    Hardly,
    Well,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Open,
    Closed {
        since: Now,
        /// When it was last closed, or kept closed.
        at: Now,
        /// Until the next probe.
        until: Now,
        /// Failures since it closed.
        failures: u32,
        /// Probes since it closed.
        probes: u32,
        cause: String,
        /// Whether payloads may be the cause of it: of all that failed, as likely as it was for the least likely.
        by_payload: Likely,
        /// Whether it closed without a line: a louder one said why.
        silent: bool,
    },
}

/// The gate. See the module.
#[derive(Debug)]
pub(super) struct Gate {
    state: State,
    in_flight_max: u32,
    backoff: Backoff,
    /// Failures, less what passed: see [`Gate::failed`].
    setbacks: u32,
    /// When the last failure came that counted: those that were under way by then are part of it.
    setback_at: Option<Now>,
    concurrency: f64,
    usual_latency: Option<Duration>,
    pace: Pace,
}

impl Gate {
    pub(super) fn new(in_flight_max: u32, backoff: Backoff) -> Self {
        Self {
            state: State::Open,
            in_flight_max: in_flight_max.max(1),
            backoff,
            setbacks: 0,
            setback_at: None,
            concurrency: 1.0,
            usual_latency: None,
            pace: Pace::default(),
        }
    }

    pub(super) fn configure(&mut self, in_flight_max: u32, backoff: Backoff) {
        (self.in_flight_max, self.backoff) = (in_flight_max.max(1), backoff);
        self.concurrency = self.concurrency.min(f64::from(self.in_flight_max));
        if let State::Closed { at, until, .. } = &mut self.state {
            *until = (*until).min(at.saturating_add(backoff.max));
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Until when it is closed, and why.
    pub(super) fn closed(&self) -> Option<(Now, &str)> {
        match &self.state {
            State::Open => None,
            State::Closed { until, cause, .. } => Some((*until, cause)),
        }
    }

    /// Probes that were made since it closed.
    pub(super) fn probes(&self) -> u32 {
        match &self.state {
            State::Open => 0,
            State::Closed { probes, .. } => *probes,
        }
    }

    /// Whether POSTs leave at a pace.
    pub(super) fn is_paced(&self) -> bool {
        self.pace.rate.is_some()
    }

    /// How many POSTs may be in flight while it is open.
    pub(super) fn slots_when_open(&self) -> usize {
        // Between 1 and `in_flight_max`, a u32.
        self.concurrency as usize
    }

    /// How many POSTs may be in flight now.
    pub(super) fn slots(&self, now: Now) -> usize {
        match &self.state {
            State::Open if self.pace.next_at > now => 0,
            State::Open => self.slots_when_open(),
            State::Closed { until, .. } if *until <= now => 1,
            State::Closed { .. } => 0,
        }
    }

    /// When time alone lets a POST through, if none may leave now.
    pub(super) fn next_at(&self) -> Now {
        match &self.state {
            State::Open => self.pace.next_at,
            State::Closed { until, .. } => *until,
        }
    }

    /// Whether the next probe should be made with a few rows only: a payload may be the cause of every failure so far, and
    /// nothing but another one can tell.
    pub(super) fn wants_trial(&self) -> bool {
        match &self.state {
            State::Closed { probes, by_payload: Likely::Well, .. } => *probes == 1 || probes % 4 == 3,
            State::Closed { probes, by_payload: Likely::Hardly, .. } => probes % 4 == 3,
            _ => false,
        }
    }

    /// A POST leaves.
    pub(super) fn sent(&mut self, now: Now, random: f64) {
        if let State::Closed { probes, .. } = &mut self.state {
            *probes = probes.saturating_add(1);
        }
        self.pace.sent(now, random);
    }

    /// An answer shows that Blueflood works. `whole`: to a whole payload, not to a few rows of one.
    pub(super) fn passed(&mut self, took: Duration, now: Now, whole: bool) -> Option<Notice> {
        self.pace.passed(now, self.ceiling());
        // A few rows that passed do not make up for many payloads that did not.
        self.setbacks = (self.setbacks / 2).min(if whole { 1 } else { u32::MAX });
        self.setback_at = None;
        let usual = self.usual_latency.unwrap_or(took);
        if took > LATENCY_HIGH_MIN.max(usual.saturating_mul(LATENCY_HIGH)) {
            self.slow_down();
        } else if whole {
            self.concurrency = (self.concurrency + 1.0 / self.concurrency).min(f64::from(self.in_flight_max));
        }
        self.usual_latency = Some((usual * 9 + took) / 10);
        if !whole {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Open) {
            State::Closed { since, failures, silent, .. } if !silent => {
                Some(Notice::Opened { after: now.saturating_sub(since), failures })
            }
            _ => None,
        }
    }

    /// POSTs a second beyond which a pace bounds nothing.
    fn ceiling(&self) -> f64 {
        let latency = self.usual_latency.unwrap_or_default().as_secs_f64().max(0.001);
        (2.0 * f64::from(self.in_flight_max) / latency).max(50.0)
    }

    pub(super) fn slow_down(&mut self) {
        self.concurrency = (self.concurrency / 2.0).max(1.0);
    }

    /// A POST that left at `sent_at` failed. What is worth telling of it.
    ///
    /// Failures of what was under way when the last one came are part of that one: an outage ends all that is in flight.
    pub(super) fn failed(&mut self, failure: &Failure<'_>, now: Now, random: f64) -> Option<Notice> {
        if self.setback_at.is_some_and(|at| failure.sent_at < at) && failure.at_least.is_none() {
            return None;
        }
        let again = self.setback_at.replace(now).is_some();
        self.setbacks = self.setbacks.saturating_add(1);
        let congested = matches!(failure.blame, Blame::RateLimit | Blame::Unavailable);
        // At a pace one failure among passes is what is expected: fewer at once would only waste what there is.
        if again || !(congested && self.is_paced()) {
            self.slow_down();
        }
        // While it is closed nobody is there, which says nothing of how many requests are too many.
        if congested && self.is_open() {
            self.pace.congested(now, again, self.usual_latency);
        }
        let is_paced = congested && self.pace.is_patient(now);
        let closes = failure.blame == Blame::Endpoint
            || failure.at_least.is_some()
            || (self.setbacks >= SETBACKS_TO_CLOSE && !is_paced)
            || !self.is_open();
        if closes { self.close(failure, now, random) } else { None }
    }

    fn close(&mut self, failure: &Failure<'_>, now: Now, random: f64) -> Option<Notice> {
        let likely = match failure.blame {
            _ if failure.at_least.is_some() => Likely::Never,
            Blame::Endpoint | Blame::RateLimit => Likely::Never,
            Blame::Unavailable | Blame::Gateway => Likely::Hardly,
            Blame::Payload => Likely::Well,
        };
        let (since, failures, probes, by_payload, silent) = match &self.state {
            State::Open => (now, 1, 0, likely, failure.silent),
            State::Closed { since, failures, probes, by_payload, silent, .. } => {
                (*since, failures.saturating_add(1), *probes, likely.min(*by_payload), *silent)
            }
        };
        let tries = self.setbacks.saturating_sub(SETBACKS_TO_CLOSE - 1).max(1);
        let wait = self.backoff.wait(tries, random).max(failure.at_least.unwrap_or_default());
        self.state = State::Closed {
            since,
            at: now,
            until: now.saturating_add(wait),
            failures,
            probes,
            cause: failure.cause.to_owned(),
            by_payload,
            silent,
        };
        (failures == 1 && !silent).then(|| Notice::Closed {
            who: failure.who,
            cause: failure.cause.to_owned(),
            wait,
        })
    }

    /// What kept it closed is gone: a probe may be made now.
    pub(super) fn mended(&mut self, now: Now) {
        if let State::Closed { until, .. } = &mut self.state {
            *until = now.min(*until);
        }
    }
}

/// A POST that failed, as the gate sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure<'a> {
    pub(super) blame: Blame,
    pub(super) who: Who,
    pub(super) cause: &'a str,
    /// When the POST left.
    pub(super) sent_at: Now,
    /// The shortest pause, where somebody asked for one.
    pub(super) at_least: Option<Duration>,
    /// Whether somebody else says it.
    pub(super) silent: bool,
}

// === The pace ===

/// A pace is never slower than this, in POSTs a second: beyond it the closed gate's pauses are at work.
const RATE_MIN: f64 = 0.4;

/// Failures in a row that lower the pace.
const ROW_MAX: u32 = 4;

/// Without a pass for so long, and for so many pauses, a pace does not help: the gate closes.
const PATIENCE: (Duration, f64) = (Duration::from_secs(1), 8.0);

/// Passes without a failure between them, after which the pace climbs fast.
const CLEAN: u32 = 10;

/// How long a pace is not tried again where it was seen that it does not help.
const NO_HELP_FOR: Duration = Duration::from_secs(60);

/// Octaves of rates, from [`RATE_MIN`] on, of which it is known how many POSTs passed.
const OCTAVES: usize = 16;

/// Answers in an octave that say something.
const ANSWERS_MIN: f64 = 16.0;

/// How fast POSTs leave while Blueflood takes fewer than we have. A failure lowers the rate by a seventh, and more when it
/// comes again; each pass raises it by a twentieth. So about one POST in five fails, whatever the capacity is.
#[derive(Debug, Default)]
struct Pace {
    /// POSTs a second; `None`: as fast as the answers come.
    rate: Option<f64>,
    next_at: Now,
    /// Passes since the last failure.
    clean: u32,
    /// Failures since the last pass.
    in_a_row: u32,
    /// When something passed, of late.
    passed_at: VecDeque<Now>,
    /// POSTs that passed, and all, by octave of the rate.
    octaves: [(f64, f64); OCTAVES],
    /// A slower pace was seen not to help: failures come at random.
    no_help_until: Option<Now>,
}

impl Pace {
    fn sent(&mut self, now: Now, random: f64) {
        if let Some(rate) = self.rate {
            // A little at random, so that no rhythm of ours meets one of theirs.
            let pause = (0.9 + 0.2 * random) / rate;
            self.next_at = now.saturating_add(Duration::from_secs_f64(pause));
        }
    }

    /// Whether something has passed so lately that the pace, and not the gate, is the answer to a failure.
    fn is_patient(&self, now: Now) -> bool {
        let (least, pauses) = PATIENCE;
        let (Some(rate), Some(&passed_at)) = (self.rate, self.passed_at.back()) else { return false };
        now.saturating_sub(passed_at) < least.max(Duration::from_secs_f64(pauses / rate))
    }

    fn octave(rate: f64) -> usize {
        // From 0 to 15, by `min`.
        ((rate / RATE_MIN).max(1.0).log2() as usize).min(OCTAVES - 1)
    }

    fn count(&mut self, passed: bool) {
        let Some(rate) = self.rate else { return };
        if let Some((passes, all)) = self.octaves.get_mut(Self::octave(rate)) {
            if *all >= 4.0 * ANSWERS_MIN {
                (*passes, *all) = (*passes / 2.0, *all / 2.0);
            }
            *all += 1.0;
            *passes += f64::from(u8::from(passed));
        }
    }

    fn passed(&mut self, now: Now, ceiling: f64) {
        self.count(true);
        self.passed_at.push_back(now);
        if self.passed_at.len() > CLEAN as usize {
            self.passed_at.pop_front();
        }
        self.clean = self.clean.saturating_add(1);
        self.in_a_row = 0;
        if let Some(rate) = self.rate {
            let faster = rate * if self.clean > CLEAN { 1.3 } else { 1.05 };
            self.rate = (faster < ceiling).then_some(faster);
            if self.rate.is_none() {
                self.next_at = Duration::ZERO;
            }
        }
    }

    /// Somebody asks for fewer requests; `again`: nothing has passed since the last time.
    fn congested(&mut self, now: Now, again: bool, latency: Option<Duration>) {
        self.count(false);
        self.clean = 0;
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.no_help_until.is_some_and(|until| now < until) {
            return;
        }
        let rate = match self.rate {
            // Of a long row the last failures say no more than the first: it may be an outage, after which all fits again.
            Some(rate) if self.in_a_row > ROW_MAX => rate,
            Some(rate) => rate * if again { 0.7 } else { 0.86 },
            None => {
                self.octaves = [(0.0, 0.0); OCTAVES];
                0.86 * self.of_late(now, latency)
            }
        };
        let rate = rate.max(RATE_MIN);
        if self.is_no_help(rate) {
            self.no_help_until = Some(now.saturating_add(NO_HELP_FOR));
            (self.rate, self.next_at) = (None, Duration::ZERO);
            return;
        }
        self.rate = Some(rate);
        // After one failure the next place is free long before a whole pause is over.
        let pause = if again { 1.0 } else { 0.35 } / rate;
        self.next_at = now.saturating_add(Duration::from_secs_f64(pause));
    }

    /// How many POSTs a second passed of late.
    fn of_late(&self, now: Now, latency: Option<Duration>) -> f64 {
        let first = self.passed_at.front().filter(|_| self.passed_at.len() > 2);
        match first {
            Some(&first) => self.passed_at.len() as f64 / now.saturating_sub(first).as_secs_f64().max(0.001),
            None => 1.0 / latency.unwrap_or(Duration::from_millis(250)).as_secs_f64().clamp(0.05, 2.0),
        }
    }

    /// Whether four times fewer requests passed no better: then the failures do not come of too many of them.
    fn is_no_help(&self, rate: f64) -> bool {
        let here = Self::octave(rate);
        let share = |octave: usize| {
            let (passes, all) = self.octaves.get(octave).copied()?;
            (all >= ANSWERS_MIN && passes >= 2.0).then(|| passes / all)
        };
        match (share(here), share(here.saturating_add(2)).or_else(|| share(here.saturating_add(3)))) {
            (Some(slow), Some(fast)) => slow < 1.3 * fast,
            _ => false,
        }
    }
}
