//! Leases: requests of hot callers that are charged ahead, so that most of them ask no store.
//!
//! A lease is held for a batch, which is all that a request charges: keys, limits and costs. It is
//! what the store granted when it was asked about many equal requests instead of one. So what is
//! admitted here has been charged, and only the store denies. docs/architecture.md derives what can
//! be admitted at most.

mod caller;
mod held;

use std::{
    collections::HashMap,
    hash::BuildHasher as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use self::{
    caller::{Caller, Lease, Next},
    held::Held,
};
use super::walk::Walk;
use crate::{
    metrics::Metrics,
    rules::Mode,
    store::{Answer, Batch, ChargeResult, GivingBack, StoreError, Unsettled, deadline::Guarded},
};

const SHARDS: usize = 16;

/// The most callers that a shard knows: in all some 16,000, and a few megabytes.
const MAX_IN_SHARD: usize = 1_024;

/// How often a full shard is searched at most.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// How far ahead a batch may be charged.
pub(super) struct Terms {
    /// How long what was charged may be used.
    ttl: Duration,
    /// Of each charge: how much all replicas together may hold.
    shares: SmallVec<[u64; 2]>,
}

impl Terms {
    /// Those of a request; `None` if a rule counts it that does not allow a lease, or that has to
    /// see each request.
    pub(super) fn of(walk: &Walk<'_>) -> Option<Self> {
        let mut terms = Self {
            ttl: Duration::MAX,
            shares: SmallVec::new(),
        };
        for (_, charges) in walk.charges() {
            let lease = charges.action.lease.as_ref()?;
            let is_watched = charges.ban.is_some() || !charges.candidates.is_empty();
            if charges.action.mode != Mode::Enforce || is_watched {
                return None;
            }
            terms.ttl = terms.ttl.min(Duration::from_micros(lease.ttl_us));
            for charge in &walk.batch.charges()[charges.in_batch.clone()] {
                terms.shares.push(lease.share_of(charge.limit()?));
            }
        }
        (!terms.shares.is_empty()).then_some(terms)
    }

    /// How much of each counter this process may hold.
    fn caps(&self, replicas: u64) -> SmallVec<[u64; 2]> {
        let each = self.shares.iter().map(|share| share / replicas.max(1));
        each.collect()
    }
}

/// The callers that are known, with their leases.
pub(super) struct Leases {
    store: Arc<Guarded>,
    metrics: Arc<Metrics>,
    /// How many replicas there are at least.
    replicas: u64,
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    held: Held,
}

#[derive(Default)]
struct Shard {
    callers: HashMap<Arc<Batch>, Caller, RandomState>,
    /// When it was last searched for those that can be forgotten.
    swept: Option<Instant>,
}

/// What a lease says about a request.
pub(super) enum Leased {
    /// It is admitted, and was charged before.
    Admitted(ChargeResult),
    /// A lease of up to so many requests can be fetched for it.
    Fetch(u32),
    /// Nothing.
    No,
}

/// A request, and when it came.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) batch: &'a Batch,
    pub(super) terms: &'a Terms,
    pub(super) generation: u64,
    pub(super) now: Instant,
}

impl Leases {
    /// No leases yet, of what `store` can be charged ahead. There are at least so many `replicas`.
    pub(super) fn new(store: Arc<Guarded>, metrics: Arc<Metrics>, replicas: u64) -> Self {
        Self {
            store,
            metrics,
            replicas,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            held: Held::new(),
        }
    }

    /// Counts a request, and admits it if there is a lease for it.
    pub(super) fn ask(&self, request: Request<'_>) -> Leased {
        let Request {
            batch,
            terms,
            generation,
            now,
        } = request;
        let (next, over) = {
            let mut shard = self.shard(batch);
            let Some(caller) = shard.caller(batch, now) else {
                return Leased::No;
            };
            caller.ask(terms.ttl, generation, now)
        };
        if let Some(lease) = over {
            self.end(&lease);
        }
        match next {
            Next::Admitted(result) => {
                self.metrics.lease_admissions.inc();
                Leased::Admitted(result)
            }
            Next::Fetch(times) => Leased::Fetch(times),
            Next::Ask => Leased::No,
        }
    }

