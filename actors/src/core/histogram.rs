//! Owns counts of durations by size, as Prometheus reads them. It never measures one.

/// Durations in seconds, counted by the smallest bound that each is within.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what is beyond the last.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty one with these upper bounds, in seconds, the smallest first.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len().saturating_add(1)], sum: 0.0 }
    }

    /// Counts a duration `n` times.
    pub fn observe(&mut self, seconds: f64, n: u64) {
        let at = self.bounds.iter().position(|&bound| seconds <= bound).unwrap_or(self.bounds.len());
        if let Some(count) = self.counts.get_mut(at) {
            *count = count.saturating_add(n);
        }
        self.sum += seconds * n as f64;
    }

    /// For each bound, how many durations were within it; the last bound is infinite.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let mut within: u64 = 0;
        bounds.zip(&self.counts).map(move |(bound, &n)| {
            within = within.saturating_add(n);
            (bound, within)
        })
    }

    /// The bound within which this share of all durations is; nothing if there is none, or it is beyond the last bound.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all = self.cumulative().last().map_or(0, |(_, all)| all);
        let found = self.cumulative().find(|&(_, within)| all > 0 && within as f64 >= share * all as f64);
        found.map(|(bound, _)| bound).filter(|bound| bound.is_finite())
    }

    /// The sum of all durations, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_within_each_bound_that_holds_them() {
        let mut histogram = Histogram::new(&[0.1, 1.0]);
        histogram.observe(0.1, 1);
        histogram.observe(0.5, 2);
        histogram.observe(9.0, 3);
        let counted: Vec<_> = histogram.cumulative().collect();
        assert_eq!(counted, [(0.1, 1), (1.0, 3), (f64::INFINITY, 6)]);
        assert!((histogram.sum() - 28.1).abs() < 1e-9);
        assert_eq!((histogram.quantile(0.1), histogram.quantile(0.5)), (Some(0.1), Some(1.0)));
        assert_eq!((histogram.quantile(0.99), Histogram::new(&[1.0]).quantile(0.5)), (None, None));
    }
}
