//! One decision: match the request, charge the store, combine the answers.

mod decision;

use std::{ops::Range, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tracing::debug;

use crate::{
    limit::Outcome,
    metrics::{self, FallbackMode, Metrics, RuleMetrics},
    request::Attributes,
    rules::{
        Action, LimitAction, Mode, NamedLimit, OnStoreError, Plan, Rule, RuleSet,
        key::{OnMissing, PREFIX},
        matcher::Params,
    },
    store::{
        Batch, Counted, ENFORCED, StoreError,
        guard::{Guarded, budget},
        memory::MemoryStore,
    },
};

pub use self::decision::{Decision, Quota, Verdict};

/// How long a caller is told to wait when a rule denies because the store is away.
const STORE_AWAY_WAIT_US: u64 = 1_000_000;

/// Decides about requests by the rule set in force.
pub struct Engine {
    live: ArcSwap<Live>,
    store: Guarded,
    fallback: Arc<MemoryStore>,
    metrics: Arc<Metrics>,
    options: Options,
}

/// What the engine was started with.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The most time that a check may wait for the store.
    pub deadline: Duration,
    /// How many replicas share the store: the divisor of `on_store_error: local`.
    pub replicas: u64,
}

/// A rule set in force, with its metrics.
pub struct Live {
    /// The rules.
    pub set: RuleSet,
    /// Counts loads of good rule files, from 1.
    pub generation: u64,
    metrics: Vec<RuleMetrics>,
}

/// What an admission and a denial are called in metrics.
#[derive(Clone, Copy)]
struct Words {
    allowed: metrics::Outcome,
    denied: metrics::Outcome,
}

impl Words {
    const STORE: Self = Self {
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

/// A rule that applies to the request, and its charges in the batch.
struct Applied<'a> {
    index: usize,
    rule: &'a Rule,
    action: &'a LimitAction,
    limits: &'a [NamedLimit],
    charges: Range<usize>,
}

/// Where the walk stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    index: usize,
    rule: &'a Rule,
    /// The store's time, as well as it is known.
    now_us: u64,
}

/// What the walk over the rules found.
#[derive(Default)]
struct Matched<'a> {
    applied: Vec<Applied<'a>>,
    batch: Batch,
    /// The rule that ended the walk, and whether it denies.
    ended_by: Option<(usize, &'a Rule, bool)>,
}

impl Engine {
    /// An engine with a first rule set. `fallback` serves the rules with `on_store_error: local`.
    pub fn new(
        set: RuleSet,
        store: Guarded,
        fallback: Arc<MemoryStore>,
        metrics: Arc<Metrics>,
        options: Options,
    ) -> Self {
        let live = Live::new(set, 1, &metrics);
        Self {
            live: ArcSwap::from_pointee(live),
            store,
            fallback,
            metrics,
            options,
        }
    }

    /// The rule set in force.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Puts another rule set in force. Checks under way finish with the one they began with. Returns its generation.
    pub fn replace(&self, set: RuleSet) -> u64 {
        let generation = self.live.load().generation + 1;
        let names: Vec<&str> = set.rules.iter().map(|rule| &*rule.name).collect();
        self.metrics.retain_rules(&names);
        let live = Live::new(set, generation, &self.metrics);
        self.live.store(Arc::new(live));
        generation
    }

    /// Decides about a request. `proxy_waits` is how long the proxy will wait, if it said so.
    pub async fn decide(
        &self,
        live: &Live,
        request: &Attributes<'_>,
        proxy_waits: Option<Duration>,
    ) -> Decision {
        let mut matched = live.walk(request, self.store.now_us());
        if let Some((index, rule, true)) = matched.ended_by {
            live.metrics[index].decided(metrics::Outcome::Denied);
            return Decision::of(Verdict::Forbidden, rule);
        }
        let decision = if matched.batch.is_empty() {
            Decision::allowed()
        } else {
            let deadline = Instant::now() + budget(self.options.deadline, proxy_waits);
            let mut answer = self.store.charge(&matched.batch, deadline).await;
            // The store has learnt what time it is: its windows are known now.
            if answer == Err(StoreError::Clock) {
                matched = live.walk(request, self.store.now_us());
                answer = self.store.charge(&matched.batch, deadline).await;
            }
            match answer {
                Ok(verdict) => {
                    live.combine(&matched, verdict.admitted, &verdict.outcomes, Words::STORE)
                }
                Err(error) => self.without_store(live, &matched, &error),
            }
        };
        match matched.ended_by {
            Some((index, rule, _)) if decision.verdict == Verdict::Allowed => {
                live.metrics[index].decided(metrics::Outcome::Allowed);
                Decision {
                    rule: Some(Arc::clone(&rule.name)),
                    ..decision
                }
            }
            _ => decision,
        }
    }

