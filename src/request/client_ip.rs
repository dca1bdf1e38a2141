//! Finds the client among the hops of a request, and writes its address into keys.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;

/// Which hop of a forwarding chain is the client, and how its address becomes a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIpPolicy {
    /// Proxies that are believed about the hop before them.
    pub trusted_proxies: Vec<IpNet>,
    /// How many bits of an IPv6 address identify a client, 1 to 128. A site usually has a /64.
    pub ipv6_prefix: u8,
}

impl Default for ClientIpPolicy {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            ipv6_prefix: 64,
        }
    }
}

impl ClientIpPolicy {
    /// The client's address: the last hop that is not a trusted proxy.
    ///
    /// `real_ip` is the peer that the asking proxy saw, and so the last hop. `forwarded_for` are
    /// the hops before it, as `X-Forwarded-For` lists them. A hop that cannot be parsed ends the
    /// search: whoever wrote it could have written anything before it.
    pub fn client_ip(&self, real_ip: Option<&str>, forwarded_for: &[&str]) -> Option<IpAddr> {
        let listed = forwarded_for.iter().rev().flat_map(|line| line.rsplit(','));
        let mut last = None;
        for hop in real_ip.into_iter().chain(listed) {
            let Some(ip) = parse_ip(hop.trim()) else {
                break;
            };
            last = Some(ip);
            if !self.is_trusted(ip) {
                break;
            }
        }
        last
    }

    fn is_trusted(&self, ip: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&ip))
    }

    /// Appends the address as it appears in keys: IPv4 whole, IPv6 as its prefix.
    pub fn push_key(&self, out: &mut String, ip: IpAddr) {
        // Writing to a String cannot fail.
        let _ = match ip {
            IpAddr::V4(v4) => write!(out, "{v4}"),
            IpAddr::V6(v6) if self.ipv6_prefix >= 128 => write!(out, "{v6}"),
            IpAddr::V6(v6) => {
                let mask = u128::MAX << (128 - u32::from(self.ipv6_prefix));
                let network = Ipv6Addr::from_bits(v6.to_bits() & mask);
                write!(out, "{network}/{}", self.ipv6_prefix)
            }
        };
    }
}

/// Parses an address with or without port and brackets. An IPv4-mapped IPv6 address is IPv4.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let unbracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    unbracketed
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|addr| addr.ip()))
        .map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(nets: &[&str]) -> ClientIpPolicy {
        ClientIpPolicy {
            trusted_proxies: nets.iter().map(|net| net.parse().unwrap()).collect(),
            ipv6_prefix: 64,
        }
    }

    fn ip(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_not_trusted() {
        let none = policy(&[]);
        let lan = policy(&["10.0.0.0/8"]);
        assert_eq!(
            none.client_ip(Some("192.0.2.1"), &["1.1.1.1"]),
            ip("192.0.2.1")
        );
        assert_eq!(none.client_ip(None, &["1.1.1.1, 2.2.2.2"]), ip("2.2.2.2"));
        assert_eq!(none.client_ip(None, &["1.1.1.1", "2.2.2.2"]), ip("2.2.2.2"));
        assert_eq!(
            lan.client_ip(Some("10.0.0.5"), &["1.1.1.1, 2.2.2.2"]),
            ip("2.2.2.2")
        );
        assert_eq!(
            lan.client_ip(None, &["6.6.6.6, 2.2.2.2, 10.0.0.9"]),
            ip("2.2.2.2")
        );
        assert_eq!(
            lan.client_ip(Some("10.0.0.5"), &["10.0.0.6"]),
            ip("10.0.0.6")
        );
        assert_eq!(
            lan.client_ip(Some("10.0.0.5"), &["6.6.6.6, garbage"]),
            ip("10.0.0.5")
        );
        assert_eq!(none.client_ip(None, &["garbage"]), None);
        assert_eq!(none.client_ip(None, &[]), None);
    }

    #[test]
    fn addresses_are_read_in_all_their_forms() {
        for text in [
            "1.2.3.4",
            "1.2.3.4:5678",
            "::ffff:1.2.3.4",
            "[::ffff:1.2.3.4]:80",
        ] {
            assert_eq!(parse_ip(text), ip("1.2.3.4"), "{text}");
        }
        assert_eq!(parse_ip("[2001:db8::1]:443"), ip("2001:db8::1"));
        assert_eq!(parse_ip("[2001:db8::1]"), ip("2001:db8::1"));
        assert_eq!(parse_ip(""), None);
    }

    #[test]
    fn ipv6_clients_are_distinguished_by_prefix() {
        let key = |text: &str, prefix| {
            let mut out = String::new();
            ClientIpPolicy {
                ipv6_prefix: prefix,
                ..ClientIpPolicy::default()
            }
            .push_key(&mut out, text.parse().unwrap());
            out
        };
        assert_eq!(key("2001:db8:1:2:3:4:5:6", 64), "2001:db8:1:2::/64");
        assert_eq!(key("2001:db8:1:2:3:4:5:6", 128), "2001:db8:1:2:3:4:5:6");
        assert_eq!(key("2001:db8:1:2:3:4:5:6", 1), "::/1");
        assert_eq!(key("203.0.113.7", 64), "203.0.113.7");
    }
}
