//! Owns whether something that comes and goes has been said: that it is there at once, and that it is over only when it
//! has stayed away for a while. It never says anything itself.

use std::time::{Duration, Instant};

/// For so long it has to stay away. A test waits for the end itself.
const AWAY_FOR: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 5 });

/// Something that comes and goes, many times a second maybe, and is worth two lines in the log.
#[derive(Debug, Default)]
pub(super) struct Episode {
    said: bool,
    away_since: Option<Instant>,
}

impl Episode {
    /// It is there: whether that is news.
    pub(super) fn begins(&mut self) -> bool {
        self.away_since = None;
        !std::mem::replace(&mut self.said, true)
    }

    /// It is not there.
    pub(super) fn pauses(&mut self) {
        if self.said {
            self.away_since.get_or_insert_with(Instant::now);
        }
    }

    /// Whether it is over, and that is news.
    pub(super) fn is_over(&mut self) -> bool {
        let over = self.away_since.is_some_and(|since| since.elapsed() >= AWAY_FOR);
        if over {
            *self = Self::default();
        }
        over
    }
}
