//! Counters in this process: sharded, bounded, swept, with an injected clock.
//!
//! Each shard is a map behind a `std::sync::Mutex`. A check holds it for well under a microsecond
//! and never across an await. A batch locks the shards of all its keys in ascending order, which
//! makes it all or nothing without deadlocks.
//!
//! The number of keys is bounded. When the store is full, new clients share one *overflow* counter
//! per rule and limit: they are limited together rather than not at all, and no client that is
//! counted already is forgotten. Overflow counters may exceed the bound; there are only as many as
//! there are limits.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::{
    Batch, Charge, ChargeResult, Charging, Counted, ENFORCED, Store, StoreError,
    read::{Read, Reading, Reads},
};
use crate::{
    clock::Clock,
    counter_key::overflow,
    limit::{Outcome, State},
};

const SHARDS: usize = 64;

struct Entry {
    state: State,
    expires_us: u64,
}

/// A part of the counters.
#[derive(Default)]
struct Shard {
    counters: HashMap<Box<str>, Entry, RandomState>,
    swept_us: u64,
}

/// How often a full shard is searched for expired counters at most, in microseconds: under a flood
/// of new clients that search would be most of the work.
const SWEEP_PAUSE_US: u64 = 50_000;

/// Called with the key of the overflow counter that a client has to share.
pub type OnOverflow = Box<dyn Fn(&str) + Send + Sync>;

/// The store in memory.
pub struct MemoryStore {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    keys: AtomicUsize,
    max_keys: usize,
    next_swept: AtomicUsize,
    clock: Arc<dyn Clock>,
    on_overflow: OnOverflow,
}

impl MemoryStore {
    /// Creates a store for at most `max_keys` counters (about 250 bytes each).
    pub fn new(max_keys: usize, clock: Arc<dyn Clock>, on_overflow: OnOverflow) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            keys: AtomicUsize::new(0),
            max_keys,
            next_swept: AtomicUsize::new(0),
            clock,
            on_overflow,
        }
    }

    /// The number of counters held now.
    pub fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Removes expired counters from the next shard. 64 calls see every counter once.
    pub fn sweep(&self) {
        let index = self.next_swept.fetch_add(1, Ordering::Relaxed) % SHARDS;
        self.sweep_shard(&mut self.lock(index), self.clock.now_us());
    }

    fn sweep_shard(&self, shard: &mut Shard, now_us: u64) {
        shard.swept_us = now_us;
        let counters = &mut shard.counters;
        let before = counters.len();
        counters.retain(|_, entry| entry.expires_us > now_us);
        if counters.len() < counters.capacity() / 4 {
            counters.shrink_to_fit();
        }
        self.keys
            .fetch_sub(before - counters.len(), Ordering::Relaxed);
    }

    fn shard_of(&self, key: &str) -> usize {
        use std::hash::BuildHasher as _;
        // The map uses the lowest and highest bits of the same hash, so this takes bits from the
        // middle. Always below SHARDS.
        usize::try_from((self.hasher.hash_one(key) >> 32) % SHARDS as u64).unwrap_or(0)
    }

    /// A panic while a shard was locked leaves at worst one charge undone; the counters remain
    /// usable.
    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides about a batch and charges it, at the time of the injected clock.
    ///
    /// A limit whose edges this time lies outside of counts as one without edges: this serves as a
    /// fallback, which has to decide somehow.
    pub fn charge_now(&self, batch: &Batch) -> ChargeResult {
        let held = Held::lock(self, batch);
        self.decide(held, batch, self.clock.now_us())
    }

    fn decide(&self, mut held: Held<'_>, batch: &Batch, now_us: u64) -> ChargeResult {
        let mut denied = Vec::new();
        let mut pending: Vec<Pending> = Vec::with_capacity(batch.charges().len());
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(batch.charges().len());
        for charge in batch.charges() {
            let (next, outcome) = match &charge.counted {
                Counted::Limit(limit) => {
                    let mut slot = held.slot(batch, charge, now_us);
                    let step = limit.step(slot.state.take(), now_us, charge.cost);
                    let entry = Entry {
                        state: step.state,
                        expires_us: step.expires_us,
                    };
                    let next = Pending {
                        slot: Some(slot),
                        entry: Some(entry),
                    };
                    (next, step.outcome)
                }
                Counted::Ban { ban, span } => {
                    let covered = pending.len() - span..pending.len();
                    let fits = outcomes[covered.clone()].iter().all(|o| o.allowed);
                    let shares = pending[covered].iter().any(Pending::is_shared);
                    let slot = held.ban_slot(batch, charge, now_us, shares, fits);
                    let state = slot.as_ref().and_then(|slot| match slot.state {
                        Some(State::Ban(state)) => Some(state),
                        _ => None,
                    });
                    let step = ban.step(state, now_us, fits || slot.is_none());
                    let entry = step.write.map(|(state, expires_us)| Entry {
                        state: State::Ban(state),
                        expires_us,
                    });
                    (Pending { slot, entry }, step.outcome)
                }
            };
            if !outcome.allowed {
                denied.push(charge.group);
            }
            outcomes.push(outcome);
            pending.push(next);
        }
        let admitted = !denied.contains(&ENFORCED);
        for (charge, next) in batch.charges().iter().zip(&mut pending) {
            // A ban counts denials: what it has to store is stored in any case.
            let is_charged = match charge.counted {
                Counted::Limit(_) => admitted && !denied.contains(&charge.group),
                Counted::Ban { .. } => true,
            };
            if is_charged && let (Some(slot), Some(entry)) = (&next.slot, next.entry.take()) {
                held.keep(batch.key(charge), slot, entry);
            }
        }
        drop(held);
        for (charge, next) in batch.charges().iter().zip(&pending) {
            if charge.limit().is_some()
                && let Some(key) = next.slot.as_ref().and_then(|p| p.overflow.as_ref())
            {
                (self.on_overflow)(key);
            }
        }
        ChargeResult {
            admitted,
            outcomes,
            shared: Vec::new(),
        }
    }
}

