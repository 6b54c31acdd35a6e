//! Owns what a look at Blueflood is made of: which rows are looked for, what its query service is asked, and which rows
//! stand in its answer. It never sends anything, and never decides what follows.
//!
//! - A *look* is for some rows of a payload: a sample of them, or all. It is one query or several, each a
//!   `POST /v2.0/{tenant}/views` of at most [`NAMES_MAX`] names and a short time, for a query reads all that lies between.
//! - A row that stands in the answer is proven to be stored. One that does not is proven to be nothing: the first
//!   answer of a real Blueflood after an outage was seen to lack rows that were there (`actors/contract/confirm.md`,
//!   "What looking tells").

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
};

use serde::Deserialize;

use super::row::{self, RowsRef};

/// Names in one query, at most: Blueflood refuses more (`actors/contract/blueflood.md`, "The query service").
pub const NAMES_MAX: usize = 100;

/// Rows of a query lie no farther apart than this, in milliseconds: a name's other datapoints between come with it.
const SPAN_MS_MAX: i64 = 300_000;

/// Rows that Blueflood writes in one batch: a sample has some of each.
const BATCH_ROWS: usize = 100;

/// A row that ends sooner than this, in milliseconds, may be gone before it is looked for.
const ENDS_MS_MIN: i64 = 60_000;

/// A row, as far as a look needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// All of it.
    pub text: &'a [u8],
    /// Its name as it stands there: with its prefix, and escaped.
    pub name: &'a [u8],
    /// Its time, in milliseconds since 1970.
    pub ms: i64,
    /// For how long it is stored, in seconds.
    ttl_s: i64,
}

impl<'a> Row<'a> {
    /// What is needed of a row.
    pub fn of(text: &'a [u8]) -> Option<Self> {
        let number = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| !matches!(byte, b'-' | b'0'..=b'9'))?;
            std::str::from_utf8(bytes.get(..end)?).ok()?.parse::<i64>().ok()
        };
        let rest = text.strip_prefix(b"{\"collectionTime\":")?;
        let ms = number(rest)?;
        let at = rest.iter().position(|&byte| byte == b',')?;
        let ttl_s = number(rest.get(at..)?.strip_prefix(b",\"ttlInSeconds\":")?)?;
        Some(Self { text, name: row::name(text)?, ms, ttl_s })
    }

    /// Whether it will still be there.
    fn lasts(&self, now_ms: i64) -> bool {
        self.ms.saturating_add(self.ttl_s.saturating_mul(1_000)) > now_ms.saturating_add(ENDS_MS_MIN)
    }
}

/// The rows of chunks that can be looked for at `now_ms`: not those that are over, or nearly.
pub fn rows<'a>(all: impl Iterator<Item = RowsRef<'a>>, now_ms: i64) -> Vec<Row<'a>> {
    lasting(all.flat_map(RowsRef::iter), now_ms).collect()
}

fn lasting<'a>(texts: impl Iterator<Item = &'a [u8]>, now_ms: i64) -> impl Iterator<Item = Row<'a>> {
    texts.filter_map(Row::of).filter(move |row| row.lasts(now_ms))
}

/// Some of these rows: at most [`NAMES_MAX`] of one short time, the last row with them, and some of each of Blueflood's
/// batches. `random` draws a number below its argument.
pub fn sample<'a>(
    all: impl Iterator<Item = RowsRef<'a>>,
    now_ms: i64,
    mut random: impl FnMut(u32) -> u32,
) -> Vec<Row<'a>> {
    let texts: Vec<&[u8]> = all.flat_map(RowsRef::iter).collect();
    // Only those that are picked are read: there are twenty times as many.
    let picked = pick(texts.len(), &mut random).into_iter().filter_map(|at| texts.get(at).copied());
    let rows: Vec<Row<'_>> = lasting(picked, now_ms).collect();
    if span_ms(&rows) <= SPAN_MS_MAX && !rows.is_empty() {
        return rows;
    }
    // Where rows lie far apart, or some are over, a sample is of one time of those that are not.
    let mut near: Vec<Row<'_>> = lasting(texts.iter().copied(), now_ms).collect();
    if span_ms(&near) > SPAN_MS_MAX {
        let around = if draw(&mut random, 2) == 0 {
            near.len().saturating_sub(1)
        } else {
            draw(&mut random, near.len())
        };
        let middle = near.get(around).map_or(0, |row| row.ms);
        near.retain(|row| row.ms.saturating_sub(middle).saturating_abs() <= SPAN_MS_MAX / 2);
    }
    pick(near.len(), &mut random).into_iter().filter_map(|at| near.get(at).copied()).collect()
}

/// From the first time to the last.
fn span_ms(rows: &[Row<'_>]) -> i64 {
    let times = rows.iter().map(|row| row.ms);
    times.clone().max().unwrap_or(0).saturating_sub(times.min().unwrap_or(0))
}

/// Numbers of a sample out of `n`.
fn pick(n: usize, random: &mut impl FnMut(u32) -> u32) -> BTreeSet<usize> {
    if n <= NAMES_MAX {
        return (0..n).collect();
    }
    let each = (NAMES_MAX.saturating_sub(1) / n.div_ceil(BATCH_ROWS)).max(1);
    let mut picked = BTreeSet::from([n.saturating_sub(1)]);
    for batch in (0..n).step_by(BATCH_ROWS) {
        let len = BATCH_ROWS.min(n.saturating_sub(batch));
        for _ in 0..each {
            if picked.len() < NAMES_MAX {
                picked.insert(batch.saturating_add(draw(random, len)));
            }
        }
    }
    picked
}

fn draw(random: &mut impl FnMut(u32) -> u32, below: usize) -> usize {
    random(u32::try_from(below).unwrap_or(u32::MAX).max(1)) as usize
}

/// One query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The first millisecond that is asked for.
    pub from: i64,
    /// The last one.
    pub to: i64,
    /// The body: the names.
    pub body: Vec<u8>,
    /// The numbers of the rows that it is for.
    pub wanted: Vec<u32>,
}

