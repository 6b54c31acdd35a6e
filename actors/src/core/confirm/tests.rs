//! The confirmer's core in a world of its own: a spool that is a map, and a store that comes, goes, and loses parts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Random numbers that a failing case can be played again by.
struct Dice(u64);

impl Dice {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A group in the spool, and what Blueflood really has of it.
#[derive(Debug, Clone)]
struct Acknowledged {
    rows: u64,
    /// Rows that are not stored.
    lost: u64,
    whole: bool,
    given: bool,
}

#[derive(Debug, PartialEq)]
enum UnderWay {
    Ask(usize),
    Look(GroupId, What),
    Settle(GroupId, Outcome),
    Probe,
    GiveBack,
}

/// A spool, and a Blueflood with a store that comes and goes.
struct World {
    confirm: Confirm,
    now: Now,
    dice: Dice,
    up: bool,
    spool: BTreeMap<GroupId, Acknowledged>,
    last: GroupId,
    under_way: Vec<UnderWay>,
    belief: Belief,
    delivered: u64,
    lost: u64,
    waiting: u64,
    /// A node is away, on which all rows of each third group lie.
    node_away: bool,
    /// Groups that a look lacked rows of that are there: not twice in a row.
    lied: Option<GroupId>,
    said: Vec<Notice>,
}

impl World {
    fn new(way: Way, seed: u64) -> Self {
        let mut world = Self {
            confirm: Confirm::new(Way::Off),
            now: Duration::ZERO,
            dice: Dice(seed),
            up: true,
            spool: BTreeMap::new(),
            last: 0,
            under_way: Vec::new(),
            belief: Belief::Yes,
            delivered: 0,
            lost: 0,
            waiting: 0,
            node_away: false,
            lied: None,
            said: Vec::new(),
        };
        world.tell(Event::Configured(way));
        world
    }

    fn tell(&mut self, event: Event) {
        let random = self.dice.below(1000) as f64 / 1000.0;
        for action in self.confirm.apply(event, self.now, random) {
            match action {
                Action::Ask(n) => self.under_way.push(UnderWay::Ask(n)),
                Action::Look { group, what } => {
                    // While nobody believes one look at a time, after a witness.
                    assert!(!self.belief_no() || self.confirm.tried == Some(group));
                    self.under_way.push(UnderWay::Look(group, what));
                }
                Action::Settle { group, outcome } => self.under_way.push(UnderWay::Settle(group, outcome)),
                Action::Probe { .. } => self.under_way.push(UnderWay::Probe),
                // What was under way ends unheard.
                Action::GiveBack => {
                    self.under_way.retain(|each| matches!(each, UnderWay::Settle(..) | UnderWay::GiveBack));
                    self.under_way.push(UnderWay::GiveBack);
                }
                Action::TakeStock => {
                    self.under_way.retain(|each| matches!(each, UnderWay::Settle(..) | UnderWay::GiveBack));
                    self.spool.values_mut().for_each(|group| group.given = false);
                }
                Action::Believe(belief) => self.belief = belief,
                Action::Say(notice) => self.said.push(notice),
            }
        }
        let count = |which: fn(&UnderWay) -> bool| self.under_way.iter().filter(|each| which(each)).count();
        assert!(count(|each| matches!(each, UnderWay::Look(..))) <= LOOKS_AT_ONCE);
        assert!(count(|each| matches!(each, UnderWay::Probe)) <= 1);
        assert!(count(|each| matches!(each, UnderWay::Ask(_))) <= 1);
    }

    fn belief_no(&self) -> bool {
        matches!(self.belief, Belief::No(_))
    }

    /// A payload is answered with 200, if one may leave.
    fn acknowledge(&mut self) {
        if self.waiting == 0 || self.belief != Belief::Yes {
            return;
        }
        let rows = self.waiting.min(1 + self.dice.below(50));
        self.waiting -= rows;
        let lost = match (self.up, self.dice.below(4)) {
            (false, _) => rows,
            (true, 0) => self.dice.below(rows + 1),
            (true, _) => 0,
        };
        self.last += 1;
        let whole = self.dice.one_in(3);
        self.spool.insert(self.last, Acknowledged { rows, lost, whole, given: false });
        self.tell(Event::Poke);
    }

