//! Owns what becomes of each row of a parcel once its fate is known.
//! It never touches the spool: what it says is carried out there, in one transaction.

use super::{
    blueflood::{self, RowError},
    outbox::Fate,
    reason::Refused,
    row::{Rows, RowsRef},
};

/// A refused row, to be kept with Blueflood's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The row as it was sent.
    pub row: Vec<u8>,
    /// Why, as it is counted.
    pub reason: Refused,
    /// Blueflood's words.
    pub message: String,
}

/// Where each row goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Rows that Blueflood stored, or says so.
    pub delivered: u64,
    /// Of these the rows, where they are to be read back, and others of the parcel are at an end.
    pub acknowledged: Rows,
    /// Rows that it refused.
    pub refused: Vec<DeadLetter>,
    /// Rows that need another try, each group by itself.
    pub requeued: Vec<Rows>,
    /// Errors of the answer that name no row of the parcel.
    pub unmatched: usize,
}

/// Carries a fate out on the rows of a parcel.
pub fn settle(rows: RowsRef<'_>, fate: &Fate) -> Settlement {
    match fate {
        Fate::Delivered | Fate::Acknowledged { .. } => {
            Settlement { delivered: rows.count.into(), ..Settlement::default() }
        }
        Fate::DeliveredExcept { errors, unexplained, read_back } => {
            let sorted = blueflood::sort(rows, errors);
            let mut refused: Vec<_> = sorted.named.into_iter().map(dead_letter).collect();
            let mut delivered = sorted.unnamed.len() as u64;
            let mut acknowledged =
                if *read_back { join(&sorted.unnamed).unwrap_or_default() } else { Rows::default() };
            let unexplained = match (unexplained, sorted.unmatched) {
                (Some(text), _) => Some(format!("HTTP 207: {text}")),
                (None, 0) => None,
                (None, _) => {
                    Some(format!("HTTP 207 that names rows which were not sent: {}", first_message(errors)))
                }
            };
            if let Some(message) = unexplained {
                // One of the rows that are left is refused, and nothing says which: to call them all delivered would
                // hide a loss, and a replay of those that are stored is harmless.
                delivered = 0;
                acknowledged = Rows::default();
                refused.extend(sorted.unnamed.iter().map(|row| letter(row, Refused::Unattributed, &message)));
            }
            Settlement {
                delivered,
                acknowledged,
                refused,
                unmatched: sorted.unmatched,
                ..Settlement::default()
            }
        }
        Fate::RefusedNamed(errors) => {
            let sorted = blueflood::sort(rows, errors);
            let refused: Vec<_> = sorted.named.into_iter().map(dead_letter).collect();
            let requeued = match (refused.is_empty(), rows.count) {
                // A list that names none of these rows cannot be told from one that names none at all.
                (true, 0..=1) => return refuse_all(rows, Refused::Unnamed, &first_message(errors)),
                (true, _) => halve(rows),
                (false, _) => join(&sorted.unnamed).into_iter().collect(),
            };
            Settlement { refused, requeued, unmatched: sorted.unmatched, ..Settlement::default() }
        }
        Fate::RefusedAll { reason, message } => refuse_all(rows, *reason, message),
        Fate::Halved => Settlement { requeued: halve(rows), ..Settlement::default() },
    }
}

fn dead_letter((row, error): (&[u8], RowError)) -> DeadLetter {
    let reason = Refused::of_field(&error.field);
    DeadLetter { row: row.to_vec(), reason, message: format!("{}: {}", error.field, error.message) }
}

fn first_message(errors: &[RowError]) -> String {
    errors.first().map(|error| format!("{}: {}", error.field, error.message)).unwrap_or_default()
}

fn refuse_all(rows: RowsRef<'_>, reason: Refused, message: &str) -> Settlement {
    Settlement {
        refused: rows.iter().map(|row| letter(row, reason, message)).collect(),
        ..Settlement::default()
    }
}

fn letter(row: &[u8], reason: Refused, message: &str) -> DeadLetter {
    DeadLetter { row: row.to_vec(), reason, message: message.to_owned() }
}

fn halve(rows: RowsRef<'_>) -> Vec<Rows> {
    let (left, right) = rows.split(rows.count.div_ceil(2), usize::MAX);
    let owned = |half: RowsRef<'_>| Rows { text: half.text.to_vec(), count: half.count };
    [left, right].into_iter().filter(|half| half.count > 0).map(owned).collect()
}

fn join(rows: &[&[u8]]) -> Option<Rows> {
    let mut all = Rows::default();
    for text in rows {
        all.append(RowsRef { text, count: 1 });
    }
    (!all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::chunk::tests::rows;

    fn error(name: String) -> RowError {
        RowError {
            name,
            time_ms: 1_700_000_000_000,
            field: "ttlInSeconds".into(),
            message: "must be between 1 and 2147483647".into(),
        }
    }

    proptest! {
        #[test]
        fn every_row_goes_to_exactly_one_place(n in 1u32..200, named in prop::collection::btree_set(0u32..400, 0..50), what in 0u8..6, read_back: bool) {
            let all = rows("a", n);
            let errors: Vec<_> = named.iter().map(|i| error(format!("a.{i}"))).collect();
            let hits = named.iter().filter(|&&i| i < n).count() as u64;
            let fate = match what {
                0 => Fate::Delivered,
                1 => Fate::DeliveredExcept { errors, unexplained: None, read_back },
                5 => Fate::DeliveredExcept { errors, unexplained: Some("Persisted failed".into()), read_back },
                2 => Fate::RefusedNamed(errors),
                3 => Fate::RefusedAll { reason: Refused::Unnamed, message: "no".into() },
                _ => Fate::Halved,
            };
            let settlement = settle(all.as_ref(), &fate);
            let except = matches!(fate, Fate::DeliveredExcept { .. });
            let read = if except && read_back { settlement.delivered } else { 0 };
            prop_assert_eq!(u64::from(settlement.acknowledged.count), read);
            let requeued: u64 = settlement.requeued.iter().map(|rows| u64::from(rows.count)).sum();
            prop_assert_eq!(settlement.delivered + settlement.refused.len() as u64 + requeued, u64::from(n));
            if what == 1 {
                let unmatched = named.len() as u64 - hits;
                prop_assert_eq!(settlement.refused.len() as u64, if unmatched == 0 { hits } else { n.into() });
                prop_assert_eq!(settlement.unmatched as u64, unmatched);
            }
            if what == 5 {
                prop_assert_eq!(settlement.refused.len() as u64, u64::from(n), "nobody knows which are stored");
            }
            if what == 2 && hits == 0 && n > 1 {
                prop_assert_eq!(settlement.requeued.len(), 2);
            }
        }
    }

    #[test]
    fn a_dead_letter_keeps_the_row_and_bluefloods_words() {
        let all = rows("a", 2);
        let settlement = settle(
            all.as_ref(),
            &Fate::DeliveredExcept { errors: vec![error("a.1".into())], unexplained: None, read_back: false },
        );
        let [letter] = settlement.refused.as_slice() else { panic!("{settlement:?}") };
        assert!(String::from_utf8_lossy(&letter.row).contains("\"a.1\""));
        assert_eq!(letter.reason, Refused::TtlInSeconds);
        assert_eq!(letter.message, "ttlInSeconds: must be between 1 and 2147483647");
    }
}
