//! Everything that decides, with no runtime, clock, socket, log or randomness in it: they come in as arguments. So a test
//! can play hours of it in a second (`actors/DESIGN.md`, "Who owns what").
//!
//! | on the way in | holds |
//! | --- | --- |
//! | [`endpoint`] | the syntax of endpoint strings: `tcp:2004`, `unix:/run/x.sock` |
//! | `networks` | the networks that an endpoint takes metrics from |
//! | [`protocol`] | the names of the protocols: pickle, line, auto |
//! | `greeting` | strangers, known by their first bytes: HTTP, SSH, TLS, PROXY |
//! | [`framing`] | where a frame or a block of lines begins and ends |
//! | [`pickle`] | the decoder of pickles |
//! | [`line`](mod@line) | the parser of lines |
//! | [`number`] | numbers as texts and as pickles write them |
//! | [`datapoint`] | a datapoint, and the reasons why bytes are none (`malformed`) |
//! | [`row`] | the encoder of a datapoint as Blueflood's JSON, and the reasons why it cannot be one (`skipped`) |
//!
//! | on the way out | holds |
//! | --- | --- |
//! | [`chunk`] | rows, sealed: compressed once, with their checksums |
//! | [`queue`] | the index of what waits in the spool, and the leases of it |
//! | [`payload`] | the body of one POST, composed of chunks |
//! | [`outbox`] | when a payload is sent, and what its answer leads to |
//! | [`answer_head`] | the head of an answer, made one that awc understands |
//! | [`blueflood`] | what each answer of Blueflood means |
//! | [`settlement`] | where each row of a payload goes, once its fate is known |
//! | [`look`] | what is read back: which rows, by which queries; and the witness |
//! | [`confirm`] | when it is read back, and what follows from what was seen |
//! | [`keystone`] | requests to and answers of Keystone, and when it is asked |
//! | [`backoff`] | the length of a pause between two tries |
//!
//! | what is counted | holds |
//! | --- | --- |
//! | [`ledger`] | where every datapoint is |
//! | `tally` | a change of the ledger: how many go from where to where |
//! | [`reason`] | the reasons of `refused` and `dropped` |
//! | [`verdict`] | whether an operator has to get up |
//! | `histogram` | counts of durations by size |
//! | `senders` | who sends most, in bounded memory |
//!
//! | what is shown | holds |
//! | --- | --- |
//! | [`printable`] | a stranger's bytes, made harmless for a terminal |
//! | [`human`] | counts, bytes and times as people read them |
//! | [`secret`] | a text that is masked when it is printed, and overwritten when it is dropped |
//!
//! `scan` asks whether any byte of a text is of some kind, sixteen at a time; line and row use it.

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
