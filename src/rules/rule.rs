//! A compiled rule and everything in it.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

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
    /// Which requests it applies to.
    pub matcher: Matcher,
    /// What happens to them.
    pub action: Action,
    /// The response sent when this rule denies.
    pub answer: Arc<Answer>,
}

impl Rule {
    /// What it counts, if it counts anything.
    pub fn limit_action(&self) -> Option<&LimitAction> {
        match &self.action {
            Action::Limit(action) => Some(action),
            Action::Allow | Action::Deny(_) => None,
        }
    }

    /// The names of everything that may deny: its limits, those of its tiers and overrides, and its
    /// ban.
    pub fn limit_names(&self) -> impl Iterator<Item = &Arc<str>> {
        let action = self.limit_action();
        let limits = action.into_iter().flat_map(LimitAction::limits);
        let ban = action.and_then(|action| action.ban.as_ref());
        limits
            .map(|limit| &limit.name)
            .chain(ban.map(|ban| &ban.name))
    }
}

/// What a rule does with a request that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Admits it; no later rule is asked.
    Allow,
    /// Denies it without charging anything; no later rule is asked. In shadow mode it only reports
    /// that.
    Deny(Mode),
    /// Counts it.
    Limit(Box<LimitAction>),
}

/// What a rule counts, and the limits on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitAction {
    /// Whose requests share a counter.
    pub descriptor: Descriptor,
    /// What a request costs.
    pub cost: Cost,
    /// Limits for clients without a tier or override.
    pub plan: Plan,
    /// Limits for kinds of clients. The first tier that matches applies.
    pub tiers: Vec<Tier>,
    /// Limits for single clients, by the descriptor as it appears in keys. They come before tiers.
    pub overrides: HashMap<Box<str>, Plan>,
    /// The ban on clients that these limits deny too often.
    pub ban: Option<NamedBan>,
    /// How far ahead of requests these limits may be charged; never with a ban.
    pub lease: Option<Lease>,
    /// Whether denials are enforced, or only counted and logged.
    pub mode: Mode,
    /// What happens while the store does not answer.
    pub on_store_error: OnStoreError,
    /// How many of its counters may be new per second; 0: any number. See
    /// [`limit::new_keys`](crate::limit::new_keys).
    pub max_new_keys: u32,
}

/// Where a client's limits come from.
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
    /// The limits of a client. `descriptor` is as it appears in keys.
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

    /// All of its plans: its own, and those of tiers and overrides.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(&self.plan)
            .chain(self.tiers.iter().map(|tier| &tier.plan))
            .chain(self.overrides.values())
    }

    /// All of its limits: its own, and those of tiers and overrides.
    pub fn limits(&self) -> impl Iterator<Item = &NamedLimit> {
        self.plans().flat_map(Plan::limits)
    }
}

/// The limits of a client.
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
    /// Its limits; empty if nothing is counted or admitted.
    pub fn limits(&self) -> &[NamedLimit] {
        match self {
            Self::Limits(limits) => limits,
            Self::Unlimited | Self::Nothing => &[],
        }
    }
}

/// Limits for one kind of client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// Its name; `tier1` and so on if the rule file gives none.
    pub name: Arc<str>,
    /// Which clients are in it.
    pub when: Matcher,
    /// Their limits.
    pub plan: Plan,
}

/// The cost of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cost {
    /// A fixed cost, at least 1.
    Fixed(u64),
    /// The cost is the value of a header.
    Header {
        /// The header; its first line counts.
        name: http::HeaderName,
        /// The cost without the header, or if it is not a whole number above 0.
        default: u64,
        /// The most that a request can cost, whatever the header says.
        max: u64,
    },
}

impl Cost {
    /// The cost of `request`, at least 1.
    pub fn of(&self, request: &Attributes<'_>) -> u64 {
        match self {
            Self::Fixed(cost) => *cost,
            Self::Header { name, default, max } => number_in(request, name, *default, *max),
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

/// The number in a header, at most `max`; `default` without the header, or if it is not a
/// whole number above 0.
fn number_in(request: &Attributes<'_>, name: &http::HeaderName, default: u64, max: u64) -> u64 {
    let Some(value) = request.headers.get(name) else {
        return default;
    };
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return default;
    }
    // So many digits that it does not fit: more than any maximum.
    let number = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(u64::MAX);
    if number == 0 {
        default
    } else {
        number.min(max)
    }
}

/// A limit with everything about it that can be prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedLimit {
    /// The arithmetic.
    pub limit: Limit,
    /// The calendar that its windows follow; `None` if they begin with the first request.
    pub calendar: Option<Calendar>,
    /// Its name in responses and logs: `data`, or `search/1s` if the rule has several limits.
    pub name: Arc<str>,
    /// Its member of `RateLimit-Policy`: `"data";q=5;w=60`.
    pub policy: Arc<str>,
    /// The end of its keys: `:sliding_window:60s`.
    pub key_suffix: Arc<str>,
    /// The limit as the rule file says it: `5/m`.
    pub text: Arc<str>,
    /// The header that sets the amount; `limit` has the default.
    pub amount_header: Option<AmountHeader>,
    /// A limit that is tried out beside this one, under the same name: what it would deny is
    /// reported, and not denied.
    pub candidate: Option<Box<Self>>,
}

/// A header that sets how many requests per window are admitted.
///
/// It changes neither window nor key, so that another amount acts at once on what is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmountHeader {
    /// The header; its first line counts.
    pub name: http::HeaderName,
    /// The most that it can set.
    pub max: u64,
    /// The window, as the rule file says it: `1m`.
    pub per: Arc<str>,
}

