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
//! | this one | which of them it is, and its sentence |
//! | `words` | what is said of a cause, an answer or a loss, and what to do next |
//! | `losses` | what is lost now, and for how long that is said |
//! | `slope` | the figures of the last minutes, and the line through them that says when the spool is full |

mod losses;
mod slope;
mod words;

use std::{collections::VecDeque, time::Duration};

pub use self::losses::{Count, GOES_ON_MS, Loss, Place, Said};
pub use self::words::{NO_QUERY_SIDE, NO_TOKEN, NOT_CONFIRMED, ill, remedy};
use self::{
    losses::Runs,
    slope::{Sample, Samples, used_up_ms},
    words::cure,
};
use super::human::{self, counted};

/// Blueflood refuses datapoints that are older.
const BLUEFLOOD_TAKES_MS: u64 = 3 * 86_400_000;

/// For so long nothing may come, and the oldest may wait, before that is worth a word.
const PATIENCE_MS: u64 = 300_000;

/// How many times as long as usual nothing may come.
const UNUSUAL: u64 = 3;

/// Silences that tell what is usual, and the shortest of them.
const SILENCES: usize = 16;
const SILENCE_MIN_MS: u64 = 5_000;

/// What is lost of what came, beyond which everyday losses count: both must be so.
const EVERYDAY_MAX: u64 = 10;
const EVERYDAY_SHARE: u64 = 100;

/// An outage is said again after so long, and then so often.
const REMIND_FIRST_MS: u64 = 600_000;
const REMIND_EVERY_MS: u64 = 3_600_000;

/// What is sent again within so long is one run of it, and one that lasts so long is worth a word.
const RESENT_GOES_ON_MS: u64 = 60_000;

/// A change is said when it has held for so long: a single 503 is none.
const SAY_AFTER_MS: u64 = 3_000;

/// How it goes, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// What comes in is delivered.
    Well,
    /// Datapoints are lost now, or do not come.
    Losing,
    /// Not delivered, and kept.
    Keeping,
    /// Only a change mends it.
    Wrong,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Well, Self::Losing, Self::Keeping, Self::Wrong];

    /// Its name, for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Losing => "losing",
            Self::Keeping => "keeping",
            Self::Wrong => "wrong",
        }
    }

    /// What `status` ends with. 1 is left for a daemon that does not answer, 2 for wrong arguments.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Losing => 3,
            Self::Keeping => 4,
            Self::Wrong => 5,
        }
    }

    /// The condition of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|condition| condition.name() == name)
    }
}

/// What the settings say that counts here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// How often metrics are sent.
    pub interval: Duration,
    /// Older datapoints are dropped.
    pub max_age: Option<Duration>,
    /// Whether a full spool drops the oldest; else senders wait.
    pub drops_oldest: bool,
    /// Whether the spool is lost with the process.
    pub in_memory: bool,
    /// Whether there are credentials.
    pub authenticates: bool,
}

/// The figures at one instant.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// In milliseconds since 1970.
    pub now_ms: u64,
    /// Since this process started.
    pub uptime_ms: u64,
    /// What the settings say.
    pub known: Known,
    /// Datapoints received, ever.
    pub received: u64,
    /// Datapoints delivered, ever.
    pub delivered: u64,
    /// Datapoints that are here.
    pub buffered: u64,
    /// When the last one came in this process.
    pub last_received_ms: Option<u64>,
    /// Requests that came to an end in this process.
    pub posts: u64,
    /// All that was lost, ever.
    pub lost: Vec<Count>,
    /// Why the gate is closed, if it is.
    pub closed: Option<String>,
    /// What Blueflood answers to everything.
    pub misconfigured: Option<String>,
    /// Keystone refuses the credentials: its words, as far as it had some.
    pub keystone_refuses: Option<String>,
    /// Payloads that wait by themselves for another try.
    pub set_aside: u64,
    /// Bytes of the spool in use, and its cap.
    pub used_bytes: u64,
    /// See above.
    pub bytes_max: u64,
    /// When the oldest datapoint came that is here.
    pub oldest_ms: Option<u64>,
    /// Why the spool takes nothing.
    pub blocked: Option<String>,
    /// The disk of the spool is full.
    pub disk_full: bool,
    /// What is amiss with the spool's file, and could not be mended yet.
    pub amiss: Option<String>,
    /// Datapoints that Blueflood acknowledged and did not have, in this process.
    pub resent: u64,
    /// What is wrong with this process.
    pub ailments: Vec<String>,
    /// It was told to stop.
    pub stopping: bool,
}

