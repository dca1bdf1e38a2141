//! Explains a decision: the result of each rule, and the state of each limit.
//!
//! It takes the walk of a decision, reads what is stored, and draws the same conclusion. It
//! charges, counts and logs nothing.

use serde::Serialize;

use super::{
    Decision, Engine, Live, Verdict,
    combine::conclude,
    walk::{Charges, DenyReason, Effect, Walk, WalkContext},
};
use crate::{
    counter_key::{Subject, overflow},
    limit::Outcome,
    request::Attributes,
    rules::{Action, Lease, Mode, NamedLimit, PlanSource, Rule, RuleSet, span::span_text},
    store::{
        Batch, StoreError,
        read::{Read, Reading},
    },
};

/// An explained decision.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation<'a> {
    /// What would be decided now.
    #[serde(skip)]
    pub decision: Decision<'a>,
    /// Every rule of the file, in order.
    pub rules: Vec<Explained>,
}

/// The result of one rule for a request.
#[derive(Debug, Clone, Serialize)]
pub struct Explained {
    /// The rule.
    pub rule: String,
    /// `limit`, `allow` or `deny`.
    pub action: &'static str,
    /// Whether the rule enforces its denials.
    pub mode: Mode,
    /// Its result.
    #[serde(flatten)]
    pub result: RuleResult,
}

/// The result of one rule for a request.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum RuleResult {
    /// Not reached: a rule above ended the walk.
    NotReached {
        /// That rule.
        ended_by: String,
    },
    /// Its conditions do not hold.
    NoMatch {
        /// The first one that does not hold, in words.
        reason: String,
    },
    /// Admits the request, and ends the walk.
    Allows,
    /// Denies the request without counting.
    Denies {
        /// `action: deny`, `on_missing: deny` or `limit: 0`.
        reason: &'static str,
        /// The client, as it appears in keys.
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Where that is said: the rule, a tier or an override.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<String>,
    },
    /// Does not apply, because the request lacks a part of the key.
    Skips {
        /// The key, with the missing part alone.
        key: String,
    },
    /// Counts nothing for this client.
    Unlimited {
        /// The client, as it appears in keys.
        key: String,
        /// Where that is said: the rule, a tier or an override.
        source: String,
    },
    /// Counts.
    Counts(LimitStatuses),
}

/// What a rule counts for a request.
#[derive(Debug, Clone, Serialize)]
pub struct LimitStatuses {
    /// The client, as it appears in keys.
    pub key: String,
    /// Where the limits come from: the rule, a tier or an override.
    pub source: String,
    /// What the request costs.
    pub cost: u64,
    /// The limits and their state.
    pub limits: Vec<LimitStatus>,
    /// The ban and its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ban: Option<LimitStatus>,
    /// How far ahead these limits may be charged, in words. What is charged ahead is no longer
    /// left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

/// The state of a limit or ban for a client.
#[derive(Debug, Clone, Serialize)]
pub struct LimitStatus {
    /// Its name in responses, logs and metrics: `search/1s`, `login/ban`.
    pub name: String,
    /// The limit as the rule file says it: `20/s burst 40`; of a ban, `5 denials within 10m`.
    pub rate: String,
    /// The algorithm, or `ban`.
    pub algorithm: &'static str,
    /// The key in the store.
    pub stored_as: String,
    /// Whether that is the counter that new clients of the rule share, because there may be no more
    /// new ones.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// The stored text; `None` if there is none.
    pub stored: Option<String>,
    /// Whether the request fits.
    pub fits: bool,
    /// What is left now; of a ban, the denials before it begins, 0 if it is in force.
    pub left: u64,
    /// What would be left after this request, which takes nothing if it is denied; of a ban, which
    /// counts denials, 0 if it would begin.
    pub left_after: u64,
    /// If it does not fit: microseconds until it would, when no other request comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_us: Option<u64>,
    /// The limit that is tried out beside it, if one is.
    #[serde(rename = "try", skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Box<Self>>,
}

impl Engine {
    /// Explains what would be decided about a request, with the rules in force and what is stored
    /// now.
    ///
    /// The values that conditions ask for are hidden, because the reader may not know the rule
    /// file. If the store cannot be read, counters count as unused, and the error says why.
    pub async fn explain<'a>(
        &self,
        live: &'a Live,
        request: &'a Attributes<'_>,
    ) -> (Explanation<'a>, Option<StoreError>) {
        let query = ExplainRequest {
            set: &live.set,
            request,
            now_us: self.store.now_us(),
            shows_values: false,
        };
        explain(&query, &*self.store).await
    }
}

