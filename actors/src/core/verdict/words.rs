//! Owns what an operator is told of a cause, of an answer or of a loss: who is ill, and what to do. It never judges.

use super::{Figures, Loss, Place};

/// How the cause begins if the token is what is missing.
pub const NO_TOKEN: &str = "no token from Keystone";

/// The same if what Blueflood takes cannot be read back, or proven by a witness.
pub const NOT_CONFIRMED: &str = "what it acknowledges cannot be confirmed";

/// The same if it is to be read back, and there is nobody to ask.
pub const NO_QUERY_SIDE: &str = "nothing answers as Blueflood's query service";

/// Who is ill, by the cause that closed the gate, and what to do.
pub fn ill(cause: &str) -> (&'static str, &'static str) {
    let any = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    if cause.starts_with(NO_TOKEN) {
        ("Keystone gives no token", "look after Keystone, or check --auth_url; it is asked again by itself")
    } else if cause.starts_with(NO_QUERY_SIDE) {
        (
            "nothing is sent",
            "look after Blueflood, or check --query and --confirm; it is asked again by itself",
        )
    } else if cause.starts_with(NOT_CONFIRMED) {
        (
            "Blueflood cannot be believed",
            "look after Blueflood and its Cassandra, or check --query; it is asked again by itself",
        )
    } else if any(&["resolving", "resolve", "lookup", "look up"]) {
        ("the name of Blueflood's host cannot be looked up", "check --blueflood, and the DNS of this host")
    } else if any(&["certificate", "TLS", "handshake"]) {
        ("no TLS connection to Blueflood", "change what the cause names; it is tried again by itself")
    } else if any(&["HTTP 502", "HTTP 504"]) {
        ("a proxy before Blueflood does not reach it", "look after Blueflood; it is tried again by itself")
    } else {
        ("Blueflood does not take metrics", "look after Blueflood; it is tried again by itself")
    }
}

/// What to change when Blueflood answers this to everything.
pub fn remedy(answer: &str, authenticates: bool) -> &'static str {
    let has = |word: &str| answer.contains(word);
    if has("HTTP 3") {
        "set --blueflood to where it leads"
    } else if has("HTTP 404") || has("HTTP 405") {
        "check --blueflood and --tenant"
    } else if (has("HTTP 401") || has("HTTP 403")) && !authenticates {
        "set --user and --key_file"
    } else if has("HTTP 401") || has("HTTP 403") {
        "check whether --user may write to --tenant"
    } else {
        "check --blueflood, --tenant and the credentials"
    }
}

/// What to do about a loss.
pub(super) fn cure(loss: &Loss, figures: &Figures) -> String {
    match (loss.place, loss.reason.as_str()) {
        (Place::Dropped, "disk_full") => "make room on the disk of the spool: df -h".to_owned(),
        (Place::Dropped, "spool_full") => {
            "raise --spool_max, or mend what keeps datapoints from being delivered".to_owned()
        }
        (Place::Dropped, "max_age") => {
            "mend what keeps datapoints from being delivered, or raise --max_age".to_owned()
        }
        (Place::Dropped, "damaged") => {
            "look after the disk of the spool: the log names the file that was set aside".to_owned()
        }
        (Place::Dropped, _) => "the log says more".to_owned(),
        (Place::Unread, _) => "raise net.core.rmem_max, or let senders use TCP".to_owned(),
        (Place::Discarded, _) => {
            "raise --dead_letters_max, and look at blueflood-forward dead-letters list".to_owned()
        }
        (Place::Refused, _) => "blueflood-forward dead-letters list".to_owned(),
        (Place::Malformed, _) if figures.received == 0 => {
            "blueflood-forward tap shows it; does --protocol fit the senders?".to_owned()
        }
        (Place::Malformed | Place::Skipped, _) => "blueflood-forward tap shows it as it comes".to_owned(),
    }
}