/// Until when everything is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Until {
    /// In milliseconds since 1970.
    pub at_ms: u64,
    /// What ends it, and what follows.
    pub by: String,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// How it goes.
    pub condition: Condition,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// What is so, in a sentence.
    pub words: String,
    /// What to do.
    pub next: Option<String>,
    /// Until when everything is kept, if it is not delivered.
    pub until: Option<Until>,
    /// What is lost now, the worst first.
    pub losses: Vec<Loss>,
    /// When the spool will be empty again, if it was behind.
    pub caught_up_ms: Option<u64>,
}

impl Health {
    /// All of it on one line.
    pub fn line(&self, now_ms: u64) -> String {
        let mut line = self.words.clone();
        if self.condition != Condition::Well {
            let span = human::span(now_ms.saturating_sub(self.since_ms) / 1_000);
            line = format!("{line}, since {} ({span})", human::clock(self.since_ms, now_ms));
        }
        if let Some(until) = &self.until {
            line = format!("{line}; {}", until.words(now_ms));
        }
        match &self.next {
            Some(next) => format!("{line}. Next: {next}"),
            None => line,
        }
    }
}

impl Until {
    /// `until 04:10 UTC (in 3 h), when the spool is full`.
    pub fn words(&self, now_ms: u64) -> String {
        let left = human::span(self.at_ms.saturating_sub(now_ms) / 1_000);
        format!("kept until {} (in {left}), when {}", human::clock(self.at_ms, now_ms), self.by)
    }
}

/// What the figures come to, before it is known since when.
struct Judged {
    condition: Condition,
    words: String,
    next: Option<String>,
    until: Option<Until>,
    since_ms: Option<u64>,
    caught_up_ms: Option<u64>,
}

impl Judged {
    fn new(condition: Condition, words: impl Into<String>) -> Self {
        let words = words.into();
        Self { condition, words, next: None, until: None, since_ms: None, caught_up_ms: None }
    }

    fn next(self, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..self }
    }

    fn since(self, since_ms: u64) -> Self {
        Self { since_ms: Some(since_ms), ..self }
    }

    fn until(self, until: Option<Until>) -> Self {
        Self { until, ..self }
    }
}

/// What came when.
#[derive(Debug, Clone, Default)]
struct Arrivals {
    last_ms: Option<u64>,
    silences: VecDeque<u64>,
}

impl Arrivals {
    fn look(&mut self, last_ms: Option<u64>) {
        let Some(now) = last_ms.filter(|last| self.last_ms.is_none_or(|before| before < *last)) else {
            return;
        };
        let silence = self.last_ms.map_or(0, |before| now.saturating_sub(before));
        self.last_ms = Some(now);
        if silence >= SILENCE_MIN_MS {
            self.silences.push_back(silence);
            if self.silences.len() > SILENCES {
                self.silences.pop_front();
            }
        }
    }

