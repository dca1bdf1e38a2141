//! Denials that still hold: until then, the store need not be asked.
//!
//! A denial says how long it takes until the same request fits, when no other comes, and others
//! only make it later. So for that long the answer is known. It is remembered by the counter, so
//! one that all callers of a rule share denies all of them.
//!
//! Not remembered is what the store has to see: a request that a shadow rule counts too, and one
//! that a ban counts. A client that is banned already is not counted any more, and a limit that is
//! tried out counts only what is admitted.
//!
//! What can make more room before the time is over is felt within [`LONGEST`]: charges that are
//! given back, in a cluster or after a lease, counters that somebody removes or that Redis forgets,
//! and a jump of Redis' clock. Where a jump has been seen, the wait is not worth as much, and it is
//! felt within [`LONGEST_IN_DOUBT`].

use std::{
    collections::HashMap,
    hash::BuildHasher as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::{
    limit::Outcome,
    store::{Batch, Charge, ChargeResult, Counted, ENFORCED},
};

/// The longest that a denial is remembered.
const LONGEST: Duration = Duration::from_secs(1);

/// The longest while the store's clock is in doubt.
const LONGEST_IN_DOUBT: Duration = Duration::from_millis(100);

const SHARDS: usize = 16;

/// The most denials that a shard remembers: in all some 16,000, and a few megabytes.
const MAX_IN_SHARD: usize = 1_024;

/// Denials that still hold.
pub(super) struct Denials {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// How many there are, so that nothing is looked for while there are none.
    count: AtomicUsize,
    born: Instant,
    /// When all were forgotten, in microseconds after `born`. Who was asked before may have been
    /// denied by what has changed.
    forgotten_us: AtomicU64,
}

#[derive(Default)]
struct Shard {
    denials: HashMap<Box<str>, Denial, RandomState>,
    /// When it was last searched for those that no longer hold.
    swept: Option<Instant>,
}

/// How often a full shard is searched at most.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// What denied.
struct Denial {
    /// The rule set that was in force.
    generation: u64,
    counted: Counted,
    cost: u64,
    outcome: Outcome,
    asked: Instant,
    until: Instant,
}

/// When a denial is asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// The rule set in force.
    pub(super) generation: u64,
    pub(super) now: Instant,
    /// Whether the store's clock may have jumped since.
    pub(super) clock_is_in_doubt: bool,
}

impl Denial {
    /// What it says about a charge now, if anything.
    fn outcome(&self, charge: &Charge, asked: Asked) -> Option<Outcome> {
        let now = asked.now;
        let is_sure = !asked.clock_is_in_doubt || now < self.asked + LONGEST_IN_DOUBT;
        let holds = is_sure
            && now < self.until
            && self.generation == asked.generation
            && self.counted == charge.counted
            // A larger cost would be denied too, for longer.
            && self.cost == charge.cost;
        let passed = now.saturating_duration_since(self.asked).as_micros();
        holds.then(|| Outcome {
            wait_us: self
                .outcome
                .wait_us
                .saturating_sub(u64::try_from(passed).unwrap_or(u64::MAX)),
            ..self.outcome
        })
    }
}

