//! From the model to a [`RuleSet`]: what the values mean together, and everything that cannot be meant.

mod answer;
mod forwarded;
mod key;
mod limits;
mod lint;
mod matching;
mod plan;

pub use self::forwarded::SHIPPED_HEADERS;

use std::{
    cell::RefCell,
    collections::HashMap,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use http::HeaderName;

use super::{
    Action, LimitAction, Mode, OnStoreError, Rule, RuleSet, Surroundings,
    answer::Answer,
    decode::{Field, Findings},
    file::{self, ActionName, RuleFile},
    key::{Descriptor, OnMissing},
    matcher::Matcher,
    yaml::{Document, Path, Step},
};
use crate::{limit::Algorithm, request::ClientIpPolicy};

/// The longest name of a rule, in bytes.
const MAX_NAME: usize = 64;

/// Compiles the document. Problems go to the document; `None` if there is nothing that could be compiled at all.
pub(super) fn compile(
    document: &mut Document<'_>,
    surroundings: Surroundings<'_>,
) -> Option<RuleSet> {
    let tree = document.parse()?;
    // Several rules may name one file: they get the same of it, even if it changes meanwhile.
    let known: RefCell<HashMap<PathBuf, String>> = RefCell::default();
    let read = |path: &FilePath| {
        if let Some(text) = known.borrow().get(path) {
            return Ok(text.clone());
        }
        let text = (surroundings.read)(path)?;
        known.borrow_mut().insert(path.to_owned(), text.clone());
        Ok(text)
    };
    let surroundings = Surroundings {
        read: &read,
        ..surroundings
    };
    let findings = Findings::default();
    let root: Field<RuleFile> = findings.decode(&tree);
    let mut compiler = Compiler {
        document,
        findings: &findings,
        surroundings,
        client_ip: ClientIpPolicy::default(),
    };
    let set = root.value.as_ref().map(|file| compiler.rule_set(file));
    document.problems.extend(findings.into_problems());
    set
}

struct Compiler<'a, 'text> {
    document: &'a mut Document<'text>,
    findings: &'a Findings,
    surroundings: Surroundings<'a>,
    client_ip: ClientIpPolicy,
}

/// What a rule takes from `defaults` when it says nothing itself.
#[derive(Clone, Default)]
struct Defaults {
    algorithm: Option<Algorithm>,
    mode: Mode,
    on_missing: OnMissing,
    on_store_error: OnStoreError,
    answer: Arc<Answer>,
}

/// The value of an optional field that was read without error.
fn given<T>(field: Option<&Field<T>>) -> Option<&T> {
    field.and_then(|field| field.value.as_ref())
}

impl Compiler<'_, '_> {
    /// Reports a problem with a field.
    fn problem<T>(&mut self, field: &Field<T>, message: impl Into<String>, hint: &str) {
        let path = self.findings.path(field);
        self.document.problem(&path, message, hint);
    }

    /// Whether something is wrong in a field or within it already, so that what it lacks is probably no error of its own.
    fn troubled<T>(&self, field: &Field<T>) -> bool {
        self.findings.troubled(&self.findings.path(field))
    }

    /// Whether something in a field has been reported already.
    fn is_told<T>(&self, field: &Field<T>) -> bool {
        let path = self.findings.path(field);
        let mut problems = self.document.problems.iter();
        problems.any(|problem| problem.path.0.starts_with(&path.0))
    }

    fn rule_set(&mut self, file: &RuleFile) -> RuleSet {
        let root = Path::default();
        self.version(file.version.as_ref());
        self.client_ip = self.client_ip(file);
        let defaults = self.defaults(file);
        let mut rules = Vec::new();
        let mut paths = Vec::new();
        match &file.rules {
            // Told already: `rules:` without a value, or another word for it.
            None if self
                .findings
                .troubled(&root.child(Step::Key("rules".to_owned())))
                || self.findings.misspelt(&root, "rules") => {}
            None => self.document.problem(
                &root,
                "the file has no rules",
                "add `rules:` with at least one rule",
            ),
            Some(field) => {
                if field.value.as_ref().is_some_and(Vec::is_empty) {
                    self.problem(
                        field,
                        "there are no rules, so nothing would be limited",
                        "add a rule; if that is what you want, one with `action: allow`",
                    );
                }
                for field in field.value.iter().flatten() {
                    let path = self.findings.path(field);
                    if let Some(rule) = field
                        .value
                        .as_ref()
                        .and_then(|rule| self.rule(rule, &path, &defaults))
                    {
                        self.check_name(&rule, &path, &rules);
                        rules.push(rule);
                        paths.push(path);
                    }
                }
            }
        }
        let forwarded = self.forwarded_headers(file.forwarded_headers.as_ref());
        self.lint(&rules, &paths, forwarded.as_deref());
        RuleSet::new(
            rules,
            self.client_ip.clone(),
            self.surroundings.hash_key.clone(),
        )
    }

    /// Warns of what was probably not meant; of rules with an error not, because what is left of them is not what was written.
    fn lint(&mut self, rules: &[Rule], paths: &[Path], forwarded: Option<&[HeaderName]>) {
        let is_sound = |path: &Path| {
            let mut told = self.document.problems.iter();
            !self.findings.troubled(path)
                && !told.any(|problem| problem.path.0.starts_with(&path.0))
        };
        let sound: Vec<(&Rule, &Path)> = rules
            .iter()
            .zip(paths)
            .filter(|(_, path)| is_sound(path))
            .collect();
        lint::lint(self.document, &sound);
        if let Some(forwarded) = forwarded {
            forwarded::lint(self.document, &sound, forwarded);
        }
    }

    fn version(&mut self, field: Option<&Field<u64>>) {
        match field {
            None => self.document.problem(
                &Path::default(),
                "the file has no version",
                "begin it with `version: 1`",
            ),
            Some(field) if field.value.is_some_and(|version| version != 1) => self.problem(
                field,
                "this version of the rule file is not known",
                "write `version: 1`",
            ),
            Some(_) => {}
        }
    }

    fn defaults(&mut self, file: &RuleFile) -> Defaults {
        let Some(defaults) = given(file.defaults.as_ref()) else {
            return Defaults::default();
        };
        Defaults {
            algorithm: given(defaults.algorithm.as_ref()).map(|name| (*name).into()),
            mode: given(defaults.mode.as_ref()).map_or_else(Mode::default, |name| (*name).into()),
            on_missing: given(defaults.on_missing.as_ref())
                .map_or_else(OnMissing::default, |name| (*name).into()),
            on_store_error: given(defaults.on_store_error.as_ref())
                .map_or_else(OnStoreError::default, |name| (*name).into()),
            answer: self.answer(defaults.answer.as_ref(), &Arc::default()),
        }
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
                self.problem(
                    field,
                    "a prefix has between 1 and 128 bits",
                    "64 is one site; 128 is one address",
                );
            }
        }
        policy
    }

    fn rule(&mut self, rule: &file::Rule, path: &Path, defaults: &Defaults) -> Option<Rule> {
        let name = if let Some(field) = &rule.name {
            self.name(field, "a rule")
        } else {
            if !self.findings.misspelt(path, "name") {
                self.document.problem(
                    path,
                    "the rule has no name",
                    "add `name:`; it appears in keys, headers and metrics",
                );
            }
            None
        };
        let matcher = self.matcher(rule.matches.as_ref());
        let answer = self.answer(rule.answer.as_ref(), &defaults.answer);
        if rule
            .action
            .as_ref()
            .is_some_and(|field| field.value.is_none())
        {
            // Nobody knows what else belongs to it.
            return None;
        }
        let action = match given(rule.action.as_ref()) {
            None | Some(ActionName::Limit) => Action::Limit(Box::new(self.limit_action(
                rule,
                path,
                &matcher,
                defaults,
                name.as_deref(),
            )?)),
            Some(verdict) => {
                self.refuse_counting(rule, *verdict);
                match verdict {
                    ActionName::Deny => {
                        let mode = given(rule.mode.as_ref());
                        Action::Deny(mode.map_or(defaults.mode, |name| (*name).into()))
                    }
                    _ => Action::Allow,
                }
            }
        };
        Some(Rule {
            name: name?,
            matcher,
            action,
            answer,
        })
    }

    fn name(&mut self, field: &Field<String>, what: &str) -> Option<Arc<str>> {
        let name = field.value.as_deref()?;
        let valid = (1..=MAX_NAME).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !valid {
            self.problem(
                field,
                format!("{name:?} cannot be the name of {what}"),
                "use up to 64 letters, digits, `_`, `.` and `-`: the name is part of Redis keys and headers",
            );
            return None;
        }
        Some(name.into())
    }

    /// `allow` and `deny` count nothing.
    fn refuse_counting(&mut self, rule: &file::Rule, action: ActionName) {
        let denies = matches!(action, ActionName::Deny);
        let word = if denies { "deny" } else { "allow" };
        let place = |findings: &Findings| {
            [
                rule.limit.as_ref().map(|field| findings.path(field)),
                rule.limits.as_ref().map(|field| findings.path(field)),
                rule.key.as_ref().map(|field| findings.path(field)),
                rule.on_missing.as_ref().map(|field| findings.path(field)),
                rule.algorithm.as_ref().map(|field| findings.path(field)),
                rule.cost.as_ref().map(|field| findings.path(field)),
                rule.tiers.as_ref().map(|field| findings.path(field)),
                rule.overrides.as_ref().map(|field| findings.path(field)),
                rule.overrides_file
                    .as_ref()
                    .map(|field| findings.path(field)),
                rule.ban.as_ref().map(|field| findings.path(field)),
                rule.on_store_error
                    .as_ref()
                    .map(|field| findings.path(field)),
            ]
        };
        for path in place(self.findings).into_iter().flatten() {
            self.document.problem(
                &path,
                format!("a rule with `action: {word}` counts nothing"),
                "remove this field, or the action",
            );
        }
        if !denies {
            if let Some(field) = &rule.mode {
                self.problem(
                    field,
                    "a rule with `action: allow` never denies",
                    "remove `mode`",
                );
            }
            if let Some(field) = &rule.answer {
                self.problem(
                    field,
                    "a rule with `action: allow` never denies",
                    "remove `answer`",
                );
            }
        }
    }

    fn limit_action(
        &mut self,
        rule: &file::Rule,
        path: &Path,
        matcher: &Matcher,
        defaults: &Defaults,
        name: Option<&str>,
    ) -> Option<LimitAction> {
        let name = name.unwrap_or_default();
        let counting = limits::Counting {
            explicit: given(rule.algorithm.as_ref()).map(|name| (*name).into()),
            default: defaults.algorithm,
        };
        let mut parts = Vec::new();
        for field in given(rule.key.as_ref()).into_iter().flatten() {
            let Some(part) = self.part(field, matcher) else {
                continue;
            };
            if parts.contains(&part) {
                self.problem(
                    field,
                    "this part is in the key already",
                    "keep it once; for another kind of caller write another part",
                );
            }
            parts.push(part);
        }
        let descriptor = Descriptor {
            parts,
            on_missing: given(rule.on_missing.as_ref())
                .map_or(defaults.on_missing, |name| (*name).into()),
        };
        let cost = self.cost(rule.cost.as_ref());
        let tiers = self.tiers(rule.tiers.as_ref(), name, counting);
        let overridden = plan::Overridden {
            rule: name,
            counting,
            descriptor: &descriptor,
            cost: &cost,
        };
        let overrides = self.overrides(rule, overridden);
        let ban = self.ban(rule.ban.as_ref(), name);
        let limits = (rule.limit.as_ref(), rule.limits.as_ref());
        let plan = self.plan(limits, path, name, counting)?;
        Some(LimitAction {
            descriptor,
            cost,
            plan,
            tiers,
            overrides,
            ban,
            mode: given(rule.mode.as_ref()).map_or(defaults.mode, |name| (*name).into()),
            on_store_error: given(rule.on_store_error.as_ref())
                .map_or(defaults.on_store_error, |name| (*name).into()),
        })
    }

    fn check_name(&mut self, rule: &Rule, path: &Path, earlier: &[Rule]) {
        if earlier.iter().any(|other| other.name == rule.name) {
            let at = path.child(Step::Key("name".to_owned()));
            self.document.problem(
                &at,
                format!("another rule is named {:?} already", rule.name),
                "rules with one name would share counters: give each its own",
            );
        }
    }
}