    /// Something that is under way comes to an end.
    fn finish(&mut self, faults: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let at = self.dice.below(self.under_way.len() as u64) as usize;
        let fails = faults && self.dice.one_in(10);
        match self.under_way.swap_remove(at) {
            UnderWay::Ask(_) if fails => self.tell(Event::NotGiven),
            UnderWay::Ask(n) => {
                let free: Vec<GroupId> =
                    self.spool.iter().filter(|(_, group)| !group.given).map(|(&id, _)| id).collect();
                let groups: Vec<Given> = free
                    .iter()
                    .take(n)
                    .map(|id| {
                        let group = self.spool.get_mut(id).unwrap();
                        group.given = true;
                        Given { id: *id, rows: group.rows, whole: group.whole }
                    })
                    .collect();
                let left = free.len() - groups.len();
                self.tell(Event::Given { groups, left, next_in: None });
            }
            UnderWay::Look(group, what) => {
                let seen = self.look(group, what, fails);
                self.tell(Event::Looked { group, seen });
            }
            UnderWay::Settle(group, _) if fails => self.tell(Event::NotSettled { group }),
            UnderWay::Settle(id, outcome) => {
                if let Some(group) = self.spool.remove(&id) {
                    let again = match outcome {
                        Outcome::Stored => 0,
                        Outcome::StoredButAbsent => group.lost,
                        Outcome::Again => group.rows,
                        Outcome::Unknown => panic!("given up"),
                    };
                    self.waiting += again;
                    self.delivered += group.rows - again;
                    if outcome == Outcome::Stored {
                        self.lost += group.lost;
                    }
                }
                self.tell(Event::Settled { group: id });
            }
            UnderWay::Probe => {
                let outcome = if self.up && !fails { Ok(()) } else { Err("away".to_owned()) };
                self.tell(Event::Probed(outcome));
            }
            UnderWay::GiveBack => {
                let rows = std::mem::take(&mut self.spool).into_values().map(|group| group.rows).sum();
                self.waiting += rows;
                self.tell(Event::GaveBack { rows });
            }
        }
    }

    fn look(&mut self, id: GroupId, _: What, fails: bool) -> Seen {
        let Some(group) = self.spool.get(&id).cloned() else { return Seen::NotLoaded };
        if fails && self.dice.one_in(3) {
            return Seen::NotLoaded;
        }
        if fails || !self.up && self.dice.one_in(2) || self.node_away && id.is_multiple_of(3) {
            return Seen::Failed("500".to_owned());
        }
        if !self.up {
            return Seen::Absent { rows: group.rows, control: false };
        }
        let lies = self.lied != Some(id) && self.dice.one_in(5);
        self.lied = lies.then_some(id);
        match group.lost {
            0 if !lies => Seen::AllThere,
            0 => Seen::Absent { rows: 1, control: true },
            rows => Seen::Absent { rows, control: true },
        }
    }

    /// In good weather, until so many rows are delivered.
    fn settle(&mut self, total: u64) {
        for _ in 0..20_000 {
            if self.delivered == total {
                return;
            }
            self.acknowledge();
            self.finish(false);
            self.pass();
        }
    }

