//! Rules by blocks of addresses.

use std::{collections::HashMap, net::IpAddr};

use foldhash::fast::RandomState;
use ipnet::IpNet;

use super::ids::{Candidates, RuleIds};

/// Rules by blocks of addresses.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocks {
    rules: HashMap<IpNet, RuleIds, RandomState>,
    /// The prefix lengths in use, for IPv4 and IPv6.
    lengths: (Vec<u8>, Vec<u8>),
}

impl Blocks {
    /// The list of rules for a block.
    pub(super) fn place(&mut self, block: IpNet) -> &mut RuleIds {
        let lengths = match block {
            IpNet::V4(_) => &mut self.lengths.0,
            IpNet::V6(_) => &mut self.lengths.1,
        };
        if !lengths.contains(&block.prefix_len()) {
            lengths.push(block.prefix_len());
        }
        self.rules.entry(block).or_default()
    }

    /// Adds the rules of all blocks that contain an address.
    pub(super) fn collect(&self, ip: IpAddr, found: &mut Candidates) {
        let lengths = match ip {
            IpAddr::V4(_) => &self.lengths.0,
            IpAddr::V6(_) => &self.lengths.1,
        };
        for length in lengths {
            if let Ok(block) = IpNet::new(ip, *length)
                && let Some(rules) = self.rules.get(&block.trunc())
            {
                found.extend_from_slice(rules);
            }
        }
    }
}
