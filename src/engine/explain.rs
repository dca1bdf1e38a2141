//! Why a request is decided as it is: each rule with what became of it, each limit with where it stands.
//!
//! It takes the walk that a decision takes, reads what is stored, and comes to the conclusion that a decision would come to. It charges
//! nothing, counts nothing and logs nothing.

use serde::Serialize;

use super::{
    Decision, Engine, Live, Verdict,
    combine::conclude,
    walk::{Counting, Denial, Effect, Matched, Subject},
};
use crate::{
    limit::Outcome,
    request::Attributes,
    rules::{Action, Mode, PlanSource, Rule, RuleSet, quota::span_text},
    store::{
        Batch, StoreError,
        reading::{Read, Reading},
    },
};

/// An explained decision.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// What would be decided now.
    #[serde(skip)]
    pub decision: Decision,
    /// Every rule of the file, in its order.
    pub rules: Vec<Explained>,
}

/// What becomes of a request by one rule.
#[derive(Debug, Clone, Serialize)]
pub struct Explained {
    /// The rule.
    pub rule: String,
    /// `limit`, `allow` or `deny`.
    pub action: &'static str,
    /// Whether the rule denies.
    pub mode: Mode,
    /// What became of the request.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What becomes of a request by one rule.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Fate {
    /// A rule above ended the walk.
    NotReached {
        /// That rule.
        ended_by: String,
    },
    /// Its conditions do not hold.
    NoMatch {
        /// The first that does not, in words.
        reason: String,
    },
    /// Lets it pass, and ends the walk.
    Allows,
    /// Turns it away without counting anything.
    Denies {
        /// `action: deny`, `on_missing: deny` or `limit: 0`.
        reason: &'static str,
        /// Whom, as keys show it.
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Where that is said: the rule, a tier or an override.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<String>,
    },
    /// Does not apply, because the request lacks a part of the key.
    Skips {
        /// The key, with that part alone.
        key: String,
    },
    /// Counts nothing for this caller.
    Unlimited {
        /// Whom, as keys show it.
        key: String,
        /// Where that is said: the rule, a tier or an override.
        source: String,
    },
    /// Counts.
    Counts(Counts),
}

/// What a rule counts for a request.
#[derive(Debug, Clone, Serialize)]
pub struct Counts {
    /// The caller, as keys show it.
    pub key: String,
    /// Where the limits are from: the rule, a tier or an override.
    pub source: String,
    /// What the request costs.
    pub cost: u64,
    /// The limits, and where they stand.
    pub limits: Vec<Standing>,
    /// The ban, and where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ban: Option<Standing>,
}

/// Where a limit or a ban stands for a caller.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    /// `search/1s`, or `login/ban`: the name in answers, logs and metrics.
    pub name: String,
    /// `20/s burst 40`, as the rule file says it; of a ban, `5 denials within 10m`.
    pub rate: String,
    /// How it counts, or `ban`.
    pub algorithm: &'static str,
    /// The key in the store.
    pub stored_as: String,
    /// What is stored there; `None` if nothing is.
    pub stored: Option<String>,
    /// Whether the request fits.
    pub fits: bool,
    /// How much is left now; of a ban, how many denials until it begins.
    pub left: u64,
    /// How much would be left after this request.
    pub left_after: u64,
    /// If it does not fit: microseconds until it would, when nobody else comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_us: Option<u64>,
}

impl Engine {
    /// Explains what would be decided about a request, by the rules in force and what is stored now. If the store cannot be
    /// read, the explanation is as if nobody had come yet, and the error says why.
    pub async fn explain(
        &self,
        live: &Live,
        request: &Attributes<'_>,
    ) -> (Explanation, Option<StoreError>) {
        explain(&live.set, request, self.store.now_us(), &self.store).await
    }
}

