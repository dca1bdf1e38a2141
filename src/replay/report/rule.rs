//! What a rehearsal says about one rule.

use serde::Serialize;

use super::{
    limits::{LimitReport, limits},
    share::share,
};
use crate::{
    replay::{
        tally::{BEYOND, Caller, RuleTally},
        timeline::Timeline,
        wanted::{HeldCounts, Wanted, in_words, needs},
    },
    rules::{Action, Mode, Rule, RuleSet},
};

/// How many callers are named.
pub(super) const NAMED: usize = 10;

/// What came of a rule.
#[derive(Debug, Serialize)]
pub struct RuleReport {
    /// The rule.
    pub name: String,
    /// `limit`, `allow` or `deny`.
    pub action: &'static str,
    /// Whether it enforces its denials. In shadow mode, `denied` is what it would deny.
    pub mode: Mode,
    /// Requests that it applied to.
    pub requests: u64,
    /// Those that it denied. A request that several rules deny counts for the one that the response
    /// would name.
    pub denied: u64,
    /// Their share, between 0 and 1.
    pub denied_share: f64,
    /// Denials by its ban, among those.
    pub denied_by_ban: u64,
    /// Bans that began.
    pub bans: u64,
    /// Requests without a part of the key, which it skipped.
    pub skipped: u64,
    /// Requests of new callers that shared a counter (`max_new_keys`).
    pub shared_new: u64,
    /// How many callers there were, as far as they were told apart.
    pub callers: usize,
    /// How many of them were denied at least once.
    pub callers_denied: usize,
    /// Requests of callers that were not told apart, because there were more than `--max-callers`.
    pub not_told_apart: u64,
    /// Those of them that were denied.
    pub not_told_apart_denied: u64,
    /// The most that one caller would have used of a limit, had it denied nothing: that of the
    /// limit of which it is the largest part. `None` if nothing was counted.
    pub peak: Option<u64>,
    /// Its limits.
    pub limits: Vec<LimitReport>,
    /// The callers with the most denials.
    pub worst: Vec<CallerReport>,
    /// What the rule needs and the log does not hold.
    pub not_in_log: Vec<Missing>,
    /// Its requests over time.
    pub over_time: Timeline,
}

/// A caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallerReport {
    /// As it appears in keys; empty if the rule has no key.
    pub caller: String,
    /// Its requests.
    pub requests: u64,
    /// Those that were denied.
    pub denied: u64,
    /// The most that it would have used of a limit, had that denied nothing; `None` if it is more
    /// than can be counted, or nothing was.
    pub peak: Option<u64>,
}

/// Something that a rule needs and the log does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What: `the header x-api-key`.
    pub what: String,
    /// How many of the requests do not hold it.
    pub requests: u64,
    /// Whether none of them does.
    pub everywhere: bool,
    /// What it is for, and what the rule did without it.
    pub effect: String,
}

impl RuleReport {
    pub(super) fn new(rule: &Rule, tally: &RuleTally, not_in_log: Vec<Missing>) -> Self {
        let limits = limits(tally);
        let nearest = limits.iter().filter(|limit| limit.peak.is_some());
        let nearest = nearest.max_by(|a, b| a.peak_share().total_cmp(&b.peak_share()));
        let callers = || tally.callers.iter();
        let denied = callers().filter(|(_, caller)| caller.counts.denied > 0);
        Self {
            name: rule.name.to_string(),
            action: match rule.action {
                Action::Allow => "allow",
                Action::Deny(_) => "deny",
                Action::Limit(_) => "limit",
            },
            mode: match &rule.action {
                Action::Allow => Mode::Enforce,
                Action::Deny(mode) => *mode,
                Action::Limit(action) => action.mode,
            },
            requests: tally.counts.requests,
            denied: tally.counts.denied,
            denied_share: share(tally.counts.denied, tally.counts.requests),
            denied_by_ban: tally.by_ban,
            bans: tally.bans,
            skipped: tally.skipped,
            shared_new: tally.shared,
            callers: tally.callers.len(),
            callers_denied: denied.clone().count(),
            not_told_apart: tally.untold.requests,
            not_told_apart_denied: tally.untold.denied,
            peak: nearest.and_then(|limit| limit.peak),
            limits,
            worst: worst(denied.map(|(name, caller)| (&**name, caller))),
            not_in_log,
            over_time: tally.timeline.clone(),
        }
    }
}

/// The callers with the most denials; of equals, those with fewer requests, then by name.
pub(super) fn worst<'a>(callers: impl Iterator<Item = (&'a str, &'a Caller)>) -> Vec<CallerReport> {
    let mut worst: Vec<(&str, &Caller)> = Vec::with_capacity(2 * NAMED);
    let settle = |worst: &mut Vec<(&str, &Caller)>| {
        worst.sort_unstable_by(|(a, one), (b, other)| {
            let by_denials = other.counts.denied.cmp(&one.counts.denied);
            by_denials
                .then(one.counts.requests.cmp(&other.counts.requests))
                .then(a.cmp(b))
        });
        worst.truncate(NAMED);
    };
    for caller in callers {
        if worst.len() == 2 * NAMED {
            settle(&mut worst);
        }
        worst.push(caller);
    }
    settle(&mut worst);
    let named = worst.into_iter().map(|(name, caller)| CallerReport {
        caller: name.to_owned(),
        requests: caller.counts.requests,
        denied: caller.counts.denied,
        peak: caller
            .peaks
            .iter()
            .map(|peak| peak.most)
            .max()
            .filter(|most| *most != BEYOND),
    });
    named.collect()
}

/// What the rule at `index` needs and the log does not hold.
pub(super) fn missing(
    set: &RuleSet,
    index: usize,
    held: &mut HeldCounts,
    wanted: &Wanted,
    requests: u64,
) -> Vec<Missing> {
    let needs = needs(set, index).into_iter().filter_map(|need| {
        let without = held.lines_without(&need.thing, wanted);
        (without > 0).then(|| Missing {
            what: in_words(&need.thing),
            requests: without,
            everywhere: without == requests,
            effect: need.without,
        })
    });
    needs.collect()
}
