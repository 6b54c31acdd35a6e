//! Everything that decides, with no runtime, clock, socket, log or randomness in it: they come in as arguments.
pub mod datapoint;
pub mod framing;
pub mod line;
pub mod number;
pub mod pickle;
