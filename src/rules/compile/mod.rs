//! From the model to a [`RuleSet`]: what the values mean together, and everything that cannot be meant.

mod key;
mod limits;
mod matching;

use std::sync::Arc;

use self::{limits::named, matching::matcher};
use super::{
    Action, LimitAction, Mode, OnStoreError, Rule, RuleSet,
    decode::{Field, Findings},
    file::{self, ActionName, RuleFile},
    key::{Descriptor, OnMissing},
    matcher::Matcher,
    yaml::{Document, Path},
};
use crate::{limit::Algorithm, request::ClientIpPolicy};

/// The longest name of a rule, in bytes.
const MAX_NAME: usize = 64;

/// Compiles the document. Problems go to the document; `None` if there is nothing that could be compiled at all.
pub(super) fn compile(document: &mut Document<'_>) -> Option<RuleSet> {
    let tree = document.parse()?;
    let findings = Findings::default();
    let root: Field<RuleFile> = findings.decode(&tree);
    let mut compiler = Compiler {
        document,
        findings: &findings,
    };
    let set = root.value.as_ref().map(|file| compiler.rule_set(file));
    document.problems.extend(findings.into_problems());
    set
}

struct Compiler<'a, 'text> {
    document: &'a mut Document<'text>,
    findings: &'a Findings,
}

/// What a rule takes from `defaults` when it says nothing itself.
#[derive(Clone, Copy, Default)]
struct Defaults {
    algorithm: Option<Algorithm>,
    mode: Mode,
    on_missing: OnMissing,
    on_store_error: OnStoreError,
}

/// The value of an optional field that was read without error.
fn given<T>(field: Option<&Field<T>>) -> Option<&T> {
    field.and_then(|field| field.value.as_ref())
}

impl Compiler<'_, '_> {
    fn rule_set(&mut self, file: &RuleFile) -> RuleSet {
        let root = Path::default();
        match &file.version {
            None => self.document.problem(
                &root,
                "the file has no version",
                "begin it with `version: 1`",
            ),
            Some(field) if field.value.is_some_and(|version| version != 1) => {
                let path = self.findings.path(field);
                self.document.problem(
                    &path,
                    "this version of the rule file is not known",
                    "write `version: 1`",
                );
            }
            Some(_) => {}
        }
        let client_ip = self.client_ip(file);
        let defaults =
            given(file.defaults.as_ref()).map_or_else(Defaults::default, |defaults| Defaults {
                algorithm: given(defaults.algorithm.as_ref()).map(|name| (*name).into()),
                mode: given(defaults.mode.as_ref())
                    .map_or_else(Mode::default, |name| (*name).into()),
                on_missing: given(defaults.on_missing.as_ref())
                    .map_or_else(OnMissing::default, |name| (*name).into()),
                on_store_error: given(defaults.on_store_error.as_ref())
                    .map_or_else(OnStoreError::default, |name| (*name).into()),
            });
        let mut rules = Vec::new();
        match &file.rules {
            None => self.document.problem(
                &root,
                "the file has no rules",
                "add `rules:` with at least one rule",
            ),
            Some(field) => {
                if field.value.as_ref().is_some_and(Vec::is_empty) {
                    let path = self.findings.path(field);
                    self.document.problem(
                        &path,
                        "there are no rules, so nothing would be limited",
                        "add a rule; if that is what you want, one with `action: allow`",
                    );
                }

                for field in field.value.iter().flatten() {
                    let path = self.findings.path(field);
                    if let Some(rule) = field
                        .value
                        .as_ref()
                        .and_then(|rule| self.rule(rule, &path, defaults))
                    {
                        self.check_against_earlier(&rule, &path, &rules);
                        rules.push(rule);
                    }
                }
            }
        }
        RuleSet { rules, client_ip }
    }

