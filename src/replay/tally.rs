//! What came of one rule: its requests, and those of each of its callers.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::timeline::Timeline;
use crate::{
    engine::rehearse::{Counted, RuleEffect},
    limit::{Limit, State},
    rules::{LimitAction, NamedLimit, Plan, Rule},
};

/// What came of one rule.
#[derive(Debug)]
pub(super) struct RuleTally {
    /// Requests that it applied to, and those that it denied.
    pub(super) counts: Counts,
    /// Requests that it skipped, because they lack a part of the key.
    pub(super) skipped: u64,
    /// Denials by its ban.
    pub(super) by_ban: u64,
    /// Bans that began.
    pub(super) bans: u64,
    /// Requests of callers that shared the counter of new ones.
    pub(super) shared: u64,
    /// Requests of callers that were not told apart, because there were too many.
    pub(super) untold: Counts,
    pub(super) limits: Vec<LimitTally>,
    pub(super) callers: HashMap<Box<str>, Caller, RandomState>,
    pub(super) timeline: Timeline,
}

/// How many requests there were, and how many of them were denied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) denied: u64,
}

impl Counts {
    fn add(&mut self, denied: bool) {
        self.requests += 1;
        self.denied += u64::from(denied);
    }
}

/// A limit of the rule, of one of its tiers, or of its overrides.
#[derive(Debug)]
pub(super) struct LimitTally {
    pub(super) name: Arc<str>,
    pub(super) text: Arc<str>,
    pub(super) limit: Limit,
    /// The limit that is tried out beside it.
    pub(super) candidate: Option<CandidateTally>,
    /// The same, as wide as can be.
    widest: Limit,
    /// Limits with the same number share the counters of their callers.
    counter: u16,
    key_suffix: Arc<str>,
}

/// A limit under `try`.
#[derive(Debug)]
pub(super) struct CandidateTally {
    pub(super) text: Arc<str>,
    pub(super) limit: Limit,
    /// Requests that were admitted, and those of them that it would have denied.
    pub(super) counts: Counts,
}

impl CandidateTally {
    fn new(candidate: &NamedLimit) -> Self {
        Self {
            text: Arc::clone(&candidate.text),
            limit: candidate.limit,
            counts: Counts::default(),
        }
    }
}

impl LimitTally {
    /// `limit`, which is this one for a request, as wide as can be.
    fn widest_of(&self, limit: &Limit) -> Limit {
        match limit.edges() {
            Some(edges) => self.widest.aligned(edges),
            None if limit.amount() == self.limit.amount() => self.widest,
            // A header has set another amount.
            None => limit.widest(),
        }
    }
}

/// One caller of a rule.
#[derive(Debug, Default)]
pub(super) struct Caller {
    pub(super) counts: Counts,
    pub(super) peaks: SmallVec<[Peak; 1]>,
}

/// The most that a caller would have used of a limit, had it denied nothing.
#[derive(Debug)]
pub(super) struct Peak {
    /// The place of the limit.
    pub(super) limit: u16,
    /// The most that was used at a time; [`BEYOND`] if it is more than can be counted.
    pub(super) most: u64,
    /// How many of its requests the limit under `try` would have denied.
    pub(super) would_deny: u64,
    /// The counter, if this is the last limit that it was charged for.
    state: Option<State>,
}

/// More than can be counted.
pub(super) const BEYOND: u64 = u64::MAX;

/// The room for what grows with the callers. It is shared by all rules.
#[derive(Debug)]
pub(super) struct Room {
    /// How many more callers are told apart.
    pub(super) callers: usize,
    /// How many more requests the logs of `sliding_log` may hold.
    pub(super) entries: usize,
}

impl RuleTally {
    pub(super) fn new(rule: &Rule) -> Self {
        let action = rule.limit_action();
        let plans = action.into_iter().flat_map(LimitAction::plans);
        let mut limits: Vec<LimitTally> = Vec::new();
        for limit in plans.flat_map(Plan::limits) {
            let candidate = limit.candidate.as_deref().map(CandidateTally::new);
            // Overrides of one name are one row of the report.
            if let Some(known) = place(&limits, limit) {
                let known = &mut limits[known].candidate;
                *known = known.take().or(candidate);
            } else if limits.len() < usize::from(u16::MAX) {
                let twin = limits.iter().find(|one| one.key_suffix == limit.key_suffix);
                let own = u16::try_from(limits.len()).unwrap_or(u16::MAX);
                limits.push(LimitTally {
                    name: Arc::clone(&limit.name),
                    text: Arc::clone(&limit.text),
                    limit: limit.limit,
                    candidate,
                    widest: limit.limit.widest(),
                    counter: twin.map_or(own, |twin| twin.counter),
                    key_suffix: Arc::clone(&limit.key_suffix),
                });
            }
        }
        Self {
            counts: Counts::default(),
            skipped: 0,
            by_ban: 0,
            bans: 0,
            shared: 0,
            untold: Counts::default(),
            limits,
            callers: HashMap::default(),
            timeline: Timeline::new(),
        }
    }

