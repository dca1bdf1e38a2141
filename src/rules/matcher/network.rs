//! Conditions on the client's address: sets of address blocks.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::list::list;
use crate::request::unmapped;

/// CIDR blocks, written out or in lists. Both are sorted, disjoint ranges, found by binary search:
/// ten thousand blocks cost hardly more than one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks {
    blocks: Vec<IpNet>,
    /// The ranges of `blocks`.
    ranges: Ranges,
    lists: Vec<Arc<NetworkList>>,
}

/// CIDR blocks from a file, which several conditions may share. Only their ranges are kept.
#[derive(Debug, PartialEq, Eq)]
pub struct NetworkList {
    name: Box<str>,
    blocks: usize,
    ranges: Ranges,
}

/// First and last addresses, as numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges {
    v4: Box<[Range<u32>]>,
    v6: Box<[Range<u128>]>,
}

type Range<N> = (N, N);

/// An address as a number.
trait Number: Copy + Ord {
    /// The next one; `None` after the last.
    fn next(self) -> Option<Self>;
}

impl Number for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// How many blocks and lists messages name.
const NAMED: usize = 3;

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(blocks: I) -> Self {
        Self::new(blocks.into_iter().collect(), Vec::new())
    }
}

impl Networks {
    /// The networks of these blocks and lists.
    pub fn new(mut blocks: Vec<IpNet>, lists: Vec<Arc<NetworkList>>) -> Self {
        for block in &mut blocks {
            *block = unmapped(*block);
        }
        Self {
            ranges: blocks.iter().copied().collect(),
            blocks,
            lists,
        }
    }

    /// Whether an address is in one of the blocks. IPv4-mapped IPv6 addresses must have been
    /// unmapped.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.parts().any(|ranges| ranges.contains(ip))
    }

    /// All blocks, as written; `None` if some are in lists.
    pub fn blocks(&self) -> Option<&[IpNet]> {
        self.lists.is_empty().then_some(&self.blocks)
    }

    /// Lists by their names and sizes, and blocks as written.
    pub fn items(&self) -> impl Iterator<Item = &dyn fmt::Display> {
        let lists = self.lists.iter().map(|list| -> &dyn fmt::Display { list });
        let blocks = self.blocks.iter();
        lists.chain(blocks.map(|block| -> &dyn fmt::Display { block }))
    }

    /// Whether there are no addresses, because all lists are empty.
    pub fn is_empty(&self) -> bool {
        self.parts().all(Ranges::is_empty)
    }

    /// Whether every address of `other` is in this set.
    pub fn covers(&self, other: &Self) -> bool {
        let v4: Vec<&[Range<u32>]> = self.parts().map(|part| &*part.v4).collect();
        let v6: Vec<&[Range<u128>]> = self.parts().map(|part| &*part.v6).collect();
        other
            .parts()
            .all(|part| covered(&v4, &part.v4) && covered(&v6, &part.v6))
    }

    fn parts(&self) -> impl Iterator<Item = &Ranges> {
        let lists = self.lists.iter().map(|list| &list.ranges);
        std::iter::once(&self.ranges).chain(lists)
    }
}

impl NetworkList {
    /// A list of these blocks. `name` is how messages name it.
    pub fn new(name: impl Into<Box<str>>, blocks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut count = 0;
        let blocks = blocks.into_iter().inspect(|_| count += 1);
        let ranges = blocks.collect();
        Self {
            name: name.into(),
            blocks: count,
            ranges,
        }
    }

    /// How many blocks there are, as written.
    pub fn len(&self) -> usize {
        self.blocks
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }
}

