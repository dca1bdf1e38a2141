//! What a decision says, before it is put into any proxy's words.

use std::sync::Arc;

use crate::{
    limit::Outcome,
    rules::{NamedBan, NamedLimit, Rule, answer::Answer},
};

/// What to tell the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub verdict: Verdict,
    /// The rule that decided. Of an admitted request: the `allow` rule that ended the walk, else the rule with the limit that
    /// is nearest to being reached.
    pub rule: Option<Arc<str>>,
    /// The limits to report. Of a denied request, only the one that denied, which may be a ban.
    pub quotas: Vec<Quota>,
    /// What the rule that denied says of the answer.
    pub answer: Option<Arc<Answer>>,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let it pass.
    Allowed,
    /// Over a limit.
    Limited {
        /// Microseconds until the same request fits, when nobody else comes; 0 if not known.
        retry_after_us: u64,
    },
    /// Denied too often.
    Banned {
        /// Microseconds until the ban ends.
        retry_after_us: u64,
    },
    /// Turned away by a rule; waiting does not help.
    Forbidden,
    /// Not known: the store is away, and a rule leaves the decision to the proxy.
    Unavailable,
}

/// One limit as an answer reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// `data` or `search/1s`; of a ban, `data/ban`.
    pub name: Arc<str>,
    /// `"data";q=5;w=60`.
    pub policy: Arc<str>,
    /// `5/m`, as the rule file says it; of a ban, `5 denials within 10m`.
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
