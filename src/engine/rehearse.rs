//! Decides about requests of the past, and says what came of each rule.
//!
//! It takes the walk of a decision, charges a store in memory, and draws the same conclusion. It
//! logs nothing and changes no metric. What keeps it the same is the property test of
//! `tests/limits/replay.rs`, which compares it with [`Engine::decide`](super::Engine::decide).

use super::{
    Verdict,
    combine::{Denial, conclude},
    walk::{Charges, Effect, Walk, WalkContext},
};
use crate::{
    counter_key::Subject,
    request::Attributes,
    rules::{Mode, NamedLimit, RuleSet},
    store::{Charge, ChargeResult, Store as _, memory::MemoryStore},
};

/// A decision about a request of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rehearsed {
    /// Whether the request is admitted, and why not.
    pub verdict: Verdict,
    /// The position in the file of the rule that denies.
    pub denied_by: Option<usize>,
}

/// What came of a rule that matched.
#[derive(Debug, Clone)]
pub struct RuleOutcome<'a> {
    /// Its position in the file.
    pub index: usize,
    /// Whether it denies the request: of several that do, the one that the response names. Of a
    /// rule in shadow mode, whether it would.
    pub denied: bool,
    /// What it does.
    pub effect: RuleEffect<'a>,
}

/// What a rule does with a request.
#[derive(Debug, Clone)]
pub enum RuleEffect<'a> {
    /// Admits it, and ends the walk.
    Allows,
    /// Denies it without counting.
    Denies {
        /// The caller, as it appears in keys, if the denial depends on it.
        key: Option<&'a str>,
    },
    /// Does not apply, because the request lacks a part of the key.
    Skips,
    /// Counts nothing for this caller.
    Unlimited {
        /// The caller, as it appears in keys.
        key: &'a str,
    },
    /// Counts.
    Counts(Counted<'a>),
}

/// What a rule counts for a request.
#[derive(Debug, Clone)]
pub struct Counted<'a> {
    /// The caller, as it appears in keys.
    pub key: &'a str,
    /// The limits.
    pub limits: &'a [NamedLimit],
    /// What they are charged, in the same order; the limits in there have the edges of now. Empty
    /// if another rule denies without counting, because then no limit is asked.
    pub charges: &'a [Charge],
    /// Whether it is the ban that denies.
    pub by_ban: bool,
    /// Whether a ban begins.
    pub ban_begins: bool,
    /// Whether the caller had to share the counter of new ones (`max_new_keys`).
    pub shared: bool,
    /// The limits under `try`, if the request is admitted.
    pub tried: Vec<Tried<'a>>,
}

/// What a limit under `try` says about an admitted request.
#[derive(Debug, Clone, Copy)]
pub struct Tried<'a> {
    /// The limit. It has the name of the one that it would replace.
    pub candidate: &'a NamedLimit,
    /// Whether it would have denied the request.
    pub would_deny: bool,
}

/// Decides about `request` at the time of the clock of `counters`, and charges them. Calls `see`
/// for each rule that matched, in the order of the file.
pub fn rehearse(
    set: &RuleSet,
    request: &Attributes<'_>,
    counters: &MemoryStore,
    mut see: impl FnMut(RuleOutcome<'_>),
) -> Rehearsed {
    let now_us = counters.now_us();
    let walk = Walk::over(WalkContext {
        set,
        request,
        now_us,
    });
    let mut rehearsed = Rehearsed {
        verdict: Verdict::Allowed,
        denied_by: None,
    };
    let mut result = None;
    if let Some((end, _)) = walk.forbidden() {
        rehearsed.verdict = Verdict::Forbidden;
        rehearsed.denied_by = Some(end.index);
    } else if !walk.batch.is_empty() {
        let charged = counters.charge_now(&walk.batch);
        if !charged.admitted {
            let (decision, denial) = conclude(walk.charges(), &charged);
            rehearsed.verdict = decision.verdict;
            rehearsed.denied_by = denial.map(|denial| denial.rule_index());
        }
        result = Some(charged);
    }
    for matched in &walk.rules {
        let mut denied = rehearsed.denied_by == Some(matched.index);
        let effect = match &matched.effect {
            Effect::Allows => RuleEffect::Allows,
            Effect::Denies { mode, why } => {
                denied |= *mode == Mode::Shadow;
                RuleEffect::Denies {
                    key: why.subject().map(Subject::descriptor),
                }
            }
            Effect::Skips { .. } => RuleEffect::Skips,
            Effect::Unlimited { subject, .. } => RuleEffect::Unlimited {
                key: subject.descriptor(),
            },
            Effect::Counts(charges) => {
                let denial = result
                    .as_ref()
                    .and_then(|result| Denial::of(matched, charges, &result.outcomes));
                if charges.action.mode == Mode::Shadow {
                    denied = denial.is_some();
                }
                let by_ban = denied && denial.is_some_and(|denial| denial.is_ban());
                RuleEffect::Counts(Counted {
                    by_ban,
                    ..counted(charges, &walk, result.as_ref())
                })
            }
        };
        see(RuleOutcome {
            index: matched.index,
            denied,
            effect,
        });
    }
    rehearsed
}

fn counted<'w>(
    charges: &'w Charges<'_>,
    walk: &'w Walk<'_>,
    result: Option<&ChargeResult>,
) -> Counted<'w> {
    let in_batch = charges.in_batch.clone();
    let of_limits = match result {
        Some(_) => in_batch.start..in_batch.start + charges.limits.len(),
        None => 0..0,
    };
    Counted {
        key: charges.subject.descriptor(),
        limits: &charges.limits,
        charges: &walk.batch.charges()[of_limits],
        by_ban: false,
        ban_begins: result.is_some_and(|result| charges.ban_begins(&result.outcomes)),
        shared: result
            .is_some_and(|result| result.shared.iter().any(|place| in_batch.contains(place))),
        tried: result.map_or_else(Vec::new, |result| tried(charges, result)),
    }
}

/// As `Deciding::try_out` reports it.
fn tried<'w>(charges: &'w Charges<'_>, result: &ChargeResult) -> Vec<Tried<'w>> {
    if !result.admitted {
        return Vec::new();
    }
    let candidates = charges.candidates().map(|(place, candidate)| Tried {
        candidate,
        would_deny: !result.outcomes[place].allowed,
    });
    candidates.collect()
}
