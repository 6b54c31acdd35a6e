//! Owns the words that the confirmer's core and the actor around it speak: what happened, what is to be done, what is worth
//! telling. It never decides anything.

use std::time::Duration;

/// A group's number, of this process only.
pub type GroupId = u64;

/// How what was acknowledged is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Not at all: acknowledged is delivered.
    Off,
    /// By a row of our own that Blueflood stores before it answers.
    Witness,
    /// By reading some rows of each payload back.
    Sample,
    /// By reading every row back.
    All,
}

impl Way {
    /// Whether rows are read back.
    pub fn reads(self) -> bool {
        matches!(self, Way::Sample | Way::All)
    }
}

/// Whether payloads may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Belief {
    /// Blueflood is believed.
    Yes,
    /// So much is acknowledged and not looked for that the rest has to wait.
    Behind,
    /// It cannot be believed, and why.
    No(String),
}

/// A group that the spool hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// Its number.
    pub id: GroupId,
    /// Its rows.
    pub rows: u64,
    /// Whether each row of it is to be looked for.
    pub whole: bool,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// It is done in this way from now on.
    Configured(Way),
    /// Something may be acknowledged.
    Poke,
    /// What [`Action::Ask`] asked for.
    Given {
        /// The groups; fewer than were asked for if no more may be looked for.
        groups: Vec<Given>,
        /// Groups beside them that may be looked for.
        left: usize,
        /// When the next one may be.
        next_in: Option<Duration>,
    },
    /// The spool could not be asked.
    NotGiven,
    /// A look came to an end.
    Looked {
        /// At which group.
        group: GroupId,
        /// What was seen.
        seen: Seen,
    },
    /// The spool has carried out [`Action::Settle`].
    Settled {
        /// Which group.
        group: GroupId,
    },
    /// It could not: it is told again.
    NotSettled {
        /// Which group.
        group: GroupId,
    },
    /// The spool has carried out [`Action::GiveBack`].
    GaveBack {
        /// How many rows wait again.
        rows: u64,
    },
    /// A witness came to an end.
    Probed(Result<(), String>),
    /// The daemon stops.
    Drain,
    /// Time has passed.
    Tick,
}

/// What a look saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Every row that was looked for.
    AllThere,
    /// Not so many of them.
    Absent {
        /// Rows that were not there.
        rows: u64,
        /// Whether another row was, that has to be: one of the same look, or one that was there before.
        control: bool,
    },
    /// There was no answer that says anything.
    Failed(String),
    /// The spool could not give the rows.
    NotLoaded,
}

/// Which rows of a group are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Some.
    Sample,
    /// All.
    All,
    /// Those that were absent in the look before.
    Absent,
}

/// Where the rows of a group go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// They are stored.
    Stored,
    /// They are stored, but for those that were absent in the last look: these wait to be sent again.
    StoredButAbsent,
    /// Nobody can tell: they wait to be sent again.
    Again,
    /// Nobody can tell, and trying again would not help: they count as stored.
    Unknown,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the spool for so many groups.
    Ask(usize),
    /// Look for rows of a group.
    Look {
        /// Of which.
        group: GroupId,
        /// Which rows.
        what: What,
    },
    /// Let the spool carry this out.
    Settle {
        /// On which group.
        group: GroupId,
        /// What.
        outcome: Outcome,
    },
    /// Send a witness, and look for it if `read`.
    Probe {
        /// Whether it is looked for.
        read: bool,
    },
    /// Nobody can look for what is acknowledged: all of it waits to be sent again.
    GiveBack,
    /// What was handed out is in hand no more: the spool hands it out again.
    TakeStock,
    /// Whether payloads may leave.
    Believe(Belief),
    /// Worth a line in the log.
    Say(Notice),
}

/// A change worth telling an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Blueflood cannot be believed.
    Doubted {
        /// What was seen.
        cause: String,
    },
    /// It can again.
    Believed {
        /// How long it could not.
        after: Duration,
        /// Witnesses that failed.
        failures: u32,
    },
    /// Rows that Blueflood acknowledged were not there, and are sent again.
    Resent {
        /// How many.
        rows: u64,
    },
    /// Nothing of these can be read back, though other rows can: they count as delivered.
    Unknown {
        /// How many rows.
        rows: u64,
        /// What was seen last.
        cause: String,
    },
}

/// What it looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How it is done.
    pub way: Way,
    /// Whether Blueflood is believed.
    pub belief: Belief,
    /// Looks that were made, with the witnesses.
    pub looks: u64,
    /// Rows that were sent again.
    pub resent: u64,
    /// Rows that count as delivered though nobody could tell.
    pub unknown: u64,
}
