//! Owns who belongs: the networks that an endpoint takes metrics from. Never looks a name up.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Networks, written `10.0.0.0/8,127.0.0.1,fd00::/8`. None means that everyone may send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether nobody is kept out.
    pub fn is_everyone(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address lies in one of them.
    pub fn allow(&self, address: IpAddr) -> bool {
        // On an IPv6 socket a sender of 10.0.0.1 comes as ::ffff:10.0.0.1.
        let address = address.to_canonical();
        self.is_everyone() || self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for Networks {
    type Err = String;

    /// Reads networks and single addresses between commas. Nothing between any is no network.
    fn from_str(text: &str) -> Result<Self, String> {
        let network = |text: &str| {
            let network = match text.parse::<IpNet>() {
                Ok(network) => network,
                Err(_) => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| {
                    format!(
                        "{text:?} is no network: write for example allow=10.0.0.0/8,127.0.0.1,fd00\\:\\:/8"
                    )
                })?,
            };
            Ok(network.trunc())
        };
        text.split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(network)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(IpNet::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lies_in_a_network_may_send() {
        let networks: Networks = "10.1.2.3/8, 127.0.0.1,fd00::/8".parse().unwrap();
        let allowed = |address: &str| networks.allow(address.parse().unwrap());
        for address in ["10.0.0.0", "10.255.255.255", "127.0.0.1", "::ffff:10.0.0.1", "fd12::1"] {
            assert!(allowed(address), "{address}");
        }
        for address in ["11.0.0.0", "127.0.0.2", "::1", "fe80::1", "::ffff:11.0.0.1", "::a00:1"] {
            assert!(!allowed(address), "{address}");
        }
        assert_eq!(networks.to_string(), "10.0.0.0/8,127.0.0.1/32,fd00::/8");
    }

    #[test]
    fn without_a_network_everyone_may() {
        assert!(Networks::default().allow("192.0.2.1".parse().unwrap()));
        let error = "10.0.0.0/8,example.com".parse::<Networks>().unwrap_err();
        assert!(error.contains("\"example.com\" is no network"), "{error}");
    }
}
