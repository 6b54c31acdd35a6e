//! Owns whether Blueflood's query service is there for us, and with that how what it acknowledges is confirmed. It never
//! looks at a row.
//!
//! With [`Side::Auto`] it is asked for, again and again until it is found. One that answers may still be of another
//! Blueflood, or be taken away later: [`Finding`] tells from the answers and from the witnesses.

use std::time::{Duration, Instant};

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use slog::{info, warn};

use super::{Confirmer, Options};
use crate::core::confirm::{Event, Way};

/// How often it is asked whether there is a query service, where nobody said so.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// The same in the first minutes: where a host was started with all that runs on it, Blueflood takes longer than we do.
const ASK_EVERY_FIRST: Duration = Duration::from_secs(5);

/// How long the first minutes are.
const FIRST: Duration = Duration::from_secs(300);

/// One that was seen to be of another Blueflood is tried again after so long.
const ASK_ANOTHER_EVERY: Duration = Duration::from_secs(600);

/// Witnesses that are not there, after which what never showed a row is taken for the query service of another Blueflood.
/// One whose store is away answers with an error, and one whose store came back lacks rows once.
const NOT_THERE_MAX: u32 = 3;

/// Where Blueflood's query service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// There is none for us.
    Off,
    /// At this URL, if something answers there as a query service does.
    Auto(String),
    /// At this URL.
    At(String),
}

impl Side {
    pub(super) fn url(&self) -> Option<&str> {
        match self {
            Side::Off => None,
            Side::Auto(url) | Side::At(url) => Some(url),
        }
    }
}

impl Options {
    /// Whether the settings leave it to us to find out if there is a query service.
    fn has_to_ask(&self) -> bool {
        matches!(self.side, Side::Auto(_)) && self.way.is_none_or(Way::reads)
    }

    /// Whether the settings leave all of it to us: where it is, and whether it is used.
    pub(super) fn is_left_to_us(&self) -> bool {
        matches!(self.side, Side::Auto(_)) && self.way.is_none()
    }
}

/// What is known of the query service.
#[derive(Debug, Default)]
pub(super) struct Finding {
    /// Whether one was found; `None`: not asked yet.
    found: Option<bool>,
    asked_at: Option<Instant>,
    /// Whether a row was ever read back there.
    proven: bool,
    /// Witnesses in a row that Blueflood took and that were not there, though the query service answered.
    not_there: u32,
    /// When it was last seen to be the query service of another Blueflood.
    another_at: Option<Instant>,
    /// How often in a row nothing answered as a query service, while a witness was taken.
    gone: u32,
    /// Whether the last witness was taken.
    took_witness: bool,
}

impl Finding {
    /// The settings name another one.
    pub(super) fn forget(&mut self) {
        (self.found, self.gone) = (None, 0);
        (self.proven, self.not_there, self.another_at) = (false, 0, None);
    }

    /// Whether it is known how it is done.
    pub(super) fn is_settled(&self, options: &Options) -> bool {
        self.found.is_some() || !options.has_to_ask()
    }

    /// Whether one is wanted, and none was found.
    pub(super) fn is_missed(&self, options: &Options) -> bool {
        options.has_to_ask() && options.way.is_some() && self.found == Some(false)
    }

    /// How it is done, as far as is known.
    fn way(&self, options: &Options) -> Way {
        let where_found = match &options.side {
            Side::Off => Way::Off,
            Side::At(_) => Way::Sample,
            Side::Auto(_) if self.found == Some(true) => Way::Sample,
            Side::Auto(_) => Way::Off,
        };
        options.way.unwrap_or(where_found)
    }

    /// Whether it is time to ask again, after `up` of this incarnation; `doubts`: Blueflood is not believed.
    fn wants_to_ask(&self, options: &Options, up: Duration, doubts: bool) -> bool {
        let unsure = self.found != Some(true) || doubts;
        let first = up < FIRST && self.found != Some(true);
        let every = if first { ASK_EVERY_FIRST } else { ASK_EVERY };
        let is_time = match self.another_at {
            Some(at) => at.elapsed() >= ASK_ANOTHER_EVERY,
            None => self.asked_at.is_some_and(|at| at.elapsed() >= every),
        };
        options.has_to_ask() && unsure && is_time
    }

    /// Takes note of whether something answered as a query service does.
    fn answered(&mut self, is_there: bool) {
        (self.another_at, self.not_there) = (None, 0);
        if is_there {
            (self.found, self.gone) = (Some(true), 0);
        } else if self.found != Some(true) {
            self.found = Some(false);
        } else if self.took_witness {
            // Blueflood takes what it is sent, and its query service is gone: it was taken away.
            self.gone = self.gone.saturating_add(1);
            if self.gone > 1 {
                (self.found, self.gone) = (Some(false), 0);
            }
        }
    }

    /// A row was read back there.
    pub(super) fn proves(&mut self) {
        self.proven = true;
    }

