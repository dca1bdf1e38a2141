//! The rule file: read, checked, compiled, matched.
//!
//! [`load`] is the whole way from text to a [`RuleSet`]. A rule set is immutable; a changed file makes a new one.

mod compile;
mod decode;
pub mod diagnostic;
mod file;
pub mod key;
mod locate;
pub mod matcher;
pub mod quota;
mod yaml;

use std::sync::Arc;

use serde::Serialize;

pub use self::diagnostic::{Diagnostic, Report};
use self::{key::Descriptor, matcher::Matcher};
use crate::{limit::Limit, request::ClientIpPolicy};

/// Reads and compiles the text of a rule file. `name` is how messages call the file. On an error the report holds
/// everything that could be told in one go.
pub fn load(name: &str, text: &str) -> Result<RuleSet, Report> {
    let mut document = yaml::Document::new(text);
    match compile::compile(&mut document) {
        Some(set) if document.problems.is_empty() => Ok(set),
        _ => Err(document.report(name)),
    }
}

/// All rules of a file, ready to be matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// How a client's address is found and keyed.
    pub client_ip: ClientIpPolicy,
}

impl RuleSet {
    /// All limits of all rules.
    pub fn limits(&self) -> impl Iterator<Item = &NamedLimit> {
        self.rules.iter().flat_map(|rule| match &rule.action {
            Action::Limit(action) => action.limits.as_slice(),
            Action::Allow | Action::Deny => &[],
        })
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name: in keys, headers, logs and metrics.
    pub name: Arc<str>,
    /// Which requests it is about.
    pub matcher: Matcher,
    /// What happens to them.
    pub action: Action,
}

/// What a rule does with a request that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Lets it pass; no later rule is asked.
    Allow,
    /// Turns it away; no later rule is asked and nothing is charged.
    Deny,
    /// Counts it.
    Limit(LimitAction),
}

/// The limits of a rule and what they count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitAction {
    /// Whose requests share a counter.
    pub descriptor: Descriptor,
    /// All of them apply.
    pub limits: Vec<NamedLimit>,
    /// Whether a denial is only counted and logged.
    pub mode: Mode,
    /// What happens while the store does not answer.
    pub on_store_error: OnStoreError,
}

/// A limit with everything about it that can be written ahead of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedLimit {
    /// The arithmetic.
    pub limit: Limit,
    /// `data`, or `search/1s` when the rule has several limits: the policy's name in answers and logs.
    pub name: Arc<str>,
    /// `"data";q=5;w=60`: this limit's member of `RateLimit-Policy`.
    pub policy: Arc<str>,
    /// `:sliding_window:60s`: the end of its keys.
    pub key_suffix: Arc<str>,
    /// `5/m`, as the rule file says it.
    pub text: Arc<str>,
}

/// Whether a rule denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It only counts, logs and says in metrics what it would have denied.
    Shadow,
}

/// What a rule does while the store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreError {
    /// Counts in this process, with the limit divided by the number of replicas.
    #[default]
    Local,
    /// Lets requests pass uncounted.
    Allow,
    /// Denies with 429 and `Retry-After: 1`.
    Deny,
    /// Answers 503, so that the proxy's own failure mode decides.
    Proxy,
}

impl OnStoreError {
    /// The name in rule files and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Proxy => "proxy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
version: 1
client_ip: { trusted_proxies: [10.0.0.0/8, 192.0.2.1], ipv6_prefix: 56 }
defaults: { on_store_error: deny }
rules:
  - name: health
    match: { path: /healthz }
    action: allow
  - name: data
    match: { path: [/data, "/data/{id}/**"], methods: [GET], host: "*.example.com" }
    key: [client_ip]
    limit: 5/m
  - name: search
    match: { path: "/v1/{tenant}/search/**" }
    key: [{ path: tenant }, { header: x-api-key, secret: true }]
    on_missing: skip
    limits: [20/s burst 40, { rate: 1000 per day, algorithm: fixed_window }]
    mode: shadow
    on_store_error: proxy
"#;

    #[test]
    fn a_good_file_compiles() {
        let set = load("rules.yaml", GOOD).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(set.client_ip.ipv6_prefix, 56);
        assert_eq!(set.client_ip.trusted_proxies.len(), 2);
        assert_eq!(set.rules.len(), 3);
        let Action::Limit(data) = &set.rules[1].action else {
            panic!()
        };
        assert_eq!(data.on_store_error, OnStoreError::Deny);
        assert_eq!(&*data.limits[0].policy, "\"data\";q=5;w=60");
        assert_eq!(&*data.limits[0].key_suffix, ":sliding_window:60s");
        let Action::Limit(search) = &set.rules[2].action else {
            panic!()
        };
        assert_eq!(search.mode, Mode::Shadow);
        assert_eq!(search.on_store_error, OnStoreError::Proxy);
        assert_eq!(&*search.limits[0].name, "search/1s");
        assert_eq!(&*search.limits[0].key_suffix, ":token_bucket:1s");
        assert_eq!(&*search.limits[1].key_suffix, ":fixed_window:86400s");
    }

    fn report(text: &str) -> String {
        match load("rules.yaml", text) {
            Ok(_) => "no error".to_owned(),
            Err(report) => report.to_string(),
        }
    }

    #[test]
    fn all_errors_are_told_in_one_go_with_place_and_remedy() {
        insta::assert_snapshot!(report(
            r#"version: 2
client_ip: { ipv6_prefix: 200, trusted_proxies: [10.0.0.0/8, nonsense] }
rules:
  - name: data
    match: { path: data, metods: [GET] }
    key: [ip, { header: "x y" }, { path: id }]
    limit: 5/fortnight
  - name: data
    limit: 0/m
    mode: shadwo
  - name: "a b"
    limits:
      - 5/m
      - 6/m
      - { rate: 7/m, burst: 9, algorithm: fixed_window }
  - limit: 5
  - name: all
    action: allow
    limit: 3/s
  - name: never
    match: { path: /x }
    action: deny
    on_mising: deny
"#
        ));
    }

    #[test]
    fn broken_yaml_is_told_with_its_place() {
        insta::assert_snapshot!("tab", report("version: 1\nrules:\n\t- name: x\n"));
        insta::assert_snapshot!(
            "duplicate",
            report("version: 1\nrules:\n  - name: x\n    limit: 5/m\n    limit: 6/m\n")
        );
        insta::assert_snapshot!(
            "template",
            report(
                "version: 1\nrules:\n  - name: x\n    match: { path: /a/{id} }\n    limit: 5/m\n"
            )
        );
        insta::assert_snapshot!("empty", report(""));
        insta::assert_snapshot!("list", report("- a\n- b\n"));
        insta::assert_snapshot!("no_rules", report("version: 1\nrules: []\n"));
    }
}
