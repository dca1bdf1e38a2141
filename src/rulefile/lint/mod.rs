//! Warnings about valid rules that are probably a mistake.

mod forwarded;
mod placed;

use http::HeaderName;

pub use self::forwarded::SHIPPED_HEADERS;
pub(super) use self::placed::Placed;
use super::{problems::Problems, yaml::FieldPath};
use crate::{
    limit::{Algorithm, Limit},
    rules::{Action, Cost, LimitAction, Mode, NamedLimit, Plan, Rule, matcher::PathPattern},
};

/// Warns of probable mistakes in these rules. `main` is the main rule file.
pub(super) fn lint(rules: &[Placed<'_>], main: &str, forwarded: Option<&[HeaderName]>) {
    for (index, placed) in rules.iter().enumerate() {
        let Placed {
            rule,
            path,
            problems,
            file: _,
        } = *placed;
        if let Some(reason) = rule.matcher.impossible() {
            problems.warning(
                path,
                format!("the rule can never apply: {reason}"),
                "change its match, or remove the rule",
            );
        } else if let Some(other) =
            ending(&rules[..index]).find(|other| other.rule.matcher.covers(&rule.matcher))
        {
            let other = other.seen_from(placed);
            problems.warning(
                path,
                format!("the rule can never apply: {other} above it matches all of its requests and ends the walk"),
                "move it above that rule, or narrow that rule's match",
            );
        }
        lint_paths(problems, rule, path);
        if let Action::Limit(action) = &rule.action {
            lint_tiers(problems, action, path);
            lint_limits(problems, action, path);
            lint_ban(problems, action, path);
            lint_lease(problems, action, path);
            lint_against_others(rules, index, action);
        }
    }
    if let Some(forwarded) = forwarded {
        forwarded::lint(rules, main, forwarded);
    }
}

/// Warns of parameters in another tool's notation.
fn lint_paths(problems: &Problems, rule: &Rule, path: &FieldPath) {
    for pattern in &rule.matcher.when.paths {
        if matches!(pattern, PathPattern::Regex { .. }) {
            continue;
        }
        let text = pattern.to_string();
        let colon = text
            .split('/')
            .find_map(|segment| segment.strip_prefix(':').filter(|name| !name.is_empty()));
        if let Some(name) = colon {
            problems.warning(
                &path.key("match").key("path"),
                format!("{text} matches paths with a colon: \":{name}\" is taken literally"),
                format!("write a parameter as {{{name}}}, with the path in quotes"),
            );
        }
    }
}

/// The rules that end the walk for every request that they match.
fn ending<'r, 'a>(rules: &'r [Placed<'a>]) -> impl Iterator<Item = &'r Placed<'a>> {
    let ends = |action: &Action| matches!(action, Action::Allow | Action::Deny(Mode::Enforce));
    rules.iter().filter(move |placed| ends(&placed.rule.action))
}

fn lint_tiers(problems: &Problems, action: &LimitAction, path: &FieldPath) {
    let at = |index: usize| path.key("tiers").index(index);
    for (index, tier) in action.tiers.iter().enumerate() {
        if let Some(reason) = tier.when.impossible() {
            problems.warning(
                &at(index),
                format!("no request can be in this tier: {reason}"),
                "change its `when`, or remove the tier",
            );
        } else if let Some(other) = action.tiers[..index]
            .iter()
            .find(|other| other.when.covers(&tier.when))
        {
            problems.warning(
                &at(index),
                format!(
                    "no request can be in this tier: {:?} above it takes them all",
                    other.name
                ),
                "move it above that tier, or narrow that tier's `when`",
            );
        }
    }
}

fn lint_limits(problems: &Problems, action: &LimitAction, path: &FieldPath) {
    let tiers = action.tiers.iter().enumerate().map(|(index, tier)| {
        let at = path.key("tiers").index(index);
        (at, &tier.plan)
    });
    for (at, plan) in std::iter::once((path.clone(), &action.plan)).chain(tiers) {
        lint_plan(problems, plan, &action.cost, &at);
    }
}

/// Warns of limits without effect, and of costs that do not fit into a limit.
pub(super) fn lint_plan(problems: &Problems, plan: &Plan, cost: &Cost, at: &FieldPath) {
    for limit in plan.limits() {
        if let Some(stricter) = stricter_than(limit, plan) {
            problems.warning(
                at,
                format!(
                    "{} can never be reached: {} on the same key is stricter",
                    limit.text, stricter.text
                ),
                "remove it, or look for a typo in one of the two",
            );
        }
        let (most, holds) = (cost.most(), limit.limit.burst());
        if most > holds && limit.amount_header.is_none() {
            problems.warning(
                at,
                format!(
                    "a request may cost {most}, and {} never has room for more than {holds}",
                    limit.text
                ),
                "raise the limit or its burst, or lower the cost's maximum",
            );
        }
    }
}

