//! Owns the kinds of values that settings have, and what follows from a kind: what stands for a value in the help, what a
//! plain number counts, and what a shell offers. The schema follows from it too, in `schema`. Never reads a value.

/// What kind of value a setting has.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Yes or no.
    Flag,
    /// A whole number.
    Count,
    /// Whole seconds.
    Seconds,
    /// A number of bytes, or a text such as 10MiB.
    Size,
    /// A number of seconds, or a text such as 10min.
    Time,
    /// One of these words.
    Words(fn() -> Vec<&'static str>),
    /// A URL.
    Url,
    /// A URL, or one of these words.
    UrlOr(&'static [&'static str]),
    /// An IP address with a port.
    Address,
    /// A list of endpoints.
    Endpoints,
    /// The path of a file.
    File,
    /// Any text.
    Text,
    /// Any text, and it is never shown.
    Secret,
}

impl Kind {
    /// What stands for a value in the help.
    pub fn placeholder(self) -> String {
        match self {
            Self::Flag | Self::Words(_) => self.words().join("|"),
            Self::UrlOr(_) => format!("URL|{}", self.words().join("|")),
            Self::Count => "COUNT".to_owned(),
            Self::Seconds => "SECONDS".to_owned(),
            Self::Size => "SIZE".to_owned(),
            Self::Time => "TIME".to_owned(),
            Self::Url => "URL".to_owned(),
            Self::Address => "ADDRESS".to_owned(),
            Self::Endpoints => "ENDPOINT".to_owned(),
            Self::File => "FILE".to_owned(),
            Self::Text | Self::Secret => "TEXT".to_owned(),
        }
    }

    /// What a plain number counts; empty if a value is no number that counts something.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Size => "bytes",
            Self::Time | Self::Seconds => "s",
            _ => "",
        }
    }

    /// The words that a value can be, for a shell to offer.
    pub fn words(self) -> Vec<&'static str> {
        match self {
            Self::Flag => vec!["true", "false"],
            Self::Words(words) => words(),
            Self::UrlOr(words) => words.to_vec(),
            _ => Vec::new(),
        }
    }

    /// Whether there may be several values.
    pub fn is_list(self) -> bool {
        matches!(self, Self::Endpoints)
    }

    /// Whether a value is never shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret)
    }

    /// Whether a value may be any text at all: then a number in a typed file is no number, and its text counts.
    pub fn is_any_text(self) -> bool {
        matches!(self, Self::File | Self::Text | Self::Secret)
    }
}
