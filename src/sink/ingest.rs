//! The body of an ingest request, judged row by row as Blueflood judges it.
//! It never stores: it says which rows would be stored, and what the answer is.
//!
//! Source, measured: `actors/contract/blueflood.md`, "Whole-request errors", "Errors of a row", "What is swallowed in
//! silence" and "Good and bad rows together". Rows are read in place from the body: a row costs an allocation only where
//! a name has an escape in it.

use super::number::{Number, int, long};
use super::response::{Answer, Refusals};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Blueflood's time window, milliseconds back from now and ahead of it (its default settings).
const PAST_MS_MAX: i64 = 259_200_000;
const FUTURE_MS_MAX: i64 = 600_000;
/// Cassandra's last expiry, 2038-01-19, in seconds since the epoch. What would end later is acknowledged and lost.
const EXPIRY_S_MAX: i64 = i32::MAX as i64 - 1;
/// The longest `tenant.name`, in bytes: Cassandra's limit on a key.
const KEY_BYTES_MAX: usize = 65_535;

const EMPTY: &str = "may not be empty";
const TTL_RANGE: &str = "must be between 1 and 2147483647";
const TIME_RANGE: &str = "Out of bounds. Cannot be more than 259200000 milliseconds into the past. Cannot be more than 600000 milliseconds into the future";
const NOT_NUMERIC: &str = "metric value must be numeric";

/// Where a row's tenant comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tenancy {
    /// The path names it, and a row must not.
    Path,
    /// Each row names its own.
    Row,
}

/// What an ingest body is judged by, besides its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms<'a> {
    pub tenant: &'a str,
    pub tenancy: Tenancy,
    /// Milliseconds since the epoch.
    pub now_ms: i64,
    /// Rows whose name contains this are refused one by one: a script's doing, never Blueflood's.
    pub refuse: Option<&'a str>,
}

/// A row that is stored.
#[derive(Debug)]
pub(super) struct Accepted<'a> {
    /// Empty where the path names the tenant.
    pub tenant: Cow<'a, str>,
    pub name: Cow<'a, str>,
    pub unit: Option<Cow<'a, str>>,
    pub ms: i64,
    pub value: Number,
}

/// The rows of `body` to store, and the answer.
pub(super) fn judge<'a>(terms: Terms<'_>, body: &'a str) -> (Vec<Accepted<'a>>, Answer) {
    let mut batch = Batch {
        terms,
        accepted: Vec::new(),
        valid: 0,
        null_row: false,
        unstorable_ttl: false,
        key_too_long: false,
        refusals: Refusals::default(),
    };
    // Only the first JSON value counts: Jackson does not look at what follows it.
    let mut json = serde_json::Deserializer::from_str(body);
    let parsed = batch.deserialize(&mut json);
    let refused = |status, message| (Vec::new(), Answer::refusal(status, terms.tenant, message));
    if parsed.is_err() {
        return refused(400, "Cannot parse content");
    }
    if batch.null_row {
        return refused(500, "Failed parsing content");
    }
    if batch.unstorable_ttl {
        return refused(
            400,
            "Invalid data TTL supplied for metric is invalid. Required: 0 < ttl < 2147483647, provided: 2147483647",
        );
    }
    let answer = match (batch.valid, batch.refusals.is_empty()) {
        (0, true) => return refused(400, "No valid metrics"),
        (0, false) => batch.refusals.into_answer(400),
        _ if batch.key_too_long => Answer::refusal(500, terms.tenant, "Persisted failed for metrics"),
        (_, false) => batch.refusals.into_answer(207),
        (_, true) => Answer::empty(200),
    };
    (batch.accepted, answer)
}

/// A body under judgement. It is filled as the JSON is read, so that rows are never held twice.
struct Batch<'t, 'a> {
    terms: Terms<'t>,
    accepted: Vec<Accepted<'a>>,
    /// Rows that Blueflood takes, with those among them that it then loses.
    valid: usize,
    null_row: bool,
    unstorable_ttl: bool,
    key_too_long: bool,
    refusals: Refusals,
}

impl<'de> DeserializeSeed<'de> for &mut Batch<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Batch<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.null_row = true;
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        while let Some(row) = rows.next_element::<Option<RawRow<'de>>>()? {
            match row {
                Some(row) => self.judge_row(row).map_err(A::Error::custom)?,
                None => self.null_row = true,
            }
        }
        Ok(())
    }
}

