//! Owns the words of the verdict: the figures that it is made of, and what it comes to. It never judges.

use std::time::Duration;

use super::losses::{Count, Loss, Said};
use crate::core::human;

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