impl FromIterator<IpNet> for Ranges {
    fn from_iter<I: IntoIterator<Item = IpNet>>(blocks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for block in blocks {
            match unmapped(block) {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self {
            v4: merged(v4),
            v6: merged(v6),
        }
    }
}

impl Ranges {
    fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => end_of(&self.v4, v4.to_bits()).is_some(),
            IpAddr::V6(v6) => end_of(&self.v6, v6.to_bits()).is_some(),
        }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// The end of the range that an address is in.
fn end_of<N: Number>(ranges: &[Range<N>], address: N) -> Option<N> {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    let (_, end) = ranges.get(after.checked_sub(1)?)?;
    (address <= *end).then_some(*end)
}

/// Whether each of `theirs` is in the union of `ours`. Takes a step for each range at most.
fn covered<N: Number>(ours: &[&[Range<N>]], theirs: &[Range<N>]) -> bool {
    if ours.iter().any(|ranges| std::ptr::eq(*ranges, theirs)) {
        return true;
    }
    let end_of = |address| ours.iter().filter_map(|r| end_of(r, address)).max();
    let mut rest = theirs;
    while let [(first, last), ..] = rest {
        let mut covered = end_of(*first);
        // What one of ours leaves out, another one may begin with.
        while let Some(end) = covered
            && end < *last
        {
            covered = end.next().and_then(end_of);
        }
        let Some(end) = covered else { return false };
        rest = &rest[rest.partition_point(|(_, last)| *last <= end)..];
    }
    true
}

fn merged<N: Number>(mut ranges: Vec<Range<N>>) -> Box<[Range<N>]> {
    ranges.sort_unstable();
    ranges.dedup_by(|(first, last), (_, end)| {
        let touches = end.next().is_none_or(|next| *first <= next);
        if touches {
            *end = (*end).max(*last);
        }
        touches
    });
    ranges.into_boxed_slice()
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.items().collect::<Vec<_>>(), NAMED)
    }
}

/// `blocklist.txt (200000 blocks)`.
impl fmt::Display for NetworkList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.blocks == 1 { "" } else { "s" };
        write!(f, "{} ({} block{s})", self.name, self.blocks)
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
        assert_eq!(set.ranges.v4.len(), 3);
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

    /// A list answers as the same blocks written out, alone and beside others.
    #[test]
    fn lists_answer_as_their_blocks_do() {
        let list = |texts: &[&str]| {
            let blocks = texts.iter().map(|text| text.parse::<IpNet>().unwrap());
            Arc::new(NetworkList::new("b.txt", blocks))
        };
        let of = |blocks: &[&str], lists: &[&Arc<NetworkList>]| {
            let lists = lists.iter().map(|&list| Arc::clone(list)).collect();
            Networks::new(networks(blocks).blocks, lists)
        };
        let low = list(&["10.0.0.0/9", "::ffff:192.0.2.0/120", "2001:db8::/33"]);
        let high = list(&["10.128.0.0/9", "2001:db8:8000::/33", "0.0.0.0/32"]);
        let none = list(&[]);
        let both = of(&[], &[&low, &high]);
        let mixed = of(&["10.128.0.0/9"], &[&low, &none]);
        assert!(both.contains(ip("10.200.0.1")) && both.contains(ip("192.0.2.9")));
        assert!(mixed.contains(ip("10.1.0.1")) && !mixed.contains(ip("2001:db8:8000::")));
        // Neither list alone has all of a block.
        let wide = networks(&["10.0.0.0/8", "2001:db8::/32"]);
        assert!(both.covers(&wide) && both.covers(&mixed) && both.covers(&both));
        assert!(!of(&[], &[&low]).covers(&wide) && !mixed.covers(&wide));
        assert!(!wide.covers(&both) && wide.covers(&of(&["10.0.0.1/32"], &[&none])));
        let all = networks(&["0.0.0.0/0", "::/0"]);
        assert!(all.covers(&both) && !both.covers(&all));
        assert!(
            of(
                &["128.0.0.0/1", "8000::/1"],
                &[&list(&["0.0.0.0/1", "::/1"])]
            )
            .covers(&all)
        );

        let empty = of(&[], &[&none]);
        assert!(empty.is_empty() && !mixed.is_empty() && !empty.contains(ip("10.0.0.1")));
        assert_eq!(
            (both.blocks(), wide.blocks().map(<[_]>::len)),
            (None, Some(2))
        );
        assert_eq!(both.to_string(), "b.txt (3 blocks) or b.txt (3 blocks)");
        assert_eq!(
            mixed.to_string(),
            "b.txt (3 blocks), b.txt (0 blocks) or 10.128.0.0/9"
        );
    }

    /// Comparing two lists takes a step for each range, not for each pair of them.
    #[test]
    fn long_lists_are_compared_in_time() {
        let list = |step: u32| {
            let address = |i: u32| std::net::Ipv4Addr::from_bits(i * step * 16);
            let blocks = (0..200_000).map(|i| IpNet::new(address(i).into(), 32).unwrap());
            Networks::new(Vec::new(), vec![Arc::new(NetworkList::new("b", blocks))])
        };
        let (one, same, other) = (list(1), list(1), list(2));
        assert!(one.covers(&same) && !one.covers(&other) && !other.covers(&one));
    }
}
