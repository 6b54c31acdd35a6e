//! Owns what is said to who comes from the original's image, where its environment counts for less than it did there.
//! It never makes anything count.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::sources::DEFAULT_ORIGIN;
use super::table::{ORIGINAL_NAMES, Setting, setting};
use super::{Effective, rules};

/// How the original was told what to log, and which setting does that here. The values of the two differ.
const LOGGING: [(&str, &str); 4] = [
    ("TWISTED_LOG_LEVEL", "log_level"),
    ("LOG_DIR", "log_file"),
    ("LOG_ROTATE_LENGTH", "log_file_max"),
    ("MAX_LOG_ROTATED_FILES", "log_file_keep"),
];

/// Names of the image that hardly anybody else uses, unlike LIMIT or ENDPOINT.
const TELLING: [&str; 2] = ["TENANT_ID", "BLUEFLOOD_URL"];

/// What of its environment does not count, and what was different in it.
pub(super) fn doubts(effective: &[Effective], environment: &BTreeMap<OsString, OsString>) -> Vec<String> {
    let is_set = |name: &str| environment.get(OsStr::new(name)).is_some_and(|value| !value.is_empty());
    let is_left =
        |key: &str| effective.iter().any(|entry| entry.setting.key == key && entry.origin == DEFAULT_ORIGIN);
    let ours = |key: &str| setting(key).map(Setting::environment).unwrap_or_default();
    let asked = environment.get(OsStr::new(ORIGINAL_NAMES)).map(|asked| asked.to_string_lossy());
    let Some(asked) = asked else {
        let unheard = |entry: &Effective| {
            let name = entry.setting.original.filter(|name| TELLING.contains(name) && is_set(name))?;
            let ours = entry.setting.environment();
            is_left(entry.setting.key).then(|| {
                format!(
                    "{name} is set, and does not count: set {ours}, or {ORIGINAL_NAMES}=1 for all names of the original's image"
                )
            })
        };
        return effective.iter().filter_map(unheard).collect();
    };
    if rules::boolean(&asked) != Ok(true) {
        return Vec::new();
    }
    let mut doubts: Vec<String> = LOGGING
        .into_iter()
        .filter(|(name, key)| is_set(name) && is_left(key))
        .map(|(name, key)| format!("{name} of the original's image does not count: set {}", ours(key)))
        .collect();
    if TELLING.into_iter().any(is_set) && is_left("endpoint") {
        doubts.push(
            "the original's image listened on port 2007 where ENDPOINT was not set, and this one listens on 2004: set \
             ENDPOINT=tcp:2007, or publish 2004"
                .to_owned(),
        );
    }
    doubts
}
