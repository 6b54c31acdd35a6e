//! Owns the witness: a row of our own that is sent, looked for, and tells whether Blueflood can be believed. It never decides
//! when one is sent, nor what follows.

use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::{
    Confirmer,
    looking::{Of, now_ms, send},
};
use crate::{
    core::{
        confirm::Event,
        datapoint::Datapoint,
        look,
        row::{Encoder, RowSettings, Rows},
    },
    faults,
    forwarder::post::Target,
};

/// How long a witness may take. In doubt the next one must not wait for long.
const WITNESS_MAX: Duration = Duration::from_secs(5);

/// The settings let no row be made of the witness.
const NO_WITNESS: &str = "no witness can be made";

/// What became of a witness.
enum Witnessed {
    /// Blueflood did not take it, and why.
    NotTaken(String),
    /// It took it, and nobody looks.
    Taken,
    /// It took it, and it is not there.
    NotThere,
    /// It took it, and nobody can tell whether it is there.
    NotRead(String),
    /// It is there.
    There(Of),
}

impl Confirmer {
    /// Sends a witness, and looks for it.
    pub(super) fn probe(&mut self, read: bool, ctx: &mut Context<Self>) {
        let row = self.witness(look::witness_ms(now_ms()));
        let target =
            Target { timeout: WITNESS_MAX.min(self.options.target.timeout), ..self.options.target.clone() };
        let (auth, encoding, epoch) = (self.options.auth.clone(), self.options.encoding, self.epoch);
        let query = self.query().filter(|_| read);
        let probed = async move {
            let Some(row) = row else { return Witnessed::NotTaken(NO_WITNESS.to_owned()) };
            if let Err(cause) = send(&target, auth, encoding, row.clone()).await {
                return Witnessed::NotTaken(cause);
            }
            let Some(query) = query else { return Witnessed::Taken };
            let Some(witness) = look::Row::of(&row.text) else {
                return Witnessed::NotRead(NO_WITNESS.to_owned());
            };
            match query.look(&target.tenant, &[witness], &[0], WITNESS_MAX).await {
                Ok(absent) if absent.is_empty() => {
                    Witnessed::There(Of { tenant: target.tenant.as_str().into(), rows: row })
                }
                Ok(_) => Witnessed::NotThere,
                Err(cause) => Witnessed::NotRead(cause),
            }
        };
        ctx.spawn(probed.into_actor(self).map(move |witnessed, confirmer, ctx| {
            faults::point("confirmer.probed");
            if confirmer.epoch == epoch {
                confirmer.witnessed(witnessed, ctx);
            }
        }));
    }

    fn witnessed(&mut self, witnessed: Witnessed, ctx: &mut Context<Self>) {
        let took = !matches!(witnessed, Witnessed::NotTaken(_));
        let is_absent = matches!(witnessed, Witnessed::NotThere);
        if self.finding.witnessed(took, is_absent, self.options.is_left_to_us()) {
            self.leave_the_other_alone(ctx);
            return;
        }
        let outcome = match witnessed {
            Witnessed::Taken => Ok(()),
            Witnessed::There(row) => {
                self.control = Some(row);
                self.finding.proves();
                Ok(())
            }
            Witnessed::NotThere => Err("a datapoint of our own that it took is not there".to_owned()),
            Witnessed::NotTaken(cause) => {
                Err(format!("Blueflood does not take a datapoint of our own: {cause}"))
            }
            Witnessed::NotRead(cause) => Err(cause),
        };
        self.event(Event::Probed(outcome), ctx);
    }

    /// Two daemons that used one witness would hide the truth from each other.
    pub(super) fn witness_name(&self) -> String {
        format!("{}.{}", self.options.witness, self.spool.name())
    }

    fn witness(&self, ms: i64) -> Option<Rows> {
        let settings = RowSettings { overwrite_time: false, ..self.options.rows.clone() };
        let mut rows = Rows::default();
        let name = self.witness_name();
        let datapoint = Datapoint { name: name.as_bytes(), timestamp: ms as f64 / 1000.0, value: 1.0 };
        Encoder::new(&settings).encode(&datapoint, ms, &mut rows).ok()?;
        Some(rows)
    }
}
