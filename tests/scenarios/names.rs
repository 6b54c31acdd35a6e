//! Owns the names that numbers go by. The number itself is the value, so that a name may come again and again.

use std::fmt::Write;

/// What a name begins with that Blueflood does not like.
pub const BAD: &str = "bad";

/// Names that compress badly, so that a spool of 1 MiB is soon full.
pub fn fat(i: usize) -> String {
    let mut name = "fat".to_owned();
    let mut x = i as u64;
    for _ in 0..4 {
        // splitmix64: the same names in each run.
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = x;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        write!(name, ".{:016x}", z ^ (z >> 31)).unwrap();
    }
    name
}

/// One of twenty series is bad, and the twenty come again each second.
pub fn one_of_twenty(i: usize) -> String {
    match i % 20 {
        7 => BAD.to_owned(),
        good => format!("good.{good}"),
    }
}

/// One of 500 datapoints is bad.
pub fn one_of_500(i: usize) -> String {
    if i % 500 == 7 { format!("{BAD}.{i}") } else { format!("a.{i}") }
}

/// One of 50 datapoints is bad.
pub fn one_of_50(i: usize) -> String {
    if i % 50 == 7 { format!("{BAD}.{i}") } else { format!("a.{i}") }
}

/// One single datapoint is bad.
pub fn one_at_all(i: usize) -> String {
    if i == THE_ONE { format!("{BAD}.{i}") } else { format!("a.{i}") }
}

/// The number of that datapoint.
pub const THE_ONE: usize = 5_007;
