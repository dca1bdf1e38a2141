//! A decision, before any contract puts it into a response.

use std::{borrow::Cow, time::Duration};

use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;

use crate::{
    limit::Outcome,
    metrics::{DecisionLabel, StoreFailure},
    rules::{NamedBan, NamedLimit, Rule, answer::Answer},
};

/// A decision about a request.
///
/// It borrows from the rule set in force. Counting references to its texts would make all threads
/// take a few lines of memory from each other, several times for each check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether the request is admitted, and why not.
    pub verdict: Verdict,
    /// The same in the words of metrics, which say if the store was away.
    pub outcome: DecisionLabel,
    /// The rule that decided. For an admitted request: the `allow` rule that ended the walk, else
    /// the rule whose limit is nearest to being reached.
    pub rule: Option<Cow<'a, str>>,
    /// The limits to report. For a denied request, only the one that denied, which may be a ban.
    pub quotas: SmallVec<[Quota<'a>; 1]>,
    /// The response that the denying rule asks for.
    pub answer: Option<Cow<'a, Answer>>,
    /// The call to the store, if there was one and calls are timed.
    pub store: Option<StoreCall>,
}

/// A call to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreCall {
    /// When it began.
    pub asked: Instant,
    /// How long it took.
    pub took: Duration,
    /// Why there is no answer, or not to everything.
    pub failure: Option<StoreFailure>,
}

/// Whether a request is admitted, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Admitted.
    Allowed,
    /// Denied by a limit.
    Limited {
        /// Microseconds until the same request fits, when no other comes; 0 if not known.
        retry_after_us: u64,
    },
    /// Denied by a ban.
    Banned {
        /// Microseconds until the ban ends.
        retry_after_us: u64,
    },
    /// Denied by a rule; waiting does not help.
    Forbidden,
    /// Not decided: the store is away, and a rule leaves it to the proxy.
    Unavailable,
}

/// A limit as a response reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota<'a> {
    /// Its name: `data` or `search/1s`; of a ban, `data/ban`.
    pub name: Cow<'a, str>,
    /// Its member of `RateLimit-Policy`: `"data";q=5;w=60`.
    pub policy: Cow<'a, str>,
    /// The limit as the rule file says it: `5/m`; of a ban, `5 denials within 10m`.
    pub text: Cow<'a, str>,
    /// Requests per window; of a ban, denials.
    pub amount: u64,
    /// What is left.
    pub remaining: u64,
    /// Microseconds until more is left.
    pub wait_us: u64,
}

impl<'a> Decision<'a> {
    pub(super) fn allowed() -> Self {
        Self {
            verdict: Verdict::Allowed,
            outcome: DecisionLabel::Allowed,
            rule: None,
            quotas: SmallVec::new(),
            answer: None,
            store: None,
        }
    }

    /// The store's decision and one without it, of which each admits the request for some of its
    /// rules.
    pub(super) fn and(mut self, other: Self) -> Self {
        let nearest = |decision: &Self| decision.quotas.iter().map(|quota| quota.remaining).min();
        let is_nearer = match (nearest(&self), nearest(&other)) {
            (Some(own), Some(others)) => others < own,
            (own, _) => own.is_none(),
        };
        if is_nearer {
            self.rule = other.rule;
        }
        self.outcome = other.outcome;
        self.quotas.extend(other.quotas);
        self
    }

    /// A decision by `rule`, with the limits that it reports.
    pub(super) fn of(verdict: Verdict, rule: &'a Rule, quota: Option<Quota<'a>>) -> Self {
        Self {
            verdict,
            outcome: DecisionLabel::Denied,
            rule: Some(Cow::Borrowed(&rule.name)),
            quotas: quota.map_or_else(SmallVec::new, |quota| smallvec![quota]),
            answer: Some(Cow::Borrowed(&rule.answer)),
            store: None,
        }
    }

    /// The same decision, to be kept longer than the rule set.
    pub fn into_owned(self) -> Decision<'static> {
        Decision {
            verdict: self.verdict,
            outcome: self.outcome,
            rule: self.rule.map(|rule| Cow::Owned(rule.into_owned())),
            quotas: self.quotas.into_iter().map(Quota::into_owned).collect(),
            answer: self.answer.map(|answer| Cow::Owned(answer.into_owned())),
            store: self.store,
        }
    }
}

impl<'a> Quota<'a> {
    pub(super) fn of_limit(limit: &'a NamedLimit, outcome: &Outcome) -> Self {
        Self {
            name: Cow::Borrowed(&limit.name),
            policy: Cow::Borrowed(&limit.policy),
            text: Cow::Borrowed(&limit.text),
            amount: limit.limit.amount(),
            remaining: outcome.remaining,
            wait_us: outcome.wait_us,
        }
    }

    pub(super) fn of_ban(ban: &'a NamedBan, outcome: &Outcome) -> Self {
        Self {
            name: Cow::Borrowed(&ban.name),
            policy: Cow::Borrowed(&ban.policy),
            text: Cow::Borrowed(&ban.text),
            amount: ban.ban.after(),
            remaining: 0,
            wait_us: outcome.wait_us,
        }
    }

    pub(super) fn into_owned(self) -> Quota<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Quota {
            name: owned(self.name),
            policy: owned(self.policy),
            text: owned(self.text),
            amount: self.amount,
            remaining: self.remaining,
            wait_us: self.wait_us,
        }
    }
}
