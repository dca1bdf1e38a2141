//! The series of rules and limits, which come and go with the rule file.

use std::{
    collections::HashSet,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, family::Family};

use super::{
    BusyCounter, DecisionLabel, FallbackMode, Metrics, StoreFailure,
    labels::{DecisionLabels, FallbackLabels, LimitLabels, RuleLabel},
};

/// One rule's counters, looked up beforehand: the check path looks no label up.
#[derive(Debug, Clone)]
pub struct RuleMetrics {
    name: String,
    outcomes: [BusyCounter; DecisionLabel::ALL.len()],
    bans: Counter,
    new_keys_shared: Counter,
    fallbacks: Family<FallbackLabels, Counter>,
}

impl RuleMetrics {
    /// Counts one decision.
    pub fn decided(&self, outcome: DecisionLabel) {
        self.outcomes[outcome as usize].inc();
    }

    /// Counts the beginning of a ban.
    pub fn banned(&self) {
        self.bans.inc();
    }

    /// Counts a charge to the overflow counter, because there may be no more new ones.
    pub fn new_key_shared(&self) {
        self.new_keys_shared.inc();
    }

    /// Counts one decision made without the store. It looks labels up, because it is not on the
    /// usual path.
    pub fn fell_back(&self, mode: FallbackMode, reason: StoreFailure) {
        self.fallbacks
            .get_or_create(&FallbackLabels {
                rule: self.name.clone(),
                mode,
                reason,
            })
            .inc();
    }
}

/// One limit's counters, looked up beforehand.
#[derive(Debug, Clone)]
pub struct LimitMetrics {
    /// Denials by it.
    pub denials: Counter,
    /// Requests that it had room for, and that were admitted.
    pub admissions: BusyCounter,
    /// Of these, those after which it was nearly reached.
    pub near: Counter,
    /// Of these, those that a limit under `try` would have denied, if there is one.
    pub would_deny: Option<Counter>,
}

impl Metrics {
    /// The counters of a rule. The same name has the same counters, also across reloads.
    pub fn rule(&self, name: &str) -> RuleMetrics {
        let mut rules = self.rules();
        if !rules.iter().any(|known| known == name) {
            rules.push(name.to_owned());
        }
        // So that it exists from the start, like the others.
        self.memory_overflows.get_or_create_owned(&rule_label(name));
        RuleMetrics {
            name: name.to_owned(),
            outcomes: std::array::from_fn(|i| {
                self.decisions
                    .get_or_create_owned(&decision(name, DecisionLabel::ALL[i]))
            }),
            bans: self.bans.get_or_create_owned(&rule_label(name)),
            new_keys_shared: self.new_keys_shared.get_or_create_owned(&rule_label(name)),
            fallbacks: self.store_fallbacks.clone(),
        }
    }

    /// The counter of denials by a limit or a ban. The same names have the same counter, also
    /// across reloads.
    pub fn denials(&self, rule: &str, limit: &str) -> Counter {
        let labels = limit_labels(rule, limit);
        let counter = self.denials.get_or_create_owned(&labels);
        self.limits().insert(labels);
        counter
    }

    /// The series of a limit. The same names have the same counters, also across reloads.
    /// `has_candidate` says whether another limit is tried out beside it.
    pub fn limit(&self, rule: &str, limit: &str, has_candidate: bool) -> LimitMetrics {
        let labels = limit_labels(rule, limit);
        let would_deny = || self.would_deny.get_or_create_owned(&labels);
        LimitMetrics {
            denials: self.denials(rule, limit),
            admissions: self.admissions.get_or_create_owned(&labels),
            near: self.near_limit.get_or_create_owned(&labels),
            would_deny: has_candidate.then(would_deny),
        }
    }

    /// Shows how much the limits of a name admit: `amount` per window of so many microseconds.
    pub fn limit_is(&self, rule: &str, limit: &str, amount: u64, window_us: u64) {
        let labels = limit_labels(rule, limit);
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        self.limit_amounts.get_or_create(&labels).set(amount);
        let window = Duration::from_micros(window_us).as_secs_f64();
        self.limit_windows.get_or_create(&labels).set(window);
    }

    /// Drops the series of all limits whose name `keep` does not accept.
    pub fn retain_limits(&self, keep: impl Fn(&str) -> bool) {
        self.limits().retain(|labels| {
            let keep = keep(&labels.limit);
            if !keep {
                for family in [&self.denials, &self.near_limit, &self.would_deny] {
                    family.remove(labels);
                }
                self.admissions.remove(labels);
                self.limit_amounts.remove(labels);
                self.limit_windows.remove(labels);
            }
            keep
        });
    }

