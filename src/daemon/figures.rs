//! Owns the figures of the pipeline: the actor that serves them, and from where they are taken. It never changes what it
//! shows.

use actix_rt::Arbiter;
use actors::metrics::{Metrics, SharedSources};
use actors::supervisor::Supervised;

use super::pipeline::Pipeline;

/// What shows the figures.
pub(super) struct Figures {
    actor: Supervised<Metrics>,
    pub(super) sources: SharedSources,
}

impl Figures {
    /// Shows those of a pipeline that has just started.
    pub(super) fn start(pipeline: &Pipeline) -> Self {
        let sources = SharedSources::new(pipeline.sources());
        // What was lost before is no news of this process.
        drop(sources.view());
        let make = {
            let (sources, socket) = (sources.clone(), pipeline.resources.stats.clone());
            let log = pipeline.resources.log.clone();
            move |lifeline| Metrics::new(lifeline, sources.clone(), socket.clone(), log.clone())
        };
        let (storms, log) = (pipeline.storms.clone(), pipeline.resources.log.clone());
        let figures =
            Self { actor: Supervised::start("metrics", Arbiter::current(), storms, log, make), sources };
        // Once more, for the actor that shows them has vitals too.
        figures.show(pipeline);
        figures
    }

    /// Shows the pipeline as it is now: by its plan, and with the actors that there are.
    pub(super) fn show(&self, pipeline: &Pipeline) {
        let mut sources = pipeline.sources();
        sources.vitals.push(self.actor.vitals());
        self.sources.show(sources);
    }

    /// The actor is not started again when it ends.
    pub(super) fn let_go(&self) {
        self.actor.let_go();
    }
}