    /// Each rule decides as its `on_store_error` says. A denial outweighs "the proxy decides", which outweighs the rest;
    /// rules in shadow mode have no say.
    fn without_store(&self, live: &Live, matched: &Matched<'_>, error: &StoreError) -> Decision {
        let mut local = Batch::default();
        let mut local_rules = Vec::new();
        let mut verdict = Verdict::Allowed;
        let mut decided_by = None;
        for applied in &matched.applied {
            let mode = applied.action.on_store_error;
            live.metrics[applied.index].fell_back(mode.into(), error.kind());
            if mode == OnStoreError::Local {
                let start = local.charges().len();
                for charge in &matched.batch.charges()[applied.charges.clone()] {
                    let copy_key = |key: &mut String| key.push_str(matched.batch.key(charge));
                    match charge.counted {
                        Counted::Limit(limit) => {
                            let share = limit.divided(self.options.replicas);
                            local.push(share, charge.cost, charge.group, copy_key);
                        }
                        Counted::Ban { ban, span } => {
                            local.push_ban(ban, span, charge.group, copy_key);
                        }
                    }
                }
                local_rules.push(Applied {
                    charges: start..local.charges().len(),
                    ..*applied
                });
            } else if applied.action.mode == Mode::Enforce {
                let says = match mode {
                    OnStoreError::Deny => Verdict::Limited {
                        retry_after_us: STORE_AWAY_WAIT_US,
                    },
                    OnStoreError::Proxy if verdict == Verdict::Allowed => Verdict::Unavailable,
                    _ => continue,
                };
                if !matches!(verdict, Verdict::Limited { .. }) {
                    verdict = says;
                    decided_by = Some(applied);
                }
            }
        }
        if let Some(applied) = decided_by {
            live.metrics[applied.index].decided(match verdict {
                Verdict::Unavailable => metrics::Outcome::Unavailable,
                _ => metrics::Outcome::FallbackDenied,
            });
            return Decision::of(verdict, applied.rule);
        }
        let answer = self.fallback.charge_now(&local);
        let counted = Matched {
            applied: local_rules,
            batch: local,
            ended_by: None,
        };
        let decision = live.combine(&counted, answer.admitted, &answer.outcomes, Words::FALLBACK);
        if decision.verdict == Verdict::Allowed {
            for applied in &matched.applied {
                if applied.action.on_store_error == OnStoreError::Allow {
                    live.metrics[applied.index].decided(metrics::Outcome::FallbackAllowed);
                }
            }
        }
        decision
    }
}

impl Live {
    fn new(set: RuleSet, generation: u64, metrics: &Metrics) -> Self {
        let metrics = set
            .rules
            .iter()
            .map(|rule| metrics.rule(&rule.name))
            .collect();
        Self {
            set,
            generation,
            metrics,
        }
    }

