//! Owns what follows from looking: when what Blueflood acknowledged is looked for, when it counts as delivered, when it is
//! sent again, and whether Blueflood can be believed at all. It holds no row, and does nothing by itself:
//! [`Confirm::apply`] turns an event into actions.
//!
//! A *group* is what one answer acknowledged. The spool keeps it, and hands it out.
//!
//! | a look says | then |
//! | --- | --- |
//! | all rows are there | the group is delivered |
//! | some are not, and others are | a look for all of them; then, a pause later, one for those that were absent. What is absent again is sent again, the rest is delivered |
//! | none is, not even a row that was there before; or it fails | nobody knows: the group stays, and Blueflood is not believed |
//!
//! While Blueflood is not believed no payload is sent: each would be answered with 200 and lost. A *witness*, one row of
//! a metric of our own, is sent and looked for instead, until it is there. It lies on one node of the store, so one group
//! is looked for next, and only when some of that is there too Blueflood is believed. Then every group is looked for from
//! the start.
//!
//! With [`Way::Witness`] there is no query service: a witness that Blueflood takes after a group proves that its store was
//! there. One that fails proves nothing of the groups before it, so they are sent again.
//!
//! Why: `actors/contract/confirm.md`, "How it loses" and "What looking tells".

mod vocabulary;

use std::{collections::BTreeMap, time::Duration};

pub use self::vocabulary::{Action, Belief, Event, Given, GroupId, Notice, Outcome, Seen, Status, Way, What};
use super::outbox::Now;

/// Groups that it has in hand, at most.
const GROUPS_MAX: usize = 16;

/// Looks at once.
pub const LOOKS_AT_ONCE: usize = 2;

/// With more groups than this that may be looked for, the rest waits; until they are half of it.
const BEHIND: usize = 64;

/// Between a look that lacked rows, and the one that may prove it.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest such pause: where rows are absent again and again, they are sent again no faster.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Before the first witness in doubt, and the longest pause between two: what it costs is nothing beside what waits.
const PROBE_PAUSE: Duration = Duration::from_secs(1);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Between two witnesses that confirm: more than one turn of [`super::look::witness_ms`].
const WITNESS_PAUSE: Duration = Duration::from_millis(200);

/// Looks at one group that failed while others passed, after which it counts as unknown: an hour of them, for its rows may
/// all lie on a node that is away.
const UNKNOWN_AFTER: u32 = 700;

/// What passed within so long says that others can be read.
const LATELY: Duration = Duration::from_secs(30);

/// Looks in doubt at one group that failed though witnesses were there, after which payloads leave again.
const TRIED_MAX: u32 = 10;

/// Why Blueflood is not believed, if it answers, and shows nothing.
const NOTHING_THERE: &str = "nothing of it is there";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is to be looked for.
    Waits(What),
    Looked(What),
    /// A witness was sent after it.
    Witnessed,
    Settling(Outcome),
}

#[derive(Debug)]
struct Group {
    rows: u64,
    whole: bool,
    stage: Stage,
    not_before: Now,
    /// Looks at it that failed.
    failures: u32,
    /// Rows that were absent in the last look.
    absent: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Confirm {
    way: Way,
    groups: BTreeMap<GroupId, Group>,
    belief: Belief,
    doubted_at: Option<Now>,
    probing: bool,
    probe_at: Now,
    probe_pause: Duration,
    /// Witnesses that failed since Blueflood is not believed.
    probe_failures: u32,
    /// The group that is looked for in doubt.
    tried: Option<GroupId>,
    /// Whether the doubt was said: one that the first witness ends is not worth a line.
    said: bool,
    believed_at: Now,
    asking: bool,
    /// Something may be due that no ask so far was made for.
    may_be_due: bool,
    /// Something may be acknowledged that was not counted.
    poked: bool,
    next_at: Option<Now>,
    left: usize,
    /// Groups in a row of which rows had to be sent again.
    streak: u32,
    /// When a look last saw rows.
    passed_at: Option<Now>,
    looks: u64,
    resent: u64,
    unknown: u64,
}

/// What one call of [`Confirm::apply`] is given, and what it comes to.
struct Turn {
    now: Now,
    random: f64,
    actions: Vec<Action>,
}

impl Confirm {
    /// One that has seen nothing yet.
    pub fn new(way: Way) -> Self {
        Self {
            way,
            groups: BTreeMap::new(),
            belief: Belief::Yes,
            doubted_at: None,
            probing: false,
            // The process before this one may have sent one just now.
            probe_at: WITNESS_PAUSE,
            probe_pause: PROBE_PAUSE,
            probe_failures: 0,
            tried: None,
            said: false,
            believed_at: Duration::ZERO,
            asking: false,
            may_be_due: true,
            poked: true,
            next_at: None,
            left: 0,
            streak: 0,
            passed_at: None,
            looks: 0,
            resent: 0,
            unknown: 0,
        }
    }

