//! Owns the page as its file has it, with the words that who runs no script needs. What strangers named is text there.

use super::view::{Place, View};
use crate::core::ledger::sum;

impl View {
    /// The page as it is now: who runs no script sees this.
    pub(super) fn page(&self, template: &str) -> String {
        let ledger = &self.ledger;
        let law = format!(
            "received {} = skipped {} + buffered {} + delivered {} + refused {} + dropped {}",
            ledger.received,
            sum(&ledger.skipped),
            ledger.buffered(),
            ledger.delivered,
            sum(&ledger.refused),
            sum(&ledger.dropped)
        );
        let Place { host, url, tenant, .. } = &self.place;
        let until = self.health.until.as_ref().map(|until| format!("; {}", until.words(self.now_ms)));
        let words = format!("{}{}", self.health.words, until.unwrap_or_default());
        let parts = [
            ("condition", self.health.condition.name()),
            ("words", &words),
            ("next", self.health.next.as_deref().unwrap_or_default()),
            ("host", host),
            ("url", url),
            ("tenant", tenant),
            ("version", env!("CARGO_PKG_VERSION")),
            ("law", &law),
        ];
        let mut page = String::with_capacity(template.len().saturating_mul(2));
        let mut rest = template;
        // In one pass: what is put in is never looked through again.
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").unwrap_or(("", after));
            page.push_str(before);
            let text = parts.iter().find(|(part, _)| *part == name).map_or("", |(_, text)| text);
            text.chars().for_each(|c| match c {
                '&' => page.push_str("&amp;"),
                '<' => page.push_str("&lt;"),
                '>' => page.push_str("&gt;"),
                '"' => page.push_str("&quot;"),
                c => page.push(c),
            });
            rest = after;
        }
        page.push_str(rest);
        page
    }
}
