//! The points that the stand-in was given, for reading back.
//! It never touches a disk, and never grows past its two caps: past either, the points that came first go first.
//!
//! As in the real thing the key is `tenant.name`, so dotted tenants collide, and the same name and millisecond is
//! one point whose last value wins (`actors/contract/blueflood.md`, "metricValue" and "Names, units, tenants"). How often
//! each point came is kept beside it, which the real thing does not: that is what shows a test its duplicates.

use super::number::Number;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// The bytes of all names and units kept together: 64 MiB.
pub const NAME_BYTES_MAX: usize = 64 << 20;

/// One stored point, as a test looks at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The metric's name, without the tenant.
    pub name: String,
    /// Milliseconds since the epoch.
    pub ms: i64,
    /// The value that came last.
    pub value: Number,
    /// How many times this name and millisecond was received and stored.
    pub times: u64,
}

/// One row on its way in.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub tenant: &'a str,
    pub name: &'a str,
    pub unit: Option<&'a str>,
    pub ms: i64,
    pub value: Number,
}

/// What is known of one metric.
#[derive(Debug, Default)]
pub(super) struct Series {
    /// The last unit that came with it.
    pub unit: Option<String>,
    /// The values by their times, in milliseconds since the epoch.
    pub points: BTreeMap<i64, Kept>,
}

/// One value and how often it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub value: Number,
    pub times: u64,
}

/// Every series, under both caps.
#[derive(Debug)]
pub(super) struct Store {
    series: HashMap<Arc<str>, Series>,
    /// The points in the order in which they first came.
    oldest: VecDeque<(Arc<str>, i64)>,
    points_max: usize,
    name_bytes: usize,
    /// Reused, so that a row of a known series allocates nothing.
    key: String,
}

impl Store {
    /// An empty store of at most `points_max` points.
    pub fn new(points_max: usize) -> Self {
        Store {
            series: HashMap::new(),
            oldest: VecDeque::new(),
            points_max,
            name_bytes: 0,
            key: String::new(),
        }
    }

    /// Takes a row in; what came first makes room for it.
    pub fn put(&mut self, row: &Row<'_>) {
        self.key.clear();
        self.key.extend([row.tenant, ".", row.name]);
        let key = match self.series.get_key_value(self.key.as_str()) {
            Some((known, _)) => known.clone(),
            None => {
                self.name_bytes = self.name_bytes.saturating_add(self.key.len());
                Arc::from(self.key.as_str())
            }
        };
        let series = self.series.entry(key.clone()).or_default();
        if let Some(unit) = row.unit.filter(|unit| series.unit.as_deref() != Some(*unit)) {
            let before = series.unit.replace(unit.to_owned()).map_or(0, |before| before.len());
            self.name_bytes = self.name_bytes.saturating_add(unit.len()).saturating_sub(before);
        }
        let kept = series.points.entry(row.ms).or_insert_with(|| {
            self.oldest.push_back((key, row.ms));
            Kept { value: row.value, times: 0 }
        });
        kept.value = row.value;
        kept.times = kept.times.saturating_add(1);
        self.make_room();
    }

    /// The series of a tenant's metric, if anything was stored under it.
    pub fn get(&self, tenant: &str, name: &str) -> Option<&Series> {
        self.series.get(format!("{tenant}.{name}").as_str())
    }

    /// Every point of a tenant, by name and time.
    pub fn points(&self, tenant: &str) -> Vec<Point> {
        let mut points: Vec<Point> = self
            .series
            .iter()
            .filter_map(|(key, series)| Some((key.strip_prefix(tenant)?.strip_prefix('.')?, series)))
            .flat_map(|(name, series)| {
                series.points.iter().map(|(&ms, kept)| Point {
                    name: name.to_owned(),
                    ms,
                    value: kept.value,
                    times: kept.times,
                })
            })
            .collect();
        points.sort_by(|a, b| (&a.name, a.ms).cmp(&(&b.name, b.ms)));
        points
    }

    /// How many different points are held.
    pub fn len(&self) -> usize {
        self.oldest.len()
    }

    fn make_room(&mut self) {
        while self.oldest.len() > self.points_max || self.name_bytes > NAME_BYTES_MAX {
            let Some((key, ms)) = self.oldest.pop_front() else { return };
            let Some(series) = self.series.get_mut(&key) else { continue };
            series.points.remove(&ms);
            if series.points.is_empty() {
                let unit_bytes = series.unit.as_ref().map_or(0, String::len);
                self.name_bytes = self.name_bytes.saturating_sub(key.len()).saturating_sub(unit_bytes);
                self.series.remove(&key);
            }
        }
    }
}

/// Where a name lies among all, in percent, always the same: as names are spread over the nodes of a cluster.
pub(super) fn share(name: &str) -> u8 {
    let mixed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // Its low bits are little mixed.
    u8::try_from((mixed >> 32) % 100).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ms: i64, value: f64) -> Row<'_> {
        Row { tenant: "t", name, unit: None, ms, value: Number::Float(value) }
    }

    #[test]
    fn the_last_value_wins_and_the_times_are_counted() {
        let mut store = Store::new(10);
        store.put(&row("a", 1, 1.0));
        store.put(&row("a", 1, 2.0));
        assert_eq!(
            store.points("t"),
            [Point { name: "a".into(), ms: 1, value: Number::Float(2.0), times: 2 }]
        );
    }

    #[test]
    fn what_came_first_goes_first() {
        let mut store = Store::new(2);
        for (ms, name) in ["a", "b", "c"].iter().enumerate() {
            store.put(&row(name, ms as i64, 0.0));
        }
        let names: Vec<String> = store.points("t").into_iter().map(|point| point.name).collect();
        assert_eq!(names, ["b", "c"]);
        assert!(store.get("t", "a").is_none());
    }
}
