//! A decision, before any contract puts it into a response.

use std::sync::Arc;

use crate::{
    limit::Outcome,
    rules::{NamedBan, NamedLimit, Rule, answer::Answer},
};

/// A decision about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request is admitted, and why not.
    pub verdict: Verdict,
    /// The rule that decided. For an admitted request: the `allow` rule that ended the walk, else
    /// the rule whose limit is nearest to being reached.
    pub rule: Option<Arc<str>>,
    /// The limits to report. For a denied request, only the one that denied, which may be a ban.
    pub quotas: Vec<Quota>,
    /// The response that the denying rule asks for.
    pub answer: Option<Arc<Answer>>,
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
pub struct Quota {
    /// Its name: `data` or `search/1s`; of a ban, `data/ban`.
    pub name: Arc<str>,
    /// Its member of `RateLimit-Policy`: `"data";q=5;w=60`.
    pub policy: Arc<str>,
    /// The limit as the rule file says it: `5/m`; of a ban, `5 denials within 10m`.
    pub text: Arc<str>,
    /// Requests per window; of a ban, denials.
    pub amount: u64,
    /// What is left.
    pub remaining: u64,
    /// Microseconds until more is left.
    pub wait_us: u64,
}

impl Decision {
    pub(super) fn allowed() -> Self {
        Self {
            verdict: Verdict::Allowed,
            rule: None,
            quotas: Vec::new(),
            answer: None,
        }
    }

    /// Both decisions, of which each admits the request for some of its rules.
    pub(super) fn and(mut self, other: Self) -> Self {
        let nearest = |decision: &Self| decision.quotas.iter().map(|quota| quota.remaining).min();
        let is_nearer = match (nearest(&self), nearest(&other)) {
            (Some(own), Some(others)) => others < own,
            (own, _) => own.is_none(),
        };
        if is_nearer {
            self.rule = other.rule;
        }
        self.quotas.extend(other.quotas);
        self
    }

    pub(super) fn of(verdict: Verdict, rule: &Rule) -> Self {
        Self {
            verdict,
            rule: Some(Arc::clone(&rule.name)),
            quotas: Vec::new(),
            answer: Some(Arc::clone(&rule.answer)),
        }
    }
}

impl Quota {
    pub(super) fn of_limit(limit: &NamedLimit, outcome: &Outcome) -> Self {
        Self {
            name: Arc::clone(&limit.name),
            policy: Arc::clone(&limit.policy),
            text: Arc::clone(&limit.text),
            amount: limit.limit.amount(),
            remaining: outcome.remaining,
            wait_us: outcome.wait_us,
        }
    }

    pub(super) fn of_ban(ban: &NamedBan, outcome: &Outcome) -> Self {
        Self {
            name: Arc::clone(&ban.name),
            policy: Arc::clone(&ban.policy),
            text: Arc::clone(&ban.text),
            amount: ban.ban.after(),
            remaining: 0,
            wait_us: outcome.wait_us,
        }
    }
}
