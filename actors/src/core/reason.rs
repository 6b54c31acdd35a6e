//! Owns the reasons under which a datapoint's end is counted: one enum for each place of the ledger that has some.
//! It never counts. `Skipped` stands in [`super::row`], for only the encoder skips.

/// Why Blueflood does not have a row that lies in the dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    /// Blueflood named the row, and its field `metricName`.
    MetricName,
    /// Blueflood named the row, and its field `metricValue`.
    MetricValue,
    /// Blueflood named the row, and its field `collectionTime`.
    CollectionTime,
    /// Blueflood named the row, and its field `ttlInSeconds`.
    TtlInSeconds,
    /// Blueflood named the row, and a field that we do not know.
    Other,
    /// Blueflood refused the row when it came alone, without a list.
    Unnamed,
    /// The row alone is too large for Blueflood or something before it.
    TooLarge,
    /// The row alone fails again and again while others pass.
    AlwaysFails,
    /// Blueflood refused some rows of a payload, and did not say which.
    Unattributed,
}

impl Refused {
    /// Every reason, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::MetricName,
        Self::MetricValue,
        Self::CollectionTime,
        Self::TtlInSeconds,
        Self::Other,
        Self::Unnamed,
        Self::TooLarge,
        Self::AlwaysFails,
        Self::Unattributed,
    ];

    /// The name under which it is counted: `refused{reason="..."}`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::MetricName => "metricName",
            Self::MetricValue => "metricValue",
            Self::CollectionTime => "collectionTime",
            Self::TtlInSeconds => "ttlInSeconds",
            Self::Other => "other",
            Self::Unnamed => "unnamed",
            Self::TooLarge => "too_large",
            Self::AlwaysFails => "always_fails",
            Self::Unattributed => "unattributed",
        }
    }

    /// The reason that is counted under `label`.
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.label() == label)
    }

    /// The reason for a row of which Blueflood names this field.
    pub fn of_field(field: &str) -> Self {
        // A bounded set of labels, whatever a server writes.
        match Self::of_label(field) {
            Some(
                named @ (Self::MetricName | Self::MetricValue | Self::CollectionTime | Self::TtlInSeconds),
            ) => named,
            _ => Self::Other,
        }
    }
}

/// By which stated policy a row was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// The spool was at its cap, and `--spool_full` is `drop-oldest`.
    SpoolFull,
    /// The disk was full, and likewise.
    DiskFull,
    /// It was older than `--max_age`.
    MaxAge,
    /// It stood in a part of the spool's file that could not be read again.
    Damaged,
    /// The process ended, and no spool had taken it.
    Stopped,
}

impl Dropped {
    /// Every reason, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::SpoolFull, Self::DiskFull, Self::MaxAge, Self::Damaged, Self::Stopped];

    /// The name under which it is counted: `dropped{reason="..."}`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::SpoolFull => "spool_full",
            Self::DiskFull => "disk_full",
            Self::MaxAge => "max_age",
            Self::Damaged => "damaged",
            Self::Stopped => "stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_back_as_its_reason() {
        for reason in Refused::ALL {
            assert_eq!(Refused::of_label(reason.label()), Some(reason));
        }
        assert_eq!(Refused::of_label("nobody"), None);
    }

    #[test]
    fn a_field_that_is_not_known_is_counted_as_other() {
        assert_eq!(Refused::of_field("ttlInSeconds"), Refused::TtlInSeconds);
        for field in ["", "tenantId", "too_large", "\u{1b}[2J"] {
            assert_eq!(Refused::of_field(field), Refused::Other, "{field:?}");
        }
    }
}
