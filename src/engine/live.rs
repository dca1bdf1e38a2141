//! The rule set in force, with its metrics.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use prometheus_client::metrics::counter::Counter;

use super::offenders::{Offenders, RuleDenials};
use crate::{
    metrics::{LimitMetrics, Metrics, RuleMetrics},
    rules::RuleSet,
};

/// A rule set in force, with its metrics.
pub struct Live {
    /// The rules.
    pub set: RuleSet,
    /// The number of good rule files loaded so far.
    pub generation: u64,
    pub(super) metrics: Vec<RuleMetrics>,
    /// Who is denied, by rule.
    pub(super) denials: Vec<Arc<RuleDenials>>,
    /// Whether some limit follows the calendar.
    pub(super) has_calendars: bool,
    /// The series of limits, by the limit's name.
    limits: HashMap<Arc<str>, LimitMetrics, RandomState>,
    /// Denials by bans, by the ban's name.
    bans: HashMap<Arc<str>, Counter, RandomState>,
}

impl Live {
    pub(super) fn new(
        set: RuleSet,
        generation: u64,
        metrics: &Metrics,
        offenders: &Offenders,
    ) -> Self {
        let names: Vec<&str> = set.rules.iter().map(|rule| &*rule.name).collect();
        metrics.retain_rules(&names);
        let of_rules = set.rules.iter().map(|rule| metrics.rule(&rule.name));
        let of_rules = of_rules.collect();
        let (mut limits, mut bans) = (HashMap::default(), HashMap::default());
        for rule in &set.rules {
            let name = &rule.name;
            let Some(action) = rule.limit_action() else {
                continue;
            };
            // Of those that share a name, the one that admits most.
            let mut shown: HashMap<&str, (u64, u64)> = HashMap::new();
            for limit in action.limits() {
                let series = metrics.limit(name, &limit.name, limit.candidate.is_some());
                let known: &mut LimitMetrics = limits
                    .entry(Arc::clone(&limit.name))
                    .or_insert_with(|| series.clone());
                known.would_deny = known.would_deny.take().or(series.would_deny);
                let most = shown.entry(&limit.name).or_default();
                *most = (*most).max((limit.limit.amount(), limit.limit.window_us()));
            }
            for (limit, (amount, window_us)) in shown {
                metrics.limit_is(name, limit, amount, window_us);
            }
            if let Some(ban) = &action.ban {
                bans.insert(Arc::clone(&ban.name), metrics.denials(name, &ban.name));
            }
        }
        let has_calendars = set.limits().any(|limit| limit.calendar.is_some());
        metrics.retain_limits(|limit| limits.contains_key(limit) || bans.contains_key(limit));
        metrics.retain_candidates(|limit| {
            let series: Option<&LimitMetrics> = limits.get(limit);
            series.is_some_and(|series| series.would_deny.is_some())
        });
        Self {
            has_calendars,
            denials: offenders.of_rules(&set),
            set,
            generation,
            metrics: of_rules,
            limits,
            bans,
        }
    }

    /// The series of the limit of this name.
    pub(super) fn limit(&self, name: &str) -> Option<&LimitMetrics> {
        self.limits.get(name)
    }

    /// Counts a denial by the limit or ban of this name.
    pub(super) fn denied_by(&self, name: &str) {
        let limit = self.limits.get(name).map(|limit| &limit.denials);
        if let Some(counter) = limit.or_else(|| self.bans.get(name)) {
            counter.inc();
        }
    }
}