    /// Fetches a lease of up to `times` requests; the pending answer to the first of them, which
    /// has asked for it. `None` if there can be none just now.
    ///
    /// It is fetched in a task of its own: a check that is broken off loses no more than itself.
    pub(super) fn fetch(
        self: &Arc<Self>,
        request: Request<'_>,
        times: u32,
        deadline: Instant,
    ) -> Option<impl Future<Output = Result<Answer, StoreError>> + use<>> {
        let replicas = self.store.ahead()?.replicas()?.max(self.replicas);
        let batch = {
            let mut shard = self.shard(request.batch);
            let caller = shard.callers.get_mut(request.batch)?;
            if caller.is_fetching {
                return None;
            }
            caller.is_fetching = true;
            Arc::clone(&caller.batch)
        };
        let caps = request.terms.caps(replicas);
        let held = self.held.hold(&batch, &caps, times);
        let fetch = Fetch {
            leases: Arc::clone(self),
            batch,
            held,
            generation: request.generation,
            asked: request.now,
            ttl: request.terms.ttl,
            lease: None,
        };
        if held < 2 {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            // Nobody may be waiting any more.
            let _ = answer.send(fetch.run(deadline).await);
        });
        Some(async move {
            let broken = || StoreError::Broken("the fetch of a lease was broken off".to_owned());
            answered.await.unwrap_or_else(|_| Err(broken()))
        })
    }

    /// Ends the leases that are over, gives back what is left of them, and forgets callers that are
    /// gone.
    pub(super) fn sweep(&self, generation: u64, now: Instant) {
        for shard in &self.shards {
            let over = lock(shard).sweep(generation, now);
            for lease in over {
                self.end(&lease);
            }
        }
    }

    /// Ends all leases, and gives back what is left of them, until `deadline`.
    pub(super) async fn end_all(&self, deadline: Instant) {
        let mut giving = Vec::new();
        for shard in &self.shards {
            let callers = std::mem::take(&mut lock(shard).callers);
            for lease in callers.into_values().filter_map(|mut caller| caller.end()) {
                giving.extend(self.ended(&lease));
            }
        }
        let _ = timeout_at(deadline, futures_util::future::join_all(giving)).await;
    }

    /// Gives back what is left of a lease, in a task of its own.
    fn end(&self, lease: &Lease) {
        drop(Unsettled::new(self.ended(lease).into_iter()));
    }

    /// What gives back what is left of a lease.
    fn ended(&self, lease: &Lease) -> Vec<GivingBack> {
        self.held.release(&lease.batch, lease.granted);
        let (Some(unused), Some(store)) = (lease.unused(), self.store.ahead()) else {
            return Vec::new();
        };
        self.metrics
            .lease_grants_returned
            .inc_by(unused.copies.into());
        store.give_back(&lease.batch, &unused)
    }

    fn shard(&self, batch: &Batch) -> MutexGuard<'_, Shard> {
        // The first key tells callers apart, and is the cheapest to hash.
        let key = batch.charges().first().map(|charge| batch.key(charge));
        let shard = self.hasher.hash_one(key) % SHARDS as u64;
        // Below the number of shards, so it fits.
        lock(&self.shards[usize::try_from(shard).unwrap_or(0)])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// The caller of a batch; `None` if there is no room for another one.
    fn caller(&mut self, batch: &Batch, now: Instant) -> Option<&mut Caller> {
        if !self.callers.contains_key(batch) {
            let is_due = self.swept.is_none_or(|swept| now >= swept + SWEEP_PAUSE);
            if self.callers.len() >= MAX_IN_SHARD && is_due {
                self.swept = Some(now);
                self.callers.retain(|_, caller| !caller.is_idle(now));
            }
            if self.callers.len() >= MAX_IN_SHARD {
                return None;
            }
            let batch = Arc::new(batch.clone());
            let caller = Caller::new(Arc::clone(&batch), now);
            self.callers.insert(batch, caller);
        }
        self.callers.get_mut(batch)
    }

    /// The leases that are over.
    fn sweep(&mut self, generation: u64, now: Instant) -> Vec<Lease> {
        let mut over = Vec::new();
        self.callers.retain(|_, caller| {
            over.extend(caller.end_if_over(generation, now));
            !caller.is_idle(now)
        });
        over
    }
}

/// A lease on its way.
struct Fetch {
    leases: Arc<Leases>,
    batch: Arc<Batch>,
    /// How many are held meanwhile.
    held: u32,
    generation: u64,
    asked: Instant,
    ttl: Duration,
    lease: Option<Lease>,
}

impl Fetch {
    async fn run(mut self, deadline: Instant) -> Result<Answer, StoreError> {
        let store = Arc::clone(&self.leases.store);
        let charging = store.charge_ahead(&self.batch, self.held, deadline);
        let mut charged = charging.await?;
        self.lease = Lease::of(
            &self.batch,
            &mut charged,
            self.generation,
            self.asked,
            self.ttl,
        );
        if let Some(lease) = &self.lease {
            let ahead = u64::from(lease.granted - 1);
            self.leases.metrics.lease_grants.inc_by(ahead);
        }
        Ok(charged.answer)
    }
}

/// However it ends, another one can be fetched.
impl Drop for Fetch {
    fn drop(&mut self) {
        let lease = self.lease.take();
        let granted = lease.as_ref().map_or(0, |lease| lease.granted);
        let leases = &self.leases;
        leases
            .held
            .release(&self.batch, self.held.saturating_sub(granted));
        let over = match leases.shard(&self.batch).callers.get_mut(&*self.batch) {
            Some(caller) => caller.fetched(lease, self.asked),
            None => lease,
        };
        if let Some(lease) = over {
            leases.end(&lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limit::{Algorithm, Limit},
        store::ENFORCED,
    };

    #[test]
    fn the_number_of_callers_is_bounded_and_idle_ones_make_room() {
        let limit = Limit::new(Algorithm::FixedWindow, 5, 60_000_000, None).unwrap();
        let (mut shard, now) = (Shard::default(), Instant::now());
        let ttl = Duration::from_millis(100);
        let mut ask = |client: usize, now: Instant| {
            let mut batch = Batch::default();
            batch.push(limit, 1, ENFORCED, |out| out.push_str(&client.to_string()));
            let caller = shard.caller(&batch, now);
            let is_known = caller.map(|caller| caller.ask(ttl, 1, now)).is_some();
            (is_known, shard.callers.len())
        };
        for client in 0..3 * MAX_IN_SHARD {
            let (is_known, _) = ask(client, now);
            assert_eq!(is_known, client < MAX_IN_SHARD);
        }
        assert_eq!(ask(0, now), (true, MAX_IN_SHARD));
        assert_eq!(ask(MAX_IN_SHARD, now + 2 * ttl), (true, 1));
    }
}
