//! Compiles the whole file: its version, its defaults, and its rules in order.

use std::sync::Arc;

use http::HeaderName;

use super::{Compiler, rules::Rules, value};
use crate::{
    limit::{Algorithm, new_keys},
    request::{ClientIpPolicy, PathPolicy},
    rulefile::{
        decode::Field, include::Source, lint::SHIPPED_HEADERS, model::RuleFile, yaml::FieldPath,
    },
    rules::{Mode, OnStoreError, RuleSet, answer::Answer, key::OnMissing},
};

/// The settings that a rule takes from `defaults`.
#[derive(Clone)]
pub(super) struct Defaults {
    pub(super) algorithm: Option<Algorithm>,
    pub(super) mode: Mode,
    pub(super) on_missing: OnMissing,
    pub(super) on_store_error: OnStoreError,
    pub(super) max_new_keys: u32,
    pub(super) answer: Arc<Answer>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            algorithm: None,
            mode: Mode::default(),
            on_missing: OnMissing::default(),
            on_store_error: OnStoreError::default(),
            max_new_keys: new_keys::DEFAULT,
            answer: Arc::default(),
        }
    }
}

fn path_policy(file: &RuleFile) -> PathPolicy {
    fn or_default<T: Copy + Default>(field: Option<&Field<T>>) -> T {
        value(field).copied().unwrap_or_default()
    }
    let Some(paths) = value(file.paths.as_ref()) else {
        return PathPolicy::default();
    };
    PathPolicy {
        encoded_slash: or_default(paths.encoded_slash.as_ref()),
        dot_segments: or_default(paths.dot_segments.as_ref()),
        leading_slashes: or_default(paths.leading_slashes.as_ref()),
        parameters: or_default(paths.parameters.as_ref()),
    }
}

impl Compiler<'_, '_> {
    /// Compiles every rule of the files that can be used. The first one is the main file.
    pub(super) fn rule_set(mut self, sources: &[Source<'_>]) -> Option<RuleSet> {
        let (main, included) = sources.split_first()?;
        let file = main.content.as_ref()?;
        self.version(file.version.as_ref());
        self.client_ip = self.client_ip(file);
        self.path_policy = path_policy(file);
        let defaults = self.defaults(file, &Defaults::default());
        let mut rules = Rules::new(sources);
        self.rules(0, file, &defaults, &mut rules);
        for (index, source) in (1..).zip(included) {
            if let Some(file) = &source.content {
                let compiler = self.of(&source.document, &source.path, &source.paths);
                compiler.included(file, main.document.name());
                // What its own defaults leave out, those of the main file say.
                let defaults = compiler.defaults(file, &defaults);
                compiler.rules(index, file, &defaults, &mut rules);
            }
        }
        let forwarded = self.forwarded_headers(file.forwarded_headers.as_ref());
        rules.lint(forwarded.as_deref());
        Some(RuleSet::new(
            rules.into_list(),
            self.client_ip,
            self.path_policy,
            self.context.keys.clone(),
        ))
    }

    /// Reports what an included file cannot say.
    fn included(&self, file: &RuleFile, main: &str) {
        if file.version.is_some() {
            self.version(file.version.as_ref());
        }
        // A new field must say here whether it is for the rules of its own file.
        let RuleFile {
            version: _,
            client_ip,
            paths,
            forwarded_headers,
            defaults: _,
            include: _,
            rules: _,
        } = file;
        let for_all = [
            self.path_of(client_ip.as_ref()),
            self.path_of(paths.as_ref()),
            self.path_of(forwarded_headers.as_ref()),
        ];
        for path in for_all.into_iter().flatten() {
            self.problems.error_at_name(
                &path,
                "an included file cannot say this, because it is for the rules of all files",
                format!("move it to {main}"),
            );
        }
    }

    /// Adds the rules of a file that can be used.
    fn rules(&self, source: usize, file: &RuleFile, defaults: &Defaults, rules: &mut Rules<'_>) {
        let Some(field) = &file.rules else {
            if file.include.is_none() {
                self.missing_rules();
            }
            return;
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
                rules.add(rule, source, path);
            }
        }
    }

    fn missing_rules(&self) {
        let root = FieldPath::root();
        let misspelt = ["rules", "include"];
        let has_error = misspelt.iter().any(|name| {
            self.problems.has_error(&root.key(name)) || self.problems.has_misspelt(&root, name)
        });
        if !has_error {
            self.problems.error(
                &root,
                "the file has no rules",
                "add `rules:` with at least one rule",
            );
        }
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

    /// The defaults of a file. What it leaves out, `general` says.
    fn defaults(&self, file: &RuleFile, general: &Defaults) -> Defaults {
        fn or<T: Copy>(field: Option<&Field<T>>, general: T) -> T {
            value(field).copied().unwrap_or(general)
        }
        let Some(own) = value(file.defaults.as_ref()) else {
            return general.clone();
        };
        let algorithm = value(own.algorithm.as_ref()).copied();
        Defaults {
            algorithm: algorithm.or(general.algorithm),
            mode: or(own.mode.as_ref(), general.mode),
            on_missing: or(own.on_missing.as_ref(), general.on_missing),
            on_store_error: or(own.on_store_error.as_ref(), general.on_store_error),
            max_new_keys: self
                .max_new_keys(own.max_new_keys.as_ref())
                .unwrap_or(general.max_new_keys),
            answer: self.answer(own.answer.as_ref(), &general.answer),
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
