//! Owns the verdict: whether an operator has to get up, made out of the figures in one place, and shown alike by every
//! command, page, probe and log. It never collects a figure.
//!
//! | it is | what it means |
//! | --- | --- |
//! | well | what comes in is delivered, as far as is known |
//! | losing | datapoints are lost now, or none come where some should |
//! | keeping | nothing is delivered, or too little; everything is kept, and it is said until when |
//! | wrong | only a change mends it: of a setting, of a disk, of this process |
//!
//! | module | holds |
//! | --- | --- |
//! | `judge` | which of them it is, and its sentence |
//! | `words` | what is said of a cause, an answer or a loss, and what to do next |
//! | `losses` | what is lost now, and for how long that is said |
//! | `slope` | the figures of the last minutes, and the line through them that says when the spool is full |

mod arrivals;
mod judge;
mod losses;
mod slope;
mod vocabulary;
mod words;

use self::{
    arrivals::Arrivals,
    judge::Judged,
    losses::Runs,
    slope::{Sample, Samples, used_up_ms},
};
pub use self::{
    losses::{Count, GOES_ON_MS, Loss, Place, Said},
    vocabulary::{Condition, Figures, Health, Known, Line, Until},
    words::{NO_QUERY_SIDE, NO_TOKEN, NOT_CONFIRMED, ill, remedy},
};

/// An outage is said again after so long, and then so often.
const REMIND_FIRST_MS: u64 = 600_000;
const REMIND_EVERY_MS: u64 = 3_600_000;

/// What is sent again within so long is one run of it, and one that lasts so long is worth a word.
const RESENT_GOES_ON_MS: u64 = 60_000;

/// A change is said when it has held for so long: a single 503 is none.
const SAY_AFTER_MS: u64 = 3_000;

/// What a judgement of this instant needs of those before it. Its size does not grow.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    runs: Runs,
    samples: Samples,
    arrivals: Arrivals,
    /// What was delivered, and when it last grew.
    delivered: u64,
    delivered_ms: Option<u64>,
    /// What was sent again; and since when again and again, what it was before that, and when it last grew.
    resent: u64,
    losing_store: Option<(u64, u64, u64)>,
    /// Since when the gate is as it is.
    gate: Option<(bool, u64)>,
    /// The condition, and since when.
    state: Option<(Condition, u64)>,
    /// The condition that was said last, and when the next reminder is due.
    said: Option<Condition>,
    remind_at: Option<u64>,
}

impl Watch {
    /// What the figures come to now.
    pub fn look(&mut self, figures: &Figures) -> Health {
        let now = figures.now_ms;
        self.runs.look(now, figures.received, &figures.lost);
        let Figures { used_bytes, buffered, .. } = *figures;
        self.samples.add(Sample { at_ms: now, used_bytes, buffered });
        self.arrivals.look(figures.last_received_ms);
        if self.delivered != figures.delivered {
            // The first look only tells what was before us.
            self.delivered_ms = self.gate.map(|_| now).or(self.delivered_ms);
            self.delivered = figures.delivered;
        }
        if figures.resent > self.resent {
            let (since, before) =
                self.losing_store.map_or((now, self.resent), |(since, before, _)| (since, before));
            self.losing_store = Some((since, before, now));
        } else if self.losing_store.is_some_and(|(_, _, last)| now.saturating_sub(last) > RESENT_GOES_ON_MS) {
            self.losing_store = None;
        }
        self.resent = figures.resent;
        let is_open = figures.closed.is_none();
        if self.gate.is_none_or(|(was_open, _)| was_open != is_open) {
            self.gate = Some((is_open, now));
        }
        let losses = self.runs.now(now, figures.received);
        let judged = self.judge(figures, &losses);
        let since = match self.state {
            Some((condition, since)) if condition == judged.condition => since,
            _ => now,
        };
        let since_ms = judged.since_ms.unwrap_or(since).min(now);
        self.state = Some((judged.condition, since));
        let Judged { condition, words, next, until, caught_up_ms, .. } = judged;
        Health { condition, since_ms, words, next, until, losses, caught_up_ms }
    }

    /// What of it is worth a line in the log; it is said once.
    pub fn lines(&mut self, health: &Health, now_ms: u64) -> Vec<Line> {
        let mut lines: Vec<_> = self.runs.say(now_ms).into_iter().map(Line::Lost).collect();
        let held_ms = self.state.map_or(0, |(_, since)| now_ms.saturating_sub(since));
        let before = *self.said.get_or_insert(Condition::Well);
        if before != health.condition && held_ms >= SAY_AFTER_MS {
            self.said = Some(health.condition);
            let is_bad = health.condition != Condition::Well;
            self.remind_at = is_bad
                .then(|| health.since_ms.max(now_ms.saturating_sub(held_ms)).saturating_add(REMIND_FIRST_MS));
            lines.push(Line::Changed(health.clone()));
        } else if before == health.condition && self.remind_at.is_some_and(|at| now_ms >= at) {
            self.remind_at = Some(now_ms.saturating_add(REMIND_EVERY_MS));
            lines.push(Line::Reminder(health.clone()));
        }
        lines
    }

    /// When the spool is full, if it goes on as in the last minutes.
    pub fn full_ms(&self, figures: &Figures) -> Option<u64> {
        let from = match self.gate {
            Some((false, since)) => since,
            _ => 0,
        };
        let growth = self.samples.growth(from, |sample| sample.used_bytes)?;
        let room = figures.bytes_max.saturating_sub(figures.used_bytes);
        used_up_ms(figures.now_ms, room, growth)
    }
}

#[cfg(test)]
mod tests;
