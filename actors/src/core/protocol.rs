//! Owns the names of the two protocols that senders speak, and of the choice between them by the first byte.
//! Never decodes anything.

use std::fmt;
use std::str::FromStr;

/// What a sender speaks on an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Frames of pickled datapoints, each behind its length in four bytes: carbon-relay's own.
    Pickle,
    /// `name value timestamp` and a line feed: everybody else's.
    Line,
    /// Either, told apart by a connection's first byte.
    Auto,
}

impl Protocol {
    /// What is spoken where `said` is wanted, or `default` if nothing was said; `None` if that cannot be.
    ///
    /// Datagrams are lines: a pickle's length frames a stream, and the pickle default of the original must not turn
    /// `udp:2003` into a port that understands nobody.
    pub fn chosen(said: Option<Self>, default: Self, datagrams: bool) -> Option<Self> {
        match said {
            _ if !datagrams => Some(said.unwrap_or(default)),
            None | Some(Self::Line) => Some(Self::Line),
            Some(Self::Pickle | Self::Auto) => None,
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    /// Reads our names and the original's class names; the error names them all.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "pickle" | "MetricPickleReceiver" => Ok(Self::Pickle),
            "line" | "MetricLineReceiver" => Ok(Self::Line),
            "auto" => Ok(Self::Auto),
            _ => Err(format!(
                "{name:?} is no protocol: write pickle, line or auto (MetricPickleReceiver and \
                 MetricLineReceiver, the original's names, are read too)"
            )),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pickle => "pickle",
            Self::Line => "line",
            Self::Auto => "auto",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_lines_whatever_is_spoken_elsewhere() {
        use Protocol::{Auto, Line, Pickle};
        for default in [Pickle, Line, Auto] {
            assert_eq!(Protocol::chosen(None, default, true), Some(Line));
            assert_eq!(Protocol::chosen(None, default, false), Some(default));
            for said in [Pickle, Line, Auto] {
                assert_eq!(Protocol::chosen(Some(said), default, true), (said == Line).then_some(Line));
                assert_eq!(Protocol::chosen(Some(said), default, false), Some(said));
            }
        }
    }

    #[test]
    fn reads_its_own_names_and_the_originals() {
        for protocol in [Protocol::Pickle, Protocol::Line, Protocol::Auto] {
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
        }
        assert_eq!("MetricLineReceiver".parse(), Ok(Protocol::Line));
        assert!("Nonsense".parse::<Protocol>().unwrap_err().contains("pickle, line or auto"));
    }
}
