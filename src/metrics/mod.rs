//! The metrics behind `/metrics`.
//!
//! Labels hold rule names and fixed words, never anything that a client sent: the rule file bounds
//! the number of series.

mod labels;
pub mod process;
mod rules;
mod sharded;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use labels::{
    ContractLabel, DecisionLabels, FallbackLabels, FaultLabel, LimitLabels, RefusalLabel,
    RuleLabel, StoreErrorLabel,
};

pub use labels::{
    Contract, ContractFault, DecisionLabel, FallbackMode, RefusalReason, StoreFailure,
};
pub use rules::{LimitMetrics, RuleMetrics};
use sharded::{Durations, Sharded};

/// A counter that every check increments.
pub type BusyCounter = Counter<u64, Sharded>;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds. A check in memory takes some 50 µs, one through Redis less than a
/// millisecond; the default deadline is 50 ms, and no sensible deadline is longer than 250 ms.
const BUCKETS: [f64; 12] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
];

/// All metrics of the process. Public fields are handles to be used directly; the rest goes through
/// methods.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, BusyCounter>,
    denials: Family<LimitLabels, Counter>,
    admissions: Family<LimitLabels, BusyCounter>,
    near_limit: Family<LimitLabels, Counter>,
    would_deny: Family<LimitLabels, Counter>,
    limit_amounts: Family<LimitLabels, Gauge>,
    limit_windows: Family<LimitLabels, Gauge<f64, AtomicU64>>,
    bans: Family<RuleLabel, Counter>,
    checks: Family<ContractLabel, BusyCounter>,
    check_duration: Durations<{ BUCKETS.len() }>,
    store_duration: Durations<{ BUCKETS.len() }>,
    store_errors: Family<StoreErrorLabel, Counter>,
    store_fallbacks: Family<FallbackLabels, Counter>,
    store_up: Gauge,
    contract_faults: Family<FaultLabel, Counter>,
    refused_requests: Family<RefusalLabel, Counter>,
    rules_generation: Gauge,
    rules_loaded: Gauge,
    rules_reload_failures: Counter,
    rules_last_reload_success: Gauge,
    rules_last_success: Gauge<f64, AtomicU64>,
    memory_overflows: Family<RuleLabel, Counter>,
    new_keys_shared: Family<RuleLabel, Counter>,
    /// Denials that were remembered, so the store was not asked.
    pub denials_remembered: Counter,
    /// Spans that a collector has taken.
    pub spans_exported: Counter,
    /// Spans that were dropped: the collector is away, or too slow.
    pub spans_dropped: Counter,
    /// Requests that were admitted by a lease, so the store was not asked.
    pub lease_admissions: BusyCounter,
    /// Requests that were charged ahead of their coming.
    pub lease_grants: Counter,
    /// Of those, how many were given back unused.
    pub lease_grants_returned: Counter,
    /// Replicas that share the store.
    pub replicas: Gauge,
    /// Counters in memory.
    pub memory_keys: Gauge,
    /// Open connections on the check port.
    pub connections: Gauge,
    /// Connections closed at once because there were too many.
    pub connections_refused: Counter,
    /// Failures to accept a connection.
    pub accept_errors: Counter,
    /// Panics in request handlers: bugs.
    pub handler_panics: Counter,
    /// Rules that have series, so that those of removed rules can be dropped.
    rules: Mutex<Vec<String>>,
    /// Limits that have series.
    limits: Mutex<HashSet<LimitLabels>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates all metrics at zero. Series with fixed labels exist from the start, so that a rate
    /// over them has no gap.
    #[expect(clippy::too_many_lines, reason = "a list of all metrics")]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tollgate");
        let r = &mut registry;
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        r.register("build", "The version that runs", Info::new(build));
        let metrics = Self {
            decisions: counter(r, "decisions", "Decisions by rule and outcome"),
            denials: counter(
                r,
                "denials",
                "Denials by the limit or ban that denied, also of rules in shadow mode",
            ),
            admissions: counter(
                r,
                "admissions",
                "Requests that a limit had room for, and that were admitted",
            ),
            near_limit: counter(
                r,
                "near_limit",
                "Of these, those after which the limit was nearly reached (--near-limit)",
            ),
            would_deny: counter(
                r,
                "would_deny",
                "Admitted requests that a limit under try would have denied",
            ),
            limit_amounts: {
                let family = Family::default();
                let help = "The limit: requests per window; the largest, if overrides share a name";
                r.register("limit", help, family.clone());
                family
            },
            limit_windows: {
                let family = Family::default();
                let help = "The window of the limit";
                r.register_with_unit("limit_window", help, Unit::Seconds, family.clone());
                family
            },
            bans: counter(
                r,
                "bans",
                "Bans that began, by rule, also of rules in shadow mode, where nobody is banned",
            ),
            checks: counter(r, "checks", "Checks by endpoint"),
            check_duration: histogram(
                r,
                "check_duration",
                "Time from a check's arrival to its answer",
            ),
            store_duration: histogram(
                r,
                "store_duration",
                "Time of a call to the store, until its answer or failure",
            ),
            store_errors: counter(r, "store_errors", "Calls to the store that failed, by kind"),
            store_fallbacks: counter(
                r,
                "store_fallbacks",
                "Decisions made without the store, by rule, action taken and reason",
            ),
            store_up: gauge(
                r,
                "store_up",
                "1 while the store answers, 0 while it does not",
            ),
            contract_faults: counter(
                r,
                "contract_faults",
                "Checks that cannot be understood, by kind: the proxy's configuration needs to be fixed",
            ),
            refused_requests: counter(
                r,
                "refused_requests",
                "Requests that were refused because servers read them differently, by reason",
            ),
            rules_generation: gauge(
                r,
                "rules_generation",
                "How many rule sets have been in force since the start",
            ),
            rules_loaded: gauge(r, "rules_loaded", "Rules in force"),
            rules_reload_failures: counter(
                r,
                "rules_reload_failures",
                "Rule files that were refused",
            ),
            rules_last_reload_success: gauge(
                r,
                "rules_last_reload_success",
                "1 if the last rule file is in force, 0 if it was refused",
            ),
            rules_last_success: {
                let gauge = Gauge::default();
                r.register_with_unit(
                    "rules_last_success_timestamp",
                    "When the rules in force were loaded, as a Unix time",
                    Unit::Seconds,
                    gauge.clone(),
                );
                gauge
            },
            denials_remembered: counter(
                r,
                "denials_remembered",
                "Checks denied without asking the store, because a denial still held",
            ),
            spans_exported: counter(r, "spans_exported", "Spans that the collector has taken"),
            spans_dropped: counter(
                r,
                "spans_dropped",
                "Spans that were dropped, because the collector is away or too slow",
            ),
            lease_admissions: counter(
                r,
                "lease_admissions",
                "Checks admitted without asking the store, because they were charged ahead",
            ),
            lease_grants: counter(r, "lease_grants", "Requests charged ahead of their coming"),
            lease_grants_returned: counter(
                r,
                "lease_grants_returned",
                "Requests charged ahead that did not come, and were given back",
            ),
            replicas: gauge(
                r,
                "replicas",
                "Replicas of tollgate that share the store, by their heartbeats",
            ),
            memory_keys: gauge(r, "memory_keys", "Keys in the embedded store"),
            memory_overflows: counter(
                r,
                "memory_overflows",
                "Charges to a rule's overflow counter because the embedded store was full",
            ),
            new_keys_shared: counter(
                r,
                "new_keys_shared",
                "Charges to a rule's overflow counter because it had no budget for new counters (max_new_keys)",
            ),
            connections: gauge(r, "connections", "Open connections on the check port"),
            connections_refused: counter(
                r,
                "connections_refused",
                "Connections closed at once because there were too many",
            ),
            accept_errors: counter(r, "accept_errors", "Failures to accept a connection"),
            handler_panics: counter(
                r,
                "handler_panics",
                "Requests that ended in a panic: bugs in tollgate",
            ),
            rules: Mutex::default(),
            limits: Mutex::default(),
            registry,
        };
        metrics.begin_at_zero();
        metrics
    }

    /// Creates the series with fixed labels.
    fn begin_at_zero(&self) {
        for contract in Contract::ALL {
            self.checks.get_or_create_owned(&ContractLabel { contract });
        }
        for kind in StoreFailure::ALL {
            self.store_errors
                .get_or_create_owned(&StoreErrorLabel { kind });
        }
        for kind in ContractFault::ALL {
            self.contract_faults
                .get_or_create_owned(&FaultLabel { kind });
        }
        for reason in RefusalReason::ALL {
            self.refused_requests
                .get_or_create_owned(&RefusalLabel { reason });
        }
    }

    /// All metrics in the text format of `OpenMetrics`; serve it as [`CONTENT_TYPE`].
    #[expect(clippy::missing_panics_doc, reason = "the expect below cannot fail")]
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        text::encode(&mut out, &self.registry).expect("writing to a String cannot fail");
        out
    }

    /// The counter of checks at one endpoint, for it to keep.
    pub fn checks(&self, contract: Contract) -> BusyCounter {
        self.checks.get_or_create_owned(&ContractLabel { contract })
    }

    /// Records how long a check took.
    pub fn check_took(&self, took: Duration) {
        self.check_duration.observe(took);
    }

    /// Records how long the store took to answer or to fail. Memory is not waited for, and so not
    /// measured.
    pub fn store_took(&self, took: Duration) {
        self.store_duration.observe(took);
    }

    /// Counts a charge that the store did not answer.
    pub fn store_failed(&self, kind: StoreFailure) {
        self.store_errors
            .get_or_create(&StoreErrorLabel { kind })
            .inc();
    }

    /// Records whether the store answers.
    pub fn set_store_up(&self, up: bool) {
        self.store_up.set(i64::from(up));
    }

    /// Counts a check that cannot be understood.
    pub fn contract_fault(&self, kind: ContractFault) {
        self.contract_faults
            .get_or_create(&FaultLabel { kind })
            .inc();
    }

    /// Counts a request that was refused before any rule was asked.
    pub fn refused(&self, reason: RefusalReason) {
        self.refused_requests
            .get_or_create(&RefusalLabel { reason })
            .inc();
    }

    /// Records that a rule set of `rules` rules came into force at `now_us`, in microseconds since
    /// the Unix epoch.
    pub fn rules_in_force(&self, rules: usize, now_us: u64) {
        self.rules_generation.inc();
        self.rules_loaded
            .set(i64::try_from(rules).unwrap_or(i64::MAX));
        self.rules_last_reload_success.set(1);
        self.rules_last_success
            .set(Duration::from_micros(now_us).as_secs_f64());
    }

    /// Records that the rule file holds the rules in force again, after it had been refused.
    pub fn rules_unchanged(&self) {
        self.rules_last_reload_success.set(1);
    }

    /// Records that a rule file was refused; the rules before it stay in force.
    pub fn rules_refused(&self) {
        self.rules_reload_failures.inc();
        self.rules_last_reload_success.set(0);
    }
}

