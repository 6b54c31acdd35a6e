//! Owns the stop of the pipeline: in which order it ends, so that nothing that was taken is lost, and the closing line.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use actors::core::ledger::{Ledger, sum};
use actors::{collector, confirmer, forwarder};
use slog::{Logger, error, info, warn};
use tokio::time::timeout;

use super::endpoints::RunningListener;
use super::figures::Figures;
use super::pipeline::Pipeline;

/// How long connections may take to hand over what their sockets already hold.
const READERS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last chunk may take into the spool.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

impl Pipeline {
    /// The longest that a stop takes.
    pub(super) fn stop_timeout(&self) -> Duration {
        self.plan.shutdown_timeout + READERS_TIMEOUT + STORE_TIMEOUT
    }

    /// Accept no more, read what the sockets hold, seal, deliver for a while, leave the rest in the spool.
    pub(super) async fn stop(self, figures: Figures) -> ExitCode {
        let (plan, resources) = (self.plan, self.resources);
        let log = resources.log;
        self.stop.send_replace(true);
        self.listeners.iter().for_each(RunningListener::accept_no_more);
        // What a full spool keeps out would end with the process.
        if let Err(error) = resources.spool.last_call().await {
            error!(log, "the spool may not take everything"; "error" => %error);
        }
        let readers = self.common.readers;
        readers.close();
        if timeout(READERS_TIMEOUT, readers.wait()).await.is_err() {
            warn!(log, "some connections did not end in time"; "connections" => readers.len());
        }
        self.listeners.into_iter().for_each(RunningListener::end);
        // Neither of these is data: one that is given up loses nothing.
        let seal = self.collector.link();
        if timeout(STORE_TIMEOUT, seal.ask(|| collector::Drain)).await.is_err() {
            warn!(log, "the spool did not take everything in time");
        }
        let (deliver, time, began) = (self.forwarder.link(), plan.shutdown_timeout, Instant::now());
        if deliver.ask(|| forwarder::Drain(time)).await.is_err() {
            warn!(log, "nothing more can be delivered: the forwarder is gone");
        }
        // What nobody looked for in time is looked for by the next process.
        let (confirm, time_left) = (self.confirmer.link(), time.saturating_sub(began.elapsed()));
        if confirm.ask(|| confirmer::Drain(time_left)).await.is_err() {
            warn!(log, "nothing more can be read back: the confirmer is gone");
        }
        self.collector.let_go();
        self.forwarder.let_go();
        self.confirmer.let_go();
        self.keystone.iter().for_each(|keystone| keystone.let_go());
        figures.let_go();
        if let Err(error) = resources.spool.close().await {
            error!(log, "the spool could not be closed in order"; "error" => %error);
        }
        let stored = resources.spool_thread.join();
        let code = last_line(&mut resources.spool.ledger().snapshot(), plan.forwarder.keeps, &log);
        if stored { code } else { ExitCode::FAILURE }
    }
}

/// The closing line, whose figures add up.
fn last_line(ledger: &mut Ledger, spool_keeps: bool, log: &Logger) -> ExitCode {
    let lost = ledger.stopped(spool_keeps);
    if lost > 0 {
        error!(log, "datapoints are lost with this process: there is no spool that took them"; "datapoints" => lost);
    }
    info!(log, "stopped";
        "received" => ledger.received, "skipped" => sum(&ledger.skipped), "buffered" => ledger.buffered(),
        "delivered" => ledger.delivered, "refused" => sum(&ledger.refused), "dropped" => sum(&ledger.dropped),
        "unaccounted" => i64::try_from(ledger.unaccounted()).unwrap_or(i64::MAX));
    if lost == 0 && ledger.unaccounted() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
