//! Everything that decides, with no runtime, clock, socket, log or randomness in it: they come in as arguments.
//!
//! | on the way in | holds |
//! | --- | --- |
//! | [`endpoint`], `networks` | where senders connect, written as text; whose addresses may |
//! | [`framing`], `greeting` | where a frame ends on a connection; senders that speak something else |
//! | [`protocol`], [`line`](mod@line), [`pickle`], [`number`] | the protocols, from the bytes of a frame to datapoints |
//! | [`datapoint`] | a datapoint, what yields them, and the reasons why bytes are none |
//! | [`row`] | a datapoint encoded as Blueflood stores it, or the reason why it is skipped |
//! | [`chunk`] | rows sealed once, as they lie in the spool |
//! | `senders` | the senders that send most |
//!
//! | on the way out | holds |
//! | --- | --- |
//! | [`queue`] | the index of the chunks that wait |
//! | [`outbox`] | when a payload is sent, and what follows from its answer |
//! | [`payload`] | the body of one POST, made of chunks |
//! | [`blueflood`], [`answer_head`] | the contract of ingest: what an answer means, and its head made one that awc reads |
//! | [`keystone`] | the contract of Keystone: how a token is asked for, what an answer means, when it is renewed |
//! | [`backoff`] | how long to wait between two tries |
//! | [`settlement`] | what becomes of each row once the answer is known |
//! | [`look`], [`confirm`] | reading back what Blueflood acknowledged, and what follows |
//!
//! | for the operator | holds |
//! | --- | --- |
//! | [`ledger`], `tally`, [`reason`] | where every datapoint is; a change of that; the reasons under which some are counted |
//! | [`verdict`] | whether somebody has to act |
//! | `histogram`, [`human`], [`printable`] | durations counted by size; figures in words; a stranger's bytes made safe to show |
//! | [`secret`] | a text that is never shown, and wiped when it is dropped |

pub mod answer_head;
pub mod backoff;
pub mod blueflood;
pub mod chunk;
pub mod confirm;
pub mod datapoint;
pub mod endpoint;
pub mod framing;
pub(crate) mod greeting;
pub(crate) mod histogram;
pub mod human;
pub mod keystone;
pub mod ledger;
pub mod line;
pub mod look;
pub(crate) mod networks;
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
pub(crate) mod senders;
pub mod settlement;
pub(crate) mod tally;
pub mod verdict;
