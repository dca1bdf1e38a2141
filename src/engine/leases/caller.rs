//! One caller: how often it asks, and what it holds.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    limit::{Algorithm, Limit, Outcome},
    store::{Batch, ChargeResult, ChargedAhead, Unused},
};

/// How many requests within a lease's time make a caller hot. With fewer, fetching a lease and
/// giving back what is left of it would cost the store as many calls as they do.
const HOT: u32 = 4;

/// Requests that charge the same: all who send them are one caller here.
pub(super) struct Caller {
    pub(super) batch: Arc<Batch>,
    ttl: Duration,
    usage: Usage,
    lease: Option<Lease>,
    pub(super) is_fetching: bool,
    /// When it can be worth trying again to fetch a lease.
    rests_until: Instant,
}

/// What a caller may do.
pub(super) enum Next {
    /// It is admitted by its lease.
    Admitted(ChargeResult),
    /// It may fetch a lease, of up to so many requests.
    Fetch(u32),
    /// It asks the store.
    Ask,
}

impl Caller {
    pub(super) fn new(batch: Arc<Batch>, now: Instant) -> Self {
        Self {
            batch,
            ttl: Duration::ZERO,
            usage: Usage::new(now),
            lease: None,
            is_fetching: false,
            rests_until: now,
        }
    }

    /// Counts a request, and says what may happen to it. What is held and over is returned too.
    pub(super) fn ask(
        &mut self,
        ttl: Duration,
        generation: u64,
        now: Instant,
    ) -> (Next, Option<Lease>) {
        let mut over = self.end_if_over(generation, now);
        self.ttl = ttl;
        let used = self.usage.count(ttl, now);
        let Some(lease) = &mut self.lease else {
            let next = match used {
                0..HOT => Next::Ask,
                _ if self.is_fetching || now < self.rests_until => Next::Ask,
                // Nearly always used up, so that there is nothing to give back.
                _ => Next::Fetch(used - used / 4),
            };
            return (next, over);
        };
        let result = lease.admit(now);
        if lease.left == 0 {
            over = self.lease.take();
        }
        (Next::Admitted(result), over)
    }

    /// Notes what was fetched, if it was enough to be held; what was held before is returned.
    pub(super) fn fetched(&mut self, lease: Option<Lease>, asked: Instant) -> Option<Lease> {
        self.is_fetching = false;
        if lease.is_none() {
            self.rests_until = asked + self.ttl;
        }
        std::mem::replace(&mut self.lease, lease)
    }

    /// What it held until now, if that is over.
    pub(super) fn end_if_over(&mut self, generation: u64, now: Instant) -> Option<Lease> {
        let is_over = |lease: &mut Lease| now >= lease.until || lease.generation != generation;
        self.lease.take_if(is_over)
    }

    /// What it holds.
    pub(super) fn end(&mut self) -> Option<Lease> {
        self.lease.take()
    }

    /// Whether nothing is lost when it is forgotten.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.lease.is_none() && !self.is_fetching && now >= self.usage.since + 2 * self.ttl
    }
}

/// How many requests came in about the last `ttl`.
struct Usage {
    since: Instant,
    count: u32,
    before: u32,
}

impl Usage {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
            before: 0,
        }
    }

    /// Counts one, and returns how many they are.
    fn count(&mut self, ttl: Duration, now: Instant) -> u32 {
        let passed = now.saturating_duration_since(self.since);
        if passed >= 2 * ttl {
            *self = Self::new(now);
        } else if passed >= ttl {
            self.since += ttl;
            (self.before, self.count) = (self.count, 0);
        }
        self.count = self.count.saturating_add(1);
        // Those before are taken to have come evenly.
        let passed = now.saturating_duration_since(self.since);
        let (part, whole) = (ttl.saturating_sub(passed).as_micros(), ttl.as_micros());
        let before = u128::from(self.before) * part / whole.max(1);
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        self.count.saturating_add(before)
    }
}

/// Requests that are charged, and have not come yet.
pub(super) struct Lease {
    pub(super) batch: Arc<Batch>,
    /// The rule set that was in force.
    generation: u64,
    /// How many were charged.
    pub(super) granted: u32,
    /// How many are not used.
    left: u32,
    /// What the limits say after all of them.
    outcomes: Vec<Outcome>,
    charged_us: u64,
    asked: Instant,
    until: Instant,
}

impl Lease {
    /// A lease of what was charged when the store was `asked`, and the answer to the first request
    /// of it. No lease, if that was the only one.
    pub(super) fn of(
        batch: &Arc<Batch>,
        granted: &mut ChargedAhead,
        generation: u64,
        asked: Instant,
        ttl: Duration,
    ) -> Option<Self> {
        let ChargedAhead {
            answer,
            granted,
            charged_us,
        } = granted;
        let is_held = *granted > 1
            && answer.result.admitted
            && answer.lost.is_empty()
            && answer.result.shared.is_empty();
        if !is_held {
            return None;
        }
        // A window of its own ends with what was charged in it.
        let charges = batch.charges().iter().zip(&answer.result.outcomes);
        let windows = charges.filter_map(|(charge, outcome)| {
            let algorithm = charge.limit().map(Limit::algorithm);
            (algorithm == Some(Algorithm::FixedWindow)).then_some(outcome.wait_us)
        });
        let ends = windows.map(Duration::from_micros).min();
        let lease = Self {
            batch: Arc::clone(batch),
            generation,
            granted: *granted,
            left: *granted - 1,
            outcomes: answer.result.outcomes.clone(),
            charged_us: *charged_us,
            asked,
            until: asked + ends.map_or(ttl, |ends| ends.min(ttl)),
        };
        answer.result = lease.result(asked);
        Some(lease)
    }

    /// Uses one of those that are left.
    fn admit(&mut self, now: Instant) -> ChargeResult {
        self.left = self.left.saturating_sub(1);
        self.result(now)
    }

    /// What the limits say now: what is left here is not used.
    fn result(&self, now: Instant) -> ChargeResult {
        let passed = now.saturating_duration_since(self.asked).as_micros();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let outcomes = self.outcomes.iter().zip(self.batch.charges());
        let outcomes = outcomes.map(|(outcome, charge)| Outcome {
            allowed: true,
            remaining: outcome.remaining + u64::from(self.left) * charge.cost,
            wait_us: outcome.wait_us.saturating_sub(passed),
        });
        ChargeResult {
            admitted: true,
            outcomes: outcomes.collect(),
            shared: Vec::new(),
        }
    }

    /// What is to be given back.
    pub(super) fn unused(&self) -> Option<Unused> {
        let remaining = self.outcomes.iter().map(|outcome| outcome.remaining);
        (self.left > 0).then(|| Unused {
            copies: self.left,
            charged_us: self.charged_us,
            remaining: remaining.collect(),
        })
    }
}