    /// From top to bottom: every limit that matches applies, until a rule ends the walk.
    fn walk<'a>(&'a self, request: &'a Attributes<'_>, now_us: u64) -> Matched<'a> {
        let mut matched = Matched::default();
        for (index, rule, params) in self.set.matching(request) {
            match &rule.action {
                Action::Allow => {
                    matched.ended_by = Some((index, rule, false));
                    break;
                }
                Action::Deny(Mode::Shadow) => self.shadow_denies(index, rule),
                Action::Deny(Mode::Enforce) => {
                    matched.ended_by = Some((index, rule, true));
                    break;
                }
                Action::Limit(action) => {
                    let place = Place {
                        index,
                        rule,
                        now_us,
                    };
                    if !self.apply(&mut matched, place, action, request, &params) {
                        if action.mode == Mode::Enforce {
                            matched.ended_by = Some((index, rule, true));
                            break;
                        }
                        self.shadow_denies(index, rule);
                    }
                }
            }
        }
        matched
    }

    fn shadow_denies(&self, index: usize, rule: &Rule) {
        self.metrics[index].decided(metrics::Outcome::ShadowDenied);
        debug!(rule = %rule.name, "shadow: would be denied");
    }

    /// Adds a rule's charges; `false` if the request is denied without any, for want of a key or because its caller may have
    /// nothing.
    fn apply<'a>(
        &'a self,
        matched: &mut Matched<'a>,
        place: Place<'a>,
        action: &'a LimitAction,
        request: &Attributes<'_>,
        params: &Params<'_>,
    ) -> bool {
        let Place {
            index,
            rule,
            now_us,
        } = place;
        let mut subject = String::with_capacity(64);
        subject.push_str(PREFIX);
        subject.push('{');
        subject.push_str(&rule.name);
        subject.push(':');
        let start = subject.len();
        let missing = action
            .descriptor
            .push(&mut subject, request, params, self.set.key_context());
        if missing {
            match action.descriptor.on_missing {
                OnMissing::Shared => {}
                OnMissing::Skip => return true,
                OnMissing::Deny => return false,
            }
        }
        let (plan, _) = action.plan_for(&subject[start..], request);
        subject.push('}');
        let limits = match plan {
            Plan::Limits(limits) => limits,
            Plan::Unlimited => return true,
            Plan::Nothing => return false,
        };
        let group = match action.mode {
            Mode::Enforce => ENFORCED,
            // Any number of its own will do; rule 0 may be a shadow rule too.
            Mode::Shadow => u32::try_from(index).unwrap_or(u32::MAX - 1) + 1,
        };
        let cost = action.cost.of(request);
        let start = matched.batch.charges().len();
        for limit in limits {
            matched.batch.push(limit.at(now_us), cost, group, |key| {
                key.push_str(&subject);
                key.push_str(&limit.key_suffix);
            });
        }
        let charges = start..matched.batch.charges().len();
        matched.applied.push(Applied {
            index,
            rule,
            action,
            limits,
            charges,
        });
        true
    }

    /// Counts and reports what the limits said.
    fn combine(
        &self,
        matched: &Matched<'_>,
        admitted: bool,
        outcomes: &[Outcome],
        words: Words,
    ) -> Decision {
        let mut quotas = Vec::with_capacity(outcomes.len());
        // Of the limits that deny, the one that does so longest; of those that admit, the one that is nearest to its end.
        let mut denying: Option<(&Applied<'_>, &NamedLimit, &Outcome)> = None;
        let mut nearest: Option<(&Applied<'_>, u64)> = None;
        for applied in &matched.applied {
            let metrics = &self.metrics[applied.index];
            let answers = applied
                .limits
                .iter()
                .zip(&outcomes[applied.charges.clone()]);
            let fits = answers.clone().all(|(_, outcome)| outcome.allowed);
            if applied.action.mode == Mode::Shadow {
                if fits && admitted {
                    metrics.decided(words.allowed);
                } else if !fits {
                    metrics.decided(metrics::Outcome::ShadowDenied);
                    debug!(rule = %applied.rule.name, "shadow: would be denied");
                }
                continue;
            }
            for (limit, outcome) in answers {
                if !outcome.allowed
                    && denying.is_none_or(|(_, _, longest)| outcome.wait_us > longest.wait_us)
                {
                    denying = Some((applied, limit, outcome));
                }
                if admitted {
                    quotas.push(Quota::new(limit, outcome));
                    if nearest.is_none_or(|(_, least)| outcome.remaining < least) {
                        nearest = Some((applied, outcome.remaining));
                    }
                }
            }
            if admitted {
                metrics.decided(words.allowed);
            }
        }
        match denying {
            Some((applied, limit, outcome)) if !admitted => {
                self.metrics[applied.index].decided(words.denied);
                debug!(rule = %applied.rule.name, limit = %limit.name, retry_after_us = outcome.wait_us, "denied");
                Decision {
                    verdict: Verdict::Limited {
                        retry_after_us: outcome.wait_us,
                    },
                    rule: Some(Arc::clone(&applied.rule.name)),
                    quotas: vec![Quota::new(limit, outcome)],
                    answer: Some(Arc::clone(&applied.rule.answer)),
                }
            }
            _ => Decision {
                verdict: Verdict::Allowed,
                rule: nearest.map(|(applied, _)| Arc::clone(&applied.rule.name)),
                quotas,
                answer: None,
            },
        }
    }
}
