//! Combines the answers of all limits into one decision, counts it and logs it.

use std::borrow::Cow;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    decision::{Decision, Quota, Verdict},
    live::Live,
    log::{DecisionLog, Entry},
    near::NearLimit,
    walk::{Charges, DenyReason, Effect, MatchedRule, Walk},
};
use crate::{
    counter_key::Subject,
    limit::Outcome,
    metrics::DecisionLabel,
    request::Attributes,
    rules::{Mode, NamedBan, NamedLimit},
    store::ChargeResult,
};

/// Who decides: the labels of its admissions and denials in metrics, and what it decides by.
#[derive(Clone, Copy)]
pub(super) struct Decider {
    allowed: DecisionLabel,
    denied: DecisionLabel,
    /// Among how many each limit is divided.
    shares: u64,
}

impl Decider {
    pub(super) const STORE: Self = Self {
        allowed: DecisionLabel::Allowed,
        denied: DecisionLabel::Denied,
        shares: 1,
    };

    /// A replica without the store, which has its share of each limit.
    pub(super) const fn fallback(replicas: u64) -> Self {
        Self {
            allowed: DecisionLabel::FallbackAllowed,
            denied: DecisionLabel::FallbackDenied,
            shares: replicas,
        }
    }

    /// How much of a limit it has, as [`Limit::divided`](crate::limit::Limit::divided) says.
    fn holds(self, limit: &NamedLimit) -> u64 {
        limit.limit.burst().div_ceil(self.shares.max(1))
    }
}

/// The outcome in the log of a request that a limit under `try` would have denied.
const WOULD_DENY: &str = "would_deny";

/// A decision being made.
pub(super) struct Deciding<'a> {
    pub(super) live: &'a Live,
    pub(super) log: &'a DecisionLog,
    /// From when on a limit is nearly reached.
    pub(super) near: NearLimit,
    pub(super) request: &'a Attributes<'a>,
    /// When it came.
    pub(super) now: Instant,
    pub(super) walk: Walk<'a>,
}

/// What denies: a limit, by its place, or a ban.
#[derive(Clone, Copy)]
enum DeniedBy<'a> {
    Limit(usize),
    Ban(&'a NamedBan),
}

/// A denial: the rule and limit that deny, and for how long.
pub(super) struct Denial<'m, 'a> {
    matched: &'m MatchedRule<'a>,
    charges: &'m Charges<'a>,
    what: DeniedBy<'a>,
    outcome: Outcome,
}

impl<'m, 'a> Denial<'m, 'a> {
    /// The position in the file of the rule that denies.
    pub(super) fn rule_index(&self) -> usize {
        self.matched.index
    }

    /// Whether its ban denies, and not one of its limits.
    pub(super) fn is_ban(&self) -> bool {
        matches!(self.what, DeniedBy::Ban(_))
    }

    /// The denial by one rule, if it denies: its ban, else the limit with the longest wait (the
    /// first of several). A banned client waits until all limits have room.
    pub(super) fn of(
        matched: &'m MatchedRule<'a>,
        charges: &'m Charges<'a>,
        outcomes: &[Outcome],
    ) -> Option<Self> {
        let outcomes = &outcomes[charges.in_batch.clone()];
        let (of_limits, of_ban) = outcomes.split_at(charges.limits.len());
        let denying = |(what, outcome): (DeniedBy<'a>, &Outcome)| {
            (!outcome.allowed).then_some(Self {
                matched,
                charges,
                what,
                outcome: *outcome,
            })
        };
        let limits = (0..).map(DeniedBy::Limit).zip(of_limits);
        let limit = limits.filter_map(denying).reduce(Self::longer);
        let ban = charges.ban.map(DeniedBy::Ban).zip(of_ban.first());
        match (ban.and_then(denying), limit) {
            (Some(mut ban), Some(limit)) => {
                ban.outcome.wait_us = ban.outcome.wait_us.max(limit.outcome.wait_us);
                Some(ban)
            }
            (ban, limit) => ban.or(limit),
        }
    }