    /// Takes an event, and says what is to be done. `random` is in `0.0..1.0`.
    pub fn apply(&mut self, event: Event, now: Now, random: f64) -> Vec<Action> {
        let mut turn = Turn { now, random, actions: Vec::new() };
        match event {
            Event::Configured(way) => self.configured(way, &mut turn),
            Event::Poke | Event::Tick => (self.may_be_due, self.poked) = (true, true),
            Event::Given { groups, left, next_in } => {
                self.asking = false;
                // What was told since it asked stays: the answer may be older than that.
                self.may_be_due |= left > 0;
                self.left = left;
                self.next_at = next_in.map(|wait| now.saturating_add(wait));
                for Given { id, rows, whole } in groups {
                    let whole = whole || self.way == Way::All;
                    let stage = Stage::Waits(if whole { What::All } else { What::Sample });
                    let group = Group { rows, whole, stage, not_before: now, failures: 0, absent: 0 };
                    // One that is being settled is not looked for again.
                    self.groups.entry(id).or_insert(group);
                }
            }
            // It asks again when it is told of something, or of the time.
            Event::NotGiven => self.asking = false,
            Event::Looked { group, seen } => self.looked(group, seen, &mut turn),
            Event::Settled { group } => {
                if let Some(settled) = self.groups.remove(&group)
                    && let Stage::Settling(outcome) = settled.stage
                {
                    self.count(outcome, &settled, &mut turn);
                }
            }
            Event::NotSettled { group } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.not_before = now.saturating_add(PAUSE);
                }
            }
            Event::GaveBack { rows } => self.count_resent(rows, &mut turn),
            Event::Probed(outcome) => self.probed(outcome, &mut turn),
            Event::Drain => self.may_be_due = true,
        }
        self.upkeep(&mut turn);
        turn.actions
    }

    /// When time alone lets something be done, later than `now`; `None`: nothing before another event.
    pub fn next_wake(&self, now: Now) -> Option<Now> {
        let waits = |group: &Group| match group.stage {
            Stage::Waits(_) => !self.doubts(),
            Stage::Settling(_) => true,
            Stage::Looked(_) | Stage::Witnessed => false,
        };
        let groups = self.groups.values().filter(|group| waits(group)).map(|group| group.not_before);
        let probes = (self.doubts() || self.way == Way::Witness).then_some(self.probe_at);
        groups.chain(probes).chain(self.next_at).filter(|&at| at > now).min()
    }

    /// Whether nothing more can be confirmed now.
    pub fn is_drained(&self) -> bool {
        let settling = self.groups.values().any(|group| matches!(group.stage, Stage::Settling(_)));
        let nothing_left =
            self.groups.is_empty() && !self.asking && !self.may_be_due && self.next_at.is_none();
        !settling && (nothing_left || self.doubts() || self.way == Way::Off)
    }

    /// What it looks like from outside.
    pub fn status(&self) -> Status {
        Status {
            way: self.way,
            belief: self.belief.clone(),
            looks: self.looks,
            resent: self.resent,
            unknown: self.unknown,
        }
    }

    fn doubts(&self) -> bool {
        matches!(self.belief, Belief::No(_))
    }

    fn configured(&mut self, way: Way, turn: &mut Turn) {
        if way == self.way {
            return;
        }
        self.way = way;
        // By whatever was begun in the other way nothing is proven.
        self.forget(turn);
        (self.probing, self.doubted_at) = (false, None);
        self.believe(Belief::Yes, turn);
    }

    /// Lets go of the groups in hand. Where rows are not read back, what was acknowledged so far nobody can tell of.
    fn forget(&mut self, turn: &mut Turn) {
        self.groups.retain(|_, group| matches!(group.stage, Stage::Settling(_)));
        self.tried = None;
        (self.asking, self.may_be_due, self.left, self.next_at) = (false, true, 0, None);
        turn.actions.push(if self.way.reads() { Action::TakeStock } else { Action::GiveBack });
    }

    fn believe(&mut self, belief: Belief, turn: &mut Turn) {
        if self.belief != belief {
            self.belief = belief.clone();
            turn.actions.push(Action::Believe(belief));
        }
    }

    fn doubt(&mut self, cause: String, turn: &mut Turn) {
        if self.doubts() {
            return;
        }
        self.doubted_at = Some(turn.now);
        // One that was believed for a moment only is asked no faster than before.
        if turn.now.saturating_sub(self.believed_at) > Duration::from_secs(60) {
            self.probe_pause = PROBE_PAUSE;
        }
        (self.probe_failures, self.said) = (0, false);
        self.probe_at = turn.now.saturating_add(self.probe_pause);
        self.believe(Belief::No(cause), turn);
    }

    // === Looks ===

    fn looked(&mut self, id: GroupId, seen: Seen, turn: &mut Turn) {
        if self.tried == Some(id) {
            self.tried = None;
            match &seen {
                Seen::AllThere | Seen::Absent { control: true, .. } => self.believe_again(turn),
                Seen::Absent { control: false, .. } => self.still_doubts(NOTHING_THERE.to_owned(), turn),
                Seen::Failed(cause) => self.still_doubts(cause.clone(), turn),
                // Another one is tried.
                Seen::NotLoaded => self.probe_at = turn.now,
            }
        }
        let streak = self.streak;
        let others_pass = self.passed_at.is_some_and(|at| turn.now.saturating_sub(at) <= LATELY);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Stage::Looked(what) = group.stage else { return };
        let first = if group.whole { What::All } else { What::Sample };
        match seen {
            Seen::AllThere => {
                self.passed_at = Some(turn.now);
                if what != What::Absent {
                    self.streak = 0;
                }
                self.settle(id, Outcome::Stored, turn);
            }
            Seen::Absent { rows, control: true } => {
                self.passed_at = Some(turn.now);
                group.absent = rows;
                let pause = PAUSE.saturating_mul(1 << streak.min(4)).min(PAUSE_MAX);
                match what {
                    What::Sample => group.stage = Stage::Waits(What::All),
                    What::All => {
                        group.stage = Stage::Waits(What::Absent);
                        group.not_before = turn.now.saturating_add(pause);
                    }
                    What::Absent => self.settle(id, Outcome::StoredButAbsent, turn),
                }
            }
            Seen::Absent { control: false, .. } => {
                group.stage = Stage::Waits(first);
                group.failures = group.failures.saturating_add(1);
                self.doubt(NOTHING_THERE.to_owned(), turn);
            }
            Seen::Failed(cause) => {
                group.stage = Stage::Waits(first);
                let alone = group.failures > 0 && others_pass;
                group.failures = group.failures.saturating_add(1);
                if !alone {
                    group.not_before = turn.now.saturating_add(PAUSE);
                    self.doubt(cause, turn);
                } else if group.failures < UNKNOWN_AFTER {
                    // Others can be read: what fails is this group, and it says nothing of Blueflood.
                    let pause = PAUSE.saturating_mul(group.failures).min(PAUSE_MAX);
                    group.not_before = turn.now.saturating_add(pause);
                } else {
                    turn.actions.push(Action::Say(Notice::Unknown { rows: group.rows, cause }));
                    self.settle(id, Outcome::Unknown, turn);
                }
            }
            Seen::NotLoaded => {
                // The spool has it no more, or could not be read: it waits again, if it is there.
                self.settle(id, Outcome::Again, turn);
            }
        }
    }

    fn settle(&mut self, id: GroupId, outcome: Outcome, turn: &mut Turn) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.stage = Stage::Settling(outcome);
            group.not_before = Duration::MAX;
            turn.actions.push(Action::Settle { group: id, outcome });
        }
    }

    fn count(&mut self, outcome: Outcome, group: &Group, turn: &mut Turn) {
        let resent = match outcome {
            Outcome::Stored => 0,
            Outcome::StoredButAbsent => group.absent,
            Outcome::Again => group.rows,
            Outcome::Unknown => {
                self.unknown = self.unknown.saturating_add(group.rows);
                0
            }
        };
        if resent > 0 {
            self.streak = self.streak.saturating_add(1);
            self.count_resent(resent, turn);
        }
    }

    fn count_resent(&mut self, rows: u64, turn: &mut Turn) {
        if rows > 0 {
            self.resent = self.resent.saturating_add(rows);
            turn.actions.push(Action::Say(Notice::Resent { rows }));
        }
    }

    // === Witnesses ===

    fn probed(&mut self, outcome: Result<(), String>, turn: &mut Turn) {
        if !std::mem::take(&mut self.probing) {
            return;
        }
        match outcome {
            Ok(()) if self.doubts() => self.try_a_group(turn),
            Ok(()) => self.settle_all(Stage::Witnessed, Outcome::Stored, turn),
            Err(cause) if self.doubts() => self.still_doubts(cause, turn),
            Err(cause) => self.doubt(cause, turn),
        }
    }

    /// A witness is there: looks for the group that failed least, if there is one to look for.
    fn try_a_group(&mut self, turn: &mut Turn) {
        let under_way = self.groups.values().filter(|group| matches!(group.stage, Stage::Looked(_))).count();
        if under_way >= LOOKS_AT_ONCE {
            self.probe_at = turn.now.saturating_add(PROBE_PAUSE);
            return;
        }
        let waits = |group: &Group| matches!(group.stage, Stage::Waits(_));
        let reads = self.way.reads();
        let groups = self.groups.iter_mut().filter(|(_, group)| reads && waits(group));
        let least = groups.min_by_key(|(_, group)| group.failures);
        let Some((&id, group)) = least else {
            self.believe_again(turn);
            return;
        };
        if group.failures >= TRIED_MAX && group.failures.is_multiple_of(TRIED_MAX) {
            // It never ends well, and must not hold up all others for ever.
            group.failures = group.failures.saturating_add(1);
            self.believe_again(turn);
            return;
        }
        let what = if group.whole { What::All } else { What::Sample };
        group.stage = Stage::Looked(what);
        self.tried = Some(id);
        self.looks = self.looks.saturating_add(1);
        turn.actions.push(Action::Look { group: id, what });
    }

    fn still_doubts(&mut self, cause: String, turn: &mut Turn) {
        self.probe_failures = self.probe_failures.saturating_add(1);
        self.probe_pause = self.probe_pause.saturating_mul(2).min(PROBE_PAUSE_MAX);
        // A little earlier at random, so that many daemons do not ask as one.
        let pause = self.probe_pause.mul_f64(0.8 + 0.2 * turn.random.clamp(0.0, 1.0));
        self.probe_at = turn.now.saturating_add(pause);
        if !std::mem::replace(&mut self.said, true) {
            turn.actions.push(Action::Say(Notice::Doubted { cause: cause.clone() }));
        }
        if let Belief::No(shown) = &mut self.belief
            && *shown != cause
        {
            shown.clone_from(&cause);
            turn.actions.push(Action::Believe(Belief::No(cause)));
        }
    }

    fn believe_again(&mut self, turn: &mut Turn) {
        let after = self.doubted_at.take().map_or(Duration::ZERO, |at| turn.now.saturating_sub(at));
        self.believed_at = turn.now;
        if self.said {
            turn.actions.push(Action::Say(Notice::Believed { after, failures: self.probe_failures }));
        }
        self.believe(Belief::Yes, turn);
        self.may_be_due = true;
        if self.way == Way::Witness {
            // What was acknowledged before, while the store may have been away, nobody can look for.
            self.forget(turn);
            return;
        }
        for group in self.groups.values_mut() {
            if let Stage::Waits(what) = &mut group.stage {
                *what = if group.whole { What::All } else { What::Sample };
                group.not_before = turn.now;
            }
        }
    }

    fn settle_all(&mut self, at: Stage, outcome: Outcome, turn: &mut Turn) {
        let ids: Vec<GroupId> =
            self.groups.iter().filter(|(_, group)| group.stage == at).map(|(&id, _)| id).collect();
        ids.into_iter().for_each(|id| self.settle(id, outcome, turn));
    }

    // === Upkeep: the same after every event ===

    fn upkeep(&mut self, turn: &mut Turn) {
        let now = turn.now;
        let again = self.groups.iter().filter_map(|(&id, group)| match group.stage {
            Stage::Settling(outcome) if group.not_before <= now => Some((id, outcome)),
            _ => None,
        });
        let again: Vec<_> = again.collect();
        again.into_iter().for_each(|(id, outcome)| self.settle(id, outcome, turn));
        if self.way == Way::Off {
            return;
        }
        if self.doubts() {
            if !self.probing && self.tried.is_none() && self.probe_at <= now {
                self.probe(turn);
            }
            return;
        }
        if self.way == Way::Witness {
            self.witness(turn)
        } else {
            self.look(turn)
        }
        let room = GROUPS_MAX.saturating_sub(self.groups.len());
        let due = self.may_be_due || self.next_at.is_some_and(|at| at <= now);
        // A few at once: an ask for each that is settled would be many. Without room it is asked how many there are, or more
        // payloads would leave than can be looked for.
        let has_room = room >= GROUPS_MAX / 4;
        if !self.asking && (due && has_room || self.poked && !has_room) {
            (self.asking, self.poked) = (true, false);
            if has_room {
                (self.may_be_due, self.next_at) = (false, None);
            }
            turn.actions.push(Action::Ask(if has_room { room } else { 0 }));
        }
        let waits = self.left.saturating_add(self.groups.len());
        if self.belief == Belief::Yes && waits > BEHIND {
            self.believe(Belief::Behind, turn);
        } else if self.belief == Belief::Behind && waits < BEHIND / 2 {
            self.believe(Belief::Yes, turn);
        }
    }

    fn look(&mut self, turn: &mut Turn) {
        let looking = |group: &&Group| matches!(group.stage, Stage::Looked(_));
        let mut free = LOOKS_AT_ONCE.saturating_sub(self.groups.values().filter(looking).count());
        for (&id, group) in &mut self.groups {
            if free == 0 {
                break;
            }
            if let Stage::Waits(what) = group.stage
                && group.not_before <= turn.now
            {
                group.stage = Stage::Looked(what);
                self.looks = self.looks.saturating_add(1);
                turn.actions.push(Action::Look { group: id, what });
                free = free.saturating_sub(1);
            }
        }
    }

    fn witness(&mut self, turn: &mut Turn) {
        if self.probing || self.probe_at > turn.now {
            return;
        }
        let mut any = false;
        for group in self.groups.values_mut().filter(|group| matches!(group.stage, Stage::Waits(_))) {
            group.stage = Stage::Witnessed;
            any = true;
        }
        if any {
            self.probe_at = turn.now.saturating_add(WITNESS_PAUSE);
            self.probe(turn);
        }
    }

    fn probe(&mut self, turn: &mut Turn) {
        self.probing = true;
        self.looks = self.looks.saturating_add(1);
        turn.actions.push(Action::Probe { read: self.way.reads() });
    }
}

#[cfg(test)]
mod tests;
