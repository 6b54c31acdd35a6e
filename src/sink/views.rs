//! Reading points back: the query interface of Blueflood, and its pretty-printed JSON.
//! It never changes anything.
//!
//! Source, measured: `actors/contract/blueflood.md`, "The query service". In the real thing this is a port of its own, 20000.

use super::number::Number;
use super::response::{Answer, quoted};
use super::script::Act;
use super::store::{Kept, Series, Store, share};
use std::collections::BTreeMap;

/// Metrics in one `POST .../views` at most.
const METRICS_MAX: usize = 100;
/// Values in one answer at most, so that no query costs more than some 30 MB. The real thing has no such limit.
const VALUES_MAX: usize = 100_000;
const TOO_MANY_VALUES: &str = "The stand-in gives 100,000 values at once at most: narrow 'from' and 'to'.";
/// How far apart Blueflood takes raw points to be when it picks a resolution for `points=N`.
const FULL_INTERVAL_MS: i64 = 30_000;

/// The resolutions by their names, with the width of their slots in milliseconds; none for raw points.
const RESOLUTIONS: [(&str, Option<i64>); 6] = [
    ("FULL", None),
    ("MIN5", Some(300_000)),
    ("MIN20", Some(1_200_000)),
    ("MIN60", Some(3_600_000)),
    ("MIN240", Some(14_400_000)),
    ("MIN1440", Some(86_400_000)),
];

/// What Blueflood says when it reaches no Cassandra.
const NO_HOST: &str = "All host(s) tried for query failed (no host was tried)";

/// The answer of a query service whose store is away, or that was told to answer so; none if it answers as ever.
pub(super) fn instead(
    act: &Act,
    tenant: &str,
    query: Option<&str>,
    name_is_known: bool,
    many: bool,
) -> Option<Answer> {
    // What is asked wrongly is told so without a look into the store.
    Query::parse(query).ok()?;
    match act {
        Act::Status(status, headers) => {
            let message = if *status == 500 { NO_HOST } else { "" };
            Some(Answer { headers: headers.clone(), ..Answer::refusal(*status, tenant, message) })
        }
        Act::Away if many || !name_is_known => Some(Answer::refusal(500, tenant, NO_HOST)),
        _ => None,
    }
}

/// Whether what is stored under a name is seen.
fn is_seen(act: &Act, name: &str) -> bool {
    match act {
        Act::Empty | Act::Away => false,
        Act::Short(percent) => share(name) < *percent,
        _ => true,
    }
}

/// What a query asks for.
struct Query<'a> {
    from: i64,
    to: i64,
    /// The width of a slot in milliseconds; none for raw points.
    slot_ms: Option<i64>,
    /// Names of statistics, or none for the usual ones.
    select: Option<Vec<&'a str>>,
}

/// The answer to `GET /v2.0/{tenant}/views/{name}?query`.
pub(super) fn one(store: &Store, tenant: &str, name: &str, query: Option<&str>, act: &Act) -> Answer {
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(message) => return Answer::refusal(400, tenant, &message),
    };
    let series = store.get(tenant, name).filter(|_| is_seen(act, name));
    let Some(values) = query.values(series, "    ", VALUES_MAX) else {
        return Answer::refusal(400, tenant, TOO_MANY_VALUES);
    };
    Answer::with_body(
        200,
        format!(
            "{{\n  \"metadata\": {{\n    \"marker\": null,\n    \"count\": {},\n    \"limit\": null,\n    \
             \"next_href\": null\n  }},\n  \"unit\": {},\n  \"values\": {}\n}}",
            values.len(),
            unit(series),
            list(&values, "  ")
        ),
    )
}

/// The answer to `POST /v2.0/{tenant}/views?query` with a list of names.
pub(super) fn many(store: &Store, tenant: &str, query: Option<&str>, body: &str, act: &Act) -> Answer {
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(message) => return Answer::refusal(400, tenant, &message),
    };
    if body.is_empty() {
        return Answer::refusal(400, tenant, "Invalid body. Expected JSON array of metrics.");
    }
    let names: Vec<String> = match serde_json::from_str(body) {
        Ok(names) => names,
        Err(error) => return Answer::with_body(400, error.to_string()),
    };
    if names.len() > METRICS_MAX {
        let message = "Too many metrics fetch in a single call. Max limit is 100.";
        return Answer::refusal(400, tenant, message);
    }
    let mut room = VALUES_MAX;
    let mut metrics = Vec::new();
    for name in &names {
        let series = store.get(tenant, name).filter(|_| is_seen(act, name));
        let Some(values) = query.values(series, "        ", room) else {
            return Answer::refusal(400, tenant, TOO_MANY_VALUES);
        };
        room = room.saturating_sub(values.len());
        metrics.push(format!(
            "    {{\n      \"unit\": {},\n      \"data\": {},\n      \"metric\": {},\n      \"type\": \"number\"\n    \
             }}",
            unit(series),
            list(&values, "      "),
            quoted(name)
        ));
    }
    Answer::with_body(200, format!("{{\n  \"metrics\": {}\n}}", list(&metrics, "  ")))
}