    /// The name of the limit or ban.
    fn name(&self) -> &'m str {
        match self.what {
            DeniedBy::Limit(place) => &self.charges.limits[place].name,
            DeniedBy::Ban(ban) => &ban.name,
        }
    }

    fn longer(self, other: Self) -> Self {
        if other.outcome.wait_us > self.outcome.wait_us {
            other
        } else {
            self
        }
    }

    fn decision(&self) -> Decision<'a> {
        let retry_after_us = self.outcome.wait_us;
        let (verdict, quota) = match self.what {
            DeniedBy::Limit(place) => (
                Verdict::Limited { retry_after_us },
                self.charges.quota(place, &self.outcome),
            ),
            DeniedBy::Ban(ban) => (
                Verdict::Banned { retry_after_us },
                Quota::of_ban(ban, &self.outcome),
            ),
        };
        Decision::of(verdict, self.matched.rule, Some(quota))
    }
}

/// The decision that follows from what the store decided about some rules, and the denial behind
/// it. Counts nothing.
pub(super) fn conclude<'m, 'a: 'm>(
    rules: impl Iterator<Item = (&'m MatchedRule<'a>, &'m Charges<'a>)>,
    result: &ChargeResult,
) -> (Decision<'a>, Option<Denial<'m, 'a>>) {
    let enforced = rules.filter(|(_, charges)| charges.action.mode == Mode::Enforce);
    if !result.admitted {
        let denials = enforced
            .filter_map(|(matched, charges)| Denial::of(matched, charges, &result.outcomes));
        if let Some(denial) = denials.reduce(Denial::longer) {
            return (denial.decision(), Some(denial));
        }
        return (Decision::allowed(), None);
    }
    let mut quotas = SmallVec::new();
    let mut nearest: Option<(&MatchedRule<'a>, u64)> = None;
    for (matched, charges) in enforced {
        let outcomes = &result.outcomes[charges.in_batch.clone()];
        for (place, outcome) in outcomes[..charges.limits.len()].iter().enumerate() {
            quotas.push(charges.quota(place, outcome));
            if nearest.is_none_or(|(_, least)| outcome.remaining < least) {
                nearest = Some((matched, outcome.remaining));
            }
        }
    }
    let decision = Decision {
        rule: nearest.map(|(matched, _)| Cow::Borrowed(&*matched.rule.name)),
        quotas,
        ..Decision::allowed()
    };
    (decision, None)
}

impl<'a> Charges<'a> {
    /// The limit at a place, as a response reports it.
    fn quota(&self, place: usize, outcome: &Outcome) -> Quota<'a> {
        match &self.limits {
            Cow::Borrowed(limits) => Quota::of_limit(&limits[place], outcome),
            // The request has set its amount.
            Cow::Owned(limits) => Quota::of_limit(&limits[place], outcome).into_owned(),
        }
    }

    /// Whether the ban began with this request.
    pub(super) fn ban_begins(&self, outcomes: &[Outcome]) -> bool {
        let of_ban = outcomes[self.in_batch.clone()].last();
        // `limit::ban::Step` says how a ban marks its beginning.
        self.ban.is_some() && of_ban.is_some_and(|ban| !ban.allowed && ban.remaining == 1)
    }
}

impl<'a> Deciding<'a> {
    /// Counts the denials of shadow rules that deny without counting.
    pub(super) fn count_shadow_denials(&self) {
        for matched in &self.walk.rules {
            if let Effect::Denies { mode, why } = &matched.effect
                && *mode == Mode::Shadow
            {
                self.denied_by_rule(matched, why, DecisionLabel::ShadowDenied);
            }
        }
    }

