//! From what each limit said to one decision; counted, and logged.

use std::sync::Arc;

use super::{
    Decision, Live, Quota, Verdict,
    log::{DecisionLog, Entry},
    walk::{Counting, Denial, Effect, Matched, Met, Subject},
};
use crate::{
    limit::Outcome,
    metrics::{self, FallbackMode},
    request::Attributes,
    rules::{Mode, NamedBan, NamedLimit, OnStoreError},
    store::{self, Batch, Counted, StoreError, memory::MemoryStore},
};

/// How long a caller is told to wait when a rule denies because the store is away.
const STORE_AWAY_WAIT_US: u64 = 1_000_000;

/// What an admission and a denial are called in metrics.
#[derive(Clone, Copy)]
pub(super) struct Words {
    allowed: metrics::Outcome,
    denied: metrics::Outcome,
}

impl Words {
    pub(super) const STORE: Self = Self {
        allowed: metrics::Outcome::Allowed,
        denied: metrics::Outcome::Denied,
    };
    const FALLBACK: Self = Self {
        allowed: metrics::Outcome::FallbackAllowed,
        denied: metrics::Outcome::FallbackDenied,
    };
}

impl From<OnStoreError> for FallbackMode {
    fn from(mode: OnStoreError) -> Self {
        match mode {
            OnStoreError::Local => Self::Local,
            OnStoreError::Allow => Self::Allow,
            OnStoreError::Deny => Self::Deny,
            OnStoreError::Proxy => Self::Proxy,
        }
    }
}

/// One decision on its way.
pub(super) struct Deciding<'a> {
    pub(super) live: &'a Live,
    pub(super) log: &'a DecisionLog,
    pub(super) request: &'a Attributes<'a>,
    pub(super) matched: Matched<'a>,
}

/// What denies: a limit, or a ban.
#[derive(Clone, Copy)]
enum Denying<'a> {
    Limit(&'a NamedLimit),
    Ban(&'a NamedBan),
}

impl<'a> Denying<'a> {
    fn name(self) -> &'a Arc<str> {
        match self {
            Self::Limit(limit) => &limit.name,
            Self::Ban(ban) => &ban.name,
        }
    }
}

/// What denies a request, and for how long.
pub(super) struct Denier<'m, 'a> {
    met: &'m Met<'a>,
    counting: &'m Counting<'a>,
    what: Denying<'a>,
    outcome: Outcome,
}

impl<'m, 'a> Denier<'m, 'a> {
    /// What denies of what a rule counts, if anything does: the ban, or the limit that denies longest, the first of several that
    /// deny equally long. Who is banned waits until all of them have room.
    fn of(met: &'m Met<'a>, counting: &'m Counting<'a>, outcomes: &[Outcome]) -> Option<Self> {
        let outcomes = &outcomes[counting.charges.clone()];
        let (of_limits, of_ban) = outcomes.split_at(counting.limits.len());
        let denying = |(what, outcome): (Denying<'a>, &Outcome)| {
            (!outcome.allowed).then_some(Self {
                met,
                counting,
                what,
                outcome: *outcome,
            })
        };
        let limits = counting.limits.iter().map(Denying::Limit).zip(of_limits);
        let limit = limits.filter_map(denying).reduce(Self::longer);
        let ban = counting.ban.map(Denying::Ban).zip(of_ban.first());
        match (ban.and_then(denying), limit) {
            (Some(mut ban), Some(limit)) => {
                ban.outcome.wait_us = ban.outcome.wait_us.max(limit.outcome.wait_us);
                Some(ban)
            }
            (ban, limit) => ban.or(limit),
        }
    }

    fn longer(self, other: Self) -> Self {
        if other.outcome.wait_us > self.outcome.wait_us {
            other
        } else {
            self
        }
    }

    fn decision(&self) -> Decision {
        let retry_after_us = self.outcome.wait_us;
        let (verdict, quota) = match self.what {
            Denying::Limit(limit) => (
                Verdict::Limited { retry_after_us },
                Quota::of_limit(limit, &self.outcome),
            ),
            Denying::Ban(ban) => (
                Verdict::Banned { retry_after_us },
                Quota::of_ban(ban, &self.outcome),
            ),
        };
        Decision {
            quotas: vec![quota],
            ..Decision::of(verdict, self.met.rule)
        }
    }
}

