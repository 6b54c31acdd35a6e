//! Owns who sends most, in bounded memory: the sketch "space-saving" (Metwally, Agrawal, El Abbadi, 2005). It never forgets
//! whoever sent more than a [`SENDERS_MAX`]th of all.

use std::{cmp::Reverse, fmt, net::IpAddr};

/// Senders that are known at once, at most.
pub const SENDERS_MAX: usize = 64;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A host, whatever its ports.
    Host(IpAddr),
    /// A process on this host, by a unix socket.
    Unix,
}

impl From<IpAddr> for Sender {
    /// An IPv4 address is one, however a socket that takes both shows it.
    fn from(address: IpAddr) -> Self {
        Sender::Host(address.to_canonical())
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sender::Host(address) => address.fmt(f),
            Sender::Unix => f.write_str("unix"),
        }
    }
}

/// What a sender has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Who.
    pub sender: Sender,
    /// Datapoints, at most.
    pub at_most: u64,
    /// Datapoints, at least: less where others were forgotten for this sender.
    pub at_least: u64,
}

/// How much each of the largest senders has sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Senders {
    known: Vec<Sent>,
    total: u64,
}

impl Senders {
    /// Counts datapoints of a sender. A new one takes the place of the least if all are taken, and may have sent as much
    /// as that one before.
    pub fn count(&mut self, sender: Sender, datapoints: u64) {
        self.total = self.total.saturating_add(datapoints);
        let is_full = self.known.len() >= SENDERS_MAX;
        let sent = match self.known.iter().position(|sent| sent.sender == sender) {
            Some(at) => self.known.get_mut(at),
            None if is_full => {
                let least = self.known.iter_mut().min_by_key(|sent| sent.at_most);
                least.map(|sent| {
                    *sent = Sent { sender, at_least: 0, ..*sent };
                    sent
                })
            }
            None => {
                self.known.push(Sent { sender, at_most: 0, at_least: 0 });
                self.known.last_mut()
            }
        };
        if let Some(sent) = sent {
            sent.at_most = sent.at_most.saturating_add(datapoints);
            sent.at_least = sent.at_least.saturating_add(datapoints);
        }
    }

    /// Those who have surely sent most, the largest first.
    pub fn top(&self, n: usize) -> Vec<Sent> {
        let mut all = self.known.clone();
        all.sort_by_key(|sent| Reverse((sent.at_least, sent.at_most)));
        all.truncate(n);
        all
    }

    /// Datapoints of all senders, forgotten ones too.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn host(n: u32) -> Sender {
        Sender::Host(Ipv4Addr::from(n).into())
    }

    #[test]
    fn few_senders_are_counted_exactly_the_largest_first() {
        let mut senders = Senders::default();
        for (sender, n) in [(host(1), 5), (Sender::Unix, 7), (host(1), 1), (host(2), 9)] {
            senders.count(sender, n);
        }
        let exact = |sender, n| Sent { sender, at_most: n, at_least: n };
        assert_eq!(senders.top(2), [exact(host(2), 9), exact(Sender::Unix, 7)]);
        assert_eq!((senders.top(10).len(), senders.total()), (3, 22));
    }

    #[test]
    fn a_crowd_that_passes_does_not_hide_who_sends_most() {
        let mut senders = Senders::default();
        for n in 0..10_000 {
            senders.count(host(n), 1);
            senders.count(Sender::Unix, 1);
        }
        let [first, second] = senders.top(2)[..] else { panic!("{senders:?}") };
        assert_eq!(first, Sent { sender: Sender::Unix, at_most: 10_000, at_least: 10_000 });
        assert_eq!(second.at_least, 1, "what is said of one of the crowd is not more than is so");
    }

    #[test]
    fn a_host_is_named_alike_by_every_socket() {
        let [mapped, plain] =
            ["::ffff:10.0.0.7", "10.0.0.7"].map(|text| Sender::from(text.parse::<IpAddr>().unwrap()));
        assert_eq!(mapped, plain);
        assert_eq!([plain.to_string(), Sender::Unix.to_string()], ["10.0.0.7", "unix"]);
    }

    proptest! {
        #[test]
        fn bounds_hold_and_nobody_large_is_forgotten(
            sent in prop::collection::vec((prop_oneof![0..8_u32, 0..400_u32], 1..1_000_u64), 0..2_000),
        ) {
            let (mut senders, mut truth) = (Senders::default(), BTreeMap::new());
            for &(n, datapoints) in &sent {
                senders.count(host(n), datapoints);
                *truth.entry(n).or_insert(0) += datapoints;
            }
            let all = senders.top(usize::MAX);
            let total: u64 = truth.values().sum();
            prop_assert_eq!(senders.total(), total);
            prop_assert!(all.len() <= SENDERS_MAX);
            prop_assert_eq!(all.iter().map(|sent| sent.at_most).sum::<u64>(), total);
            for (&n, &datapoints) in &truth {
                match all.iter().find(|sent| sent.sender == host(n)) {
                    Some(sent) => prop_assert!(sent.at_least <= datapoints && datapoints <= sent.at_most),
                    None => prop_assert!(datapoints <= total / SENDERS_MAX as u64),
                }
            }
            let exact = all.iter().all(|sent| sent.at_least == sent.at_most);
            prop_assert!(exact || truth.len() > SENDERS_MAX);
        }
    }
}
