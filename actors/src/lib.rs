//! The actors of blueflood-forward, and the pure core that decides for them.
//!
//! ```text
//!  senders                                                                           Blueflood
//!     │ pickle · line, TCP · TLS · UDP · unix                                           ▲   ▲
//!     ▼                                                                            POST │   │ look, witness
//!  Listener ──MetricFrame──▶ Collector ──Store, Flush──▶ Forwarder ─────────────────────┘   │
//!  a task a connection:       the open chunk              Outbox says what leaves           │
//!  frames become rows                                     │ append · lease · settle         │
//!                                                         ▼                                 │
//!                                                       Spool ◀──looks · confirm──── Confirmer
//!                                                       SQLite, a thread              Confirm says what follows
//! ```
//!
//! The whole of it, with its reasons, is in `actors/DESIGN.md`, "The flow" and "The life of a chunk".
//!
//! A message is answered when its content is safe at the next stage, and its sender waits for that: the reply is
//! the receipt, and all the backpressure there is. Messages stand in the file of the actor that handles them;
//! senders hold a [`supervisor::Link`], which finds the actor again when it was started anew.
//!
//! | module | owns |
//! | --- | --- |
//! | [`core`] | everything that decides, without runtime, clock, socket, log or randomness |
//! | [`listener`] | an endpoint: its socket and connections, from bytes to rows |
//! | [`collector`] | the open chunk, and the two timers |
//! | [`forwarder`] | the way out: what is stored, what is in flight, what an answer leads to |
//! | [`confirmer`] | looking: what Blueflood acknowledged is read back, and whether it can be believed |
//! | [`spool`] | every chunk until it is answered for and read back, the dead letters and the ledger, in one file |
//! | [`http_client`] | the connections on the way out, and what awc sees of them |
//! | [`keystone_auth`] | the credentials, the token, the one renewal in flight |
//! | [`tls`] | whom we trust on the way out, and who we are there |
//! | [`expiry`] | when the certificates end that settings name |
//! | [`tap`] | who looks on while datapoints pass: `GET /tap`, its globs, its lines and its bounds |
//! | [`metrics`] | the local HTTP port, and the view of all counters |
//! | [`supervisor`] | the life of the actors: started again on a stop and on a panic |
//! | `faults` | the places where tests make an actor die |

pub mod collector;
pub mod confirmer;
pub mod core;
pub mod expiry;
pub(crate) mod faults;
pub mod forwarder;
pub mod http_client;
pub mod keystone_auth;
pub mod listener;
pub mod metrics;
pub mod spool;
pub mod supervisor;
pub mod tap;
pub mod tls;
