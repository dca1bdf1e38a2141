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
//!
//! New counters of a rule also need room in its [budget](crate::limit::new_keys). Without, they
//! share the same overflow counter.
//!
//! Keys are not kept, only 128 bits of a hash of each, and states are packed (`packed.rs`). The
//! hash is keyed, with a key that is drawn when the process starts and never leaves it: whoever
//! found two keys with one hash could spend another's quota.

mod edit;

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, BuildHasherDefault, Hash, Hasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    Batch, Charge, ChargeResult, Charging, Counted, ENFORCED, Edit, Store, StoreError,
    budgets::Budgets,
    packed::Packed,
    read::{Read, Reading, Reads},
};
use crate::{
    clock::Clock,
    counter_key::{overflow, rule_of},
    limit::{Outcome, State},
};

const SHARDS: usize = 64;

/// As many charges as most requests have: for those nothing is allocated.
const FEW: usize = 4;

/// What is stored of a counter.
struct Entry {
    packed: Packed,
    expires_us: u64,
}

impl Entry {
    fn new(state: State, expires_us: u64) -> Self {
        Self {
            packed: Packed::new(state, expires_us),
            expires_us,
        }
    }

    /// The state, unless it has expired.
    fn state(&self, now_us: u64) -> Option<State> {
        (self.expires_us > now_us).then(|| self.packed.state(self.expires_us))
    }
}

/// What a counter is found by: two halves of 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id([u64; 2]);

impl Id {
    /// `SipHash` is a pseudorandom function, so the hashes of a key and of the key with something
    /// before it are as good as those of two functions.
    fn new(hasher: &RandomState, key: &str) -> Self {
        Self([hasher.hash_one(key), hasher.hash_one((1_u8, key))])
    }

    /// Always below [`SHARDS`].
    fn shard(self) -> usize {
        usize::try_from(self.0[1] % SHARDS as u64).unwrap_or(0)
    }
}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// Hands on what is a hash already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A part of the counters.
#[derive(Default)]
struct Shard {
    counters: HashMap<Id, Entry, BuildHasherDefault<Hashed>>,
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
    /// Locked after the shards.
    budgets: Budgets,
}

