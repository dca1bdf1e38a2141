//! What a rule is, once compiled.

use std::{collections::HashMap, sync::Arc};

use super::{answer::Answer, key::Descriptor, matcher::Matcher};
use crate::{
    limit::{Limit, ban::Ban, calendar::Calendar},
    request::Attributes,
    words::words,
};

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name: in keys, headers, logs and metrics.
    pub name: Arc<str>,
    /// Which requests it is about.
    pub matcher: Matcher,
    /// What happens to them.
    pub action: Action,
    /// What those get whom it denies.
    pub answer: Arc<Answer>,
}

impl Rule {
    /// What it counts, if it counts.
    pub fn limit_action(&self) -> Option<&LimitAction> {
        match &self.action {
            Action::Limit(action) => Some(action),
            Action::Allow | Action::Deny(_) => None,
        }
    }

    /// The names of all that may deny: its limits, those of its tiers and overrides, and its ban.
    pub fn limit_names(&self) -> impl Iterator<Item = &Arc<str>> {
        let action = self.limit_action();
        let limits = action
            .into_iter()
            .flat_map(LimitAction::plans)
            .flat_map(Plan::limits);
        let ban = action.and_then(|action| action.ban.as_ref());
        limits
            .map(|limit| &limit.name)
            .chain(ban.map(|ban| &ban.name))
    }
}

/// What a rule does with a request that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Lets it pass; no later rule is asked.
    Allow,
    /// Turns it away; no later rule is asked and nothing is charged. In shadow mode it only says so.
    Deny(Mode),
    /// Counts it.
    Limit(Box<LimitAction>),
}

/// The limits of a rule and what they count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitAction {
    /// Whose requests share a counter.
    pub descriptor: Descriptor,
    /// What a request costs.
    pub cost: Cost,
    /// What holds for callers of whom nothing else is said.
    pub plan: Plan,
    /// What holds for callers of one kind; the first that fits.
    pub tiers: Vec<Tier>,
    /// What holds for one caller, by the descriptor as it stands in keys. Comes before tiers.
    pub overrides: HashMap<Box<str>, Plan>,
    /// Who is denied for longer, because limits denied them too often.
    pub ban: Option<NamedBan>,
    /// Whether a denial is only counted and logged.
    pub mode: Mode,
    /// What happens while the store does not answer.
    pub on_store_error: OnStoreError,
}

/// Where a caller's limits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanSource<'a> {
    /// The rule's own.
    Rule,
    /// A tier, by its name.
    Tier(&'a str),
    /// An override.
    Override,
}

impl LimitAction {
    /// What holds for a caller. `descriptor` is as keys have it.
    pub fn plan_for(&self, descriptor: &str, request: &Attributes<'_>) -> (&Plan, PlanSource<'_>) {
        if let Some(plan) = self.overrides.get(descriptor) {
            return (plan, PlanSource::Override);
        }
        match self
            .tiers
            .iter()
            .find(|tier| tier.when.matches(request).is_some())
        {
            Some(tier) => (&tier.plan, PlanSource::Tier(&tier.name)),
            None => (&self.plan, PlanSource::Rule),
        }
    }

    /// All of its plans.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(&self.plan)
            .chain(self.tiers.iter().map(|tier| &tier.plan))
            .chain(self.overrides.values())
    }
}

/// What a caller may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// All of these limits apply.
    Limits(Vec<NamedLimit>),
    /// Nothing is counted.
    Unlimited,
    /// Nothing is admitted.
    Nothing,
}

impl Plan {
    /// Its limits, if it has some.
    pub fn limits(&self) -> &[NamedLimit] {
        match self {
            Self::Limits(limits) => limits,
            Self::Unlimited | Self::Nothing => &[],
        }
    }
}

/// What holds for callers of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// Its name, `tier1` and so on if it was given none.
    pub name: Arc<str>,
    /// Who.
    pub when: Matcher,
    /// What.
    pub plan: Plan,
}

/// What a request costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cost {
    /// Always as much, at least 1.
    Fixed(u64),
    /// As much as a header says.
    Header {
        /// Which one; its first line.
        name: http::HeaderName,
        /// Without the header, or when it is no whole number above 0.
        default: u64,
        /// No more than this, whatever the header says.
        max: u64,
    },
}

impl Cost {
    /// What `request` costs, at least 1.
    pub fn of(&self, request: &Attributes<'_>) -> u64 {
        match self {
            Self::Fixed(cost) => *cost,
            Self::Header { name, default, max } => {
                let value = request.headers.get(name).map(http::HeaderValue::as_bytes);
                value.map_or(*default, |value| cost_in(value, *default, *max))
            }
        }
    }

    /// The most that a request can cost.
    pub fn most(&self) -> u64 {
        match self {
            Self::Fixed(cost) => *cost,
            Self::Header { max, .. } => *max,
        }
    }
}

fn cost_in(value: &[u8], default: u64, max: u64) -> u64 {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return default;
    }
    // So many digits that it does not fit: more than any maximum.
    let cost = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(u64::MAX);
    if cost == 0 { default } else { cost.min(max) }
}

/// A limit with everything about it that can be written ahead of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedLimit {
    /// The arithmetic.
    pub limit: Limit,
    /// What its windows begin with, if not with the first request.
    pub calendar: Option<Calendar>,
    /// `data`, or `search/1s` when the rule has several limits: the policy's name in answers and logs.
    pub name: Arc<str>,
    /// `"data";q=5;w=60`: this limit's member of `RateLimit-Policy`.
    pub policy: Arc<str>,
    /// `:sliding_window:60s`: the end of its keys.
    pub key_suffix: Arc<str>,
    /// `5/m`, as the rule file says it.
    pub text: Arc<str>,
}

impl NamedLimit {
    /// The limit as it stands at `now_us`: its window, if a calendar says so.
    pub fn at(&self, now_us: u64) -> Limit {
        match &self.calendar {
            None => self.limit,
            Some(calendar) => self.limit.aligned(calendar.edges(now_us)),
        }
    }
}

/// A ban with everything about it that can be written ahead of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBan {
    /// The arithmetic.
    pub ban: Ban,
    /// `login/ban`: what it is called in answers, logs and metrics.
    pub name: Arc<str>,
    /// `"login/ban";q=5;w=600`: its member of `RateLimit-Policy`. The quota is one of denials.
    pub policy: Arc<str>,
    /// `5 denials within 10m`.
    pub text: Arc<str>,
}

words! {
    /// Whether a rule denies.
    pub enum Mode default Enforce {
        /// It denies.
        Enforce => "enforce",
        /// It counts and reports what it would have denied, and denies nothing.
        Shadow => "shadow",
    }
}

words! {
    /// What a rule does while Redis does not answer.
    pub enum OnStoreError default Local {
        /// Counts in this process, with the limit divided by `--replicas`.
        Local => "local",
        /// Admits, uncounted.
        Allow => "allow",
        /// Denies with 429 and `Retry-After: 1`.
        Deny => "deny",
        /// Answers 503: the proxy's own failure mode decides.
        Proxy => "proxy",
    }
}
