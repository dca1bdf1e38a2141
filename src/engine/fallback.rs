//! The decision when the store does not answer: each rule does as its `on_store_error` says.

use std::ops::Range;

use super::{
    combine::{Deciding, OutcomeLabels},
    decision::{Decision, Verdict},
    log::Entry,
    walk::{Charges, Effect, MatchedRule, Walk},
};
use crate::{
    metrics::{DecisionLabel, FallbackMode},
    rules::{Mode, OnStoreError},
    store::{Batch, Counted, StoreError, memory::MemoryStore},
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

impl Deciding<'_> {
    /// Decides without the store. A denial outweighs "the proxy decides", which outweighs the rest;
    /// rules in shadow mode have no say.
    pub(super) fn without_store(
        &self,
        error: &StoreError,
        fallback: &MemoryStore,
        replicas: u64,
    ) -> Decision {
        for (matched, charges) in self.walk.charges() {
            let mode = charges.action.on_store_error;
            self.live.metrics[matched.index].fell_back(mode.into(), error.kind());
        }
        if let Some(decision) = self.decided_by_rule() {
            return decision;
        }
        let local = self.local_share(replicas);
        let result = fallback.charge_now(&local.batch);
        let decision = self.combine_of(&local, &result, OutcomeLabels::FALLBACK);
        if decision.verdict == Verdict::Allowed {
            for (matched, _) in self.charges_with(OnStoreError::Allow) {
                let metrics = &self.live.metrics[matched.index];
                metrics.decided(DecisionLabel::FallbackAllowed);
            }
        }
        decision
    }

    /// The decision of the first rule that denies, else of the first that leaves it to the proxy.
    fn decided_by_rule(&self) -> Option<Decision> {
        let enforced =
            |(_, charges): &(&MatchedRule<'_>, &Charges<'_>)| charges.action.mode == Mode::Enforce;
        let denies = self.charges_with(OnStoreError::Deny).find(enforced);
        let asks = self.charges_with(OnStoreError::Proxy).find(enforced);
        let denial = Verdict::Limited {
            retry_after_us: STORE_AWAY_WAIT_US,
        };
        let ((matched, charges), verdict, label, reason) = match (denies, asks) {
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
        self.live.metrics[matched.index].decided(label);
        self.log.write(
            self.request,
            Entry {
                reason: Some(reason),
                key: Some(charges.subject.descriptor()),
                ..Entry::of(label, Some(&matched.rule.name))
            },
        );
        Some(Decision::of(verdict, matched.rule))
    }

    /// The rules that count locally, with this replica's share of their limits.
    fn local_share(&self, replicas: u64) -> Walk<'_> {
        let mut local = Walk::default();
        for (matched, charges) in self.charges_with(OnStoreError::Local) {
            let in_batch = copy_share(&mut local.batch, &self.walk.batch, charges, replicas);
            local.rules.push(MatchedRule {
                effect: Effect::Counts(Charges {
                    in_batch,
                    ..charges.clone()
                }),
                ..matched.clone()
            });
        }
        local
    }

    fn charges_with(
        &self,
        mode: OnStoreError,
    ) -> impl Iterator<Item = (&MatchedRule<'_>, &Charges<'_>)> {
        let charges = self.walk.charges();
        charges.filter(move |(_, charges)| charges.action.on_store_error == mode)
    }
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
