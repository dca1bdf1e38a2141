//! Requests of a log, decided by one rule set.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    record::Record,
    tally::{Room, RuleTally},
};
use crate::{
    clock::ManualClock, engine::rehearse::rehearse, rules::RuleSet, store::memory::MemoryStore,
};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is admitted.
    Admitted,
    /// The rule at this position denies it.
    Denied(usize),
    /// It is refused before any rule is asked.
    Refused,
}

/// A rule set, and what came of the requests that it was asked about.
pub(super) struct Run {
    pub(super) set: RuleSet,
    pub(super) rules: Vec<RuleTally>,
    pub(super) admitted: u64,
    pub(super) denied: u64,
    /// Refused requests, by reason.
    pub(super) refused: BTreeMap<&'static str, u64>,
    clock: Arc<ManualClock>,
    counters: MemoryStore,
    /// Charges to a counter that callers shared, because the store was full.
    overflows: Arc<AtomicU64>,
    room: Room,
    since_swept: u32,
}

/// How many counters there may be for each caller that is told apart. Counters that have expired
/// make room for others, so there are rarely more than callers.
const COUNTERS_PER_CALLER: usize = 2;

/// How many requests are decided until a part of the expired counters is removed.
const SWEPT_EVERY: u32 = 1_024;

impl Run {
    pub(super) fn new(set: RuleSet, max_callers: usize) -> Self {
        let clock = Arc::new(ManualClock::default());
        let overflows = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&overflows);
        let counters = MemoryStore::new(
            max_callers.saturating_mul(COUNTERS_PER_CALLER),
            Arc::clone(&clock) as Arc<_>,
            Box::new(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
            }),
        );
        Self {
            rules: set.rules.iter().map(RuleTally::new).collect(),
            set,
            admitted: 0,
            denied: 0,
            refused: BTreeMap::new(),
            clock,
            counters,
            overflows,
            room: Room {
                callers: max_callers,
                entries: max_callers.saturating_mul(COUNTERS_PER_CALLER),
            },
            since_swept: 0,
        }
    }

    /// Charges to a counter that callers had to share, because there were too many.
    pub(super) fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    /// Decides about a request at `now_us`, which is never before an earlier one, `after_us` after
    /// the first.
    pub(super) fn decide(&mut self, record: &Record, now_us: u64, after_us: u64) -> Fate {
        self.clock.set(now_us);
        self.since_swept += 1;
        if self.since_swept == SWEPT_EVERY {
            self.since_swept = 0;
            self.counters.sweep();
        }
        let request = match record.attributes(&self.set) {
            Ok(request) => request,
            Err(refusal) => {
                *self.refused.entry(refusal.reason().as_str()).or_default() += 1;
                return Fate::Refused;
            }
        };
        let (rules, room) = (&mut self.rules, &mut self.room);
        let rehearsed = rehearse(&self.set, &request, &self.counters, |outcome| {
            if let Some(tally) = rules.get_mut(outcome.index) {
                tally.count(outcome.effect, outcome.denied, (now_us, after_us), room);
            }
        });
        if let Some(rule) = rehearsed.denied_by {
            self.denied += 1;
            Fate::Denied(rule)
        } else {
            self.admitted += 1;
            Fate::Admitted
        }
    }
}