/// The decision that follows from what a store says about all that rules count, and what denies. Counts nothing.
pub(super) fn conclude<'m, 'a>(
    matched: &'m Matched<'a>,
    verdict: &store::Verdict,
) -> (Decision, Option<Denier<'m, 'a>>) {
    let enforced = matched
        .counting()
        .filter(|(_, counting)| counting.action.mode == Mode::Enforce);
    if !verdict.admitted {
        let deniers =
            enforced.filter_map(|(met, counting)| Denier::of(met, counting, &verdict.outcomes));
        if let Some(denier) = deniers.reduce(Denier::longer) {
            return (denier.decision(), Some(denier));
        }
        return (Decision::allowed(), None);
    }
    let mut quotas = Vec::with_capacity(verdict.outcomes.len());
    let mut nearest: Option<(&Met<'_>, u64)> = None;
    for (met, counting) in enforced {
        let outcomes = &verdict.outcomes[counting.charges.clone()];
        for (limit, outcome) in counting.limits.iter().zip(outcomes) {
            quotas.push(Quota::of_limit(limit, outcome));
            if nearest.is_none_or(|(_, least)| outcome.remaining < least) {
                nearest = Some((met, outcome.remaining));
            }
        }
    }
    let decision = Decision {
        rule: nearest.map(|(met, _)| Arc::clone(&met.rule.name)),
        quotas,
        ..Decision::allowed()
    };
    (decision, None)
}

impl Counting<'_> {
    /// Whether the ban began with this request.
    fn ban_begins(&self, outcomes: &[Outcome]) -> bool {
        let of_ban = outcomes[self.charges.clone()].last();
        // A ban that begins says so, see `limit::ban::Step`.
        self.ban.is_some() && of_ban.is_some_and(|ban| !ban.allowed && ban.remaining == 1)
    }
}