    fn client_ip(&mut self, file: &RuleFile) -> ClientIpPolicy {
        let mut policy = ClientIpPolicy::default();
        let Some(section) = given(file.client_ip.as_ref()) else {
            return policy;
        };
        let networks = given(section.trusted_proxies.as_ref())
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
                let path = self.findings.path(field);
                self.document.problem(
                    &path,
                    "a prefix has between 1 and 128 bits",
                    "64 is one site; 128 is one address",
                );
            }
        }
        policy
    }

    fn rule(&mut self, rule: &file::Rule, path: &Path, defaults: Defaults) -> Option<Rule> {
        let name = self.name(rule, path);
        let matcher = matcher(given(rule.matches.as_ref()));
        let action = match given(rule.action.as_ref()) {
            None | Some(ActionName::Limit) => {
                Action::Limit(self.limit_action(rule, path, &matcher, defaults, name.as_deref())?)
            }
            Some(verdict) => {
                self.refuse_limits(rule, *verdict);
                match verdict {
                    ActionName::Deny => Action::Deny,
                    _ => Action::Allow,
                }
            }
        };
        Some(Rule {
            name: name?,
            matcher,
            action,
        })
    }

    fn name(&mut self, rule: &file::Rule, path: &Path) -> Option<Arc<str>> {
        let Some(field) = &rule.name else {
            self.document.problem(
                path,
                "the rule has no name",
                "add `name:`; it appears in keys, headers and metrics",
            );
            return None;
        };
        let name = field.value.as_deref()?;
        let valid = (1..=MAX_NAME).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !valid {
            let at = self.findings.path(field);
            self.document.problem(
                &at,
                format!("{name:?} cannot be a rule's name"),
                "use up to 64 letters, digits, `_`, `.` and `-`: the name is part of Redis keys",
            );
            return None;
        }
        Some(name.into())
    }

    /// `allow` and `deny` count nothing.
    fn refuse_limits(&mut self, rule: &file::Rule, action: ActionName) {
        let word = if matches!(action, ActionName::Deny) {
            "deny"
        } else {
            "allow"
        };
        let places = [
            rule.limit.as_ref().map(|field| self.findings.path(field)),
            rule.limits.as_ref().map(|field| self.findings.path(field)),
            rule.key.as_ref().map(|field| self.findings.path(field)),
            rule.algorithm
                .as_ref()
                .map(|field| self.findings.path(field)),
            rule.mode.as_ref().map(|field| self.findings.path(field)),
        ];
        for path in places.into_iter().flatten() {
            self.document.problem(
                &path,
                format!("a rule with `action: {word}` counts nothing"),
                "remove this field, or the action",
            );
        }
    }

    fn limit_action(
        &mut self,
        rule: &file::Rule,
        path: &Path,
        matcher: &Matcher,
        defaults: Defaults,
        name: Option<&str>,
    ) -> Option<LimitAction> {
        let algorithm = given(rule.algorithm.as_ref())
            .map(|name| (*name).into())
            .or(defaults.algorithm);
        let explicit = rule.algorithm.is_some();
        let limits = match (&rule.limit, &rule.limits) {
            (Some(one), None) => self.limits(std::slice::from_ref(one), algorithm, explicit),
            (None, Some(many)) => {
                let fields = many.value.as_deref()?;
                if fields.is_empty() {
                    let at = self.findings.path(many);
                    self.document.problem(
                        &at,
                        "the list of limits is empty",
                        "add a limit like 5/m",
                    );
                }
                self.limits(fields, algorithm, explicit)
            }
            (None, None) => {
                self.document.problem(
                    path,
                    "the rule has no limit",
                    "add `limit: 5/m`, or `action: allow`",
                );
                return None;
            }
            (Some(one), Some(_)) => {
                let at = self.findings.path(one);
                self.document.problem(
                    &at,
                    "the rule has both `limit` and `limits`",
                    "put all of them into `limits`",
                );
                return None;
            }
        };
        let parts = given(rule.key.as_ref())
            .into_iter()
            .flatten()
            .filter_map(|field| self.part(field, matcher))
            .collect();
        Some(LimitAction {
            descriptor: Descriptor {
                parts,
                on_missing: given(rule.on_missing.as_ref())
                    .map_or(defaults.on_missing, |name| (*name).into()),
            },
            limits: named(name.unwrap_or_default(), limits),
            mode: given(rule.mode.as_ref()).map_or(defaults.mode, |name| (*name).into()),
            on_store_error: given(rule.on_store_error.as_ref())
                .map_or(defaults.on_store_error, |name| (*name).into()),
        })
    }

    fn check_against_earlier(&mut self, rule: &Rule, path: &Path, earlier: &[Rule]) {
        if earlier.iter().any(|other| other.name == rule.name) {
            let at = path.child(super::yaml::Step::Key("name".to_owned()));
            self.document.problem(
                &at,
                format!("another rule is named {:?} already", rule.name),
                "rules with one name would share counters: give each its own",
            );
        }
        let ends = |other: &&Rule| matches!(other.action, Action::Allow | Action::Deny);
        if let Some(other) = earlier
            .iter()
            .filter(ends)
            .find(|other| other.matcher.covers(&rule.matcher))
        {
            self.document.problem(
                path,
                format!("the rule can never apply: {:?} above it matches all its requests and ends the walk", other.name),
                "move it above that rule, or narrow that rule's match",
            );
        }
    }
}