impl MemoryStore {
    /// Creates a store for at most `max_keys` counters: up to 150 bytes each, and logs 16 bytes
    /// more for each request in them.
    pub fn new(max_keys: usize, clock: Arc<dyn Clock>, on_overflow: OnOverflow) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            keys: AtomicUsize::new(0),
            max_keys,
            next_swept: AtomicUsize::new(0),
            clock,
            on_overflow,
            budgets: Budgets::default(),
        }
    }

    /// The number of counters held now.
    pub fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Removes expired counters from the next shard. 64 calls see every counter once.
    pub fn sweep(&self) {
        let index = self.next_swept.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let now_us = self.clock.now_us();
        self.sweep_shard(&mut self.lock(index), now_us);
        self.budgets.sweep(now_us);
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

    fn id(&self, key: &str) -> Id {
        Id::new(&self.hasher, key)
    }

    fn keep(&self, shard: &mut Shard, id: Id, entry: Entry) {
        if shard.counters.insert(id, entry).is_none() {
            self.keys.fetch_add(1, Ordering::Relaxed);
        }
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
        let held = Held::lock(self, batch, false);
        self.decide(held, batch, self.clock.now_us())
    }

    fn decide<'a>(&'a self, mut held: Held<'a>, batch: &Batch, now_us: u64) -> ChargeResult {
        loop {
            if let Some(result) = self.try_to_decide(held, batch, now_us) {
                return result;
            }
            // With the overflow counters at hand, it decides.
            held = Held::lock(self, batch, true);
        }
    }

    /// `None` if an overflow counter is needed that is not at hand; then nothing was charged.
    fn try_to_decide(
        &self,
        mut held: Held<'_>,
        batch: &Batch,
        now_us: u64,
    ) -> Option<ChargeResult> {
        let mut denied = SmallVec::<[u32; FEW]>::new();
        let mut pending = SmallVec::<[Pending; FEW]>::new();
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(batch.charges().len());
        for (index, charge) in batch.charges().iter().enumerate() {
            let id = held.ids[index];
            let (next, outcome) = match &charge.counted {
                Counted::Limit(limit) => {
                    let mut slot = held.slot(id, batch, index, now_us);
                    let step = limit.step(slot.state.take(), now_us, charge.cost);
                    let next = Pending {
                        slot: Some(slot),
                        write: Some((step.state, step.expires_us)),
                    };
                    (next, step.outcome)
                }
                Counted::Ban { ban, span } => {
                    let covered = pending.len() - span..pending.len();
                    let fits = outcomes[covered.clone()].iter().all(|o| o.allowed);
                    let shares = pending[covered].iter().any(Pending::is_shared);
                    let slot = held.ban_slot(id, now_us, shares, fits);
                    let state = slot.as_ref().and_then(|slot| match slot.state {
                        Some(State::Ban(state)) => Some(state),
                        _ => None,
                    });
                    let step = ban.step(state, now_us, fits || slot.is_none());
                    let write = step
                        .write
                        .map(|(state, expires_us)| (State::Ban(state), expires_us));
                    (Pending { slot, write }, step.outcome)
                }
            };
            if !outcome.allowed {
                denied.push(charge.group);
            }
            outcomes.push(outcome);
            pending.push(next);
        }
        if held.lacks_overflow {
            return None;
        }
        let admitted = !denied.contains(&ENFORCED);
        for (charge, next) in batch.charges().iter().zip(&mut pending) {
            // A ban counts denials: what it has to store is stored in any case.
            let is_charged = match charge.counted {
                Counted::Limit(_) => admitted && !denied.contains(&charge.group),
                Counted::Ban { .. } => true,
            };
            if is_charged
                && let (Some(slot), Some((state, expires_us))) = (&next.slot, next.write.take())
            {
                if slot.is_budgeted {
                    let rule = rule_of(batch.key(charge));
                    self.budgets.spend(rule, charge.max_new_keys, now_us);
                }
                held.keep(slot.id, Entry::new(state, expires_us));
            }
        }
        drop(held);
        let mut shared = Vec::new();
        for (place, (charge, next)) in batch.charges().iter().zip(&pending).enumerate() {
            match next.slot.as_ref().and_then(|slot| slot.overflow.as_ref()) {
                Some(Shared::Full(key)) if charge.limit().is_some() => (self.on_overflow)(key),
                Some(Shared::Budget) => shared.push(place),
                _ => {}
            }
        }
        Some(ChargeResult {
            admitted,
            outcomes,
            shared,
        })
    }
}

impl Store for MemoryStore {
    fn charge<'a>(&'a self, batch: &'a Batch, _deadline: Instant) -> Charging<'a> {
        let held = Held::lock(self, batch, false);
        let now_us = self.clock.now_us();
        let covers = |charge: &Charge| charge.limit().is_none_or(|limit| limit.covers(now_us));
        let verdict = if batch.charges().iter().all(covers) {
            Ok(self.decide(held, batch, now_us).into())
        } else {
            Err(StoreError::Clock)
        };
        Charging::known(verdict)
    }

    fn now_us(&self) -> u64 {
        self.clock.now_us()
    }