impl Deciding<'_> {
    /// Counts what rules in shadow mode would have denied without counting anything.
    pub(super) fn count_shadow_denials(&self) {
        for met in &self.matched.met {
            if let Effect::Denies { mode, why } = &met.effect
                && *mode == Mode::Shadow
            {
                self.denied_by_rule(met, why, metrics::Outcome::ShadowDenied);
            }
        }
    }

    /// The decision, if the walk ended with a denial.
    pub(super) fn denied_without_counting(&self) -> Option<Decision> {
        let (end, why) = self.matched.forbidden()?;
        self.denied_by_rule(end, why, metrics::Outcome::Denied);
        Some(Decision::of(Verdict::Forbidden, end.rule))
    }

    fn denied_by_rule(&self, met: &Met<'_>, why: &Denial<'_>, outcome: metrics::Outcome) {
        self.live.metrics[met.index].decided(outcome);
        self.log.tell(
            self.request,
            Entry {
                reason: Some(why.reason()),
                key: why.subject().map(Subject::descriptor),
                ..Entry::of(outcome, Some(&met.rule.name))
            },
        );
    }

    /// Counts and reports what the store said about all that was charged.
    pub(super) fn combine(&self, verdict: &store::Verdict, words: Words) -> Decision {
        self.combine_of(&self.matched, verdict, words)
    }

    /// As [`combine`](Self::combine), of some of the rules.
    fn combine_of(
        &self,
        matched: &Matched<'_>,
        verdict: &store::Verdict,
        words: Words,
    ) -> Decision {
        for (met, counting) in matched.counting() {
            let metrics = &self.live.metrics[met.index];
            if counting.ban_begins(&verdict.outcomes) {
                metrics.banned();
            }
            if counting.action.mode == Mode::Shadow {
                match Denier::of(met, counting, &verdict.outcomes) {
                    Some(denier) => self.denied_by_limit(&denier, metrics::Outcome::ShadowDenied),
                    None if verdict.admitted => metrics.decided(words.allowed),
                    None => {}
                }
            } else if verdict.admitted {
                metrics.decided(words.allowed);
            }
        }
        let (decision, denier) = conclude(matched, verdict);
        if let Some(denier) = denier {
            self.denied_by_limit(&denier, words.denied);
        }
        decision
    }

    fn denied_by_limit(&self, denier: &Denier<'_, '_>, word: metrics::Outcome) {
        let Denier {
            met,
            counting,
            what,
            outcome,
        } = denier;
        self.live.metrics[met.index].decided(word);
        self.live.denied_by(what.name());
        self.log.tell(
            self.request,
            Entry {
                limit: Some(what.name()),
                key: Some(counting.subject.descriptor()),
                retry_after_us: Some(outcome.wait_us),
                ..Entry::of(word, Some(&met.rule.name))
            },
        );
    }

    /// Logs an admission, if that is wanted.
    pub(super) fn tell_admission(&self, decision: &Decision) {
        if !self.log.wants_all() {
            return;
        }
        let named = self
            .matched
            .met
            .iter()
            .rev()
            .find_map(|met| match &met.effect {
                Effect::Counts(counting) if decision.rule.as_ref() == Some(&met.rule.name) => {
                    Some(counting.subject.descriptor())
                }
                _ => None,
            });
        self.log.tell(
            self.request,
            Entry {
                key: named,
                ..Entry::of(metrics::Outcome::Allowed, decision.rule.as_deref())
            },
        );
    }

    /// Each rule decides as its `on_store_error` says. A denial outweighs "the proxy decides", which outweighs the rest;
    /// rules in shadow mode have no say.
    pub(super) fn without_store(
        &self,
        error: &StoreError,
        fallback: &MemoryStore,
        replicas: u64,
    ) -> Decision {
        let mut local = Matched::default();
        let mut verdict = Verdict::Allowed;
        let mut decided_by = None;
        for (met, counting) in self.matched.counting() {
            let mode = counting.action.on_store_error;
            self.live.metrics[met.index].fell_back(mode.into(), error.kind());
            if mode == OnStoreError::Local {
                let charges = copy_share(&mut local.batch, &self.matched.batch, counting, replicas);
                local.met.push(Met {
                    effect: Effect::Counts(Counting {
                        charges,
                        ..counting.clone()
                    }),
                    ..met.clone()
                });
            } else if counting.action.mode == Mode::Enforce {
                let says = match mode {
                    OnStoreError::Deny => Verdict::Limited {
                        retry_after_us: STORE_AWAY_WAIT_US,
                    },
                    OnStoreError::Proxy if verdict == Verdict::Allowed => Verdict::Unavailable,
                    _ => continue,
                };
                if !matches!(verdict, Verdict::Limited { .. }) {
                    verdict = says;
                    decided_by = Some((met, counting));
                }
            }
        }
        if let Some((met, counting)) = decided_by {
            let (outcome, reason) = match verdict {
                Verdict::Unavailable => (metrics::Outcome::Unavailable, "on_store_error: proxy"),
                _ => (metrics::Outcome::FallbackDenied, "on_store_error: deny"),
            };
            self.live.metrics[met.index].decided(outcome);
            self.log.tell(
                self.request,
                Entry {
                    reason: Some(reason),
                    key: Some(counting.subject.descriptor()),
                    ..Entry::of(outcome, Some(&met.rule.name))
                },
            );
            return Decision::of(verdict, met.rule);
        }
        let answer = fallback.charge_now(&local.batch);
        let decision = self.combine_of(&local, &answer, Words::FALLBACK);
        if decision.verdict == Verdict::Allowed {
            for (met, counting) in self.matched.counting() {
                if counting.action.on_store_error == OnStoreError::Allow {
                    self.live.metrics[met.index].decided(metrics::Outcome::FallbackAllowed);
                }
            }
        }
        decision
    }
}

/// Adds a rule's charges to `local`, with this replica's share of its limits.
fn copy_share(
    local: &mut Batch,
    batch: &Batch,
    counting: &Counting<'_>,
    replicas: u64,
) -> std::ops::Range<usize> {
    let start = local.charges().len();
    for charge in &batch.charges()[counting.charges.clone()] {
        let copy_key = |key: &mut String| key.push_str(batch.key(charge));
        match charge.counted {
            Counted::Limit(limit) => {
                local.push(limit.divided(replicas), charge.cost, charge.group, copy_key);
            }
            Counted::Ban { ban, span } => local.push_ban(ban, span, charge.group, copy_key),
        }
    }
    start..local.charges().len()
}