    /// Counts a request at `now_us`, which is `after_us` after the first one.
    pub(super) fn count(
        &mut self,
        effect: RuleEffect<'_>,
        denied: bool,
        (now_us, after_us): (u64, u64),
        room: &mut Room,
    ) {
        let (key, counted) = match effect {
            RuleEffect::Skips => {
                self.skipped += 1;
                return;
            }
            RuleEffect::Allows => (None, None),
            RuleEffect::Denies { key } => (key, None),
            RuleEffect::Unlimited { key } => (Some(key), None),
            RuleEffect::Counts(counted) => (Some(counted.key), Some(counted)),
        };
        self.counts.add(denied);
        self.timeline.add(after_us, denied);
        if let Some(counted) = &counted {
            self.by_ban += u64::from(counted.by_ban);
            self.bans += u64::from(counted.ban_begins);
            self.shared += u64::from(counted.shared);
            for tried in &counted.tried {
                let at = place(&self.limits, tried.candidate);
                if let Some(candidate) = at.and_then(|at| self.limits[at].candidate.as_mut()) {
                    candidate.counts.add(tried.would_deny);
                }
            }
        }
        let Some(key) = key else {
            return;
        };
        let caller = match self.callers.get_mut(key) {
            Some(caller) => caller,
            None if room.callers == 0 => {
                self.untold.add(denied);
                return;
            }
            None => {
                room.callers -= 1;
                self.callers.entry(key.into()).or_default()
            }
        };
        caller.counts.add(denied);
        if let Some(counted) = counted {
            for (limit, charge) in counted.pairs() {
                if let Some(place) = place(&self.limits, limit.0) {
                    caller.use_limit(place, &self.limits, (limit.1, charge), now_us, room);
                }
            }
            for tried in counted.tried.iter().filter(|tried| tried.would_deny) {
                if let Some(place) = place(&self.limits, tried.candidate) {
                    caller.would_be_denied(place);
                }
            }
        }
    }
}

impl<'a> Counted<'a> {
    /// The limits, each as it counts now, with what they are charged.
    fn pairs(&self) -> impl Iterator<Item = ((&'a NamedLimit, &'a Limit), u64)> {
        let charges = self.limits.iter().zip(self.charges);
        charges.filter_map(|(named, charge)| Some(((named, charge.limit()?), charge.cost)))
    }
}

/// The place of a limit. Most rules have one.
fn place(limits: &[LimitTally], limit: &NamedLimit) -> Option<usize> {
    let mut limits = limits.iter();
    limits.position(|one| Arc::ptr_eq(&one.name, &limit.name) || one.name == limit.name)
}

impl Caller {
    /// Notes a request that the limit under `try` at this place would have denied.
    fn would_be_denied(&mut self, place: usize) {
        let mut peaks = self.peaks.iter_mut();
        if let Some(peak) = peaks.find(|peak| usize::from(peak.limit) == place) {
            peak.would_deny += 1;
        }
    }

    /// Charges a limit that denies nothing.
    fn use_limit(
        &mut self,
        place: usize,
        limits: &[LimitTally],
        (limit, cost): (&Limit, u64),
        now_us: u64,
        room: &mut Room,
    ) {
        let own = u16::try_from(place).unwrap_or(u16::MAX);
        let at = self.peaks.iter().position(|peak| peak.limit == own);
        let at = at.unwrap_or_else(|| {
            self.peaks.push(Peak {
                limit: own,
                most: 0,
                would_deny: 0,
                state: None,
            });
            self.peaks.len() - 1
        });
        if self.peaks[at].most == BEYOND {
            return;
        }
        let Some(tally) = limits.get(place) else {
            return;
        };
        let counter = |peak: &Peak| limits.get(usize::from(peak.limit)).map(|one| one.counter);
        let of_own = Some(tally.counter);
        // A caller that changed its tier goes on with the counter of the last one.
        let mut sharing = self.peaks.iter_mut().filter(|peak| counter(peak) == of_own);
        let state = sharing.find_map(|peak| peak.state.take());
        let widest = tally.widest_of(limit);
        let before = entries(state.as_ref());
        let step = widest.step(state, now_us, cost);
        let peak = &mut self.peaks[at];
        let after = entries(Some(&step.state));
        room.entries += before;
        if !step.outcome.allowed || room.entries < after {
            peak.most = BEYOND;
            return;
        }
        room.entries -= after;
        peak.most = peak.most.max(widest.burst() - step.outcome.remaining);
        peak.state = Some(step.state);
    }
}

/// How many requests a log holds.
fn entries(state: Option<&State>) -> usize {
    match state {
        Some(State::SlidingLog(log)) => log.entries.len(),
        _ => 0,
    }
}
