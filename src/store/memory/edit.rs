//! Counters in memory that people change.

use std::sync::atomic::Ordering;

use super::{Entry, MemoryStore};
use crate::{
    limit::{State, ban},
    store::{Announced, Batch, Edit, Editing, Page, Place, StoreError},
};

impl Edit for MemoryStore {
    fn remove<'a>(&'a self, keys: &'a [String]) -> Editing<'a, u64> {
        let mut removed = 0;
        for key in keys {
            let id = self.id(key);
            removed += u64::from(self.lock(id.shard()).counters.remove(&id).is_some());
        }
        let count = usize::try_from(removed).unwrap_or(0);
        self.keys.fetch_sub(count, Ordering::Relaxed);
        known(Ok(removed))
    }

    fn ban<'a>(&'a self, key: &'a str, for_us: u64) -> Editing<'a, ()> {
        let now_us = self.clock.now_us();
        let state = ban::State::until(now_us, for_us);
        let entry = Entry::new(State::Ban(state), state.until_us);
        let id = self.id(key);
        self.keep(&mut self.lock(id.shard()), id, entry);
        known(Ok(()))
    }

    fn grant<'a>(&'a self, batch: &'a Batch, more: u64) -> Editing<'a, ()> {
        let now_us = self.clock.now_us();
        for charge in batch.charges() {
            let Some(limit) = charge.limit() else {
                continue;
            };
            let id = self.id(batch.key(charge));
            let mut shard = self.lock(id.shard());
            let state = shard.counters.get(&id);
            let state = state.and_then(|entry| entry.state(now_us));
            let (state, expires_us) = limit.grant(state, now_us, more);
            self.keep(&mut shard, id, Entry::new(state, expires_us));
        }
        known(Ok(()))
    }

    /// There are no others.
    fn announce(&self) -> Editing<'_, Announced> {
        known(Ok(Announced { missing: 0 }))
    }

    fn page<'a>(&'a self, _prefix: &'a str, _from: Place) -> Editing<'a, Page> {
        known(Err(StoreError::Refused(
            "counters in memory cannot be listed, because their keys are kept as hashes. `get` shows those of one caller, and /offenders who is denied most; with Redis, all can be listed"
                .to_owned(),
        )))
    }
}

fn known<'a, T: Send + 'a>(result: Result<T, StoreError>) -> Editing<'a, T> {
    Box::pin(std::future::ready(result))
}
