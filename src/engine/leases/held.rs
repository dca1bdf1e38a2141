//! How much of each counter is charged ahead, and may still be used.

use std::{
    collections::HashMap,
    hash::BuildHasher as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use foldhash::fast::RandomState;

use crate::store::{Batch, Charge};

const SHARDS: usize = 16;

/// What is held of each counter by this process, whichever callers hold it: requests that differ in
/// cost or in other limits share counters.
pub(super) struct Held {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

/// How much is held, by the counter's key.
type Shard = HashMap<Box<str>, u64, RandomState>;

impl Held {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
        }
    }

    /// Holds as many of `times` as fit under the `caps`, one for each charge; returns how many.
    pub(super) fn hold(&self, batch: &Batch, caps: &[u64], times: u32) -> u32 {
        let charges = batch.charges();
        let mut held = times;
        for (place, (charge, cap)) in charges.iter().zip(caps).enumerate() {
            let fits = self.hold_one(batch, charge, *cap, held);
            // Those before it have too many.
            for before in &charges[..place] {
                self.release_one(batch, before, held - fits);
            }
            held = fits;
        }
        held
    }

    /// Holds so many no longer.
    pub(super) fn release(&self, batch: &Batch, times: u32) {
        for charge in batch.charges() {
            self.release_one(batch, charge, times);
        }
    }

    fn hold_one(&self, batch: &Batch, charge: &Charge, cap: u64, times: u32) -> u32 {
        let key = batch.key(charge);
        let mut shard = self.shard(key);
        let held = shard.get(key).copied().unwrap_or(0);
        let room = cap.saturating_sub(held) / charge.cost.max(1);
        let fits = u32::try_from(room).unwrap_or(u32::MAX).min(times);
        if fits > 0 {
            *shard.entry(key.into()).or_default() += u64::from(fits) * charge.cost;
        }
        fits
    }

    fn release_one(&self, batch: &Batch, charge: &Charge, times: u32) {
        if times == 0 {
            return;
        }
        let key = batch.key(charge);
        let mut shard = self.shard(key);
        if let Some(held) = shard.get_mut(key) {
            *held = held.saturating_sub(u64::from(times) * charge.cost);
            if *held == 0 {
                shard.remove(key);
            }
        }
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let shard = self.hasher.hash_one(key) % SHARDS as u64;
        // Below the number of shards, so it fits.
        let shard = &self.shards[usize::try_from(shard).unwrap_or(0)];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limit::{Algorithm, Limit},
        store::ENFORCED,
    };

    fn batch(keys: &[&str], cost: u64) -> Batch {
        let limit = Limit::new(Algorithm::FixedWindow, 100, 1_000_000, None).unwrap();
        let mut batch = Batch::default();
        for key in keys {
            batch.push(limit, cost, ENFORCED, |out| out.push_str(key));
        }
        batch
    }

    #[test]
    fn a_counter_is_held_up_to_its_cap_whoever_holds_it() {
        let held = Held::new();
        let (one, three) = (batch(&["a"], 1), batch(&["a"], 3));
        assert_eq!(held.hold(&one, &[10], 4), 4);
        assert_eq!(held.hold(&three, &[10], 9), 2);
        assert_eq!(held.hold(&one, &[10], 9), 0);
        held.release(&three, 1);
        assert_eq!(held.hold(&one, &[10], 9), 3);
        held.release(&one, 7);
        held.release(&three, 1);
        assert!(
            held.shards
                .iter()
                .all(|shard| shard.lock().unwrap().is_empty())
        );
    }

    #[test]
    fn the_smallest_cap_holds_for_all_counters() {
        let held = Held::new();
        let both = batch(&["a", "b"], 2);
        assert_eq!(held.hold(&both, &[20, 7], 50), 3);
        assert_eq!(held.hold(&batch(&["a"], 1), &[20], 50), 14);
        assert_eq!(held.hold(&batch(&["b"], 1), &[20], 50), 14);
    }
}