    /// Drops the series of limits that were tried out, but for those whose name `keep` accepts.
    pub fn retain_candidates(&self, keep: impl Fn(&str) -> bool) {
        for labels in self.limits().iter() {
            if !keep(&labels.limit) {
                self.would_deny.remove(labels);
            }
        }
    }

    fn limits(&self) -> MutexGuard<'_, HashSet<LimitLabels>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the series of all other rules. A handle of a dropped rule may still be used, but what
    /// it counts is not exported.
    pub fn retain_rules(&self, names: &[&str]) {
        self.rules().retain(|rule| {
            let keep = names.contains(&rule.as_str());
            if !keep {
                self.drop_rule(rule);
            }
            keep
        });
    }

    fn drop_rule(&self, rule: &str) {
        for outcome in DecisionLabel::ALL {
            self.decisions.remove(&decision(rule, outcome));
        }
        self.memory_overflows.remove(&rule_label(rule));
        self.bans.remove(&rule_label(rule));
        self.new_keys_shared.remove(&rule_label(rule));
        for mode in FallbackMode::ALL {
            for reason in StoreFailure::ALL {
                self.store_fallbacks.remove(&FallbackLabels {
                    rule: rule.to_owned(),
                    mode,
                    reason,
                });
            }
        }
    }

    fn rules(&self) -> MutexGuard<'_, Vec<String>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one charge to a rule's overflow counter.
    pub fn overflowed(&self, rule: &str) {
        self.memory_overflows.get_or_create(&rule_label(rule)).inc();
    }
}

fn decision(rule: &str, outcome: DecisionLabel) -> DecisionLabels {
    DecisionLabels {
        rule: rule.to_owned(),
        outcome,
    }
}

fn limit_labels(rule: &str, limit: &str) -> LimitLabels {
    LimitLabels {
        rule: rule.to_owned(),
        limit: limit.to_owned(),
    }
}

fn rule_label(rule: &str) -> RuleLabel {
    RuleLabel {
        rule: rule.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_the_same_counters_after_a_reload() {
        let metrics = Metrics::new();
        metrics.rule("data").decided(DecisionLabel::Denied);
        metrics.rule("data").decided(DecisionLabel::Denied);
        metrics.rule("data").decided(DecisionLabel::ShadowDenied);
        let text = metrics.encode();
        assert!(
            text.contains(r#"tollgate_decisions_total{rule="data",outcome="denied"} 2"#),
            "{text}"
        );
        assert!(
            text.contains(r#"tollgate_decisions_total{rule="data",outcome="shadow_denied"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"tollgate_decisions_total{rule="data",outcome="allowed"} 0"#),
            "{text}"
        );
    }

    #[test]
    fn series_of_removed_rules_are_dropped() {
        let metrics = Metrics::new();
        for name in ["old", "kept"] {
            let rule = metrics.rule(name);
            rule.decided(DecisionLabel::Allowed);
            metrics.overflowed(name);
            rule.new_key_shared();
            for mode in FallbackMode::ALL {
                for reason in StoreFailure::ALL {
                    rule.fell_back(mode, reason);
                }
            }
        }
        assert!(metrics.encode().contains(r#"rule="old""#));
        metrics.retain_rules(&["kept", "not yet seen"]);
        let text = metrics.encode();
        assert!(!text.contains(r#"rule="old""#), "{text}");
        assert!(
            text.contains(
                r#"tollgate_store_fallbacks_total{rule="kept",mode="local",reason="overloaded"} 1"#
            ),
            "{text}"
        );
    }

    #[test]
    fn names_in_labels_are_escaped() {
        let metrics = Metrics::new();
        metrics.rule("a\"b\\c\nd");
        assert!(
            metrics.encode().contains(r#"rule="a\"b\\c\nd""#),
            "{}",
            metrics.encode()
        );
    }

    #[test]
    fn series_of_removed_limits_are_dropped() {
        let metrics = Metrics::new();
        for (rule, limit) in [("a", "a/1s"), ("a", "a/60s"), ("b", "b/ban")] {
            metrics.denials(rule, limit).inc();
        }
        metrics.denials("a", "a/60s").inc();
        metrics.retain_limits(|limit| limit != "a/1s");
        let text = metrics.encode();
        assert!(!text.contains("a/1s"), "{text}");
        for line in [
            r#"tollgate_denials_total{rule="a",limit="a/60s"} 2"#,
            r#"tollgate_denials_total{rule="b",limit="b/ban"} 1"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