impl<'a> Query<'a> {
    fn parse(query: Option<&'a str>) -> Result<Self, String> {
        let query = query.filter(|text| !text.is_empty()).ok_or("No query parameters present.")?;
        let parameters: BTreeMap<&str, &str> =
            query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let (points, resolution) = (parameters.get("points"), parameters.get("resolution"));
        if points.is_none() && resolution.is_none() {
            return Err("Either 'points' or 'resolution' is required.".into());
        }
        let long = |name: &str| {
            let text = parameters.get(name).ok_or_else(|| format!("Invalid parameter: {name}=null"))?;
            text.parse::<i64>().map_err(|_| format!("parameter '{name}' must be a valid long"))
        };
        let (from, to) = (long("from")?, long("to")?);
        if to <= from {
            return Err("parameter 'to' must be greater than 'from'".into());
        }
        let slot_ms = match (points, resolution) {
            (Some(_), _) => slot_for(long("points")?, to.saturating_sub(from)),
            (None, Some(wanted)) => {
                let known = RESOLUTIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                known.map(|(_, slot)| *slot).ok_or(
                    "parameter 'resolution' is not valid. Allowed values ['FULL', 'MIN5', 'MIN20', 'MIN60', \
                     'MIN240', 'MIN1440']",
                )?
            }
            (None, None) => None,
        };
        let select = parameters.get("select").map(|names| names.split(',').collect());
        Ok(Query { from, to, slot_ms, select })
    }

    /// One JSON object for each raw point or slot, each line of it behind `indent`; none if they are over `most`.
    fn values(&self, series: Option<&Series>, indent: &str, most: usize) -> Option<Vec<String>> {
        let Some(series) = series else { return Some(Vec::new()) };
        let Some(slot_ms) = self.slot_ms else {
            let raw = series.points.range(self.from..=self.to);
            let fits = raw.clone().nth(most).is_none();
            return fits.then(|| raw.map(|(&ms, kept)| self.raw(ms, kept.value, indent)).collect());
        };
        // A slot counts whole, even where the query begins or ends inside it.
        let start_of = |ms: i64| ms.saturating_sub(ms.rem_euclid(slot_ms));
        let last = start_of(self.to).saturating_add(slot_ms).saturating_sub(1);
        let mut slots: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
        for (&ms, Kept { value, .. }) in series.points.range(start_of(self.from)..=last) {
            slots.entry(start_of(ms)).or_default().push(value.as_f64());
        }
        (slots.len() <= most)
            .then(|| slots.iter().map(|(&ms, values)| self.rollup(ms, values, indent)).collect())
    }

    fn raw(&self, ms: i64, value: Number, indent: &str) -> String {
        let value = value.to_string();
        let fields = [
            ("numPoints", "1"),
            ("average", &value),
            ("min", &value),
            ("max", &value),
            ("variance", "0"),
            ("sum", &value),
            ("timestamp", &ms.to_string()),
            ("latest", &value),
        ];
        self.object(&fields, &["numPoints", "average"], indent)
    }

    fn rollup(&self, ms: i64, values: &[f64], indent: &str) -> String {
        let count = values.len() as f64;
        let sum: f64 = values.iter().sum();
        let average = sum / count;
        let variance = values.iter().map(|value| (value - average).powi(2)).sum::<f64>() / count;
        let decimals = |value: f64| if value.is_finite() { format!("{value:.2}") } else { "null".into() };
        let fields = [
            ("numPoints", &*values.len().to_string()),
            ("average", &decimals(average)),
            ("min", &decimals(values.iter().copied().fold(f64::INFINITY, f64::min))),
            ("max", &decimals(values.iter().copied().fold(f64::NEG_INFINITY, f64::max))),
            ("variance", &decimals(variance)),
            ("sum", &Number::Float(sum).to_string()),
            ("timestamp", &ms.to_string()),
        ];
        self.object(&fields, &["numPoints", "average", "sum"], indent)
    }

    fn object(&self, fields: &[(&str, &str)], usual: &[&str], indent: &str) -> String {
        let wanted = self.select.as_deref().unwrap_or(usual);
        let lines: Vec<String> = fields
            .iter()
            .filter(|(name, _)| *name == "timestamp" || wanted.contains(name))
            .map(|(name, value)| format!("{indent}  \"{name}\": {value}"))
            .collect();
        format!("{indent}{{\n{}\n{indent}}}", lines.join(",\n"))
    }
}

/// The slot that gives nearest to `points` points over `span_ms`, nearest by ratio; the first such one.
fn slot_for(points: i64, span_ms: i64) -> Option<i64> {
    let ratio = |slot_ms: i64| {
        let (wanted, given) = (points as f64, span_ms as f64 / slot_ms as f64);
        if wanted > given { wanted / given } else { given / wanted }
    };
    let widths = RESOLUTIONS.iter().map(|(_, slot)| (*slot, ratio(slot.unwrap_or(FULL_INTERVAL_MS))));
    let coarsest = (Some(86_400_000), f64::INFINITY);
    widths.fold(coarsest, |best, next| if next.1 < best.1 { next } else { best }).0
}

fn unit(series: Option<&Series>) -> String {
    quoted(series.and_then(|series| series.unit.as_deref()).unwrap_or("unknown"))
}

/// A JSON array of entries that are indented already.
fn list(entries: &[String], indent: &str) -> String {
    if entries.is_empty() { "[]".into() } else { format!("[\n{}\n{indent}]", entries.join(",\n")) }
}
