//! `cost`, `tiers` and `overrides`: what a rule charges whom.

use std::{collections::HashMap, io::ErrorKind, path::Path as FilePath, sync::Arc};

use http::HeaderName;

use super::{Compiler, given, limits::Counting, lint};
use crate::{
    limit::{
        MAX_AMOUNT,
        ban::{Ban, InvalidBan},
    },
    rules::{
        Cost, NamedBan, Plan, Tier,
        decode::{Field, Findings},
        diagnostic::counted,
        file::{self, CostFields, Override, OverridesFile},
        key::{Context, Descriptor},
        quota::span_text,
        yaml::{Document, Path},
    },
};

/// A rule, as its overrides need to know it.
#[derive(Clone, Copy)]
pub(super) struct Overridden<'a> {
    pub(super) rule: &'a str,
    pub(super) counting: Counting,
    pub(super) descriptor: &'a Descriptor,
    pub(super) cost: &'a Cost,
}

/// What a rule's ban is called after its name.
const BAN: &str = "ban";

impl Compiler<'_, '_> {
    pub(super) fn cost(&mut self, field: Option<&Field<file::Cost>>) -> Cost {
        const FREE: Cost = Cost::Fixed(1);
        let Some((field, cost)) = field.and_then(|field| Some((field, field.value.as_ref()?)))
        else {
            return FREE;
        };
        match cost {
            file::Cost::Fixed(cost) => {
                if !self.check_cost(field, *cost) {
                    return FREE;
                }
                Cost::Fixed(*cost)
            }
            file::Cost::Fields(fields) => self.cost_from_header(field, fields).unwrap_or(FREE),
        }
    }

