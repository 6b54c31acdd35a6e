//! Owns texts that must never be seen: keys, passwords, tokens. It never shows one, and leaves none behind in memory.

use zeroize::Zeroizing;

/// What is shown in place of a secret.
pub const MASK: &str = "********";

/// A text that is never shown, and is overwritten when it is dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text in, so that its only copy is here.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself: for the one request that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The text of others without this secret in it: a server may repeat what it was sent.
    pub fn hide_in(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(self.0.as_str(), MASK) }
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Self::new)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_shown_and_not_repeated() {
        let secret = Secret::new("s3cret".into());
        assert_eq!(format!("{secret:?}"), MASK);
        assert_eq!(secret.hide_in("no user bob with s3cret"), "no user bob with ********");
        assert_eq!(Secret::default().hide_in("text"), "text");
    }
}
