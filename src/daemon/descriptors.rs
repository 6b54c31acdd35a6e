//! Owns the limit of open files: it is raised as far as we may, and senders get no more of it than leaves enough for the
//! deliveries, the spool and the stats port. It never opens or closes anything.

use std::thread::available_parallelism;

use actors::metrics::CONNECTIONS_MAX;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::settings::Settings;

/// What is kept back beyond all that is known to be opened.
const KEPT_BACK: u64 = 32;

/// The spool, the log, standard input and output, and what the runtime opens for itself.
const OWN: u64 = 48;

/// What each thread opens for itself.
const OF_A_THREAD: u64 = 5;

/// A socket, its copy in the accept loop, and one for an incarnation that ends.
const OF_AN_ENDPOINT: u64 = 3;

/// Connections to Blueflood and Keystone beyond those that deliver: about to be closed, or probes.
const SPARE_DELIVERIES: u64 = 24;

/// Raises the limit of this process to the most that it may have; what it is then, if there is any.
pub(super) fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current == limit.maximum || setrlimit(Resource::Nofile, most).is_ok() {
        limit.maximum
    } else {
        limit.current
    }
}

/// The most that [`raise`] can come to.
pub(crate) fn most() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// How many senders may be connected within a limit, and what an operator should hear if that is fewer than the
/// settings say.
pub(crate) fn fit(settings: &Settings, limit: Option<u64>) -> (u32, Option<String>) {
    let wanted = settings.connections;
    let Some(limit) = limit else { return (wanted, None) };
    let threads = available_parallelism().map_or(4, |threads| threads.get() as u64).saturating_add(4);
    let own = [
        KEPT_BACK,
        OWN,
        OF_A_THREAD.saturating_mul(threads),
        OF_AN_ENDPOINT.saturating_mul(settings.endpoint.len() as u64),
        SPARE_DELIVERIES.saturating_add(settings.concurrency.into()),
        if settings.stats.is_some() { CONNECTIONS_MAX as u64 } else { 0 },
    ]
    .into_iter()
    .fold(0, u64::saturating_add);
    // A limit below all reason leaves a few senders all the same.
    let room = limit.saturating_sub(own).max(limit / 8).max(1);
    let fits = wanted.min(u32::try_from(room).unwrap_or(u32::MAX));
    let warning = (fits < wanted).then(|| {
        format!(
            "connections {wanted} does not fit the limit of {limit} open files, of which {own} are kept for deliveries, the \
             spool and the stats: {fits} senders are let in at once, more have to wait; raise the limit (ulimit -Hn, \
             LimitNOFILE= of a unit) to {} or set connections",
            own.saturating_add(wanted.into())
        )
    });
    (fits, warning)
}
