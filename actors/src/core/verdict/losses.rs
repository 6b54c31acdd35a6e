//! Owns what is lost now: runs of losses by place and reason, from the first that was seen to five minutes after the last.
//! It never says whether that is bad.

use std::collections::BTreeMap;

/// How long after the last loss of a reason it is still said to go on.
pub const GOES_ON_MS: u64 = 300_000;

/// How often one reason is worth a line in the log.
const SAY_EVERY_MS: u64 = 60_000;

/// Where what is lost was counted, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Given up by a stated policy.
    Dropped,
    /// Datagrams that the kernel dropped before we read them.
    Unread,
    /// Dead letters that made room for newer ones.
    Discarded,
    /// Refused by Blueflood: they lie in the dead letters.
    Refused,
    /// Never became a datapoint, or its sender was turned away.
    Malformed,
    /// A datapoint that cannot be forwarded.
    Skipped,
}

impl Place {
    /// Its name, as it is counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Unread => "unread",
            Self::Discarded => "discarded",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Skipped => "skipped",
        }
    }

    /// Whether a few of it are everyday: a port scan, a value that is NaN.
    pub(super) const fn is_everyday(self) -> bool {
        matches!(self, Self::Malformed | Self::Skipped)
    }
}

/// What was lost so far for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Where.
    pub place: Place,
    /// Why, as it is counted.
    pub reason: String,
    /// How much, since ever.
    pub count: u64,
    /// The last of it, as it may be shown.
    pub sample: Option<String>,
}

/// A loss that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Where.
    pub place: Place,
    /// Why, as it is counted.
    pub reason: String,
    /// How much since it began.
    pub count: u64,
    /// When it began, in milliseconds since 1970.
    pub since_ms: u64,
    /// The last of it, as it may be shown.
    pub sample: Option<String>,
    /// What was received since it began.
    pub(super) received: u64,
}

impl Loss {
    /// What it is, in words: `12 refused for ttlInSeconds`.
    pub fn words(&self) -> String {
        let Self { place, reason, count, .. } = self;
        let count = crate::core::human::count(*count);
        match place {
            Place::Unread => format!("{count} datagrams dropped by the kernel at {reason}"),
            Place::Discarded => format!("{count} dead letters thrown away for newer ones"),
            place => format!("{count} {} for {reason}", place.name()),
        }
    }
}

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Where.
    pub place: Place,
    /// Why.
    pub reason: String,
    /// How many since the last line.
    pub count: u64,
    /// The last of it.
    pub sample: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Run {
    count: u64,
    began_at_count: u64,
    began_at_received: u64,
    since_ms: u64,
    last_ms: Option<u64>,
    said_count: u64,
    said_ms: Option<u64>,
    sample: Option<String>,
}

/// All runs. There are as many as there are reasons.
#[derive(Debug, Clone, Default)]
pub(super) struct Runs {
    runs: BTreeMap<(Place, String), Run>,
    /// Whether what was lost before us has been seen.
    begun: bool,
}

impl Runs {
    pub(super) fn look(&mut self, now_ms: u64, received: u64, counts: &[Count]) {
        for Count { place, reason, count, sample } in counts {
            let run = self.runs.entry((*place, reason.clone())).or_default();
            if !self.begun {
                (run.count, run.said_count) = (*count, *count);
                continue;
            }
            if *count > run.count {
                let goes_on = run.last_ms.is_some_and(|last| now_ms.saturating_sub(last) <= GOES_ON_MS);
                if !goes_on {
                    (run.since_ms, run.began_at_count) = (now_ms, run.count);
                    run.began_at_received = received.saturating_sub(count.saturating_sub(run.count));
                }
                run.last_ms = Some(now_ms);
                run.sample.clone_from(sample);
            }
            // What a replay takes back is less, and no loss ends by it.
            run.began_at_count = run.began_at_count.min(*count);
            run.said_count = run.said_count.min(*count);
            run.count = *count;
        }
        self.begun = true;
    }

