//! Compiles the whole file: its version, its defaults, and its rules in order.

use std::sync::Arc;

use http::HeaderName;

use super::{Compiler, value};
use crate::{
    limit::Algorithm,
    request::{ClientIpPolicy, PathPolicy},
    rulefile::{
        decode::Field,
        lint::{self, SHIPPED_HEADERS},
        model::{self, RuleFile},
        yaml::FieldPath,
    },
    rules::{Mode, OnStoreError, Rule, RuleSet, answer::Answer, key::OnMissing},
};

/// The settings that a rule takes from `defaults`.
#[derive(Clone, Default)]
pub(super) struct Defaults {
    pub(super) algorithm: Option<Algorithm>,
    pub(super) mode: Mode,
    pub(super) on_missing: OnMissing,
    pub(super) on_store_error: OnStoreError,
    pub(super) answer: Arc<Answer>,
}

fn path_policy(file: &RuleFile) -> PathPolicy {
    let mut policy = PathPolicy::default();
    if let Some(paths) = value(file.paths.as_ref()) {
        policy.encoded_slash = value(paths.encoded_slash.as_ref())
            .copied()
            .unwrap_or_default();
        policy.parameters = value(paths.parameters.as_ref())
            .copied()
            .unwrap_or_default();
    }
    policy
}

impl Compiler<'_, '_> {
    /// Compiles every rule of a file that can be used.
    pub(super) fn rule_set(mut self, file: &RuleFile) -> RuleSet {
        self.version(file.version.as_ref());
        self.client_ip = self.client_ip(file);
        self.path_policy = path_policy(file);
        let defaults = self.defaults(file);
        let (rules, paths) = self.rules(file.rules.as_ref(), &defaults);
        let forwarded = self.forwarded_headers(file.forwarded_headers.as_ref());
        self.lint(&rules, &paths, forwarded.as_deref());
        RuleSet::new(
            rules,
            self.client_ip,
            self.path_policy,
            self.context.hash_key.clone(),
        )
    }

    /// The rules that can be used, each with its path.
    fn rules(
        &self,
        field: Option<&Field<Vec<Field<model::Rule>>>>,
        defaults: &Defaults,
    ) -> (Vec<Rule>, Vec<FieldPath>) {
        let (mut rules, mut paths) = (Vec::new(), Vec::new());
        let Some(field) = field else {
            self.missing_rules();
            return (rules, paths);
        };
        if field.value.as_ref().is_some_and(Vec::is_empty) {
            self.error(
                field,
                "there are no rules, so nothing would be limited",
                "add a rule; if that is what you want, one with `action: allow`",
            );
        }
        for field in field.value.iter().flatten() {
            let path = self.path(field);
            let rule = field.value.as_ref();
            if let Some(rule) = rule.and_then(|rule| self.rule(rule, &path, defaults)) {
                self.check_name(&rule, &path, &rules);
                rules.push(rule);
                paths.push(path);
            }
        }
        (rules, paths)
    }

    fn missing_rules(&self) {
        let root = FieldPath::root();
        let has_error = self.problems.has_error(&root.key("rules"));
        if !has_error && !self.problems.has_misspelt(&root, "rules") {
            self.problems.error(
                &root,
                "the file has no rules",
                "add `rules:` with at least one rule",
            );
        }
    }

    /// Warns of rules that are probably a mistake. Rules with a problem are left out: what could be
    /// compiled of a rule with an error is not what was written.
    fn lint(&self, rules: &[Rule], paths: &[FieldPath], forwarded: Option<&[HeaderName]>) {
        let rules = rules.iter().zip(paths);
        let sound = rules.filter(|(_, path)| !self.problems.has_any(path));
        lint::lint(self.problems, &sound.collect::<Vec<_>>(), forwarded);
    }

    pub(super) fn version(&self, field: Option<&Field<u64>>) {
        match field {
            None => self.problems.error(
                &FieldPath::root(),
                "the file has no version",
                "begin it with `version: 1`",
            ),
            Some(field) if field.value.is_some_and(|version| version != 1) => self.error(
                field,
                "this version of the rule file is not supported",
                "write `version: 1`",
            ),
            Some(_) => {}
        }
    }

    fn defaults(&self, file: &RuleFile) -> Defaults {
        let Some(defaults) = value(file.defaults.as_ref()) else {
            return Defaults::default();
        };
        Defaults {
            algorithm: value(defaults.algorithm.as_ref()).copied(),
            mode: value(defaults.mode.as_ref()).copied().unwrap_or_default(),
            on_missing: value(defaults.on_missing.as_ref())
                .copied()
                .unwrap_or_default(),
            on_store_error: value(defaults.on_store_error.as_ref())
                .copied()
                .unwrap_or_default(),
            answer: self.answer(defaults.answer.as_ref(), &Arc::default()),
        }
    }

    fn client_ip(&self, file: &RuleFile) -> ClientIpPolicy {
        let mut policy = ClientIpPolicy::default();
        let Some(section) = value(file.client_ip.as_ref()) else {
            return policy;
        };
        let networks = value(section.trusted_proxies.as_ref())
            .into_iter()
            .flatten();
        policy.trusted_proxies = networks
            .filter_map(|field| field.value)
            .map(|network| network.0)
            .collect();
        if let Some(field) = &section.ipv6_prefix
            && let Some(prefix) = field.value
        {
            if let Ok(prefix @ 1..=128) = u8::try_from(prefix) {
                policy.ipv6_prefix = prefix;
            } else {
                self.error(
                    field,
                    "a prefix has between 1 and 128 bits",
                    "64 is one site; 128 is one address",
                );
            }
        }
        policy
    }

    /// The headers that the proxy forwards; `None` if it forwards all.
    pub(super) fn forwarded_headers(
        &self,
        field: Option<&Field<Vec<Field<String>>>>,
    ) -> Option<Vec<HeaderName>> {
        let mut names: Vec<HeaderName> = SHIPPED_HEADERS
            .iter()
            .map(|name| HeaderName::from_static(name))
            .collect();
        for field in value(field).into_iter().flatten() {
            let Some(name) = field.value.as_deref() else {
                continue;
            };
            if name == "*" {
                return None;
            }
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => names.push(name),
                Err(_) => self.error(
                    field,
                    format!("{name:?} is not the name of a header"),
                    "write it like x-plan, or \"*\" if the proxy forwards all headers",
                ),
            }
        }
        Some(names)
    }
}