fn lint_ban(problems: &Problems, action: &LimitAction, path: &FieldPath) {
    if action.ban.is_none() {
        return;
    }
    let at = path.key("ban");
    if action.descriptor.parts.is_empty() {
        problems.warning(
            &at,
            "the rule has no key, so this ban is for everybody",
            "give the rule a `key`, like [client_ip]",
        );
    }
    if action.plans().all(|plan| plan.limits().is_empty()) {
        problems.warning(
            &at,
            "the ban can never begin: it counts what the rule's limits deny, and there are none",
            "give the rule a limit, or remove the ban",
        );
    }
}

/// Warns of a lease that nobody can ever have, because none of the plans has room for it.
fn lint_lease(problems: &Problems, action: &LimitAction, path: &FieldPath) {
    let Some(lease) = &action.lease else {
        return;
    };
    let is_set_by_header = |limit: &NamedLimit| limit.amount_header.is_some();
    let is_possible = |plan: &Plan| {
        let mut limits = plan.limits().iter();
        limits.all(|limit| is_set_by_header(limit) || lease.share_of(&limit.limit) >= 2)
    };
    if action.mode == Mode::Enforce && !action.plans().any(is_possible) {
        problems.warning(
            &path.key("lease"),
            format!(
                "nobody ever has this lease: {}% of the limit is less than two requests",
                lease.share
            ),
            "raise the share or the limit, or remove the lease",
        );
    }
}

/// Warns of limits that another rule for the same clients makes pointless.
fn lint_against_others(rules: &[Placed<'_>], index: usize, action: &LimitAction) {
    if action.descriptor.parts.is_empty() || action.mode == Mode::Shadow {
        return;
    }
    let placed = rules[index];
    let others = rules
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != index);
    for (_, other) in others {
        let Some(theirs) = other.rule.limit_action() else {
            continue;
        };
        for limit in action.plan.limits() {
            // Two rules with the very same limits would each make the other pointless, so equal
            // limits are not stricter.
            let Some(stricter) = stricter_than(limit, &theirs.plan) else {
                continue;
            };
            let covers = || other.rule.matcher.covers(&placed.rule.matcher);
            if counts_all_that(theirs, action) && covers() {
                placed.problems.warning(
                    placed.path,
                    format!(
                        "{} can never be reached: {} of {} on the same key is stricter",
                        limit.text,
                        stricter.text,
                        other.seen_from(&placed)
                    ),
                    "remove it, or look for a typo in one of the two",
                );
            }
        }
    }
}

/// Whether `theirs` denies every request that exceeds its limits, with the key and cost of `ours`.
fn counts_all_that(theirs: &LimitAction, ours: &LimitAction) -> bool {
    theirs.mode == Mode::Enforce
        && theirs.descriptor == ours.descriptor
        && theirs.cost == ours.cost
        && theirs.tiers.is_empty()
        && theirs.overrides.is_empty()
}

/// A limit of `plan`, other than `limit` itself, that denies before `limit` can.
fn stricter_than<'a>(limit: &NamedLimit, plan: &'a Plan) -> Option<&'a NamedLimit> {
    // What a header sets is not known.
    let is_known = |limit: &NamedLimit| limit.amount_header.is_none();
    let needed = limit.limit.burst();
    let others = plan.limits().iter();
    let mut others = others.filter(|other| is_known(limit) && is_known(other));
    others.find(|other| {
        let (a, b) = (&limit.limit, &other.limit);
        // As many requests as fill a bucket can come at one instant; as many as fill a window,
        // within it.
        let within = match a.algorithm() {
            Algorithm::TokenBucket => 0,
            Algorithm::FixedWindow | Algorithm::SlidingWindow | Algorithm::SlidingLog => {
                a.window_us()
            }
        };
        a != b && most_within(b, within).is_some_and(|most| most < needed)
    })
}

/// An upper bound of what a limit admits within `span_us`; `None` if none below its window's is
/// known.
fn most_within(limit: &Limit, span_us: u64) -> Option<u64> {
    match limit.algorithm() {
        Algorithm::TokenBucket => {
            let refilled =
                u128::from(limit.amount()) * u128::from(span_us) / u128::from(limit.window_us());
            u64::try_from(refilled)
                .ok()
                .map(|refilled| refilled.saturating_add(limit.burst()))
        }
        // Windows may meet within the span.
        Algorithm::FixedWindow | Algorithm::SlidingWindow => {
            (span_us <= limit.window_us()).then(|| limit.amount().saturating_mul(2))
        }
        Algorithm::SlidingLog => (span_us <= limit.window_us()).then(|| limit.amount()),
    }
}
