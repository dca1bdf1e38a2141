//! Finds the client among the hops of a request, and writes its address into keys.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// Which hop of a forwarding chain is the client, and how its address becomes a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIpPolicy {
    /// Proxies that are believed about the hop before them; not [mapped](unmapped).
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
    /// the hops before it, as `X-Forwarded-For` lists them; an empty element is no hop (RFC 9110
    /// §5.6.1). A hop that cannot be parsed ends the search: whoever wrote it could have written
    /// anything before it.
    pub fn client_ip(&self, real_ip: Option<&str>, forwarded_for: &[&str]) -> Option<IpAddr> {
        let listed = forwarded_for.iter().rev().flat_map(|line| line.rsplit(','));
        let listed = listed.map(str::trim).filter(|hop| !hop.is_empty());
        let mut last = None;
        for hop in real_ip.map(str::trim).into_iter().chain(listed) {
            let Some(ip) = parse_ip(hop) else {
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
            IpAddr::V4(v4) => {
                push_v4(out, v4);
                Ok(())
            }
            IpAddr::V6(v6) if self.ipv6_prefix >= 128 => write!(out, "{v6}"),
            IpAddr::V6(v6) => {
                let mask = u128::MAX << (128 - u32::from(self.ipv6_prefix));
                let network = Ipv6Addr::from_bits(v6.to_bits() & mask);
                write!(out, "{network}/{}", self.ipv6_prefix)
            }
        };
    }
}

/// Writes an address, as its `Display` does. That serves all widths and fills, and takes several
/// times as long.
fn push_v4(out: &mut String, v4: Ipv4Addr) {
    for (place, octet) in v4.octets().into_iter().enumerate() {
        if place > 0 {
            out.push('.');
        }
        let digits = [octet / 100, octet / 10 % 10, octet % 10];
        let zeros = digits[..2].iter().take_while(|&&digit| digit == 0).count();
        out.extend(digits[zeros..].iter().map(|digit| char::from(b'0' + digit)));
    }
}

/// Parses an address as proxies write it: as [`parse_portless_ip`] does, and with a port too.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let (address, port) = match text.rsplit_once(':') {
        // Brackets, or one colon: an address and a port.
        Some((address, port)) if address.ends_with(']') || !address.contains(':') => {
            (address, Some(port))
        }
        _ => (text, None),
    };
    if port.is_some_and(|port| !is_port(port)) {
        return None;
    }
    parse_portless_ip(address)
}

/// Parses an address with or without brackets and zone. An IPv4-mapped IPv6 address is IPv4; a zone
/// (`fe80::1%eth0`, RFC 4007 §11) is this machine's own business, and is dropped.
///
/// So are addresses in rule files: a port there would look as if it were compared.
pub fn parse_portless_ip(text: &str) -> Option<IpAddr> {
    let address = match text.strip_prefix('[') {
        Some(rest) => IpAddr::V6(without_zone(rest.strip_suffix(']')?)?.parse().ok()?),
        None => without_zone(text)?.parse().ok()?,
    };
    Some(address.to_canonical())
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

/// Cuts the zone of an IPv6 address.
fn without_zone(text: &str) -> Option<&str> {
    match text.split_once('%') {
        None => Some(text),
        Some((address, zone)) => (address.contains(':') && !zone.is_empty()).then_some(address),
    }
}

/// A block of IPv4-mapped addresses (`::ffff:10.0.0.0/104`) as the block of IPv4 addresses that
/// [`parse_ip`] makes of them; any other block as it is.
pub fn unmapped(block: IpNet) -> IpNet {
    if let IpNet::V6(v6) = block
        && let Some(v4) = v6.network().to_ipv4_mapped()
        && let Some(prefix) = v6.prefix_len().checked_sub(96)
        && let Ok(net) = IpNet::new(v4.into(), prefix)
    {
        return net;
    }
    block
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
    fn an_address_is_written_as_everywhere() {
        for octet in 0..=255 {
            for octets in [
                [octet, 0, 10, 255],
                [7, octet, 100, octet],
                [0, 99, octet, 1],
            ] {
                let (v4, mut out) = (Ipv4Addr::from(octets), String::new());
                push_v4(&mut out, v4);
                assert_eq!(out, v4.to_string());
            }
        }
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
        for line in ["203.0.113.9,", ",203.0.113.9, ,", "203.0.113.9, 10.0.0.7,"] {
            let found = lan.client_ip(Some("10.0.0.5"), &[line, ""]);
            assert_eq!(found, ip("203.0.113.9"), "{line:?}");
        }
        assert_eq!(
            lan.client_ip(Some("::ffff:10.0.0.5"), &["203.0.113.9"]),
            ip("203.0.113.9")
        );
        assert_eq!(none.client_ip(Some(""), &["1.1.1.1"]), None);
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
            "::ffff:102:304",
        ] {
            assert_eq!(parse_ip(text), ip("1.2.3.4"), "{text}");
        }
        assert_eq!(parse_ip("[2001:db8::1]:443"), ip("2001:db8::1"));
        assert_eq!(parse_ip("[2001:db8::1]"), ip("2001:db8::1"));
        for text in ["fe80::1%eth0", "[fe80::1%eth0]", "[fe80::1%25eth0]:443"] {
            assert_eq!(parse_ip(text), ip("fe80::1"), "{text}");
        }
        for text in ["fe80::1", "[fe80::1]", "fe80::1%eth0", "[fe80::1%eth0]"] {
            assert_eq!(parse_portless_ip(text), ip("fe80::1"), "{text}");
        }
        assert_eq!(parse_portless_ip("::ffff:1.2.3.4"), ip("1.2.3.4"));
        for text in ["1.2.3.4:80", "[fe80::1]:443", "[fe80::1%eth0]:443"] {
            assert!(parse_ip(text).is_some(), "{text}");
            assert_eq!(parse_portless_ip(text), None, "{text}");
        }
        for text in [
            "",
            "[",
            "[]",
            "[::1",
            "::1]",
            "[1.2.3.4]",
            "1.2.3.4:",
            "1.2.3.4:x",
            "1.2.3.4:70000",
            "[::1]:x",
            "[::1]443",
            "[::1]:",
            "[[::1]]:80",
            "::1]:80",
            "[::1:80",
            "1.2.3.4%eth0",
            "::1%",
            "01.2.3.4",
            "1.2.3",
            "%eth0",
            "localhost",
            "unix:",
        ] {
            assert_eq!(parse_ip(text), None, "{text}");
            assert_eq!(parse_portless_ip(text), None, "{text}");
        }
    }

    #[test]
    fn a_mapped_block_is_one_of_ipv4_addresses() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        for (block, expected) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            assert_eq!(unmapped(net(block)), net(expected), "{block}");
        }
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