    /// What goes on, the worst first.
    pub(super) fn now(&self, now_ms: u64, received: u64) -> Vec<Loss> {
        let goes_on = |((place, reason), run): (&(Place, String), &Run)| {
            let count = run.count.saturating_sub(run.began_at_count);
            let is_now = run.last_ms.is_some_and(|last| now_ms.saturating_sub(last) <= GOES_ON_MS);
            (is_now && count > 0).then(|| Loss {
                place: *place,
                reason: reason.clone(),
                count,
                since_ms: run.since_ms,
                sample: run.sample.clone(),
                received: received.saturating_sub(run.began_at_received),
            })
        };
        let mut losses: Vec<_> = self.runs.iter().filter_map(goes_on).collect();
        losses.sort_by(|a, b| a.place.cmp(&b.place).then(b.count.cmp(&a.count)));
        losses
    }

    /// What is worth a line now: the first of a reason at once, then what came in a minute.
    pub(super) fn say(&mut self, now_ms: u64) -> Vec<Said> {
        let mut said = Vec::new();
        for ((place, reason), run) in &mut self.runs {
            let is_time = run.said_ms.is_none_or(|at| now_ms.saturating_sub(at) >= SAY_EVERY_MS);
            if run.count > run.said_count && is_time {
                let count = run.count.saturating_sub(run.said_count);
                said.push(Said { place: *place, reason: reason.clone(), count, sample: run.sample.clone() });
                (run.said_count, run.said_ms) = (run.count, Some(now_ms));
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(count: u64) -> [Count; 1] {
        [Count { place: Place::Refused, reason: "ttl".into(), count, sample: Some(format!("row {count}")) }]
    }

    #[test]
    fn what_was_lost_before_this_process_is_no_news() {
        let mut runs = Runs::default();
        runs.look(0, 100, &refused(7));
        assert_eq!(runs.now(0, 100), []);
        assert_eq!(runs.say(0), []);
        runs.look(1_000, 110, &refused(9));
        let now = runs.now(1_000, 110);
        assert_eq!((now[0].count, now[0].since_ms), (2, 1_000));
        assert_eq!(now[0].words(), "2 refused for ttl");
    }

    #[test]
    fn a_loss_goes_on_for_five_minutes_after_its_last_and_a_new_one_begins_anew() {
        let mut runs = Runs::default();
        runs.look(0, 0, &refused(0));
        runs.look(1_000, 5, &refused(1));
        runs.look(200_000, 9, &refused(4));
        assert_eq!((runs.now(400_000, 9)[0].count, runs.now(400_000, 9)[0].since_ms), (4, 1_000));
        assert_eq!(runs.now(200_000 + GOES_ON_MS + 1, 9), []);
        runs.look(900_000, 20, &refused(6));
        assert_eq!((runs.now(900_000, 20)[0].count, runs.now(900_000, 20)[0].since_ms), (2, 900_000));
    }

    #[test]
    fn the_first_of_a_reason_is_said_at_once_and_the_others_by_the_minute() {
        let mut runs = Runs::default();
        runs.look(0, 0, &refused(0));
        let mut said = Vec::new();
        for second in 1..=150 {
            runs.look(second * 1_000, 0, &refused(second));
            said.extend(runs.say(second * 1_000).into_iter().map(|said| (second, said.count, said.sample)));
        }
        let row = |n| Some(format!("row {n}"));
        assert_eq!(said, [(1, 1, row(1)), (61, 60, row(61)), (121, 60, row(121))]);
        // What came last is said by the clock, not by the next of it.
        assert_eq!(runs.say(181_000)[0].count, 29);
        assert_eq!(runs.say(300_000), []);
    }

    #[test]
    fn a_replay_takes_back_and_is_no_loss() {
        let mut runs = Runs::default();
        runs.look(0, 0, &refused(0));
        runs.look(1_000, 5, &refused(5));
        runs.say(1_000);
        runs.look(2_000, 5, &refused(0));
        assert_eq!(runs.now(2_000, 5), []);
        runs.look(3_000, 5, &refused(1));
        assert_eq!(runs.now(3_000, 5)[0].count, 1);
    }
}
