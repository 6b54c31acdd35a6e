//! Owns what differs between two readings of the settings, and what of that a daemon that runs can't take. Never applies
//! anything.

use super::{Loaded, Settings};

/// The settings that differ, each with how, in words that may be shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What can be applied.
    pub now: Vec<String>,
    /// What waits for a restart.
    pub later: Vec<String>,
}

impl Loaded {
    /// These settings as far as a daemon that runs by `old` can take them: what waits for a restart is left as it was.
    pub fn after(mut self, old: &Self) -> (Self, Changes) {
        let mut changes = Changes::default();
        for (new, old) in self.effective.iter_mut().zip(&old.effective) {
            let setting = new.setting;
            if new.text == old.text {
                continue;
            }
            let (from, to) = (setting.shown(&old.text), setting.shown(&new.text));
            let words = format!("{} from {from} to {to}", setting.key);
            if setting.needs_restart(&old.text, &new.text) {
                changes.later.push(words);
                new.text.clone_from(&old.text);
            } else {
                changes.now.push(words);
            }
        }
        let effective = &self.effective;
        let text = |key: &str| effective.iter().find(|entry| entry.setting.key == key);
        // Each text was read before, so nothing is refused now.
        if let Some(settings) = Settings::read(|key| text(key).map_or("", |entry| &entry.text), |_, _| {}) {
            self.settings = settings;
        }
        (self, changes)
    }
}
