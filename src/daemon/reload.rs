//! Owns the reload: what of the settings changed, what of that has to wait for a restart, and who is told of the rest.
//! All of it is applied, or nothing.

use actors::{collector, confirmer, forwarder};
use listenfd::ListenFd;
use slog::{error, info, warn};

use super::endpoints::{BoundEndpoint, RunningListener};
use super::figures::Figures;
use super::pipeline::Pipeline;
use super::plan::Plan;
use super::start;
use crate::logging::Log;
use crate::settings::{Loaded, Refused};

/// Applies settings that were read again, as a whole or not at all; the new ones if they are applied.
pub(super) async fn reload(
    pipeline: &mut Pipeline,
    figures: &Figures,
    old: &Loaded,
    reread: Result<Loaded, Box<Refused>>,
    log: &Log,
) -> Option<Loaded> {
    let logger = &log.logger;
    let refuse = |why: &dyn std::fmt::Display| {
        error!(logger, "the settings are not changed: what was read again is wrong"; "error" => %why);
    };
    let (new, changes) = match reread {
        Ok(new) => new.after(old),
        Err(refused) => {
            refused.problems.iter().for_each(|problem| refuse(problem));
            return None;
        }
    };
    let (settings, open) = (&new.settings, &pipeline.listeners);
    // An endpoint that cannot be opened leaves everything as it is.
    let made = pipeline.plan.next(&new, logger).and_then(|plan| {
        let endpoints =
            BoundEndpoint::bind_all(&settings.endpoint, settings.protocol, open, ListenFd::empty())?;
        Ok((plan, endpoints))
    });
    let (plan, endpoints) = match made {
        Ok(made) => made,
        Err(error) => {
            refuse(&error);
            return None;
        }
    };
    for warning in &new.warnings {
        warn!(logger, "{warning}");
    }
    log.level.set(new.settings.log_level);
    pipeline.apply(plan, endpoints).await;
    figures.show(pipeline);
    let words = |changed: &[String]| {
        if changed.is_empty() { "nothing".to_owned() } else { changed.join("; ") }
    };
    // Not before: who reads it may send what the new settings are for.
    info!(logger, "the settings are read again"; "changed" => words(&changes.now), "needs_a_restart" => words(&changes.later));
    Some(new)
}

impl Pipeline {
    /// Goes on with another plan. Only the actors whose options differ are told, and they live on: what is in flight
    /// ends as it began, and nothing that was learned is forgotten. Keystone's actor is made anew if it would ask
    /// otherwise now. Endpoints come and go.
    async fn apply(&mut self, plan: Plan, endpoints: Vec<BoundEndpoint>) {
        let old = std::mem::replace(&mut self.plan, plan);
        let (plan, keystone) = (&self.plan, self.keystone.as_ref());
        if let (Some(actor), Some(options)) = (keystone, &plan.keystone)
            && !plan.has_same_keystone(&old)
        {
            actor.renew(start::keystone(options.clone()));
        }
        if !plan.has_same_forwarder(&old) {
            let options = start::forwarder_options(plan, keystone);
            let make = start::forwarder(options.clone(), &self.resources);
            self.forwarder.configure(make, forwarder::Configure(options));
        }
        if !plan.has_same_confirmer(&old) {
            let options = start::confirmer_options(plan, keystone);
            let make = start::confirmer(options.clone(), &self.resources);
            self.confirmer.configure(make, confirmer::Configure(options));
        }
        if plan.collector != old.collector {
            let make = start::collector(plan, &self.resources, &self.forwarder);
            self.collector.configure(make, collector::Configure(plan.collector));
        }
        if !plan.has_same_live(&old) {
            self.live.send_replace(plan.live.clone());
        }
        // Both are told each time: an error of the last reload is made up for.
        let (spool, log) = (&self.resources.spool, &self.resources.log);
        if let Err(error) = spool.configure(plan.spool.policy).await {
            error!(log, "the spool goes on by its old limits"; "error" => %error);
        }
        if let Err(error) = spool.set_tenant(plan.spool.tenant.clone()).await {
            error!(log, "the spool cannot say whose rows wait"; "error" => %error);
        }
        self.listen_at(endpoints);
    }

    /// Listens at these endpoints and no others. Where a listener does as well as before it goes on.
    fn listen_at(&mut self, mut endpoints: Vec<BoundEndpoint>) {
        let log = &self.resources.log;
        let (kept, gone): (Vec<_>, Vec<_>) = self
            .listeners
            .drain(..)
            .partition(|listener| endpoints.iter().any(|endpoint| endpoint.is_same(&listener.endpoint)));
        self.listeners = kept;
        for listener in gone {
            info!(log, "no longer listening"; "endpoint" => &listener.endpoint.stats.endpoint);
            listener.end();
        }
        endpoints
            .retain(|endpoint| !self.listeners.iter().any(|listener| endpoint.is_same(&listener.endpoint)));
        for endpoint in endpoints {
            info!(log, "listening"; "endpoint" => &endpoint.stats.endpoint, "protocol" => %endpoint.stats.protocol);
            self.listeners.push(RunningListener::start(endpoint, &self.common, &self.storms));
        }
    }
}