impl Denials {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            count: AtomicUsize::new(0),
            born: Instant::now(),
            forgotten_us: AtomicU64::new(0),
        }
    }

    /// Forgets all denials, and those too whose check is under way.
    pub(super) fn forget(&self, now: Instant) {
        let passed = (now - self.born).as_micros();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        self.forgotten_us.fetch_max(passed, Ordering::SeqCst);
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let forgotten = shard.denials.len();
            shard.denials.clear();
            self.count.fetch_sub(forgotten, Ordering::Relaxed);
        }
    }

    /// The answer to a batch, if it is known to be denied.
    pub(super) fn find(&self, batch: &Batch, asked: Asked) -> Option<ChargeResult> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let charges = batch.charges();
        let mut outcomes = Vec::new();
        for (place, charge) in charges.iter().enumerate() {
            if charge.is_candidate() {
                continue;
            }
            if charge.group != ENFORCED {
                return None;
            }
            let key = batch.key(charge);
            let shard = self.shard(key);
            let denial = shard.denials.get(key);
            match denial.and_then(|denial| denial.outcome(charge, asked)) {
                Some(outcome) => {
                    if outcomes.is_empty() {
                        outcomes = vec![UNKNOWN; charges.len()];
                    }
                    outcomes[place] = outcome;
                }
                // It has to count this denial.
                None if charge.limit().is_none() => return None,
                None => {}
            }
        }
        (!outcomes.is_empty()).then_some(ChargeResult {
            admitted: false,
            outcomes,
            shared: Vec::new(),
        })
    }

    /// Remembers what the store denied, when it was `asked`.
    pub(super) fn note(
        &self,
        batch: &Batch,
        result: &ChargeResult,
        generation: u64,
        asked: Instant,
    ) {
        // Who shares a counter may get one of its own at any time.
        if result.admitted || !result.shared.is_empty() {
            return;
        }
        for (charge, outcome) in batch.charges().iter().zip(&result.outcomes) {
            // A cost above the limit never fits, so its wait is only said, and does not get less.
            let never = charge
                .limit()
                .is_some_and(|limit| charge.cost > limit.burst());
            if outcome.allowed || charge.group != ENFORCED || never {
                continue;
            }
            let holds = Duration::from_micros(outcome.wait_us).min(LONGEST);
            let remaining = match charge.counted {
                Counted::Limit(_) => outcome.remaining,
                // It does not begin again.
                Counted::Ban { .. } => 0,
            };
            let denial = Denial {
                generation,
                counted: charge.counted,
                cost: charge.cost,
                outcome: Outcome {
                    remaining,
                    ..*outcome
                },
                asked,
                until: asked + holds,
            };
            self.insert(batch.key(charge), denial);
        }
    }

    fn insert(&self, key: &str, denial: Denial) {
        let now = denial.asked;
        let mut shard = self.shard(key);
        let forgotten = Duration::from_micros(self.forgotten_us.load(Ordering::SeqCst));
        if forgotten > Duration::ZERO && now <= self.born + forgotten {
            return;
        }
        let Shard { denials, swept } = &mut *shard;
        let before = denials.len();
        let is_due = swept.is_none_or(|swept| now >= swept + SWEEP_PAUSE);
        if before >= MAX_IN_SHARD && is_due {
            *swept = Some(now);
            denials.retain(|_, denial| denial.until > now);
        }
        if denials.len() < MAX_IN_SHARD {
            denials.insert(key.into(), denial);
        }
        let after = denials.len();
        // Under the lock of the shard, so that the sum is right.
        if after >= before {
            self.count.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.count.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let shard = self.hasher.hash_one(key) % SHARDS as u64;
        // Below the number of shards, so it fits.
        let shard = &self.shards[usize::try_from(shard).unwrap_or(0)];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outcome of a limit about which nothing is known.
const UNKNOWN: Outcome = Outcome {
    allowed: true,
    remaining: 0,
    wait_us: 0,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Algorithm, Limit, ban::Ban};

    const DENIED: Outcome = Outcome {
        allowed: false,
        remaining: 0,
        wait_us: 400_000,
    };

    fn limit(amount: u64) -> Limit {
        Limit::new(Algorithm::FixedWindow, amount, 60_000_000, None).unwrap()
    }

    fn batch(key: &str, cost: u64, group: u32) -> Batch {
        let mut batch = Batch::default();
        batch.push(limit(5), cost, group, |out| out.push_str(key));
        batch
    }

    fn denied(outcomes: Vec<Outcome>) -> ChargeResult {
        ChargeResult {
            admitted: false,
            outcomes,
            shared: Vec::new(),
        }
    }

    /// Asked by a rule set, with a clock that nobody doubts.
    fn at(generation: u64, now: Instant) -> Asked {
        Asked {
            generation,
            now,
            clock_is_in_doubt: false,
        }
    }

    fn wait(denials: &Denials, batch: &Batch, generation: u64, now: Instant) -> Option<u64> {
        let result = denials.find(batch, at(generation, now))?;
        assert!(!result.admitted);
        Some(result.outcomes[0].wait_us)
    }

    #[test]
    fn a_denial_holds_until_its_wait_and_a_second_at_most() {
        let (denials, asked) = (Denials::new(), Instant::now());
        let ms = Duration::from_millis;
        let batch = batch("a", 2, ENFORCED);
        assert_eq!(wait(&denials, &batch, 1, asked), None);
        denials.note(&batch, &denied(vec![DENIED]), 1, asked);
        assert_eq!(wait(&denials, &batch, 1, asked + ms(150)), Some(250_000));
        assert_eq!(wait(&denials, &batch, 1, asked + ms(399)), Some(1_000));
        assert_eq!(wait(&denials, &batch, 1, asked + ms(400)), None);
        let long = Outcome {
            wait_us: 60_000_000,
            ..DENIED
        };
        denials.note(&batch, &denied(vec![long]), 1, asked);
        assert_eq!(wait(&denials, &batch, 1, asked + ms(999)), Some(59_001_000));
        assert_eq!(wait(&denials, &batch, 1, asked + LONGEST), None);
    }

    #[test]
    fn a_denial_holds_for_less_while_the_clock_is_in_doubt() {
        let (denials, asked) = (Denials::new(), Instant::now());
        let ms = Duration::from_millis;
        let batch = batch("a", 2, ENFORCED);
        denials.note(&batch, &denied(vec![DENIED]), 1, asked);
        let wait = |after: u64, clock_is_in_doubt| {
            let now = asked + ms(after);
            let asked = Asked {
                clock_is_in_doubt,
                ..at(1, now)
            };
            let result = denials.find(&batch, asked)?;
            Some(result.outcomes[0].wait_us)
        };
        assert_eq!(wait(99, true), Some(301_000));
        assert_eq!(wait(100, true), None);
        assert_eq!(wait(100, false), Some(300_000), "nobody has forgotten it");
    }

    #[test]
    fn what_is_forgotten_is_not_noted_by_a_check_that_was_under_way() {
        let (denials, asked) = (Denials::new(), Instant::now());
        let ms = Duration::from_millis;
        let batch = batch("a", 1, ENFORCED);
        denials.note(&batch, &denied(vec![DENIED]), 1, asked);
        assert!(wait(&denials, &batch, 1, asked + ms(1)).is_some());
        denials.forget(asked + ms(2));
        assert_eq!(wait(&denials, &batch, 1, asked + ms(3)), None);
        assert_eq!(denials.count.load(Ordering::Relaxed), 0);
        // Denied before, heard of after.
        denials.note(&batch, &denied(vec![DENIED]), 1, asked + ms(1));
        assert_eq!(wait(&denials, &batch, 1, asked + ms(3)), None);
        denials.note(&batch, &denied(vec![DENIED]), 1, asked + ms(3));
        assert!(wait(&denials, &batch, 1, asked + ms(4)).is_some());
    }

    #[test]
    fn only_what_the_store_would_deny_is_denied() {
        let (denials, asked) = (Denials::new(), Instant::now());
        denials.note(&batch("a", 2, ENFORCED), &denied(vec![DENIED]), 1, asked);
        // Another client, another cost, another rule set, another amount, a shadow rule too.
        assert_eq!(wait(&denials, &batch("b", 2, ENFORCED), 1, asked), None);
        assert_eq!(wait(&denials, &batch("a", 1, ENFORCED), 1, asked), None);
        assert_eq!(wait(&denials, &batch("a", 2, ENFORCED), 2, asked), None);
        let mut other = Batch::default();
        other.push(limit(6), 2, ENFORCED, |out| out.push('a'));
        assert_eq!(wait(&denials, &other, 1, asked), None);
        let mut both = batch("a", 2, ENFORCED);
        both.push(limit(5), 1, 7, |out| out.push_str("shadow"));
        assert_eq!(wait(&denials, &both, 1, asked), None);
        assert_eq!(wait(&denials, &batch("a", 3, ENFORCED), 1, asked), None);
        // One more limit, of which nothing is known.
        let mut more = batch("a", 2, ENFORCED);
        more.push(limit(5), 1, ENFORCED, |out| out.push_str("more"));
        let result = denials.find(&more, at(1, asked)).unwrap();
        assert_eq!(result.outcomes, [DENIED, UNKNOWN]);
    }

    #[test]
    fn a_ban_counts_denials_until_it_has_begun() {
        let (denials, asked) = (Denials::new(), Instant::now());
        let ban = Ban::new(3, 60_000_000, 60_000_000).unwrap();
        let mut batch = batch("a", 1, ENFORCED);
        batch.push_ban(ban, 1, ENFORCED, |out| out.push_str("a:ban"));
        let counts = Outcome {
            allowed: true,
            remaining: 1,
            wait_us: 0,
        };
        denials.note(&batch, &denied(vec![DENIED, counts]), 1, asked);
        assert_eq!(denials.find(&batch, at(1, asked)), None);
        let begins = Outcome {
            remaining: 1,
            ..DENIED
        };
        denials.note(&batch, &denied(vec![DENIED, begins]), 1, asked);
        let result = denials.find(&batch, at(1, asked)).unwrap();
        assert_eq!(result.outcomes, [DENIED, DENIED], "it does not begin again");
    }

    #[test]
    fn what_is_admitted_or_shared_is_not_remembered() {
        let (denials, asked) = (Denials::new(), Instant::now());
        let batch = batch("a", 1, ENFORCED);
        let mut shared = denied(vec![DENIED]);
        shared.shared.push(0);
        denials.note(&batch, &shared, 1, asked);
        let mut admitted = denied(vec![UNKNOWN]);
        admitted.admitted = true;
        denials.note(&batch, &admitted, 1, asked);
        assert_eq!(denials.find(&batch, at(1, asked)), None);
    }

    #[test]
    fn their_number_is_bounded_and_old_ones_make_room() {
        let (denials, asked) = (Denials::new(), Instant::now());
        let note = |client: usize, at: Instant| {
            let batch = batch(&client.to_string(), 1, ENFORCED);
            denials.note(&batch, &denied(vec![DENIED]), 1, at);
        };
        for client in 0..3 * SHARDS * MAX_IN_SHARD {
            note(client, asked);
        }
        let count = || denials.count.load(Ordering::Relaxed);
        assert_eq!(count(), SHARDS * MAX_IN_SHARD);
        for client in 0..1_000 {
            note(client, asked + LONGEST);
        }
        assert!(count() <= 2_000, "{}", count());
        let batch = batch("999", 1, ENFORCED);
        assert!(wait(&denials, &batch, 1, asked + LONGEST).is_some());
    }
}