    /// Takes note of a witness: `took`, whether Blueflood took it; `is_absent`, whether the query service says that it is not
    /// there. True if the query service must be that of another Blueflood.
    pub(super) fn witnessed(&mut self, took: bool, is_absent: bool, is_left_to_us: bool) -> bool {
        self.took_witness = took;
        self.not_there = if is_absent { self.not_there.saturating_add(1) } else { 0 };
        let is_of_another = is_left_to_us && !self.proven && self.not_there >= NOT_THERE_MAX;
        if is_of_another {
            (self.found, self.another_at) = (Some(false), Some(Instant::now()));
        }
        is_of_another
    }
}

impl Confirmer {
    /// Finds out whether there is a query service, where nobody said so, and goes by it.
    pub(super) fn resolve(&mut self, ctx: &mut Context<Self>) {
        let Some(query) = self.query().filter(|_| self.options.has_to_ask()) else {
            self.apply_way(ctx);
            return;
        };
        self.finding.asked_at = Some(Instant::now());
        let side = self.options.side.clone();
        let tenant = self.options.target.tenant.clone();
        let is_there = async move { query.is_there(&tenant).await };
        ctx.spawn(is_there.into_actor(self).map(move |is_there, confirmer, ctx| {
            if confirmer.options.side != side || !confirmer.options.has_to_ask() {
                return;
            }
            confirmer.finding.answered(is_there);
            confirmer.apply_way(ctx);
        }));
    }

    /// The same once more, when it is time.
    pub(super) fn resolve_again(&mut self, doubts: bool, ctx: &mut Context<Self>) {
        if self.finding.wants_to_ask(&self.options, self.clock.elapsed(), doubts) {
            self.resolve(ctx);
        }
    }

    /// Looks no more where a query service of another Blueflood answers, and says so.
    pub(super) fn leave_the_other_alone(&mut self, ctx: &mut Context<Self>) {
        warn!(self.log, "what answers as Blueflood's query service does not show what Blueflood takes: it is of another \
                         one, and not used; set --query to the right one, or off";
            "query" => self.options.side.url().unwrap_or_default());
        self.apply_way(ctx);
    }

    fn apply_way(&mut self, ctx: &mut Context<Self>) {
        let way = self.finding.way(&self.options);
        if self.said_way.is_none() && way == Way::Off {
            // What was acknowledged before a restart nobody looks for any more.
            self.give_back(ctx);
        }
        if self.said_way != Some(way) {
            let url = self.options.side.url().unwrap_or("none").to_owned();
            match way {
                Way::Off if self.options.is_left_to_us() => {
                    info!(self.log, "what Blueflood acknowledges counts as delivered, and is not read back: nothing \
                                     answers as its query service; see --query and --confirm"; "query" => url);
                }
                Way::Off => {
                    info!(self.log, "what Blueflood acknowledges counts as delivered, and is not read back");
                }
                Way::Witness => {
                    info!(self.log, "what Blueflood acknowledges is confirmed by a witness";
                        "metric" => self.witness_name());
                }
                Way::Sample | Way::All => {
                    info!(self.log, "what Blueflood acknowledges is read back"; "query" => url,
                        "rows" => if way == Way::All { "all" } else { "a sample" });
                }
            }
            self.said_way = Some(way);
        }
        self.event(Event::Configured(way), ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that answered when it was asked, and whose witnesses are looked for.
    fn found() -> Finding {
        let mut finding = Finding::default();
        finding.answered(true);
        finding
    }

    #[test]
    fn one_that_is_taken_away_counts_as_gone_when_it_was_missed_twice_while_blueflood_took_witnesses() {
        let mut finding = found();
        (0..5).for_each(|_| finding.answered(false));
        assert_eq!(finding.found, Some(true), "Blueflood itself may be away");
        finding.took_witness = true;
        finding.answered(false);
        assert_eq!(finding.found, Some(true), "once is no proof");
        finding.answered(true);
        finding.answered(false);
        assert_eq!(finding.found, Some(true), "it has answered since");
        finding.answered(false);
        assert_eq!(finding.found, Some(false));
    }

    #[test]
    fn one_that_never_showed_a_row_is_anothers_after_three_absent_witnesses_and_a_proven_one_never() {
        for (proven, left_to_us, is_anothers) in
            [(false, true, true), (true, true, false), (false, false, false)]
        {
            let mut finding = found();
            if proven {
                finding.proves();
            }
            assert!(!(1..NOT_THERE_MAX).any(|_| finding.witnessed(true, true, left_to_us)));
            assert_eq!(finding.witnessed(true, true, left_to_us), is_anothers);
            assert_eq!(finding.found, Some(!is_anothers));
        }
        let mut finding = found();
        for is_absent in [true, true, false, true, true] {
            assert!(!finding.witnessed(true, is_absent, true), "three in a row");
        }
    }
}
