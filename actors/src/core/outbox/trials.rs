//! Owns trials: of which parcel, or of which row that passed before, a few rows are sent to tell whether Blueflood works. It
//! never judges what they tell: that is in `answers.rs`.

use super::{Action, Now, Outbox, Parcel, ParcelId, Turn};

/// A POST of a few rows.
#[derive(Debug)]
pub(super) struct Trial {
    /// The parcel that they are of, if they are of one.
    pub(super) of: Option<ParcelId>,
    pub(super) sent_at: Now,
    pub(super) renewed: bool,
}

impl Outbox {
    /// While the gate is closed: a trial of the oldest parcel set aside, or at least of Blueflood. False if none can be made.
    pub(super) fn send_trial_of_what_is_aside(&mut self, turn: &mut Turn) -> bool {
        let tellable = |parcel: &Parcel| parcel.apart.is_none() && (parcel.rows() > 1 || self.has_control);
        let of = self.aside.iter().find(|(_, parcel)| tellable(parcel)).map(|(&id, _)| id);
        if of.is_none() && (!self.has_control || self.aside.is_empty()) {
            return false;
        }
        self.send_trial(of, turn);
        true
    }

    /// Sends a few rows of a parcel, or a row that passed before.
    pub(super) fn send_trial(&mut self, of: Option<ParcelId>, turn: &mut Turn) {
        /// Of a smaller parcel a few rows would often hold the very row that fails.
        const MANY: u64 = 40;
        /// So few that a row that stands in every payload is likely not among them; and now and then one alone.
        const ROWS: [u32; 3] = [4, 1, 8];
        let parcel = of.and_then(|id| self.aside.get(&id));
        let own = parcel.filter(|parcel| {
            let few = parcel.rows() < 8 || parcel.root.is_some() && parcel.rows() < MANY;
            parcel.rows() > 1 && parcel.apart.is_none() && !(few && self.has_control)
        });
        let rows = match own {
            Some(parcel) if parcel.rows() >= MANY => {
                ROWS.get(usize::try_from(self.tried % 3).unwrap_or(0)).copied().unwrap_or(1)
            }
            _ => 1,
        };
        let chunks = own.map(Parcel::ids).unwrap_or_default();
        let trial = self.new_id();
        self.tried = self.tried.saturating_add(1);
        self.gate.sent(turn.now, turn.random);
        turn.actions.push(Action::Try { trial, chunks, rows });
        self.trials.insert(trial, Trial { of, sent_at: turn.now, renewed: false });
    }

    /// A parcel failed, its time has come, and nothing has passed since: a few rows will tell whether it is to blame.
    /// False if there is none such.
    pub(super) fn try_for_a_suspect(&mut self, turn: &mut Turn) -> bool {
        if !self.trials.is_empty() || self.busy() > 0 {
            return false;
        }
        // What is kept apart has time: as long as others flow, they tell of Blueflood.
        let quiet = self.is_quiet(turn.now);
        let waits = |parcel: &Parcel| {
            parcel.wants_trial() && parcel.not_before <= turn.now && (quiet || parcel.apart.is_none())
        };
        let found = self.aside.iter().find(|(_, parcel)| waits(parcel));
        let Some((id, tellable)) =
            found.map(|(&id, parcel)| (id, parcel.rows() > 1 && parcel.apart.is_none()))
        else {
            return false;
        };
        if tellable || self.has_control {
            self.send_trial(Some(id), turn);
            return true;
        }
        // Nobody can tell. It is sent again, and again, until something else comes.
        match self.aside.remove(&id) {
            Some(parcel) => self.send(id, parcel, turn),
            None => return false,
        }
        true
    }
}
