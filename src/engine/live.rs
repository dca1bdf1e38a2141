//! The rule set in force, with its metrics.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use prometheus_client::metrics::counter::Counter;

use super::offenders::{Offenders, RuleDenials};
use crate::{
    metrics::{LimitMetrics, Metrics, RuleMetrics},
    rules::{Rule, RuleSet},
};

/// A rule set in force, with its metrics.
pub struct Live {
    /// The rules.
    pub set: RuleSet,
    /// The number of good rule files loaded so far.
    pub generation: u64,
    /// By rule.
    pub(super) series: Vec<Series>,
    /// Who is denied, by rule.
    pub(super) denials: Vec<Arc<RuleDenials>>,
    /// Whether some limit follows the calendar.
    pub(super) has_calendars: bool,
}

/// The series of a rule.
pub(super) struct Series {
    pub(super) rule: RuleMetrics,
    /// Those of its limits, by name. A rule has few names, so they are looked through.
    limits: Vec<(Arc<str>, LimitMetrics)>,
    /// Denials by its ban, if it has one.
    ban: Option<Counter>,
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
        let series = set.rules.iter().map(|rule| Series::new(rule, metrics));
        let series: Vec<Series> = series.collect();
        let limits = series.iter().flat_map(|series| &series.limits);
        let bans = set.rules.iter().filter_map(|rule| {
            let ban = rule.limit_action()?.ban.as_ref()?;
            Some(&*ban.name)
        });
        let kept: HashSet<&str> = limits.map(|(name, _)| &**name).chain(bans).collect();
        metrics.retain_limits(|limit| kept.contains(limit));
        let limits = series.iter().flat_map(|series| &series.limits);
        let tried = limits.filter(|(_, series)| series.would_deny.is_some());
        let tried: HashSet<&str> = tried.map(|(name, _)| &**name).collect();
        metrics.retain_candidates(|limit| tried.contains(limit));
        let has_calendars = set.limits().any(|limit| limit.calendar.is_some());
        Self {
            has_calendars,
            denials: offenders.of_rules(&set),
            set,
            generation,
            series,
        }
    }
}

impl Series {
    fn new(rule: &Rule, metrics: &Metrics) -> Self {
        let name = &rule.name;
        let mut series = Self {
            rule: metrics.rule(name),
            limits: Vec::new(),
            ban: None,
        };
        let Some(action) = rule.limit_action() else {
            return series;
        };
        // Of those that share a name, the one that admits most.
        let mut shown: HashMap<&str, (u64, u64)> = HashMap::new();
        for limit in action.limits() {
            let found = metrics.limit(name, &limit.name, limit.candidate.is_some());
            match series
                .limits
                .iter_mut()
                .find(|(name, _)| *name == limit.name)
            {
                Some((_, known)) => known.would_deny = known.would_deny.take().or(found.would_deny),
                None => series.limits.push((Arc::clone(&limit.name), found)),
            }
            let most = shown.entry(&limit.name).or_default();
            *most = (*most).max((limit.limit.amount(), limit.limit.window_us()));
        }
        for (limit, (amount, window_us)) in shown {
            metrics.limit_is(name, limit, amount, window_us);
        }
        let ban = action.ban.as_ref();
        series.ban = ban.map(|ban| metrics.denials(name, &ban.name));
        series
    }

    /// The series of the limit of this name.
    pub(super) fn limit(&self, name: &str) -> Option<&LimitMetrics> {
        let found = self.limits.iter().find(|(known, _)| **known == *name);
        found.map(|(_, limit)| limit)
    }

    /// Counts a denial by the limit or ban of this name.
    pub(super) fn denied_by(&self, name: &str) {
        let limit = self.limit(name).map(|limit| &limit.denials);
        if let Some(counter) = limit.or(self.ban.as_ref()) {
            counter.inc();
        }
    }
}
