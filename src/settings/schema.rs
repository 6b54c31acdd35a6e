//! Owns the JSON Schema of the configuration file, for editors and for whatever writes such a file. It is derived from
//! the table of settings; it never judges a value: `check` does.

use serde_json::{Map, Value, json};

use super::kind::Kind;
use super::table::{Setting, TABLE};

/// What `blueflood-forward check --schema` prints: a file that fits it has only known keys, and values of a kind that
/// each of them can have.
pub fn schema() -> Value {
    // A file can't name another one.
    let in_files = TABLE.iter().filter(|setting| setting.key != "config");
    let properties: Map<String, Value> =
        in_files.map(|setting| (setting.key.to_owned(), property(setting))).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "blueflood-forward",
        "description": "The configuration file of blueflood-forward, as TOML or YAML.",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

fn property(setting: &Setting) -> Value {
    let mut property = kind(setting);
    property.insert("description".to_owned(), description(setting).into());
    // Without a default the description says what is done.
    if !setting.default.is_empty() {
        property.insert("default".to_owned(), default(setting));
    }
    if setting.kind.is_secret() {
        property.insert("writeOnly".to_owned(), true.into());
    }
    property.into()
}

fn kind(setting: &Setting) -> Map<String, Value> {
    let kind = match setting.kind {
        Kind::Endpoints => json!({ "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" }, "minItems": 1 },
        ] }),
        Kind::Count | Kind::Seconds => json!({ "type": "integer", "minimum": 0 }),
        Kind::Size => json!({ "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9]+ *([KMGTkmgt]([Ii]?[Bb])?|[Bb])?$" },
        ] }),
        Kind::Time => json!({ "anyOf": [{ "type": "number", "minimum": 0 }, { "type": "string" }] }),
        Kind::Flag => json!({ "type": "boolean" }),
        // It may be empty, or a URL, as well.
        Kind::Words(_) if setting.empty.is_some() => {
            json!({ "type": "string", "examples": setting.kind.words() })
        }
        Kind::UrlOr(words) => json!({ "type": "string", "examples": words }),
        Kind::Words(words) => json!({ "type": "string", "enum": words() }),
        Kind::Url | Kind::Address | Kind::File | Kind::Text | Kind::Secret => json!({ "type": "string" }),
    };
    kind.as_object().cloned().unwrap_or_default()
}

fn description(setting: &Setting) -> String {
    let mut text = setting.help().split_whitespace().collect::<Vec<_>>().join(" ");
    match setting.kind {
        Kind::Size => text.push_str(" In bytes, or a text such as \"64KiB\", \"10MiB\", \"1GiB\"."),
        Kind::Time => text.push_str(" In seconds, or a text such as \"500ms\", \"10min\", \"2d\"."),
        Kind::Seconds => text.push_str(" In seconds."),
        _ => {}
    }
    if setting.default.is_empty() {
        text.push_str(&format!(" Default: {}.", setting.shown(setting.default)));
    }
    text
}

fn default(setting: &Setting) -> Value {
    let text = setting.default;
    if setting.kind.is_list() {
        return json!([text]);
    }
    // A number and a truth are written as they stand; all else is text.
    match serde_json::from_str(text) {
        Ok(plain @ (Value::Number(_) | Value::Bool(_))) => plain,
        _ => text.into(),
    }
}