    fn cost_from_header(&mut self, field: &Field<file::Cost>, fields: &CostFields) -> Option<Cost> {
        let Some(header) = &fields.header else {
            if !self.troubled(field) {
                self.problem(field, "the cost names no header", "add `header: x-cost`");
            }
            return None;
        };
        let text = header.value.as_deref()?;
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            self.problem(
                header,
                format!("{text:?} is not the name of a header"),
                "write it like x-cost",
            );
            return None;
        };
        let Some(max) = &fields.max else {
            if !self.troubled(field) {
                self.problem(
                    field,
                    "the cost has no maximum, so one request could take all that is left",
                    "add `max: 100`",
                );
            }
            return None;
        };
        let default = fields.default.as_ref();
        for bound in [Some(max), default].into_iter().flatten() {
            if !self.check_cost(bound, bound.value?) {
                return None;
            }
        }
        let (max_cost, default_cost) = (max.value?, given(default).copied().unwrap_or(1));
        if default_cost > max_cost {
            self.problem(
                max,
                format!("the maximum {max_cost} is below the default {default_cost}"),
                "raise it, or lower the default",
            );
        }
        Some(Cost::Header {
            name,
            default: default_cost,
            max: max_cost,
        })
    }

    fn check_cost<T>(&mut self, field: &Field<T>, cost: u64) -> bool {
        let fits = (1..=MAX_AMOUNT).contains(&cost);
        if !fits {
            let hint = match cost {
                0 => {
                    "for requests that cost nothing, write a rule with `action: allow` above this one"
                }
                _ => "write a smaller one, and a smaller limit with it",
            };
            self.problem(
                field,
                format!("a cost is between 1 and {MAX_AMOUNT}, not {cost}"),
                hint,
            );
        }
        fits
    }

    pub(super) fn ban(&mut self, field: Option<&Field<file::Ban>>, rule: &str) -> Option<NamedBan> {
        let field = field?;
        let file::Ban {
            after,
            within,
            duration,
        } = field.value.as_ref()?;
        let example = "for example { after: 5, within: 10m, for: 1h }";
        let (Some(after), Some(within), Some(duration)) = (after, within, duration) else {
            let missing = [
                ("after", after.is_none()),
                ("within", within.is_none()),
                ("for", duration.is_none()),
            ];
            let path = self.findings.path(field);
            let missing: Vec<&str> = missing
                .iter()
                .filter_map(|(name, missing)| missing.then_some(*name))
                .filter(|name| !self.findings.misspelt(&path, name))
                .collect();
            if !missing.is_empty() {
                self.problem(
                    field,
                    format!("the ban has no `{}`", missing.join("` and no `")),
                    example,
                );
            }
            return None;
        };
        let (denials, within_us, for_us) = (after.value?, within.value?.0, duration.value?.0);
        let ban = match Ban::new(denials, within_us, for_us) {
            Ok(ban) => ban,
            Err(error) => {
                match error {
                    InvalidBan::After => self.problem(after, error.to_string(), example),
                    InvalidBan::Within => self.problem(within, error.to_string(), example),
                    InvalidBan::For => self.problem(duration, error.to_string(), example),
                }
                return None;
            }
        };
        let name = format!("{rule}/{BAN}");
        let window = if within_us.is_multiple_of(1_000_000) {
            format!(";w={}", within_us / 1_000_000)
        } else {
            String::new()
        };
        let within = span_text(within_us);
        Some(NamedBan {
            ban,
            policy: format!("\"{name}\";q={denials}{window}").into(),
            text: format!("{denials} denials within {within}").into(),
            name: name.into(),
        })
    }

    /// The name of a tier or an override: that of the rule's ban is taken.
    fn plan_name(&mut self, field: &Field<String>, what: &str) -> Option<Arc<str>> {
        if field.value.as_deref() == Some(BAN) {
            self.problem(
                field,
                format!("{BAN:?} cannot be the name of {what}: in answers it is the rule's ban"),
                "call it something else",
            );
            return None;
        }
        self.name(field, what)
    }

    pub(super) fn tiers(
        &mut self,
        field: Option<&Field<Vec<Field<file::Tier>>>>,
        rule: &str,
        counting: Counting,
    ) -> Vec<Tier> {
        let mut tiers: Vec<Tier> = Vec::new();
        for (index, field) in given(field).into_iter().flatten().enumerate() {
            let Some(tier) = &field.value else { continue };
            let path = self.findings.path(field);
            let name = match &tier.name {
                Some(field) => self.plan_name(field, "a tier"),
                None => Some(format!("tier{}", index + 1).into()),
            };
            if tier.when.is_none() && !self.findings.misspelt(&path, "when") {
                self.document.problem(
                    &path,
                    "the tier says not who is in it",
                    "add `when:` with conditions as in `match`; what holds for all others is the rule's own limit",
                );
            }
            let Some(name) = name else { continue };
            if tiers.iter().any(|other| other.name == name) {
                self.document.problem(
                    &path,
                    format!("another tier is named {name:?} already"),
                    "give each its own name: it tells in answers which one applied",
                );
            }
            let when = self.matcher(tier.when.as_ref());
            let limits = (tier.limit.as_ref(), tier.limits.as_ref());
            if let Some(plan) = self.plan(limits, &path, &format!("{rule}/{name}"), counting) {
                tiers.push(Tier { name, when, plan });
            }
        }
        tiers
    }

    pub(super) fn overrides(
        &mut self,
        rule: &file::Rule,
        of: Overridden<'_>,
    ) -> HashMap<Box<str>, Plan> {
        let mut out = HashMap::new();
        for field in given(rule.overrides.as_ref()).into_iter().flatten() {
            self.override_for(field, of, &mut out);
        }
        if let Some(field) = &rule.overrides_file
            && let Some(path) = &field.value
        {
            self.overrides_file(field, path, of, &mut out);
        }
        out
    }

    fn overrides_file(
        &mut self,
        field: &Field<String>,
        path: &str,
        of: Overridden<'_>,
        out: &mut HashMap<Box<str>, Plan>,
    ) {
        let path = FilePath::new(path);
        let text = match (self.surroundings.read)(path) {
            Ok(text) => text,
            Err(error) => {
                let message = if error.kind() == ErrorKind::NotFound {
                    format!("there is no file {}", path.display())
                } else {
                    let error = error.to_string();
                    let reason = error.split(" (os error").next().unwrap_or_default();
                    format!("{} cannot be read: {reason}", path.display())
                };
                let hint = match error.kind() {
                    ErrorKind::InvalidData => "save it in the encoding UTF-8",
                    _ => {
                        "write the path of a file that tollgate may read, relative to the rule file's directory"
                    }
                };
                self.problem(field, message, hint);
                return;
            }
        };
        let shown = FilePath::new(self.document.name)
            .with_file_name(path)
            .display()
            .to_string();
        let mut document = Document::new(&shown, &text);
        if let Some(tree) = document.parse() {
            let findings = Findings::default();
            let root: Field<OverridesFile> = findings.decode(&tree);
            let mut there = Compiler {
                document: &mut document,
                findings: &findings,
                surroundings: self.surroundings,
                client_ip: self.client_ip.clone(),
            };
            if let Some(file) = &root.value {
                there.version(file.version.as_ref());
                if file.overrides.is_none() && !findings.troubled(&Path::default()) {
                    there.document.problem(
                        &Path::default(),
                        "the file has no overrides",
                        "add `overrides:` with a list of them, which may be empty: []",
                    );
                }
                for field in given(file.overrides.as_ref()).into_iter().flatten() {
                    there.override_for(field, of, out);
                }
            }
            document.problems.extend(findings.into_problems());
        }
        self.document.include(document);
    }

    fn override_for(
        &mut self,
        field: &Field<Override>,
        of: Overridden<'_>,
        out: &mut HashMap<Box<str>, Plan>,
    ) {
        let Some(given) = &field.value else { return };
        let path = self.findings.path(field);
        let name = match &given.name {
            Some(field) => self.plan_name(field, "an override"),
            None => Some("override".into()),
        };
        let key = if let Some(key) = &given.key {
            self.override_key(key, of.descriptor)
        } else if self.troubled(field) {
            None
        } else {
            self.document.problem(
                &path,
                "the override says not for whom",
                "add `key:` with the value of the rule's key, or a list with one for each of its parts",
            );
            None
        };
        let Some(name) = name else { return };
        let limits = (given.limit.as_ref(), given.limits.as_ref());
        let name = format!("{}/{name}", of.rule);
        let plan = self.plan(limits, &path, &name, of.counting);
        let (Some(key), Some(plan)) = (key, plan) else {
            return;
        };
        lint::lint_plan(self.document, &plan, of.cost, &path);
        if out.insert(key.into(), plan).is_some() {
            self.document.problem(
                &path,
                "there is another override for this caller",
                "keep one",
            );
        }
    }

    /// The descriptor as keys have it.
    fn override_key(
        &mut self,
        field: &Field<Vec<Field<file::KeyValue>>>,
        descriptor: &Descriptor,
    ) -> Option<String> {
        let values = field.value.as_ref()?;
        let parts = &descriptor.parts;
        if parts.is_empty() {
            self.problem(
                field,
                "the rule has no key, so all callers are one",
                "give the rule a `key`, or remove its overrides",
            );
            return None;
        }
        if values.len() != parts.len() {
            self.problem(
                field,
                format!(
                    "the rule's key has {}, and here {}",
                    counted(parts.len(), "part"),
                    match values.len() {
                        1 => "is 1 value".to_owned(),
                        n => format!("are {n} values"),
                    }
                ),
                &format!("write one for each of: {}", descriptor.names().join(", ")),
            );
            return None;
        }
        let mut key = String::new();
        let client_ip = self.client_ip.clone();
        let context = Context {
            client_ip: &client_ip,
            hash_key: self.surroundings.hash_key,
        };
        for (part, value) in parts.iter().zip(values) {
            let text = value.value.as_ref()?;
            if !key.is_empty() {
                key.push(',');
            }
            part.push_name(&mut key);
            if let Err(error) = part.push_given(&mut key, &text.0, context) {
                self.told(value, &error);
                return None;
            }
        }
        Some(key)
    }
}