impl Store for MemoryStore {
    fn charge<'a>(&'a self, batch: &'a Batch, _deadline: Instant) -> Charging<'a> {
        let held = Held::lock(self, batch);
        let now_us = self.clock.now_us();
        let covers = |charge: &Charge| charge.limit().is_none_or(|limit| limit.covers(now_us));
        let verdict = if batch.charges().iter().all(covers) {
            Ok(self.decide(held, batch, now_us))
        } else {
            Err(StoreError::Clock)
        };
        Box::pin(std::future::ready(verdict))
    }

    fn now_us(&self) -> u64 {
        self.clock.now_us()
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

impl Read for MemoryStore {
    fn read<'a>(&'a self, batch: &'a Batch) -> Reads<'a> {
        let now_us = self.clock.now_us();
        let state_of = |key: &str| {
            let shard = self.lock(self.shard_of(key));
            let entry = shard.counters.get(key)?;
            (entry.expires_us > now_us).then(|| entry.state.clone())
        };
        let states = batch.charges().iter().map(|charge| {
            let key = batch.key(charge);
            // A client without a counter shares one if there is no room.
            state_of(key).or_else(|| {
                let full = self.keys() >= self.max_keys && charge.limit().is_some();
                full.then(|| state_of(&overflow(key)))?
            })
        });
        let states = states.collect();
        Box::pin(std::future::ready(Ok(Reading {
            now_us,
            states,
            shared: Vec::new(),
        })))
    }
}

/// The place of a charge's counter.
struct Slot {
    shard: usize,
    state: Option<State>,
    /// The key of the shared counter, if there is no room for the client's own.
    overflow: Option<Box<str>>,
}

/// The outcome of a charge if the batch is admitted.
struct Pending {
    /// `None` for a ban without room.
    slot: Option<Slot>,
    /// `None` leaves what is stored.
    entry: Option<Entry>,
}

impl Pending {
    fn is_shared(&self) -> bool {
        self.slot.as_ref().is_some_and(|p| p.overflow.is_some())
    }
}

/// The shards of one batch, locked in ascending order.
struct Held<'a> {
    store: &'a MemoryStore,
    shards: Vec<(usize, MutexGuard<'a, Shard>)>,
    /// Counters that the charges before this one will add if the batch is admitted.
    new_keys: usize,
}

impl<'a> Held<'a> {
    fn lock(store: &'a MemoryStore, batch: &Batch) -> Self {
        let mut indices: Vec<usize> = Vec::with_capacity(2 * batch.charges().len());
        let full = store.keys() + batch.charges().len() > store.max_keys;
        for charge in batch.charges() {
            let key = batch.key(charge);
            indices.push(store.shard_of(key));
            if full {
                indices.push(store.shard_of(&overflow(key)));
            }
        }
        indices.sort_unstable();
        indices.dedup();
        Self {
            store,
            shards: indices.into_iter().map(|i| (i, store.lock(i))).collect(),
            new_keys: 0,
        }
    }

    fn shard(&mut self, index: usize) -> Option<&mut Shard> {
        self.shards
            .iter_mut()
            .find(|(i, _)| *i == index)
            .map(|(_, shard)| &mut **shard)
    }

    fn slot(&mut self, batch: &Batch, charge: &Charge, now_us: u64) -> Slot {
        let key = batch.key(charge);
        let store = self.store;
        let index = store.shard_of(key);
        if let Some(state) = self.find(index, key, now_us) {
            return Slot {
                shard: index,
                state,
                overflow: None,
            };
        }
        if self.is_full(index, now_us)
            && let Some(slot) = self.overflow_slot(key, now_us)
        {
            return slot;
        }
        self.new_keys += 1;
        Slot {
            shard: index,
            state: None,
            overflow: None,
        }
    }

    /// The slot of a ban. `None` if there is no room, or if a counter of its rule is shared: no
    /// client is banned for what others do.
    fn ban_slot(
        &mut self,
        batch: &Batch,
        charge: &Charge,
        now_us: u64,
        shares: bool,
        fits: bool,
    ) -> Option<Slot> {
        let key = batch.key(charge);
        let index = self.store.shard_of(key);
        let state = self.find(index, key, now_us);
        // Only a denial takes up room.
        if state.is_none() && !fits {
            if shares || self.is_full(index, now_us) {
                return None;
            }
            self.new_keys += 1;
        }
        Some(Slot {
            shard: index,
            state: state.flatten(),
            overflow: None,
        })
    }

    /// Whether there is no room for another counter, after expired ones in its shard were removed.
    fn is_full(&mut self, index: usize, now_us: u64) -> bool {
        let store = self.store;
        if store.keys() + self.new_keys >= store.max_keys
            && let Some(shard) = self.shard(index)
            && now_us.abs_diff(shard.swept_us) >= SWEEP_PAUSE_US
        {
            store.sweep_shard(shard, now_us);
        }
        store.keys() + self.new_keys >= store.max_keys
    }

    /// The overflow counter. `None` if the store filled up after the shards were chosen, and its
    /// shard is not among them: this one batch may then exceed the bound.
    fn overflow_slot(&mut self, key: &str, now_us: u64) -> Option<Slot> {
        let overflow = overflow(key);
        let shard = self.store.shard_of(&overflow);
        self.shard(shard)?;
        Some(Slot {
            shard,
            state: self.find(shard, &overflow, now_us).flatten(),
            overflow: Some(overflow.into()),
        })
    }

    /// `None` if there is no such counter; `Some(None)` if it has expired, and its slot can be
    /// reused.
    #[expect(clippy::option_option, reason = "absent and expired are two things")]
    fn find(&mut self, shard: usize, key: &str, now_us: u64) -> Option<Option<State>> {
        let entry = self.shard(shard)?.counters.get(key)?;
        Some((entry.expires_us > now_us).then(|| entry.state.clone()))
    }

    fn keep(&mut self, key: &str, slot: &Slot, entry: Entry) {
        let store = self.store;
        let Some(shard) = self.shard(slot.shard) else {
            return;
        };
        let key = slot.overflow.as_deref().unwrap_or(key);
        if let Some(old) = shard.counters.get_mut(key) {
            *old = entry;
        } else {
            shard.counters.insert(key.into(), entry);
            store.keys.fetch_add(1, Ordering::Relaxed);
        }
    }
}