/// Registers a counter or a family of counters. The registry appends `_total` to its name.
fn counter<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: prometheus_client::registry::Metric + Default + Clone,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

/// Registers a histogram of seconds. The registry appends `_seconds` to its name.
fn histogram(registry: &mut Registry, name: &str, help: &str) -> Durations<{ BUCKETS.len() }> {
    let histogram = Durations::new(BUCKETS);
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_at_the_start() {
        let text = Metrics::new().encode();
        let version = env!("CARGO_PKG_VERSION");
        insta::assert_snapshot!(in_order(&text).replace(version, "<version>"));
    }

    /// Sorts the series of each metric: they come in the order of a hash map, which differs from
    /// run to run.
    fn in_order(text: &str) -> String {
        let mut lines: Vec<_> = text.lines().collect();
        for run in lines.chunk_by_mut(|a, b| {
            let family = |line: &str| line.split_once('{').map(|(name, _)| name.to_owned());
            family(a).is_some() && family(a) == family(b) && !a.contains("_bucket")
        }) {
            run.sort_unstable();
        }
        lines.join("\n")
    }

    #[test]
    fn a_refused_rule_file_shows_and_a_good_one_clears_it() {
        let metrics = Metrics::new();
        metrics.rules_in_force(3, 1_700_000_000_250_000);
        metrics.rules_refused();
        let text = metrics.encode();
        assert!(text.contains("tollgate_rules_generation 1\n"), "{text}");
        assert!(text.contains("tollgate_rules_loaded 3\n"), "{text}");
        assert!(
            text.contains("tollgate_rules_reload_failures_total 1\n"),
            "{text}"
        );
        assert!(
            text.contains("tollgate_rules_last_reload_success 0\n"),
            "{text}"
        );
        assert!(
            text.contains("tollgate_rules_last_success_timestamp_seconds 1700000000.25\n"),
            "{text}"
        );
        metrics.rules_in_force(4, 1_700_000_001_000_000);
        assert!(
            metrics
                .encode()
                .contains("tollgate_rules_last_reload_success 1\n")
        );
    }

    #[test]
    fn durations_are_in_seconds() {
        let metrics = Metrics::new();
        metrics.check_took(Duration::from_micros(300));
        let text = metrics.encode();
        assert!(
            text.contains("tollgate_check_duration_seconds_bucket{le=\"0.00025\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("tollgate_check_duration_seconds_bucket{le=\"0.0005\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("tollgate_check_duration_seconds_sum 0.0003\n"),
            "{text}"
        );
    }
}