impl<'a> Batch<'_, 'a> {
    /// An error is a row that Jackson cannot read, which costs the whole body.
    fn judge_row(&mut self, row: RawRow<'a>) -> Result<(), &'static str> {
        let tenant = row.tenant.map(text).transpose()?.unwrap_or_default();
        let name = row.name.map(text).transpose()?.unwrap_or_default();
        let unit = row.unit.map(text).transpose()?;
        let ms = row.time.map_or(Some(0), |json| long(json.get())).ok_or("collectionTime")?;
        let ttl = row.ttl.map_or(Some(0), |json| int(json.get())).ok_or("ttlInSeconds")?;
        let now_ms = self.terms.now_ms;

        let by_row = self.terms.tenancy == Tenancy::Row;
        if !by_row && row.tenant_seen {
            return Err("tenantId is an unknown field here");
        }
        let value = row.value.map(|json| Number::of_json(json.get()));
        let scripted = self.terms.refuse.is_some_and(|part| name.contains(part));
        let faults = [
            (by_row && tenant.is_empty(), "tenantId", EMPTY),
            (ttl < 1, "ttlInSeconds", TTL_RANGE),
            (
                ms < now_ms.saturating_sub(PAST_MS_MAX) || ms > now_ms.saturating_add(FUTURE_MS_MAX),
                "collectionTime",
                TIME_RANGE,
            ),
            (name.is_empty(), "metricName", EMPTY),
            (value == Some(None), "metricValue", NOT_NUMERIC),
            (scripted, "metricName", "refused by the sink's script"),
        ];
        let tenant_shown = if by_row { tenant.as_ref() } else { self.terms.tenant };
        let mut faulty = false;
        for (_, source, message) in faults.iter().filter(|(found, _, _)| *found) {
            self.refusals.push(tenant_shown, ms, &name, source, message);
            faulty = true;
        }
        // A row without a value is dropped without a word.
        let Some(Some(value)) = value.filter(|_| !faulty) else { return Ok(()) };

        self.unstorable_ttl |= ttl == i32::MAX;
        self.valid = self.valid.saturating_add(1);
        let expiry_s = now_ms.div_euclid(1000).saturating_add(i64::from(ttl));
        if tenant_shown.len().saturating_add(1).saturating_add(name.len()) > KEY_BYTES_MAX {
            self.key_too_long = true;
        } else if expiry_s <= EXPIRY_S_MAX {
            self.accepted.push(Accepted { tenant, name, unit, ms, value });
        }
        Ok(())
    }
}

/// A string field: any scalar is taken by its text, as Jackson does.
fn text(json: &RawValue) -> Result<Cow<'_, str>, &'static str> {
    let json = json.get();
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(Cow::Borrowed(plain)),
        Some(_) => serde_json::from_str(json).map(Cow::Owned).map_err(|_| "a string"),
        None if json.starts_with(['[', '{']) => Err("a string, not an array or object"),
        None => Ok(Cow::Borrowed(json)),
    }
}

/// The fields of a row, unread. `null` is as good as missing; of a repeated field the last one counts.
#[derive(Default)]
struct RawRow<'a> {
    name: Option<&'a RawValue>,
    value: Option<&'a RawValue>,
    time: Option<&'a RawValue>,
    ttl: Option<&'a RawValue>,
    unit: Option<&'a RawValue>,
    tenant: Option<&'a RawValue>,
    tenant_seen: bool,
}

/// An unknown one is an error, which costs the whole body.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Field {
    MetricName,
    MetricValue,
    CollectionTime,
    TtlInSeconds,
    Unit,
    TenantId,
}

impl<'de> Deserialize<'de> for RawRow<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawRowVisitor)
    }
}

struct RawRowVisitor;

impl<'de> Visitor<'de> for RawRowVisitor {
    type Value = RawRow<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<RawRow<'de>, A::Error> {
        let mut row = RawRow::default();
        while let Some(field) = fields.next_key()? {
            let slot = match field {
                Field::MetricName => &mut row.name,
                Field::MetricValue => &mut row.value,
                Field::CollectionTime => &mut row.time,
                Field::TtlInSeconds => &mut row.ttl,
                Field::Unit => &mut row.unit,
                Field::TenantId => {
                    row.tenant_seen = true;
                    &mut row.tenant
                }
            };
            *slot = fields.next_value()?;
        }
        Ok(row)
    }
}
