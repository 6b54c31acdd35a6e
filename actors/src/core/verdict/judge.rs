//! Owns the judgement of one instant: which condition the figures come to, in which words, and what to do. It never
//! remembers: that is [`Watch`].

use super::{
    Condition, Figures, Loss, NO_TOKEN, Place, RESENT_GOES_ON_MS, Until, Watch, ill, remedy,
    slope::used_up_ms, words::cure,
};
use crate::core::human::{self, counted};

/// Blueflood refuses datapoints that are older.
const BLUEFLOOD_TAKES_MS: u64 = 3 * 86_400_000;

/// For so long nothing may come, and the oldest may wait, before that is worth a word.
const PATIENCE_MS: u64 = 300_000;

/// How many times as long as usual nothing may come.
const UNUSUAL: u64 = 3;

/// What is lost of what came, beyond which everyday losses count: both must be so.
const EVERYDAY_MAX: u64 = 10;
const EVERYDAY_SHARE: u64 = 100;

/// What the figures come to, before it is known since when.
pub(super) struct Judged {
    pub(super) condition: Condition,
    pub(super) words: String,
    pub(super) next: Option<String>,
    pub(super) until: Option<Until>,
    pub(super) since_ms: Option<u64>,
    pub(super) caught_up_ms: Option<u64>,
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

impl Watch {
    /// The first that applies, the worst first.
    pub(super) fn judge(&self, figures: &Figures, losses: &[Loss]) -> Judged {
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
