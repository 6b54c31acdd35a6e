//! blueflood-forward: Graphite metrics in, Blueflood out, nothing lost.
fn main() {}
