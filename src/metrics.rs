//! stub
use prometheus_client::metrics::counter::Counter;
use std::time::Duration;
/// stub
#[derive(Default)]
pub struct Metrics {}
/// stub
#[derive(Default, Clone)]
#[expect(missing_docs)]
pub struct RuleMetrics { pub allowed: Counter, pub denied: Counter, pub shadow_denied: Counter, pub fallback_allowed: Counter, pub fallback_denied: Counter, pub unavailable: Counter }
#[expect(missing_docs, clippy::unused_self)]
impl Metrics {
    pub fn rule(&self, _: &str) -> RuleMetrics { RuleMetrics::default() }
    pub fn retain_rules(&self, _: &[&str]) {}
    pub fn store_call(&self, _: Duration, _: Option<&'static str>) {}
    pub fn fallback(&self, _: &str, _: &'static str, _: &'static str) {}
}
