//! Owns what `/healthz`, `/readyz` and `/delivering` answer, and what `/stats` calls wrong. It never says since when: that is
//! the verdict.

use super::view::{ActorState, View};
use crate::{
    core::verdict::{Condition, ill},
    keystone_auth::State,
};

impl View {
    /// Why the daemon should be started afresh; nothing if it is alive.
    pub fn ailments(&self) -> Vec<String> {
        let stuck = |actor: &ActorState| {
            let seconds = actor.stuck_for?.as_secs();
            Some(format!("the {} has not answered for {seconds} s", actor.name))
        };
        let mut wrong: Vec<_> = self.actors.iter().filter_map(stuck).collect();
        let unaccounted = self.ledger.unaccounted();
        if unaccounted != 0 {
            wrong.push(format!("{unaccounted} datapoints are unaccounted for, which is a bug"));
        }
        if self.spool.audit_ails(i64::try_from(self.now_ms).unwrap_or(i64::MAX)) {
            let times = self.spool.audit_failures;
            wrong.push(format!("the queue was not what the spool holds, {times} times, which is a bug"));
        }
        wrong
    }

    /// Why it cannot take metrics; nothing if it is ready. What Blueflood and Keystone say is no reason: while there is room
    /// in the spool, a sender that is turned away loses what it has, and one that is not loses nothing.
    pub fn hindrances(&self) -> Vec<String> {
        let mut wrong = self.ailments();
        if self.stopping {
            wrong.push("it is stopping".to_owned());
        }
        if let Some(cause) = &self.spool.blocked {
            wrong.push(format!("the spool takes nothing: {cause}"));
        }
        wrong.extend(self.spool.amiss.clone());
        match self.spool.disk_full {
            // Which of the senders wait is said above.
            None => {}
            Some(0) if self.spool.blocked.is_some() => {}
            Some(0) => wrong.push("the disk of the spool is full: the spool does not grow".to_owned()),
            Some(rows) => {
                wrong.push(format!("the disk of the spool is full: {rows} datapoints were dropped"));
            }
        }
        wrong
    }

    /// Why metrics are not delivered; nothing if they are, as far as is known.
    pub fn obstacles(&self) -> Vec<String> {
        let mut wrong = self.ailments();
        wrong.extend(self.misfits());
        if let Some((_, cause)) = self.forwarder.outbox.closed.as_ref().filter(|_| wrong.is_empty()) {
            wrong.push(format!("{}: {cause}", ill(cause).0));
        }
        if wrong.is_empty() && matches!(self.health.condition, Condition::Keeping | Condition::Wrong) {
            wrong.push(self.health.words.clone());
        }
        wrong
    }

    /// What only a change from outside can mend.
    fn misfits(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.keystone.as_ref().is_some_and(|keystone| keystone.state == State::Refused) {
            wrong.push(
                "Keystone refuses the credentials: check --user, --key, --auth_type and --auth_url"
                    .to_owned(),
            );
        }
        if let Some(answer) = &self.forwarder.outbox.misconfigured {
            wrong.push(format!("Blueflood refuses everything, a setting must be wrong: {answer}"));
        }
        wrong
    }

    /// What `wrong` shows: all that keeps it from taking or delivering metrics without a change.
    pub(super) fn all_wrong(&self) -> Vec<String> {
        let mut wrong = self.hindrances();
        wrong.extend(self.misfits());
        wrong
    }
}