/// What to explain.
#[derive(Debug, Clone, Copy)]
pub struct ExplainRequest<'a> {
    /// The rules.
    pub set: &'a RuleSet,
    /// The request.
    pub request: &'a Attributes<'a>,
    /// The store's time as well as it is known, in microseconds since the Unix epoch.
    pub now_us: u64,
    /// Whether to show the values of headers and query parameters that conditions ask for. The rule
    /// file may hold secrets there.
    pub shows_values: bool,
}

/// Explains what would be decided about a request with these counters.
pub async fn explain<'a>(
    query: &ExplainRequest<'a>,
    counters: &dyn Read,
) -> (Explanation<'a>, Option<StoreError>) {
    let ExplainRequest {
        set,
        request,
        now_us,
        ..
    } = *query;
    let walk_at = |now_us| {
        Walk::over(WalkContext {
            set,
            request,
            now_us,
        })
    };
    let mut walk = walk_at(now_us);
    let mut error = None;
    let reading = match counters.read(&walk.batch).await {
        // The store's clock is not what was assumed.
        Ok(reading) if !reading.is_covered_by(&walk.batch) => {
            walk = walk_at(reading.now_us);
            counters.read(&walk.batch).await
        }
        other => other,
    };
    let reading = reading.unwrap_or_else(|failure| {
        error = Some(failure);
        Reading::nothing(&walk.batch, now_us)
    });
    let verdict = reading.verdict(&walk.batch);
    let decision = match walk.forbidden() {
        Some((end, _)) => Decision::of(Verdict::Forbidden, end.rule, None),
        None => walk.ended(conclude(walk.charges(), &verdict).0),
    };
    let stored = Stored {
        reading: &reading,
        outcomes: &verdict.outcomes,
        charged: decision.verdict == Verdict::Allowed,
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
        result: result_of(&walk, index, rule, query, &stored),
    });
    let rules = rules.collect();
    (Explanation { decision, rules }, error)
}

fn result_of(
    walk: &Walk<'_>,
    index: usize,
    rule: &Rule,
    query: &ExplainRequest<'_>,
    stored: &Stored<'_>,
) -> RuleResult {
    let Some(matched) = walk.rules.iter().find(|matched| matched.index == index) else {
        return match (walk.end(), rule.matcher.check(query.request)) {
            (Some(end), _) if end.index < index => RuleResult::NotReached {
                ended_by: end.rule.name.to_string(),
            },
            (_, Err(mismatch)) => RuleResult::NoMatch {
                reason: mismatch
                    .in_words(&|named| query.shows_values && !query.set.marks_secret(named)),
            },
            // The index leaves out no rule that matches. If it did, this would say so.
            (_, Ok(_)) => RuleResult::NoMatch {
                reason: "the index of the rules does not find it, which is a bug".to_owned(),
            },
        };
    };
    let key = |subject: &Subject| subject.descriptor().to_owned();
    match &matched.effect {
        Effect::Allows => RuleResult::Allows,
        Effect::Denies { why, .. } => RuleResult::Denies {
            reason: why.reason(),
            key: why.subject().map(key),
            source: match why {
                DenyReason::Nothing { source, .. } => Some(source_text(*source)),
                DenyReason::Action | DenyReason::MissingKey { .. } => None,
            },
        },
        Effect::Skips { subject } => RuleResult::Skips { key: key(subject) },
        Effect::Unlimited { subject, source } => RuleResult::Unlimited {
            key: key(subject),
            source: source_text(*source),
        },
        Effect::Counts(charges) => RuleResult::Counts(counts(&walk.batch, charges, stored)),
    }
}

