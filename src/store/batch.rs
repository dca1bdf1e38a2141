//! A batch: everything that one request is charged, decided by the store in one call.

use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use crate::limit::{Limit, ban::Ban, new_keys};

/// The group of charges that can deny a request. Every shadow rule is a group of its own, and so is
/// every limit that is tried out.
pub const ENFORCED: u32 = 0;

/// From here on, groups are those of limits that are tried out.
pub const CANDIDATES: u32 = 1 << 31;

/// The bytes that the keys of most requests fit into.
const USUAL_KEYS: usize = 128;

/// What a charge counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Admitted requests, against a limit.
    Limit(Limit),
    /// Denied requests, for a ban.
    Ban {
        /// The ban.
        ban: Ban,
        /// How many charges before this one are its rule's limits: the ban counts when one of them
        /// does not fit.
        span: usize,
    },
}

/// A limit to charge, or a ban to observe, for one client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Charge {
    key: Range<usize>,
    /// The limit, or the ban.
    pub counted: Counted,
    /// The amount to charge, at least 1. Bans ignore it.
    pub cost: u64,
    /// [`ENFORCED`], or a number of its own for each shadow rule, and from [`CANDIDATES`] on, for
    /// each limit that is tried out.
    pub group: u32,
    /// How many counters of the rule may be new per second; 0: any number.
    pub max_new_keys: u32,
}

/// All charges of one request. Their keys share one buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Batch {
    keys: String,
    charges: SmallVec<[Charge; 2]>,
}

impl Charge {
    /// The limit; `None` for a ban.
    pub const fn limit(&self) -> Option<&Limit> {
        match &self.counted {
            Counted::Limit(limit) => Some(limit),
            Counted::Ban { .. } => None,
        }
    }

    /// Whether it is that of a limit that is tried out: it is charged with requests that are
    /// admitted, and a denied one need not ask for it.
    pub const fn is_candidate(&self) -> bool {
        self.group >= CANDIDATES
    }
}

impl Batch {
    /// Adds a charge. `write_key` appends its key, which must differ from all others in the batch.
    pub fn push(
        &mut self,
        limit: Limit,
        cost: u64,
        group: u32,
        write_key: impl FnOnce(&mut String),
    ) {
        self.add(Counted::Limit(limit), cost, group, write_key);
    }

    /// Adds a ban after the charges of its rule; it covers the `span` charges before it.
    ///
    /// `write_key` appends its key, which ends with [`BAN_SUFFIX`](crate::counter_key::BAN_SUFFIX)
    /// or [`SHADOW_BAN_SUFFIX`](crate::counter_key::SHADOW_BAN_SUFFIX).
    pub fn push_ban(
        &mut self,
        ban: Ban,
        span: usize,
        group: u32,
        write_key: impl FnOnce(&mut String),
    ) {
        let span = span.min(self.charges.len());
        self.add(Counted::Ban { ban, span }, 1, group, write_key);
    }

    fn add(
        &mut self,
        counted: Counted,
        cost: u64,
        group: u32,
        write_key: impl FnOnce(&mut String),
    ) {
        if self.keys.capacity() == 0 {
            self.keys.reserve(USUAL_KEYS);
        }
        let start = self.keys.len();
        write_key(&mut self.keys);
        self.charges.push(Charge {
            key: start..self.keys.len(),
            counted,
            cost,
            group,
            max_new_keys: 0,
        });
    }

    /// A batch of one charge, with this key in place of its own.
    pub fn alone(charge: &Charge, key: &str) -> Self {
        let charge = Charge {
            key: 0..key.len(),
            ..charge.clone()
        };
        Self {
            keys: key.to_owned(),
            charges: smallvec![charge],
        }
    }

    /// Says how many counters of the rule may be new per second (0: any number) to which the limits
    /// from place `start` on belong. Counters that live briefly are not among them.
    pub fn set_max_new_keys(&mut self, start: usize, max: u32) {
        for charge in &mut self.charges[start..] {
            let lasts = charge.limit().is_some_and(new_keys::lasts);
            charge.max_new_keys = if lasts { max } else { 0 };
        }
    }

    /// The places of other charges of the same rule for the same client.
    pub fn siblings(&self, place: usize) -> impl Iterator<Item = usize> {
        let client = |charge: &Charge| self.key(charge).split_once('}').map(|(client, _)| client);
        let of = client(&self.charges[place]);
        let others = self.charges.iter().enumerate();
        others.filter_map(move |(other, charge)| {
            (other != place && of.is_some() && client(charge) == of).then_some(other)
        })
    }

    /// The charges, in the order in which they were added.
    pub fn charges(&self) -> &[Charge] {
        &self.charges
    }

    /// The key of one of this batch's charges.
    pub fn key(&self, charge: &Charge) -> &str {
        &self.keys[charge.key.clone()]
    }

    /// Whether there is nothing to charge.
    pub fn is_empty(&self) -> bool {
        self.charges.is_empty()
    }
}
