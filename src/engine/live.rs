//! The rule set in force, with its metrics.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use prometheus_client::metrics::counter::Counter;

use crate::{
    metrics::{Metrics, RuleMetrics},
    rules::RuleSet,
};

/// A rule set in force, with its metrics.
pub struct Live {
    /// The rules.
    pub set: RuleSet,
    /// The number of good rule files loaded so far.
    pub generation: u64,
    pub(super) metrics: Vec<RuleMetrics>,
    /// Whether some limit follows the calendar.
    pub(super) has_calendars: bool,
    /// Denials by the name of the limit.
    denials: HashMap<Arc<str>, Counter, RandomState>,
}

impl Live {
    pub(super) fn new(set: RuleSet, generation: u64, metrics: &Metrics) -> Self {
        let names: Vec<&str> = set.rules.iter().map(|rule| &*rule.name).collect();
        metrics.retain_rules(&names);
        let of_rules = set.rules.iter().map(|rule| metrics.rule(&rule.name));
        let of_rules = of_rules.collect();
        let mut denials = HashMap::default();
        for rule in &set.rules {
            for limit in rule.limit_names() {
                let counter = metrics.limit(&rule.name, limit);
                denials.insert(Arc::clone(limit), counter);
            }
        }
        let has_calendars = set.limits().any(|limit| limit.calendar.is_some());
        metrics.retain_limits(|limit| denials.contains_key(limit));
        Self {
            has_calendars,
            set,
            generation,
            metrics: of_rules,
            denials,
        }
    }

    /// Counts a denial by the limit of this name.
    pub(super) fn denied_by(&self, limit: &str) {
        if let Some(counter) = self.denials.get(limit) {
            counter.inc();
        }
    }
}