/// What a walk over one rule counts, and what is stored.
pub(super) fn status_of(walk: &Walk<'_>, reading: &Reading) -> LimitStatuses {
    let verdict = reading.verdict(&walk.batch);
    let stored = Stored {
        reading,
        outcomes: &verdict.outcomes,
        charged: verdict.admitted,
    };
    let uncounted = |subject: &Subject, source: PlanSource<'_>| LimitStatuses {
        key: subject.descriptor().to_owned(),
        source: source_text(source),
        cost: 0,
        limits: Vec::new(),
        ban: None,
        lease: None,
    };
    match walk.rules.first().map(|matched| &matched.effect) {
        Some(Effect::Counts(charges)) => counts(&walk.batch, charges, &stored),
        Some(
            Effect::Unlimited { subject, source }
            | Effect::Denies {
                why: DenyReason::Nothing { subject, source },
                ..
            },
        ) => uncounted(subject, *source),
        _ => LimitStatuses {
            key: String::new(),
            source: String::new(),
            cost: 0,
            limits: Vec::new(),
            ban: None,
            lease: None,
        },
    }
}

/// What is stored, and what follows from it.
struct Stored<'a> {
    reading: &'a Reading,
    outcomes: &'a [Outcome],
    /// Whether the request would be admitted, and so charged.
    charged: bool,
}

fn counts(batch: &Batch, charges: &Charges<'_>, stored: &Stored<'_>) -> LimitStatuses {
    let outcomes = &stored.outcomes[charges.in_batch.clone()];
    let fit = outcomes.iter().all(|outcome| outcome.allowed);
    // A rule in shadow mode is charged if its own limits fit.
    let is_charged = stored.charged && (charges.action.mode == Mode::Enforce || fit);
    let status = |at: usize, name: &str, rate: String, algorithm| {
        let (outcome, state) = (stored.outcomes[at], &stored.reading.states[at]);
        let key = batch.key(&batch.charges()[at]);
        let shared = stored.reading.shared.contains(&at);
        LimitStatus {
            name: name.to_owned(),
            rate,
            algorithm,
            stored_as: if shared {
                overflow(key)
            } else {
                key.to_owned()
            },
            shared,
            stored: state.as_ref().map(ToString::to_string),
            fits: outcome.allowed,
            left: outcome.remaining,
            left_after: outcome.remaining,
            wait_us: (!outcome.allowed).then_some(outcome.wait_us),
            candidate: None,
        }
    };
    let of_limit = |at: usize, limit: &NamedLimit, is_charged: bool| {
        let algorithm = limit.limit.algorithm().as_str();
        let mut status = status(at, &limit.name, limit.text.to_string(), algorithm);
        // The outcome has what remains after the charge.
        if status.fits {
            status.left += charges.cost;
            if !is_charged {
                status.left_after = status.left;
            }
        }
        status
    };
    let mut candidates = charges.candidates();
    let limits = charges.limits.iter().zip(charges.in_batch.clone());
    let limits = limits.map(|(limit, at)| {
        let candidate = limit.candidate.as_ref().and_then(|_| candidates.next());
        LimitStatus {
            candidate: candidate.map(|(at, limit)| Box::new(of_limit(at, limit, stored.charged))),
            ..of_limit(at, limit, is_charged)
        }
    });
    let limits: Vec<LimitStatus> = limits.collect();
    let ban = charges.ban.map(|ban| {
        let rate = format!("{}, for {}", ban.text, span_text(ban.ban.for_us()));
        let at = charges.in_batch.start + limits.len();
        let mut status = status(at, &ban.name, rate, "ban");
        // The outcome has what remains after this denial; for a ban that begins, it says 1.
        if !status.fits {
            status.left_after = 0;
        } else if limits.iter().any(|limit| !limit.fits) {
            status.left += 1;
        }
        status
    });
    LimitStatuses {
        key: charges.subject.descriptor().to_owned(),
        source: source_text(charges.source),
        cost: charges.cost,
        limits,
        ban,
        lease: charges.action.lease.as_ref().map(lease_text),
    }
}

fn lease_text(lease: &Lease) -> String {
    let ttl = span_text(lease.ttl_us);
    format!("up to {}% charged ahead, for {ttl}", lease.share)
}

fn source_text(source: PlanSource<'_>) -> String {
    match source {
        PlanSource::Rule => "rule".to_owned(),
        PlanSource::Tier(name) => format!("tier {name}"),
        PlanSource::Override => "override".to_owned(),
    }
}
