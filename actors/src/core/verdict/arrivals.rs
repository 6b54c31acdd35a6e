//! Owns when datapoints came of late, and how long it is usually silent between them.

use std::collections::VecDeque;

/// Silences that tell what is usual, and the shortest of them.
const SILENCES: usize = 16;
const SILENCE_MIN_MS: u64 = 5_000;

/// What came when.
#[derive(Debug, Clone, Default)]
pub(super) struct Arrivals {
    pub(super) last_ms: Option<u64>,
    silences: VecDeque<u64>,
}

impl Arrivals {
    pub(super) fn look(&mut self, last_ms: Option<u64>) {
        let Some(now) = last_ms.filter(|last| self.last_ms.is_none_or(|before| before < *last)) else {
            return;
        };
        let silence = self.last_ms.map_or(0, |before| now.saturating_sub(before));
        self.last_ms = Some(now);
        if silence >= SILENCE_MIN_MS {
            self.silences.push_back(silence);
            if self.silences.len() > SILENCES {
                self.silences.pop_front();
            }
        }
    }

    /// The longest silence that is nothing unusual.
    pub(super) fn usual_ms(&self) -> u64 {
        self.silences.iter().copied().max().unwrap_or(SILENCE_MIN_MS)
    }
}