/// Explains what would be decided about a request by `set` with these counters. `now_us` is the store's time as
/// far as it is known, in microseconds since the epoch.
pub async fn explain(
    set: &RuleSet,
    request: &Attributes<'_>,
    now_us: u64,
    counters: &dyn Read,
) -> (Explanation, Option<StoreError>) {
    let mut matched = Matched::walk(set, request, now_us);
    let mut error = None;
    let reading = match counters.read(&matched.batch).await {
        // Its clock is another than was thought.
        Ok(reading) if !reading.is_covered_by(&matched.batch) => {
            matched = Matched::walk(set, request, reading.now_us);
            counters.read(&matched.batch).await
        }
        other => other,
    };
    let reading = reading.unwrap_or_else(|failure| {
        error = Some(failure);
        Reading::nothing(&matched.batch, now_us)
    });
    let verdict = reading.verdict(&matched.batch);
    let decision = match matched.forbidden() {
        Some((end, _)) => Decision::of(Verdict::Forbidden, end.rule),
        None => matched.ended(conclude(&matched, &verdict).0),
    };
    let rules = set.rules.iter().enumerate().map(|(index, rule)| Explained {
        rule: rule.name.to_string(),
        action: match rule.action {
            Action::Allow => "allow",
            Action::Deny(_) => "deny",
            Action::Limit(_) => "limit",
        },
        mode: match &rule.action {
            Action::Deny(mode) => *mode,
            Action::Limit(action) => action.mode,
            Action::Allow => Mode::Enforce,
        },
        fate: fate(
            &matched,
            index,
            rule,
            request,
            (&reading, &verdict.outcomes),
        ),
    });
    let rules = rules.collect();
    (Explanation { decision, rules }, error)
}

fn fate(
    matched: &Matched<'_>,
    index: usize,
    rule: &Rule,
    request: &Attributes<'_>,
    stored: (&Reading, &[Outcome]),
) -> Fate {
    let Some(met) = matched.met.iter().find(|met| met.index == index) else {
        return match (matched.end(), rule.matcher.check(request)) {
            (Some(end), _) if end.index < index => Fate::NotReached {
                ended_by: end.rule.name.to_string(),
            },
            (_, Err(mismatch)) => Fate::NoMatch {
                reason: mismatch.to_string(),
            },
            // The index leaves no rule out that matches; if it did, this would say so.
            (_, Ok(_)) => Fate::NoMatch {
                reason: "the index of the rules does not find it, which is a bug".to_owned(),
            },
        };
    };
    let key = |subject: &Subject| subject.descriptor().to_owned();
    match &met.effect {
        Effect::Allows => Fate::Allows,
        Effect::Denies { why, .. } => Fate::Denies {
            reason: why.reason(),
            key: why.subject().map(key),
            source: match why {
                Denial::Nothing { source, .. } => Some(source_text(*source)),
                Denial::Action | Denial::MissingKey { .. } => None,
            },
        },
        Effect::Skips { subject } => Fate::Skips { key: key(subject) },
        Effect::Unlimited { subject, source } => Fate::Unlimited {
            key: key(subject),
            source: source_text(*source),
        },
        Effect::Counts(counting) => Fate::Counts(counts(&matched.batch, counting, stored)),
    }
}

fn counts(batch: &Batch, counting: &Counting<'_>, stored: (&Reading, &[Outcome])) -> Counts {
    let (reading, outcomes) = stored;
    let standing = |offset: usize, name: &str, rate: &str, algorithm| {
        let at = counting.charges.start + offset;
        let (outcome, state) = (outcomes[at], &reading.states[at]);
        Standing {
            name: name.to_owned(),
            rate: rate.to_owned(),
            algorithm,
            stored_as: batch.key(&batch.charges()[at]).to_owned(),
            stored: state.as_ref().map(ToString::to_string),
            fits: outcome.allowed,
            left: outcome.remaining,
            left_after: outcome.remaining,
            wait_us: (!outcome.allowed).then_some(outcome.wait_us),
        }
    };
    let limits = counting.limits.iter().enumerate().map(|(offset, limit)| {
        let algorithm = limit.limit.algorithm().name();
        let mut standing = standing(offset, &limit.name, &limit.text, algorithm);
        // The outcome is that after the charge.
        if standing.fits {
            standing.left += counting.cost;
        }
        standing
    });
    let ban = counting.ban.map(|ban| {
        let rate = format!("{}, for {}", ban.text, span_text(ban.ban.for_us()));
        standing(counting.limits.len(), &ban.name, &rate, "ban")
    });
    Counts {
        key: counting.subject.descriptor().to_owned(),
        source: source_text(counting.source),
        cost: counting.cost,
        limits: limits.collect(),
        ban,
    }
}

fn source_text(source: PlanSource<'_>) -> String {
    match source {
        PlanSource::Rule => "rule".to_owned(),
        PlanSource::Tier(name) => format!("tier {name}"),
        PlanSource::Override => "override".to_owned(),
    }
}