/// The queries for some rows, by their numbers.
pub fn queries(rows: &[Row<'_>], wanted: &[u32]) -> Vec<Query> {
    let mut wanted: Vec<(u32, &Row<'_>)> =
        wanted.iter().filter_map(|&at| Some((at, rows.get(at as usize)?))).collect();
    wanted.sort_by_key(|(_, row)| row.ms);
    let mut queries = Vec::new();
    let mut rest = wanted.as_slice();
    while let Some((_, first)) = rest.first() {
        let mut names: HashSet<&[u8]> = HashSet::new();
        let mut body = vec![b'['];
        let mut taken: usize = 0;
        for (_, row) in rest {
            let is_new = !names.contains(row.name);
            if row.ms.saturating_sub(first.ms) > SPAN_MS_MAX || (is_new && names.len() >= NAMES_MAX) {
                break;
            }
            if is_new {
                names.insert(row.name);
                body.extend_from_slice(if taken == 0 { b"\"" } else { b",\"" });
                body.extend_from_slice(row.name);
                body.push(b'"');
            }
            taken = taken.saturating_add(1);
        }
        body.push(b']');
        let (here, left) = rest.split_at(taken.clamp(1, rest.len()));
        let to = here.last().map_or(first.ms, |(_, row)| row.ms);
        queries.push(Query {
            from: first.ms,
            // Blueflood wants it to be later than `from`.
            to: to.saturating_add(1),
            body,
            wanted: here.iter().map(|(at, _)| *at).collect(),
        });
        rest = left;
    }
    queries
}

#[derive(Deserialize)]
struct Views<'a> {
    #[serde(borrow)]
    metrics: Vec<View<'a>>,
}

#[derive(Deserialize)]
struct View<'a> {
    #[serde(borrow)]
    metric: Cow<'a, str>,
    #[serde(default)]
    data: Vec<Point>,
}

#[derive(Deserialize)]
struct Point {
    timestamp: i64,
}

/// The rows of a query that do not stand in its answer; `None` if that is no answer to such a query. `tenant` may have a
/// dot in it: then Blueflood takes what follows it for the beginning of the name.
pub fn absent(rows: &[Row<'_>], query: &Query, answer: &[u8], tenant: &str) -> Option<Vec<u32>> {
    let views: Views<'_> = serde_json::from_slice(answer).ok()?;
    let tail = tenant.split_once('.').map_or("", |(_, tail)| tail);
    let mut found: HashMap<&str, HashSet<i64>> = HashMap::new();
    for view in &views.metrics {
        let times = || view.data.iter().map(|point| point.timestamp);
        let name: &str = &view.metric;
        found.entry(name).or_default().extend(times());
        let without = name.strip_prefix(tail).and_then(|rest| rest.strip_prefix('.'));
        if let Some(without) = without.filter(|_| !tail.is_empty()) {
            found.entry(without).or_default().extend(times());
        }
    }
    let is_absent = |at: &&u32| {
        let Some(row) = rows.get(**at as usize) else { return false };
        let name = plain(row.name);
        !found.get(&*name).is_some_and(|times| times.contains(&row.ms))
    };
    Some(query.wanted.iter().filter(is_absent).copied().collect())
}

/// A name as it is meant.
fn plain(escaped: &[u8]) -> Cow<'_, str> {
    if !escaped.contains(&b'\\') {
        return String::from_utf8_lossy(escaped);
    }
    let quoted = [b"\"", escaped, b"\""].concat();
    match serde_json::from_slice::<String>(&quoted) {
        Ok(name) => Cow::Owned(name),
        Err(_) => String::from_utf8_lossy(escaped),
    }
}

/// Whether an answer to a query without parameters is that of Blueflood's query service: to say so costs nothing there
/// (`actors/contract/blueflood.md`, "The query service").
pub fn is_query_side(status: u16, body: &[u8]) -> bool {
    status == 400 && memchr::memmem::find(body, b"No query parameters present").is_some()
}

// === The witness ===

/// Slots that a witness goes through, of [`SLOT_MS`] each.
const SLOTS: i64 = 200;

/// See [`witness_ms`].
const SLOT_MS: i64 = 1_200_000;

/// So long it is the turn of each slot. All of them take 32 s.
pub const TURN_MS: i64 = 160;

/// So late Blueflood takes a datapoint for a late one.
const LATE_MS: i64 = 600_000;

/// The time of a witness that is sent now (`actors/contract/confirm.md`, "The witness"). A late datapoint in a slot that
/// was not used for half a minute makes Blueflood write to its store before it answers, so that its answer is true. In
/// one that was, it answers 200 and may lose it. So the clock gives each slot its turn, whichever process of a spool
/// asks; and each time that a slot has its turn the witness has another time, or an older one could be taken for it.
pub fn witness_ms(now_ms: i64) -> i64 {
    let turn = now_ms.div_euclid(TURN_MS);
    let (round, at) = (turn.div_euclid(SLOTS), turn.rem_euclid(SLOTS));
    let newest = now_ms.saturating_sub(LATE_MS).div_euclid(SLOT_MS).saturating_sub(1);
    // The newest slot whose number ends so.
    let slot = newest.saturating_sub(newest.saturating_sub(at).rem_euclid(SLOTS));
    slot.saturating_mul(SLOT_MS).saturating_add(round.rem_euclid(SLOT_MS))
}

#[cfg(test)]
mod tests;
