//! From the model to a [`RuleSet`]: what the values mean together, and everything that cannot be meant.

use std::{collections::HashMap, sync::Arc};

use http::HeaderName;

use super::{
    Action, LimitAction, Mode, NamedLimit, OnStoreError, Rule, RuleSet,
    decode::{Field, Findings},
    file::{self, ActionName, KeyPart, LimitText, RuleFile},
    key::{Descriptor, OnMissing, Part, is_secret},
    matcher::{Matcher, PathPattern},
    quota::window_label,
    yaml::{Document, Path},
};
use crate::{
    limit::{Algorithm, InvalidLimit, Limit},
    request::ClientIpPolicy,
};

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
        let matcher = Self::matcher(rule);
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

    fn matcher(rule: &file::Rule) -> Matcher {
        fn values<T: Clone>(field: Option<&Field<file::OneOrMany<T>>>) -> Vec<T> {
            given(field)
                .into_iter()
                .flat_map(|many| &many.0)
                .filter_map(|field| field.value.clone())
                .collect()
        }
        let Some(conditions) = given(rule.matches.as_ref()) else {
            return Matcher::default();
        };
        Matcher {
            paths: values(conditions.path.as_ref()),
            methods: values(conditions.methods.as_ref())
                .into_iter()
                .map(|method| method.0)
                .collect(),
            hosts: values(conditions.host.as_ref()),
        }
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

    fn limits(
        &mut self,
        fields: &[Field<LimitText>],
        algorithm: Option<Algorithm>,
        explicit: bool,
    ) -> Vec<(Limit, String)> {
        let mut limits: Vec<(Limit, String)> = Vec::new();
        for field in fields {
            let Some(text) = &field.value else { continue };
            let path = self.findings.path(field);
            let own = text.algorithm.or(algorithm.filter(|_| explicit));
            let chosen = match (text.quota.burst, own) {
                // Only a bucket has a burst: writing one is asking for it, unless something else was asked for.
                (Some(_), None) => Algorithm::TokenBucket,
                (Some(_), Some(other)) if other != Algorithm::TokenBucket => {
                    self.document.problem(
                        &path,
                        format!("{other} has no burst"),
                        "remove the burst, or write `algorithm: token_bucket`",
                    );
                    continue;
                }
                _ => own.or(algorithm).unwrap_or(Algorithm::SlidingWindow),
            };
            let quota = text.quota;
            match Limit::new(chosen, quota.amount, quota.window_us, quota.burst) {
                Ok(limit) => {
                    let twin = limits.iter().find(|(other, _)| {
                        (other.algorithm(), other.window_us())
                            == (limit.algorithm(), limit.window_us())
                    });
                    if let Some((_, twin)) = twin {
                        self.document.problem(
                            &path,
                            format!("{} and {twin} count the same window in the same way, and would share a counter", text.text),
                            "keep one; for a token bucket beside another, write one of them with another period, like 600/m for 10/s",
                        );
                    }
                    limits.push((limit, text.text.clone()));
                }
                Err(error) => {
                    let hint = match error {
                        InvalidLimit::Refill => "for example 20/s burst 40",
                        InvalidLimit::Log => "write `algorithm: sliding_window`",
                        InvalidLimit::Amount | InvalidLimit::Window => "for example 5/m",
                    };
                    self.document.problem(&path, error.to_string(), hint);
                }
            }
        }
        limits
    }

    fn part(&mut self, field: &Field<KeyPart>, matcher: &Matcher) -> Option<Part> {
        let path = self.findings.path(field);
        match field.value.as_ref()? {
            KeyPart::ClientIp => Some(Part::ClientIp),
            KeyPart::Method => Some(Part::Method),
            KeyPart::Host => Some(Part::Host),
            KeyPart::Header { name, .. } if name.eq_ignore_ascii_case("host") => {
                self.document.problem(
                    &path,
                    "the host header differs from proxy to proxy",
                    "write the key part `host`",
                );
                None
            }
            KeyPart::Header { name, secret } => {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    let secret = *secret || is_secret(&name);
                    return Some(Part::Header { name, secret });
                }
                self.document.problem(
                    &path,
                    format!("{name:?} is not the name of a header"),
                    "write it like x-api-key",
                );
                None
            }
            KeyPart::Path { name } => {
                let mut places = matcher.paths.iter().map(|pattern| place(pattern, name));
                let first = places.next().flatten();
                let Some(index) = first else {
                    self.document.problem(
                        &path,
                        format!("no path of this rule has the parameter {{{name}}} in every case"),
                        &format!("write it into match.path, like \"/users/{{{name}}}\""),
                    );
                    return None;
                };
                if places.any(|place| place != first) {
                    self.document.problem(
                        &path,
                        format!("the paths of this rule have {{{name}}} in different places, or not at all"),
                        "split the rule, so that each path has the parameter in the same place",
                    );
                    return None;
                }
                Some(Part::Path {
                    name: name.clone(),
                    place: index,
                })
            }
        }
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

/// The place of a parameter among those of a path.
fn place(pattern: &PathPattern, name: &str) -> Option<usize> {
    pattern.params().position(|param| param == name)
}

/// Names, policies and key endings of a rule's limits.
fn named(rule: &str, limits: Vec<(Limit, String)>) -> Vec<NamedLimit> {
    let mut labels: HashMap<String, usize> = HashMap::new();
    for (limit, _) in &limits {
        *labels.entry(window_label(limit.window_us())).or_default() += 1;
    }
    let single = limits.len() == 1;
    limits
        .into_iter()
        .map(|(limit, text)| {
            let label = window_label(limit.window_us());
            let algorithm = limit.algorithm();
            let name = match labels.get(&label) {
                _ if single => rule.to_owned(),
                Some(1) => format!("{rule}/{label}"),
                _ => format!("{rule}/{label}/{algorithm}"),
            };
            // `w` counts whole seconds; of a window that is none, it would misstate the rate.
            let window = if limit.window_us().is_multiple_of(1_000_000) {
                format!(";w={}", limit.window_us() / 1_000_000)
            } else {
                String::new()
            };
            NamedLimit {
                limit,
                policy: format!("\"{name}\";q={}{window}", limit.amount()).into(),
                name: name.into(),
                key_suffix: format!(":{algorithm}:{label}").into(),
                text: text.into(),
            }
        })
        .collect()
}

impl Matcher {
    /// Whether everything that `other` matches is matched by this one too.
    fn covers(&self, other: &Self) -> bool {
        fn all<T>(ours: &[T], theirs: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
            ours.is_empty()
                || (!theirs.is_empty() && theirs.iter().all(|b| ours.iter().any(|a| covers(a, b))))
        }
        all(&self.paths, &other.paths, PathPattern::covers)
            && all(
                &self.hosts,
                &other.hosts,
                super::matcher::HostPattern::covers,
            )
            && all(&self.methods, &other.methods, |a, b| {
                a == b || (a == "GET" && b == "HEAD")
            })
    }
}