    fn pass(&mut self) {
        match self.confirm.next_wake(self.now) {
            Some(at) if self.under_way.is_empty() => self.now = at.min(self.now + Duration::from_secs(1)),
            _ => self.now += Duration::from_millis(20),
        }
        self.tell(Event::Tick);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_nothing_lost_is_delivered_and_everything_is_in_the_end(seed: u64, all: bool) {
        let mut world = World::new(if all { Way::All } else { Way::Sample }, seed);
        let total = 2_000;
        world.waiting = total;
        for _ in 0..600 {
            match world.dice.below(10) {
                0 if world.dice.one_in(2) => world.node_away = !world.node_away,
                0 => world.up = !world.dice.one_in(3),
                1..=3 => world.acknowledge(),
                4 => world.pass(),
                _ => world.finish(true),
            }
        }
        (world.up, world.node_away) = (true, false);
        world.settle(total);
        prop_assert_eq!((world.delivered, world.lost), (total, 0));
        prop_assert_eq!(&world.belief, &Belief::Yes);
        // What is settled is told of once more, and then there is nothing in hand.
        for _ in 0..1_000 {
            world.finish(false);
            world.pass();
        }
        prop_assert!(world.confirm.is_drained() || world.confirm.asking);
        prop_assert!(world.confirm.groups.is_empty());
    }

    #[test]
    fn a_change_of_the_way_forgets_nothing(seed: u64, ways in prop::collection::vec(0u8..4, 1..6)) {
        let mut world = World::new(Way::Sample, seed);
        let total = 500;
        world.waiting = total;
        for way in ways {
            for _ in 0..60 {
                match world.dice.below(4) {
                    0 => world.acknowledge(),
                    1 => world.pass(),
                    _ => world.finish(true),
                }
            }
            let way = [Way::Off, Way::Witness, Way::Sample, Way::All][usize::from(way)];
            world.tell(Event::Configured(way));
        }
        world.tell(Event::Configured(Way::All));
        world.settle(total);
        prop_assert_eq!(world.delivered, total);
    }
}

fn confirm(way: Way) -> Confirm {
    let mut confirm = Confirm::new(Way::Off);
    confirm.apply(Event::Configured(way), at(0), 0.5);
    confirm
}

fn at(ms: u64) -> Now {
    Duration::from_millis(ms)
}

fn give(confirm: &mut Confirm, ids: &[GroupId], now: Now) -> Vec<Action> {
    let groups = ids.iter().map(|&id| Given { id, rows: 10, whole: false }).collect();
    confirm.apply(Event::Given { groups, left: 0, next_in: None }, now, 0.5)
}

fn looked(confirm: &mut Confirm, group: GroupId, seen: Seen, now: Now) -> Vec<Action> {
    confirm.apply(Event::Looked { group, seen }, now, 0.5)
}

const SHORT: Seen = Seen::Absent { rows: 3, control: true };

#[test]
fn in_health_a_group_is_one_look_and_is_delivered() {
    let mut confirm = confirm(Way::Sample);
    assert_eq!(give(&mut confirm, &[1], at(0)), [Action::Look { group: 1, what: What::Sample }]);
    let settled = Action::Settle { group: 1, outcome: Outcome::Stored };
    assert_eq!(looked(&mut confirm, 1, Seen::AllThere, at(5)), [settled]);
}

#[test]
fn what_is_absent_twice_is_sent_again_and_nothing_sooner() {
    let mut confirm = confirm(Way::Sample);
    give(&mut confirm, &[1], at(0));
    assert_eq!(looked(&mut confirm, 1, SHORT, at(5)), [Action::Look { group: 1, what: What::All }]);
    assert_eq!(looked(&mut confirm, 1, SHORT, at(10)), []);
    assert_eq!(confirm.next_wake(at(10)), Some(at(1_010)));
    let again = Action::Look { group: 1, what: What::Absent };
    assert_eq!(confirm.apply(Event::Tick, at(1_010), 0.5)[0], again);
    let settled = Action::Settle { group: 1, outcome: Outcome::StoredButAbsent };
    assert_eq!(looked(&mut confirm, 1, SHORT, at(1_020)), [settled]);
    confirm.apply(Event::Settled { group: 1 }, at(1_030), 0.5);
    assert_eq!(confirm.status().resent, 3);
}

#[test]
fn a_short_answer_that_was_no_more_than_late_costs_nothing() {
    let mut confirm = confirm(Way::Sample);
    give(&mut confirm, &[1], at(0));
    looked(&mut confirm, 1, SHORT, at(5));
    let settled = Action::Settle { group: 1, outcome: Outcome::Stored };
    assert_eq!(looked(&mut confirm, 1, Seen::AllThere, at(10)), [settled]);
}

#[test]
fn a_look_that_fails_closes_and_only_a_witness_and_a_look_open() {
    let mut confirm = confirm(Way::Sample);
    give(&mut confirm, &[1, 2], at(100_000));
    let doubted = looked(&mut confirm, 1, Seen::Failed("500".to_owned()), at(100_010));
    assert!(doubted.contains(&Action::Believe(Belief::No("500".to_owned()))), "{doubted:?}");
    // It was under way, and says nothing for the other one.
    looked(&mut confirm, 2, Seen::AllThere, at(100_020));
    assert_eq!(confirm.apply(Event::Tick, at(101_010), 0.5), [Action::Probe { read: true }]);
    confirm.apply(Event::Probed(Err("500".to_owned())), at(101_020), 0.5);
    let next = confirm.next_wake(at(101_020)).unwrap();
    assert!(next <= at(103_020), "{next:?}");
    assert_eq!(confirm.apply(Event::Tick, next, 0.5), [Action::Probe { read: true }]);
    // The witness may lie on the one node that is left.
    let tried = confirm.apply(Event::Probed(Ok(())), next, 0.5);
    assert_eq!(tried, [Action::Look { group: 1, what: What::Sample }]);
    let failed = looked(&mut confirm, 1, Seen::Failed("500".to_owned()), next + at(10));
    assert!(!failed.contains(&Action::Believe(Belief::Yes)), "{failed:?}");
    let next = confirm.next_wake(next + at(10)).unwrap();
    assert_eq!(confirm.apply(Event::Tick, next, 0.5), [Action::Probe { read: true }]);
    confirm.apply(Event::Probed(Ok(())), next, 0.5);
    let opened = looked(&mut confirm, 1, Seen::AllThere, next + at(20));
    assert!(opened.contains(&Action::Believe(Belief::Yes)), "{opened:?}");
    assert!(opened.contains(&Action::Settle { group: 1, outcome: Outcome::Stored }), "{opened:?}");
}

#[test]
fn a_doubt_that_the_first_witness_ends_is_not_said_and_a_longer_one_is_once() {
    let mut confirm = confirm(Way::Sample);
    let said = |actions: Vec<Action>| {
        actions.into_iter().filter(|action| matches!(action, Action::Say(_))).collect::<Vec<_>>()
    };
    let mut now = at(100_000);
    for failures in [0, 3] {
        give(&mut confirm, &[1], now);
        let mut heard = said(looked(&mut confirm, 1, Seen::Failed("500".to_owned()), now));
        for _ in 0..failures {
            now = confirm.next_wake(now).unwrap();
            confirm.apply(Event::Tick, now, 0.5);
            heard.extend(said(confirm.apply(Event::Probed(Err("away".to_owned())), now, 0.5)));
        }
        now = confirm.next_wake(now).unwrap();
        confirm.apply(Event::Tick, now, 0.5);
        heard.extend(said(confirm.apply(Event::Probed(Ok(())), now, 0.5)));
        heard.extend(said(looked(&mut confirm, 1, Seen::AllThere, now)));
        assert_eq!(confirm.status().belief, Belief::Yes);
        assert_eq!(heard.len(), if failures == 0 { 0 } else { 2 }, "{heard:?}");
        confirm.apply(Event::Settled { group: 1 }, now, 0.5);
        now += at(1_000);
    }
}

#[test]
fn witnesses_never_come_more_than_six_seconds_apart() {
    let mut confirm = confirm(Way::Sample);
    give(&mut confirm, &[1], at(100_000));
    looked(&mut confirm, 1, Seen::Failed("500".to_owned()), at(100_000));
    let mut now = at(100_000);
    for _ in 0..100 {
        let next = confirm.next_wake(now).unwrap();
        assert!(next - now <= Duration::from_secs(6));
        now = next;
        confirm.apply(Event::Tick, now, 1.0);
        confirm.apply(Event::Probed(Err("500".to_owned())), now, 1.0);
    }
}

/// Its look never ends well, whatever the reason: others must not wait for it for ever.
#[test]
fn a_group_that_alone_cannot_be_read_counts_as_unknown_in_the_end_and_does_not_close_for_ever() {
    let mut confirm = confirm(Way::Sample);
    let (mut now, mut closed) = (at(100_000), 0);
    let mut events = std::collections::VecDeque::new();
    for id in 1..1_000 {
        let groups = vec![Given { id, rows: 10, whole: false }];
        events.push_back(Event::Given { groups, left: 0, next_in: None });
        while let Some(event) = events.pop_front() {
            for action in confirm.apply(event, now, 0.5) {
                match action {
                    Action::Look { group: 1, .. } => {
                        events.push_back(Event::Looked { group: 1, seen: Seen::Failed("no".to_owned()) });
                    }
                    Action::Look { group, .. } => {
                        events.push_back(Event::Looked { group, seen: Seen::AllThere });
                    }
                    Action::Settle { group, .. } => events.push_back(Event::Settled { group }),
                    Action::Probe { .. } => events.push_back(Event::Probed(Ok(()))),
                    Action::Believe(Belief::No(_)) => closed += 1,
                    _ => {}
                }
            }
        }
        now += at(5_000);
        events.push_back(Event::Tick);
    }
    assert_eq!((confirm.status().unknown, confirm.status().belief), (10, Belief::Yes));
    assert!(closed <= 3, "{closed}");
}

/// Others are not there to tell, and never will be while nothing may leave.
#[test]
fn the_only_group_that_cannot_be_read_does_not_hold_up_payloads_for_ever() {
    let mut confirm = confirm(Way::Sample);
    give(&mut confirm, &[1], at(100_000));
    looked(&mut confirm, 1, Seen::Failed("no".to_owned()), at(100_000));
    let (mut now, mut opened) = (at(100_000), Vec::new());
    while now < at(200_000) {
        now = confirm.next_wake(now).unwrap();
        let mut actions = confirm.apply(Event::Tick, now, 0.5);
        actions.extend(confirm.apply(Event::Probed(Ok(())), now, 0.5));
        for action in actions {
            match action {
                Action::Look { group, .. } => {
                    looked(&mut confirm, group, Seen::Failed("no".to_owned()), now);
                }
                Action::Believe(Belief::Yes) => opened.push(now),
                _ => {}
            }
        }
    }
    // Each time a few payloads leave, which tell more.
    assert!((1..=4).contains(&opened.len()), "{opened:?}");
}

#[test]
fn a_witness_confirms_what_came_before_it_and_nothing_that_came_after() {
    let mut confirm = confirm(Way::Witness);
    assert_eq!(give(&mut confirm, &[1], at(1_000)), [Action::Probe { read: false }]);
    give(&mut confirm, &[2], at(1_001));
    let confirmed = confirm.apply(Event::Probed(Ok(())), at(1_002), 0.5);
    assert_eq!(confirmed, [Action::Settle { group: 1, outcome: Outcome::Stored }]);
    assert_eq!(confirm.apply(Event::Tick, at(1_200), 0.5)[0], Action::Probe { read: false });
    let doubted = confirm.apply(Event::Probed(Err("500".to_owned())), at(1_210), 0.5);
    assert!(doubted.contains(&Action::Believe(Belief::No("500".to_owned()))));
    let next = confirm.next_wake(at(1_210)).unwrap();
    confirm.apply(Event::Tick, next, 0.5);
    let opened = confirm.apply(Event::Probed(Ok(())), next, 0.5);
    assert!(opened.contains(&Action::GiveBack), "{opened:?}");
    assert!(!opened.iter().any(|action| matches!(action, Action::Settle { outcome: Outcome::Stored, .. })));
}

#[test]
fn who_is_behind_with_looking_lets_no_more_payloads_leave_until_half_is_done() {
    let mut confirm = confirm(Way::Sample);
    let given = confirm.apply(Event::Given { groups: Vec::new(), left: 65, next_in: None }, at(0), 0.5);
    assert!(given.contains(&Action::Believe(Belief::Behind)), "{given:?}");
    let given = confirm.apply(Event::Given { groups: Vec::new(), left: 40, next_in: None }, at(1), 0.5);
    assert!(!given.contains(&Action::Believe(Belief::Yes)), "{given:?}");
    let given = confirm.apply(Event::Given { groups: Vec::new(), left: 0, next_in: None }, at(2), 0.5);
    assert!(given.contains(&Action::Believe(Belief::Yes)), "{given:?}");
}

/// While all that may be in hand was looked for, as a slow query service took its time, payloads left without an end.
#[test]
fn what_is_acknowledged_is_counted_though_no_more_can_be_looked_for() {
    let mut confirm = confirm(Way::Sample);
    give(&mut confirm, &(1..=16).collect::<Vec<_>>(), at(0));
    assert_eq!(confirm.apply(Event::Poke, at(1), 0.5), [Action::Ask(0)]);
    assert_eq!(confirm.apply(Event::Poke, at(2), 0.5), [], "one ask at a time");
    let given = confirm.apply(Event::Given { groups: Vec::new(), left: 60, next_in: None }, at(3), 0.5);
    assert!(given.contains(&Action::Believe(Belief::Behind)), "{given:?}");
}

/// Seen: a stop ended after 0.06 s with datapoints that nobody had looked for. They were acknowledged while it asked, or it
/// had asked with the delay that a stop does without.
#[test]
fn a_stop_that_comes_while_it_asks_is_over_when_what_was_acknowledged_since_is_looked_for() {
    let mut core = Confirm::new(Way::Off);
    assert!(core.apply(Event::Configured(Way::Sample), at(0), 0.5).contains(&Action::Ask(GROUPS_MAX)));
    assert!(!core.apply(Event::Drain, at(1), 0.5).iter().any(|action| matches!(action, Action::Ask(_))));
    let older = Event::Given { groups: Vec::new(), left: 0, next_in: Some(Duration::from_millis(250)) };
    assert!(core.apply(older, at(2), 0.5).contains(&Action::Ask(GROUPS_MAX)), "as soon as it can");
    assert!(!core.is_drained());
    assert_eq!(give(&mut core, &[7], at(3)), [Action::Look { group: 7, what: What::Sample }]);
    looked(&mut core, 7, Seen::AllThere, at(4));
    assert!(!core.is_drained(), "it is not settled");
    core.apply(Event::Settled { group: 7 }, at(5), 0.5);
    let nothing = Event::Given { groups: Vec::new(), left: 0, next_in: None };
    core.apply(nothing, at(6), 0.5);
    assert!(core.is_drained());
}