    fn edit(&self) -> Option<&dyn Edit> {
        Some(self)
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

impl Read for MemoryStore {
    fn read<'a>(&'a self, batch: &'a Batch) -> Reads<'a> {
        let now_us = self.clock.now_us();
        let state_of = |key: &str| {
            let id = self.id(key);
            self.lock(id.shard()).counters.get(&id)?.state(now_us)
        };
        let charges = batch.charges();
        let mut states: Vec<Option<State>> = charges
            .iter()
            .map(|charge| state_of(batch.key(charge)))
            .collect();
        let is_full = self.keys() >= self.max_keys;
        let has_no_room = |(place, charge): &(usize, &Charge)| {
            let key = batch.key(charge);
            let is_known = || batch.siblings(*place).any(|other| states[other].is_some());
            let has_budget = || {
                self.budgets
                    .allow(rule_of(key), charge.max_new_keys, 0, now_us)
            };
            states[*place].is_none()
                && charge.limit().is_some()
                && (is_full || !(has_budget() || is_known()))
        };
        // A client without a counter shares one if there is no room.
        let shared = charges.iter().enumerate().filter(has_no_room);
        let shared: Vec<usize> = shared.map(|(place, _)| place).collect();
        for &place in &shared {
            states[place] = state_of(&overflow(batch.key(&charges[place])));
        }
        Box::pin(std::future::ready(Ok(Reading {
            now_us,
            states,
            shared,
        })))
    }
}

/// The place of a charge's counter.
struct Slot {
    id: Id,
    state: Option<State>,
    /// Why it is the shared counter, if there is no room for the client's own.
    overflow: Option<Shared>,
    /// Whether it is new, and takes one from the rule's budget.
    is_budgeted: bool,
}

/// Why clients share a counter.
enum Shared {
    /// The store is full; the key of the counter.
    Full(Box<str>),
    /// The rule's budget of new counters is spent.
    Budget,
}

/// The outcome of a charge if the batch is admitted.
struct Pending {
    /// `None` for a ban without room.
    slot: Option<Slot>,
    /// The next state and when it expires; `None` leaves what is stored.
    write: Option<(State, u64)>,
}

impl Pending {
    fn is_shared(&self) -> bool {
        self.slot.as_ref().is_some_and(|p| p.overflow.is_some())
    }
}

/// The shards of one batch, locked in ascending order.
struct Held<'a> {
    store: &'a MemoryStore,
    shards: SmallVec<[(usize, MutexGuard<'a, Shard>); FEW]>,
    /// What the charges count in, in the order of the batch.
    ids: SmallVec<[Id; FEW]>,
    /// Counters that the charges before this one will add if the batch is admitted.
    new_keys: usize,
    /// How many of them take one from their rule's budget, by rule.
    spent: Vec<(String, u64)>,
    has_overflow: bool,
    lacks_overflow: bool,
}

impl<'a> Held<'a> {
    /// Locks the shards of all counters, and if asked for or if the store is nearly full, those of
    /// the overflow counters.
    fn lock(store: &'a MemoryStore, batch: &Batch, with_overflow: bool) -> Self {
        let mut indices = SmallVec::<[usize; FEW]>::new();
        let mut ids = SmallVec::<[Id; FEW]>::new();
        let has_overflow = with_overflow || store.keys() + batch.charges().len() > store.max_keys;
        for charge in batch.charges() {
            let key = batch.key(charge);
            let id = store.id(key);
            ids.push(id);
            indices.push(id.shard());
            if has_overflow {
                indices.push(store.id(&overflow(key)).shard());
            }
        }
        indices.sort_unstable();
        indices.dedup();
        Self {
            store,
            shards: indices.into_iter().map(|i| (i, store.lock(i))).collect(),
            ids,
            new_keys: 0,
            spent: Vec::new(),
            has_overflow,
            lacks_overflow: false,
        }
    }

    fn shard(&mut self, index: usize) -> Option<&mut Shard> {
        self.shards
            .iter_mut()
            .find(|(i, _)| *i == index)
            .map(|(_, shard)| &mut **shard)
    }

    fn slot(&mut self, id: Id, batch: &Batch, place: usize, now_us: u64) -> Slot {
        let charge = &batch.charges()[place];
        let key = batch.key(charge);
        let found = self.find(id, now_us);
        if let Some(Some(state)) = found {
            return Slot {
                id,
                state: Some(state),
                overflow: None,
                is_budgeted: false,
            };
        }
        // One that has expired has its room still.
        if found.is_none()
            && self.is_full(id.shard(), now_us)
            && let Some(slot) = self.overflow_slot(key, now_us, Shared::Full(overflow(key).into()))
        {
            return slot;
        }
        let max_new_keys = charge.max_new_keys;
        let is_budgeted = max_new_keys > 0 && !self.knows(batch.siblings(place), now_us);
        if is_budgeted {
            let rule = rule_of(key);
            let place = self.spent.iter().position(|(spent, _)| spent == rule);
            let spent = place.map_or(0, |place| self.spent[place].1);
            if !self.store.budgets.allow(rule, max_new_keys, spent, now_us) {
                if let Some(slot) = self.overflow_slot(key, now_us, Shared::Budget) {
                    return slot;
                }
                self.lacks_overflow = !self.has_overflow;
            }
            match place {
                Some(place) => self.spent[place].1 += 1,
                None => self.spent.push((rule.to_owned(), 1)),
            }
        }
        self.new_keys += usize::from(found.is_none());
        Slot {
            id,
            state: None,
            overflow: None,
            is_budgeted,
        }
    }

    /// Whether one of these charges has a counter.
    fn knows(&mut self, mut places: impl Iterator<Item = usize>, now_us: u64) -> bool {
        places.any(|place| {
            let id = self.ids[place];
            matches!(self.find(id, now_us), Some(Some(_)))
        })
    }

    /// The slot of a ban. `None` if there is no room, or if a counter of its rule is shared: no
    /// client is banned for what others do.
    fn ban_slot(&mut self, id: Id, now_us: u64, shares: bool, fits: bool) -> Option<Slot> {
        let state = self.find(id, now_us);
        // Only a denial takes up room.
        if state.is_none() && !fits {
            if shares || self.is_full(id.shard(), now_us) {
                return None;
            }
            self.new_keys += 1;
        }
        Some(Slot {
            id,
            state: state.flatten(),
            overflow: None,
            is_budgeted: false,
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
    fn overflow_slot(&mut self, key: &str, now_us: u64, why: Shared) -> Option<Slot> {
        let overflow = overflow(key);
        let id = self.store.id(&overflow);
        self.shard(id.shard())?;
        Some(Slot {
            id,
            state: self.find(id, now_us).flatten(),
            overflow: Some(why),
            is_budgeted: false,
        })
    }

    /// `None` if there is no such counter; `Some(None)` if it has expired, and its slot can be
    /// reused.
    #[expect(clippy::option_option, reason = "absent and expired are two things")]
    fn find(&mut self, id: Id, now_us: u64) -> Option<Option<State>> {
        let entry = self.shard(id.shard())?.counters.get(&id)?;
        Some(entry.state(now_us))
    }

    fn keep(&mut self, id: Id, entry: Entry) {
        let store = self.store;
        if let Some(shard) = self.shard(id.shard()) {
            store.keep(shard, id, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::ManualClock,
        limit::{Algorithm, Limit},
    };

    /// What the maps of the counters take, as `HashMap` is made: a power of two of places, at most
    /// seven eighths of them used, and a byte for each beside the entry. `scripts/memory.sh`
    /// measures the process.
    #[test]
    fn a_counter_takes_150_bytes_at_most_however_full_the_maps_are() {
        let clock = Arc::new(ManualClock::new(1_800_000_000_000_000));
        let store = MemoryStore::new(usize::MAX, clock, Box::new(|_| {}));
        let limit = Limit::new(Algorithm::SlidingWindow, 1000, 3_600_000_000, None).unwrap();
        let mut worst = 0;
        for n in 0_u32..60_000 {
            let mut batch = Batch::default();
            batch.push(limit, 1, ENFORCED, |key| key.push_str(&n.to_string()));
            store.charge_now(&batch);
            // With fewer, one shard has just grown and another has not.
            if n % 1000 == 999 && n > 10_000 {
                let places: usize = (0..SHARDS)
                    .map(|shard| store.lock(shard).counters.capacity() * 8 / 7)
                    .sum();
                worst = worst.max(places * (size_of::<(Id, Entry)>() + 1) / store.keys());
            }
        }
        assert_eq!(store.keys(), 60_000);
        assert!(worst > 100 && worst <= 150, "{worst} bytes each");
    }

    #[test]
    fn two_processes_hash_a_key_differently() {
        let (one, other) = (RandomState::new(), RandomState::new());
        assert_eq!(Id::new(&one, "key"), Id::new(&one, "key"));
        assert_ne!(Id::new(&one, "key"), Id::new(&other, "key"));
        let [first, second] = Id::new(&one, "key").0;
        assert_ne!(first, second);
    }
}
