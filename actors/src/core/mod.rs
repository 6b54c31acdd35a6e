//! Everything that decides, with no runtime, clock, socket, log or randomness in it: they come in as arguments.
//!
//! On the way in: bytes become a [`datapoint`], a datapoint becomes a [`row`], rows become a [`chunk`].
//! On the way out: the [`outbox`] says which chunks leave as a [`payload`] and what follows from its answer, a
//! verdict of [`blueflood`], the head of which [`answer_head`] made plain. [`backoff`] says how long to wait, and the [`ledger`] where every datapoint is.
//! What Blueflood took is read back by a [`look`], and [`confirm`] says what follows from that.
//! An [`endpoint`] is where bytes come in, from the [`networks`] that belong. [`keystone`] is the contract of who says whether we may, and a [`secret`] what may never be seen.
//! Who sends most is what [`senders`] remember.
//! What a stranger sent is shown in [`printable`] characters only.

pub mod answer_head;
pub mod backoff;
pub mod blueflood;
pub mod chunk;
pub mod confirm;
pub mod datapoint;
pub mod endpoint;
pub mod framing;
pub mod greeting;
pub mod histogram;
pub mod human;
pub mod keystone;
pub mod ledger;
pub mod line;
pub mod look;
pub mod networks;
pub mod number;
pub mod outbox;
pub mod payload;
pub mod pickle;
pub mod printable;
pub mod protocol;
pub mod queue;
pub mod reason;
pub mod row;
mod scan;
pub mod secret;
pub mod senders;
pub mod settlement;
pub mod tally;
pub mod verdict;