impl NamedLimit {
    /// A member of `RateLimit-Policy`.
    ///
    /// `w` counts whole seconds. For a window that is not whole seconds, or that the calendar
    /// stretches, it would misstate the rate.
    pub fn policy_of(name: &str, limit: &Limit, calendar: Option<&Calendar>) -> Arc<str> {
        let (amount, window_us) = (limit.amount(), limit.window_us());
        if calendar.is_none() && window_us.is_multiple_of(1_000_000) {
            format!("\"{name}\";q={amount};w={}", window_us / 1_000_000).into()
        } else {
            format!("\"{name}\";q={amount}").into()
        }
    }

    /// This limit for `request`, if a header of it sets another amount than the default.
    fn with_amount_from(&self, request: &Attributes<'_>) -> Option<Self> {
        let AmountHeader { name, max, per } = self.amount_header.as_ref()?;
        let default = self.limit.amount();
        let amount = number_in(request, name, default, *max);
        (amount != default).then(|| {
            let limit = self.limit.with_amount(amount);
            Self {
                policy: Self::policy_of(&self.name, &limit, self.calendar.as_ref()),
                text: format!("{amount}/{per}").into(),
                limit,
                ..self.clone()
            }
        })
    }

    /// The limits for `request`: these, unless a header of it sets another amount.
    pub fn for_request<'a>(limits: &'a [Self], request: &Attributes<'_>) -> Cow<'a, [Self]> {
        let mut all = Cow::Borrowed(limits);
        for (index, limit) in limits.iter().enumerate() {
            if let Some(limit) = limit.with_amount_from(request) {
                all.to_mut()[index] = limit;
            }
        }
        all
    }

    /// The limit at `now_us`, with the windows around it if it follows the calendar.
    pub fn at(&self, now_us: u64) -> Limit {
        match &self.calendar {
            None => self.limit,
            Some(calendar) => self.limit.aligned(calendar.edges(now_us)),
        }
    }
}

/// A ban with everything about it that can be prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBan {
    /// The arithmetic.
    pub ban: Ban,
    /// Its name in responses, logs and metrics: `login/ban`.
    pub name: Arc<str>,
    /// Its member of `RateLimit-Policy`: `"login/ban";q=5;w=600`. The quota is one of denials.
    pub policy: Arc<str>,
    /// The ban in words: `5 denials within 10m`.
    pub text: Arc<str>,
}

/// How far ahead of requests the limits of a rule may be charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// How much of a limit all replicas together may hold at a time, in percent: 1 to
    /// [`MAX_SHARE`](Self::MAX_SHARE).
    pub share: u8,
    /// How long what was charged may be used, in microseconds: from
    /// [`MIN_TTL_US`](Self::MIN_TTL_US) to [`MAX_TTL_US`](Self::MAX_TTL_US).
    pub ttl_us: u64,
}

impl Lease {
    /// The largest share, in percent.
    pub const MAX_SHARE: u8 = 50;
    /// The shortest time, 1 ms in microseconds.
    pub const MIN_TTL_US: u64 = 1_000;
    /// The longest time, 1 s in microseconds.
    pub const MAX_TTL_US: u64 = 1_000_000;

    /// How much of `limit` all replicas together may hold.
    pub fn share_of(&self, limit: &Limit) -> u64 {
        limit.amount().min(limit.burst()) * u64::from(self.share) / 100
    }
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
        /// Counts in this process, with the limit divided by the number of replicas.
        Local => "local",
        /// Admits, uncounted.
        Allow => "allow",
        /// Denies with 429 and `Retry-After: 1`.
        Deny => "deny",
        /// Answers 503: the proxy's own failure mode decides.
        Proxy => "proxy",
    }
}
