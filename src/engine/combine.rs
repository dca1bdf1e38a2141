//! From what each limit said to one decision; counted, and logged.

use std::sync::Arc;

use super::{
    Decision, Live, Quota, Verdict,
    log::{DecisionLog, Entry},
    walk::{Counting, Denial, Effect, Matched, Met},
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

impl<'a> Counting<'a> {
    /// What denies for the longest time, if anything does.
    fn denying<'o>(&self, outcomes: &'o [Outcome]) -> Option<(Denying<'a>, &'o Outcome)> {
        let outcomes = &outcomes[self.charges.clone()];
        let limits = self.limits.iter().map(Denying::Limit);
        let all = limits.chain(self.ban.map(Denying::Ban)).zip(outcomes);
        // The first of several that deny equally long.
        all.filter(|(_, outcome)| !outcome.allowed)
            .reduce(|longest, next| {
                if next.1.wait_us > longest.1.wait_us {
                    next
                } else {
                    longest
                }
            })
    }

    /// Whether the ban began with this request.
    fn ban_begins(&self, outcomes: &[Outcome]) -> bool {
        let Some((ban, (outcome, of_limits))) =
            self.ban.zip(outcomes[self.charges.clone()].split_last())
        else {
            return false;
        };
        !outcome.allowed
            && outcome.wait_us == ban.ban.for_us()
            && of_limits.iter().any(|limit| !limit.allowed)
    }
}

impl<'a> Deciding<'a> {
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
        let end = self.matched.end()?;
        let Effect::Denies { why, .. } = &end.effect else {
            return None;
        };
        self.denied_by_rule(end, why, metrics::Outcome::Denied);
        Some(Decision::of(Verdict::Forbidden, end.rule))
    }

    fn denied_by_rule(&self, met: &Met<'_>, why: &Denial<'_>, outcome: metrics::Outcome) {
        self.live.metrics[met.index].decided(outcome);
        let (reason, subject) = match why {
            Denial::Action => ("action: deny", None),
            Denial::MissingKey { subject } => ("on_missing: deny", Some(subject)),
            Denial::Nothing { subject, .. } => ("limit: 0", Some(subject)),
        };
        self.log.tell(
            self.request,
            Entry {
                outcome,
                rule: Some(&met.rule.name),
                limit: None,
                reason: Some(reason),
                key: subject.map(|subject| subject.descriptor()),
                retry_after_us: None,
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
        let store::Verdict { admitted, outcomes } = verdict;
        let mut quotas = Vec::with_capacity(outcomes.len());
        // Of what denies, that which does so longest; of the limits that admit, the one that is nearest to its end.
        let mut denying: Option<(&Met<'_>, &Counting<'_>, Denying<'_>, &Outcome)> = None;
        let mut nearest: Option<(&Met<'_>, u64)> = None;
        for (met, counting) in matched.counting() {
            let metrics = &self.live.metrics[met.index];
            let own = counting.denying(outcomes);
            if counting.action.mode == Mode::Shadow {
                match own {
                    Some((what, outcome)) => {
                        self.denied_by_limit(
                            met,
                            counting,
                            (what, outcome),
                            metrics::Outcome::ShadowDenied,
                        );
                    }
                    None if *admitted => metrics.decided(words.allowed),
                    None => {}
                }
                continue;
            }
            if counting.ban_begins(outcomes) {
                metrics.banned();
            }
            if let Some((what, outcome)) = own
                && denying.is_none_or(|(.., longest)| outcome.wait_us > longest.wait_us)
            {
                denying = Some((met, counting, what, outcome));
            }
            if *admitted {
                metrics.decided(words.allowed);
                for (limit, outcome) in counting
                    .limits
                    .iter()
                    .zip(&outcomes[counting.charges.clone()])
                {
                    quotas.push(Quota::of_limit(limit, outcome));
                    if nearest.is_none_or(|(_, least)| outcome.remaining < least) {
                        nearest = Some((met, outcome.remaining));
                    }
                }
            }
        }
        match denying {
            Some((met, counting, what, outcome)) if !admitted => {
                self.denied_by_limit(met, counting, (what, outcome), words.denied);
                let retry_after_us = outcome.wait_us;
                let (verdict, quota) = match what {
                    Denying::Limit(limit) => (
                        Verdict::Limited { retry_after_us },
                        Quota::of_limit(limit, outcome),
                    ),
                    Denying::Ban(ban) => (
                        Verdict::Banned { retry_after_us },
                        Quota::of_ban(ban, outcome),
                    ),
                };
                Decision {
                    quotas: vec![quota],
                    ..Decision::of(verdict, met.rule)
                }
            }
            _ => Decision {
                rule: nearest.map(|(met, _)| Arc::clone(&met.rule.name)),
                quotas,
                ..Decision::allowed()
            },
        }
    }

    fn denied_by_limit(
        &self,
        met: &Met<'_>,
        counting: &Counting<'_>,
        (what, outcome): (Denying<'_>, &Outcome),
        word: metrics::Outcome,
    ) {
        self.live.metrics[met.index].decided(word);
        self.live.denied_by(what.name());
        self.log.tell(
            self.request,
            Entry {
                outcome: word,
                rule: Some(&met.rule.name),
                limit: Some(what.name()),
                reason: None,
                key: Some(counting.subject.descriptor()),
                retry_after_us: Some(outcome.wait_us),
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
                outcome: metrics::Outcome::Allowed,
                rule: decision.rule.as_deref(),
                limit: None,
                reason: None,
                key: named,
                retry_after_us: None,
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
                    outcome,
                    rule: Some(&met.rule.name),
                    limit: None,
                    reason: Some(reason),
                    key: Some(counting.subject.descriptor()),
                    retry_after_us: None,
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
