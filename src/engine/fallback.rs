//! The decision when the store does not answer, or not about all rules: those that are left do as
//! their `on_store_error` says.

use std::ops::Range;

use tokio::time::Instant;

use super::{
    combine::{Decider, Deciding},
    decision::{Decision, Verdict},
    log::Entry,
    walk::{Charges, Effect, MatchedRule, Walk},
};
use crate::{
    metrics::{DecisionLabel, FallbackMode, StoreFailure},
    rules::{Mode, OnStoreError},
    store::{Answer, Batch, Counted, Lost, StoreError, memory::MemoryStore},
};

/// The wait that a denial reports when a rule denies because the store is away.
const STORE_AWAY_WAIT_US: u64 = 1_000_000;

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

/// What decides where the store does not.
#[derive(Clone, Copy)]
pub(super) struct Fallback<'a> {
    /// Counts for `on_store_error: local`.
    pub(super) counters: &'a MemoryStore,
    /// Among how many replicas a limit is divided.
    pub(super) replicas: u64,
}

/// A rule that the store has not decided about.
#[derive(Clone, Copy)]
struct Undecided<'m, 'a> {
    matched: &'m MatchedRule<'a>,
    charges: &'m Charges<'a>,
    why: StoreFailure,
}

impl<'a> Deciding<'a> {
    /// Decides by the store's answer. Rules that are lost do as their `on_store_error` says, unless
    /// another one denies.
    pub(super) async fn with_answer(
        &self,
        answer: Answer,
        fallback: Fallback<'_>,
        deadline: Instant,
    ) -> Decision<'a> {
        let Answer {
            result,
            lost,
            unsettled,
        } = answer;
        let why = |charges: &Charges<'_>| {
            let is_lost = |lost: &&Lost| lost.places.iter().any(|at| charges.in_batch.contains(at));
            lost.iter().find(is_lost).map(|lost| lost.error.kind())
        };
        let charges = self.walk.charges();
        let decided = charges.filter(|(_, charges)| why(charges).is_none());
        if lost.is_empty() || !result.admitted {
            return self.combine(decided, &result, Decider::STORE);
        }
        let undecided: Vec<_> = self
            .walk
            .charges()
            .filter_map(|(matched, charges)| {
                let why = why(charges)?;
                Some(Undecided {
                    matched,
                    charges,
                    why,
                })
            })
            .collect();
        let decision = self.fall_back(&undecided, fallback);
        match decision.verdict {
            Verdict::Allowed => {
                unsettled.keep();
                let of_store = self.combine(decided, &result, Decider::STORE);
                of_store.and(decision)
            }
            // The proxy may admit the request.
            Verdict::Unavailable => {
                unsettled.keep();
                decision
            }
            Verdict::Limited { .. } | Verdict::Banned { .. } | Verdict::Forbidden => {
                unsettled.give_back(deadline).await;
                decision
            }
        }
    }

    /// Decides without the store.
    pub(super) fn without_store(&self, error: &StoreError, fallback: Fallback<'_>) -> Decision<'a> {
        let undecided = self.walk.charges().map(|(matched, charges)| Undecided {
            matched,
            charges,
            why: error.kind(),
        });
        let undecided: Vec<_> = undecided.collect();
        self.fall_back(&undecided, fallback)
    }

    /// Decides about rules without the store. A denial outweighs "the proxy decides", which
    /// outweighs the rest; rules in shadow mode have no say.
    fn fall_back(&self, undecided: &[Undecided<'_, 'a>], fallback: Fallback<'_>) -> Decision<'a> {
        for rule in undecided {
            let mode = rule.charges.action.on_store_error;
            self.live.series[rule.matched.index]
                .rule
                .fell_back(mode.into(), rule.why);
        }
        if let Some(decision) = self.decided_by_rule(undecided) {
            return decision;
        }
        let local = self.local_share(undecided, fallback.replicas);
        let result = fallback.counters.charge_now(&local.batch);
        let decision = self.combine(
            local.charges(),
            &result,
            Decider::fallback(fallback.replicas),
        );
        if decision.verdict == Verdict::Allowed {
            for rule in with_mode(undecided, OnStoreError::Allow) {
                let metrics = &self.live.series[rule.matched.index].rule;
                metrics.decided(DecisionLabel::FallbackAllowed);
            }
        }
        decision
    }

    /// The decision of the first rule that denies, else of the first that leaves it to the proxy.
    fn decided_by_rule(&self, undecided: &[Undecided<'_, 'a>]) -> Option<Decision<'a>> {
        let enforced = |rule: &&Undecided<'_, '_>| rule.charges.action.mode == Mode::Enforce;
        let denies = with_mode(undecided, OnStoreError::Deny).find(enforced);
        let asks = with_mode(undecided, OnStoreError::Proxy).find(enforced);
        let denial = Verdict::Limited {
            retry_after_us: STORE_AWAY_WAIT_US,
        };
        let (
            Undecided {
                matched, charges, ..
            },
            verdict,
            label,
            reason,
        ) = match (denies, asks) {
            (Some(rule), _) => {
                let label = DecisionLabel::FallbackDenied;
                (rule, denial, label, "on_store_error: deny")
            }
            (None, Some(rule)) => {
                let label = DecisionLabel::Unavailable;
                (rule, Verdict::Unavailable, label, "on_store_error: proxy")
            }
            (None, None) => return None,
        };
        self.live.series[matched.index].rule.decided(label);
        self.log.write(
            self.request,
            Entry {
                reason: Some(reason),
                key: Some(charges.subject.descriptor()),
                ..Entry::of(label, Some(&matched.rule.name))
            },
        );
        Some(Decision {
            outcome: label,
            ..Decision::of(verdict, matched.rule, None)
        })
    }

    /// The rules that count locally, with this replica's share of their limits.
    fn local_share(&self, undecided: &[Undecided<'_, 'a>], replicas: u64) -> Walk<'a> {
        let mut local = Walk::default();
        for Undecided {
            matched, charges, ..
        } in with_mode(undecided, OnStoreError::Local)
        {
            let in_batch = copy_share(&mut local.batch, &self.walk.batch, charges, replicas);
            local.rules.push(MatchedRule {
                effect: Effect::Counts(Charges {
                    in_batch,
                    // Tried out is what all replicas count together.
                    candidates: 0..0,
                    ..(*charges).clone()
                }),
                ..(*matched).clone()
            });
        }
        local
    }
}

/// The rules with this `on_store_error`.
fn with_mode<'u, 'm, 'a>(
    undecided: &'u [Undecided<'m, 'a>],
    mode: OnStoreError,
) -> impl Iterator<Item = &'u Undecided<'m, 'a>> {
    let has_mode = move |rule: &&Undecided<'_, '_>| rule.charges.action.on_store_error == mode;
    undecided.iter().filter(has_mode)
}

/// Adds a rule's charges to `local`, with this replica's share of its limits.
fn copy_share(
    local: &mut Batch,
    batch: &Batch,
    charges: &Charges<'_>,
    replicas: u64,
) -> Range<usize> {
    let start = local.charges().len();
    let max_new_keys = charges.action.max_new_keys;
    for charge in &batch.charges()[charges.in_batch.clone()] {
        let copy_key = |key: &mut String| key.push_str(batch.key(charge));
        match charge.counted {
            Counted::Limit(limit) => {
                local.push(limit.divided(replicas), charge.cost, charge.group, copy_key);
            }
            Counted::Ban { ban, span } => local.push_ban(ban, span, charge.group, copy_key),
        }
    }
    local.set_max_new_keys(start, max_new_keys);
    start..local.charges().len()
}
