//! Conditions on the client's address: sets of address blocks.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use super::list::list;
use crate::request::unmapped;

/// CIDR blocks as sorted, disjoint ranges, found by binary search: ten thousand blocks cost hardly
/// more than one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks {
    v4: Ranges,
    v6: Ranges,
    blocks: Vec<IpNet>,
}

/// First and last addresses, as numbers.
type Ranges = Vec<(u128, u128)>;

/// How many blocks messages list.
const NAMED: usize = 3;

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(blocks: I) -> Self {
        let mut set = Self {
            v4: Vec::new(),
            v6: Vec::new(),
            blocks: blocks.into_iter().map(unmapped).collect(),
        };
        for block in &set.blocks {
            let range = (number(block.network()), number(block.broadcast()));
            match block {
                IpNet::V4(_) => set.v4.push(range),
                IpNet::V6(_) => set.v6.push(range),
            }
        }
        set.v4 = merged(set.v4);
        set.v6 = merged(set.v6);
        set
    }
}

impl Networks {
    /// Whether an address is in one of the blocks. IPv4-mapped IPv6 addresses must have been
    /// unmapped.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ranges = if ip.is_ipv4() { &self.v4 } else { &self.v6 };
        range_with(ranges, number(ip)).is_some()
    }

    /// The blocks as written.
    pub fn blocks(&self) -> &[IpNet] {
        &self.blocks
    }

    /// Whether every address of `other` is in this set.
    pub fn covers(&self, other: &Self) -> bool {
        let within = |ours: &Ranges, theirs: &Ranges| {
            theirs.iter().all(|(first, last)| {
                range_with(ours, *first).is_some_and(|(_, our_last)| last <= our_last)
            })
        };
        within(&self.v4, &other.v4) && within(&self.v6, &other.v6)
    }
}

fn range_with(ranges: &Ranges, address: u128) -> Option<&(u128, u128)> {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    let range = ranges.get(after.checked_sub(1)?)?;
    (address <= range.1).then_some(range)
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn merged(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let mut out: Ranges = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => out.push((first, last)),
        }
    }
    out
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.blocks, NAMED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        texts
            .iter()
            .map(|text| text.parse::<IpNet>().unwrap())
            .collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_found_in_their_blocks() {
        let set = networks(&[
            "10.0.0.0/8",
            "192.0.2.1/32",
            "10.1.0.0/16",
            "11.0.0.0/8",
            "2001:db8::/32",
            "::ffff:172.16.0.0/108",
        ]);
        assert_eq!(set.v4.len(), 3);
        for text in [
            "10.0.0.0",
            "10.255.255.255",
            "11.255.255.255",
            "192.0.2.1",
            "172.31.0.1",
            "2001:db8:ffff::1",
        ] {
            assert!(set.contains(ip(text)), "{text}");
        }
        for text in [
            "9.255.255.255",
            "12.0.0.0",
            "192.0.2.2",
            "0.0.0.0",
            "::",
            "2001:db9::",
            "::10.0.0.1",
        ] {
            assert!(!set.contains(ip(text)), "{text}");
        }
        let all = networks(&["0.0.0.0/0", "::/0"]);
        assert!(all.contains(ip("255.255.255.255")) && all.contains(ip("ffff::")));
        assert!(all.covers(&set) && !set.covers(&all) && set.covers(&set));
        assert!(networks(&["10.0.0.0/9", "10.128.0.0/9"]).covers(&networks(&["10.0.0.0/8"])));
        assert!(!networks(&["::/0"]).contains(ip("10.0.0.1")));
    }

    #[test]
    fn a_long_list_answers_as_its_blocks_do() {
        let blocks: Vec<IpNet> = (0..10_000_u32)
            .map(|i| {
                let address = std::net::Ipv4Addr::from_bits(i.wrapping_mul(2_654_435_761));
                IpNet::new(address.into(), 16 + u8::try_from(i % 17).unwrap())
                    .unwrap()
                    .trunc()
            })
            .collect();
        let set: Networks = blocks.iter().copied().collect();
        for i in 0..2_000_u32 {
            let ip = std::net::Ipv4Addr::from_bits(i.wrapping_mul(40_503_001)).into();
            let linear = blocks.iter().any(|block| block.contains(&ip));
            assert_eq!(set.contains(ip), linear, "{ip}");
        }
        assert!(set.to_string().ends_with("and 9997 more"), "{set}");
    }
}