    /// The longest silence that is nothing unusual.
    fn usual_ms(&self) -> u64 {
        self.silences.iter().copied().max().unwrap_or(SILENCE_MIN_MS)
    }
}

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

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Datapoints of one reason are lost.
    Lost(Said),
    /// The condition is another.
    Changed(Health),
    /// It still is what it was.
    Reminder(Health),
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

    fn judge(&self, figures: &Figures, losses: &[Loss]) -> Judged {
        if let Some(ailment) = figures.ailments.first() {
            return Judged::new(Condition::Wrong, ailment.clone())
                .next("start it again, and report it with the log and the output of /stats");
        }
        if let Some(judged) = self.of_setting(figures, losses) {
            return judged;
        }
        if let Some(judged) = self.of_disk(figures, losses) {
            return judged;
        }
        if losses.iter().any(|loss| !loss.place.is_everyday() && loss.place != Place::Refused) {
            return self.losing(figures, losses);
        }
        if let Some(cause) = &figures.closed {
            return self.keeping(figures, cause);
        }
        if losses.iter().any(is_much) {
            return self.losing(figures, losses);
        }
        if figures.blocked.is_some() {
            let words = "the spool is at its cap, and senders have to wait until some of it is delivered";
            return Judged::new(Condition::Keeping, words).next("wait, or raise --spool_max");
        }
        self.losing_store(figures)
            .or_else(|| self.late(figures))
            .or_else(|| self.silent(figures))
            .unwrap_or_else(|| self.well(figures))
    }

    /// What only another setting mends.
    fn of_setting(&self, figures: &Figures, losses: &[Loss]) -> Option<Judged> {
        let (what, next) = if let Some(cause) = &figures.keystone_refuses {
            let cause = if cause.is_empty() { String::new() } else { format!(": {cause}") };
            let what = format!("Keystone refuses the credentials{cause}");
            (what, "check --user, --key_file, --auth_type and --auth_url")
        } else {
            let answer = figures.misconfigured.as_ref()?;
            let what = format!("Blueflood refuses everything, a setting must be wrong: {answer}");
            (what, remedy(answer, figures.known.authenticates))
        };
        let kept = self.kept(figures, losses);
        let until = if kept.is_some() { self.until(figures) } else { None };
        let words = kept.map_or(what.clone(), |kept| format!("{what}; {kept}"));
        Some(Judged::new(Condition::Wrong, words).next(next).until(until))
    }

    /// What only the disk's owner mends.
    fn of_disk(&self, figures: &Figures, losses: &[Loss]) -> Option<Judged> {
        let room = "make room on the disk of the spool: df -h, and blueflood-forward spool info";
        let wrong = |words: String, next: &str| Some(Judged::new(Condition::Wrong, words).next(next));
        if let Some(amiss) = &figures.amiss {
            let words = format!("something is amiss with the spool: {amiss}");
            return wrong(words, "the log says more; a restart opens the spool anew");
        }
        if let Some(why) = figures.blocked.as_ref().filter(|why| figures.disk_full || !is_cap(why)) {
            return wrong(format!("the spool takes nothing, and senders have to wait: {why}"), room);
        }
        // What is dropped for it is said with its number.
        let drops = losses.iter().any(|loss| loss.place == Place::Dropped);
        if figures.disk_full && !drops {
            return wrong("the disk of the spool is full: it does not grow, and soon drops".to_owned(), room);
        }
        None
    }

    /// What is kept, if everything is.
    fn kept(&self, figures: &Figures, losses: &[Loss]) -> Option<String> {
        let are_lost = losses.iter().any(|loss| loss.place == Place::Dropped);
        let n = counted(figures.buffered, "datapoint");
        let is = if figures.buffered == 1 { "is" } else { "are" };
        match (are_lost, figures.known.in_memory) {
            (true, _) => None,
            (_, true) => Some(format!("{n} {is} kept in memory, and lost with this process")),
            (_, false) => Some(format!("{n} {is} kept")),
        }
    }

    fn keeping(&self, figures: &Figures, cause: &str) -> Judged {
        let (who, next) = ill(cause);
        // Who is ill says that already.
        let cause = cause.strip_prefix(NO_TOKEN).map_or(cause, |rest| rest.trim_start_matches([':', ' ']));
        let mut words = if cause.is_empty() { who.to_owned() } else { format!("{who}: {cause}") };
        if let Some(kept) = self.kept(figures, &[]) {
            words = format!("{words}; {kept}");
        }
        if figures.blocked.is_some() {
            words = format!("{words}; the spool is at its cap, and senders have to wait");
        }
        let since = self.gate.map_or(figures.now_ms, |(_, since)| since);
        let until = if figures.blocked.is_some() { None } else { self.until(figures) };
        Judged::new(Condition::Keeping, words).next(next).since(since).until(until)
    }

    fn losing(&self, figures: &Figures, losses: &[Loss]) -> Judged {
        let counted: Vec<&Loss> = losses.iter().filter(|loss| is_much(loss)).collect();
        let words: Vec<String> = counted.iter().take(3).map(|loss| loss.words()).collect();
        let more = counted.len().saturating_sub(words.len());
        let mut words = words.join(", ");
        if more > 0 {
            words = format!("{words} and {more} more");
        }
        words = match &figures.closed {
            Some(cause) => format!("datapoints are lost: {words}; {}: {cause}", ill(cause).0),
            None => format!("delivering, with losses: {words}"),
        };
        let since = counted.iter().map(|loss| loss.since_ms).min().unwrap_or(figures.now_ms);
        let judged = Judged::new(Condition::Losing, words).since(since);
        match counted.first() {
            Some(worst) => judged.next(cure(worst, figures)),
            None => judged,
        }
    }

    /// Blueflood loses a part of what it acknowledges, again and again. All of that is kept.
    fn losing_store(&self, figures: &Figures) -> Option<Judged> {
        let (since, before, last) = self.losing_store?;
        if last.saturating_sub(since) < RESENT_GOES_ON_MS {
            return None;
        }
        let words = format!(
            "Blueflood goes on losing datapoints that it acknowledges: {} sent again; {} kept",
            human::count(figures.resent.saturating_sub(before)),
            counted(figures.buffered, "datapoint")
        );
        let next = "look after Blueflood's Cassandra: a node of it may be away, or too slow";
        Some(Judged::new(Condition::Keeping, words).since(since).next(next).until(self.until(figures)))
    }

    /// The oldest datapoint is too old, though the gate is open.
    fn late(&self, figures: &Figures) -> Option<Judged> {
        let now = figures.now_ms;
        let oldest = figures.oldest_ms.filter(|_| figures.buffered > 0)?;
        let interval = u64::try_from(figures.known.interval.as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(oldest) < PATIENCE_MS.max(interval.saturating_mul(4)) {
            return None;
        }
        let waits = format!(
            "{} here, the oldest for {}",
            counted(figures.buffered, "datapoint"),
            human::span(now.saturating_sub(oldest) / 1_000)
        );
        let passes = self
            .delivered_ms
            .is_some_and(|at| now.saturating_sub(at) <= 60_000_u64.max(interval.saturating_mul(2)));
        let opened = self.gate.map_or(0, |(_, since)| since);
        let growth = self.samples.growth(opened, |sample| sample.buffered);
        if passes && growth.is_none_or(|growth| growth < 0.0) {
            let caught_up_ms = growth.and_then(|growth| used_up_ms(now, figures.buffered, -growth));
            let by =
                caught_up_ms.map_or(String::new(), |at| format!(", done by about {}", human::clock(at, now)));
            let judged = Judged::new(Condition::Well, format!("all is well: catching up, {waits}{by}"));
            return Some(Judged { caught_up_ms, ..judged });
        }
        let tries = if figures.posts == 0 { "nothing was ever sent" } else { "nothing passes" };
        let (words, next) = if passes && figures.set_aside > 0 {
            let aside = counted(figures.set_aside, "request");
            (
                format!("{aside} fail again and again while others pass: {waits}"),
                "look at the last error in blueflood-forward status",
            )
        } else if passes {
            (
                format!("Blueflood takes less than comes in: {waits}"),
                "raise --concurrency, or give Blueflood more",
            )
        } else {
            (
                format!("{waits}, and {tries}, though Blueflood is not known to be away"),
                "start it again, and report it with the log and the output of /stats",
            )
        };
        Some(Judged::new(Condition::Keeping, words).next(next).until(self.until(figures)))
    }

    /// Nothing came for longer than usual.
    fn silent(&self, figures: &Figures) -> Option<Judged> {
        if figures.stopping {
            return None;
        }
        let now = figures.now_ms;
        let next = "is it them or us? blueflood-forward send --to HOST:PORT test.name 1 comes in if it is them; check \
                    host and port of the senders";
        let Some(last) = self.arrivals.last_ms else {
            let since = now.saturating_sub(figures.uptime_ms);
            let words = "nothing has come in since the start";
            return (figures.uptime_ms >= PATIENCE_MS)
                .then(|| Judged::new(Condition::Losing, words).since(since).next(next));
        };
        let usual = self.arrivals.usual_ms();
        if now.saturating_sub(last) < PATIENCE_MS.max(usual.saturating_mul(UNUSUAL)) {
            return None;
        }
        let usual = human::span(usual / 1_000);
        let words = format!("nothing comes in any more, and the longest silence of late was {usual}");
        Some(Judged::new(Condition::Losing, words).since(last).next(next))
    }

    fn well(&self, figures: &Figures) -> Judged {
        let judged = |words: &str| Judged::new(Condition::Well, words);
        if figures.stopping {
            judged("all is well: it is stopping")
        } else if figures.posts == 0 && figures.buffered == 0 && self.arrivals.last_ms.is_none() {
            judged("all is well so far: nothing has come in yet, so whether Blueflood takes metrics is not known")
                .next("blueflood-forward check --connect asks Blueflood; blueflood-forward send sends a metric")
        } else if figures.posts == 0 {
            judged(
                "all is well so far: nothing has been sent yet, so whether Blueflood takes metrics is not known",
            )
        } else if self.delivered_ms.is_none() && figures.buffered > 0 {
            judged(
                "all is well so far: nothing has been delivered yet, so whether Blueflood takes metrics is not known",
            )
        } else {
            judged("all is well")
        }
    }

    /// Until when everything is kept, if it goes on like this: whatever comes first.
    fn until(&self, figures: &Figures) -> Option<Until> {
        let then = if figures.known.drops_oldest {
            "the oldest datapoints are dropped"
        } else {
            "senders have to wait"
        };
        let full = self
            .full_ms(figures)
            .map(|at_ms| Until { at_ms, by: format!("the spool is full (--spool_max) and {then}") });
        let from_oldest = |after_ms: u64, by: &str| {
            Some(Until { at_ms: figures.oldest_ms?.saturating_add(after_ms), by: by.to_owned() })
        };
        let age = figures.known.max_age.and_then(|age| {
            let after = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            from_oldest(after, "the oldest datapoints are dropped (--max_age)")
        });
        let window = from_oldest(
            BLUEFLOOD_TAKES_MS,
            "the oldest datapoints are three days old, and Blueflood refuses them",
        );
        [full, age, window].into_iter().flatten().min_by_key(|until| until.at_ms)
    }
}

/// Whether the spool waits for room that comes by itself.
fn is_cap(blocked: &str) -> bool {
    blocked.contains("--spool_max")
}

/// Whether a loss is worth a word: a few of the everyday ones are not, unless nothing else came.
fn is_much(loss: &Loss) -> bool {
    let share = loss.count.saturating_mul(EVERYDAY_SHARE) >= loss.received;
    !loss.place.is_everyday()
        || (loss.count >= EVERYDAY_MAX && share)
        || (loss.place == Place::Malformed && loss.received == 0)
}

#[cfg(test)]
mod tests;