    /// The decision, if the walk ended with a denial.
    pub(super) fn denied_without_counting(&self) -> Option<Decision<'a>> {
        let (end, why) = self.walk.forbidden()?;
        self.denied_by_rule(end, why, DecisionLabel::Denied);
        Some(Decision::of(Verdict::Forbidden, end.rule, None))
    }

    fn denied_by_rule(
        &self,
        matched: &MatchedRule<'_>,
        why: &DenyReason<'_>,
        outcome: DecisionLabel,
    ) {
        let key = why.subject().map(Subject::descriptor);
        self.live.series[matched.index].rule.decided(outcome);
        // `action: deny` tells no callers apart.
        self.live.denials[matched.index].denied(key.unwrap_or_default(), self.now);
        self.log.write(
            self.request,
            Entry {
                reason: Some(why.reason()),
                key,
                ..Entry::of(outcome, Some(&matched.rule.name))
            },
        );
    }

    /// Combines what a store decided about some rules.
    pub(super) fn combine<'m>(
        &self,
        rules: impl Iterator<Item = (&'m MatchedRule<'a>, &'m Charges<'a>)> + Clone,
        result: &ChargeResult,
        decider: Decider,
    ) -> Decision<'a>
    where
        'a: 'm,
    {
        for (matched, charges) in rules.clone() {
            let metrics = &self.live.series[matched.index].rule;
            if charges.ban_begins(&result.outcomes) {
                metrics.banned();
            }
            if result
                .shared
                .iter()
                .any(|place| charges.in_batch.contains(place))
            {
                metrics.new_key_shared();
                self.log
                    .new_key_shared(&matched.rule.name, charges.action.max_new_keys);
            }
            let is_shadow = charges.action.mode == Mode::Shadow;
            let denial = is_shadow.then(|| Denial::of(matched, charges, &result.outcomes));
            if let Some(denial) = denial.flatten() {
                self.denied_by_limit(&denial, DecisionLabel::ShadowDenied);
            } else if result.admitted {
                metrics.decided(decider.allowed);
                self.admitted_by_limits(matched, charges, &result.outcomes, decider);
            }
            if result.admitted {
                self.try_out(matched, charges, &result.outcomes);
            }
        }
        let (mut decision, denial) = conclude(rules, result);
        decision.outcome = decider.allowed;
        if let Some(denial) = denial {
            self.denied_by_limit(&denial, decider.denied);
            decision.outcome = decider.denied;
        }
        decision
    }

    /// Counts an admission by the limits of a rule.
    fn admitted_by_limits(
        &self,
        matched: &MatchedRule<'_>,
        charges: &Charges<'_>,
        outcomes: &[Outcome],
        decider: Decider,
    ) {
        let outcomes = &outcomes[charges.in_batch.clone()];
        let of_rule = &self.live.series[matched.index];
        for (limit, outcome) in charges.limits.iter().zip(outcomes) {
            let Some(series) = of_rule.limit(&limit.name) else {
                continue;
            };
            series.admissions.inc();
            if self
                .near
                .is_reached(decider.holds(limit), outcome.remaining)
            {
                series.near.inc();
            }
        }
    }

    /// Reports the admitted request if a limit that is tried out would have denied it.
    fn try_out(&self, matched: &MatchedRule<'_>, charges: &Charges<'_>, outcomes: &[Outcome]) {
        for (place, candidate) in charges.candidates() {
            let outcome = outcomes[place];
            if outcome.allowed {
                continue;
            }
            let series = self.live.series[matched.index].limit(&candidate.name);
            if let Some(counter) = series.and_then(|series| series.would_deny.as_ref()) {
                counter.inc();
            }
            self.log.write(
                self.request,
                Entry {
                    outcome: WOULD_DENY,
                    limit: Some(&candidate.name),
                    reason: Some(&candidate.text),
                    key: Some(charges.subject.descriptor()),
                    retry_after_us: Some(outcome.wait_us),
                    ..Entry::of(DecisionLabel::Allowed, Some(&matched.rule.name))
                },
            );
        }
    }

    fn denied_by_limit(&self, denial: &Denial<'_, '_>, label: DecisionLabel) {
        let Denial {
            matched,
            charges,
            outcome,
            ..
        } = denial;
        self.live.series[matched.index].rule.decided(label);
        self.live.series[matched.index].denied_by(denial.name());
        self.live.denials[matched.index].denied(charges.subject.descriptor(), self.now);
        self.log.write(
            self.request,
            Entry {
                limit: Some(denial.name()),
                key: Some(charges.subject.descriptor()),
                retry_after_us: Some(outcome.wait_us),
                ..Entry::of(label, Some(&matched.rule.name))
            },
        );
    }

    /// Logs an admission, if admissions are logged.
    pub(super) fn log_admission(&self, decision: &Decision<'_>) {
        if !self.log.wants_all() {
            return;
        }
        let named = self
            .walk
            .rules
            .iter()
            .rev()
            .find_map(|matched| match &matched.effect {
                Effect::Counts(charges)
                    if decision.rule.as_deref() == Some(&*matched.rule.name) =>
                {
                    Some(charges.subject.descriptor())
                }
                _ => None,
            });
        self.log.write(
            self.request,
            Entry {
                key: named,
                ..Entry::of(DecisionLabel::Allowed, decision.rule.as_deref())
            },
        );
    }
}
