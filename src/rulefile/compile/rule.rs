//! Compiles one rule: its action, and what it counts.

use std::sync::Arc;

use super::{Compiler, file::Defaults, limits::AlgorithmChoice, overrides::OverriddenRule, value};
use crate::{
    limit::new_keys,
    rulefile::{
        decode::Field,
        model::{self, ActionName},
        yaml::FieldPath,
    },
    rules::{
        Action, LimitAction, Rule,
        key::Descriptor,
        matcher::{Matcher, Purpose},
    },
};

/// The longest name of a rule, in bytes.
const MAX_NAME: usize = 64;

impl Compiler<'_, '_> {
    /// Compiles a rule; `None` if it cannot be used, which has been reported.
    pub(super) fn rule(
        &self,
        rule: &model::Rule,
        path: &FieldPath,
        defaults: &Defaults,
    ) -> Option<Rule> {
        let name = self.rule_name(rule.name.as_ref(), path);
        let mut matcher = self.matcher(rule.matches.as_ref());
        let answer = self.answer(rule.answer.as_ref(), &defaults.answer);
        let action = match &rule.action {
            None => ActionName::Limit,
            // Without its action, the other fields cannot be judged.
            Some(field) => field.value?,
        };
        let mode = value(rule.mode.as_ref()).copied().unwrap_or(defaults.mode);
        let action = match action {
            ActionName::Limit => {
                let name = name.as_deref().unwrap_or_default();
                let action = self.limit_action(rule, path, &matcher, defaults, name)?;
                Action::Limit(Box::new(action))
            }
            ActionName::Deny => {
                self.refuse_limit_fields(rule, "deny");
                Action::Deny(mode)
            }
            ActionName::Allow => {
                self.refuse_limit_fields(rule, "allow");
                self.refuse_denial_fields(rule);
                matcher.purpose = Purpose::Exempt;
                Action::Allow
            }
        };
        Some(Rule {
            name: name?,
            matcher,
            action,
            answer,
        })
    }

    fn rule_name(&self, field: Option<&Field<String>>, path: &FieldPath) -> Option<Arc<str>> {
        if let Some(field) = field {
            return self.name(field, "a rule");
        }
        if !self.problems.has_misspelt(path, "name") {
            self.problems.error(
                path,
                "the rule has no name",
                "add `name:`; it appears in keys, headers and metrics",
            );
        }
        None
    }

    /// A name that may be part of Redis keys and headers. `what` is the thing that it names.
    pub(super) fn name(&self, field: &Field<String>, what: &str) -> Option<Arc<str>> {
        let name = field.value.as_deref()?;
        let valid = (1..=MAX_NAME).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !valid {
            self.error(
                field,
                format!("{name:?} cannot be the name of {what}"),
                "use up to 64 letters, digits, `_`, `.` and `-`: the name is part of Redis keys and headers",
            );
            return None;
        }
        Some(name.into())
    }

    /// Reports the fields of a rule with `action: allow` or `deny` that only a limit has.
    fn refuse_limit_fields(&self, rule: &model::Rule, action: &str) {
        let model::Rule {
            name: _,
            matches: _,
            action: _,
            answer: _,
            mode: _,
            key,
            on_missing,
            limit,
            limits,
            algorithm,
            cost,
            tiers,
            overrides,
            overrides_file,
            ban,
            lease,
            on_store_error,
            max_new_keys,
        } = rule;
        let written = [
            self.path_of(limit.as_ref()),
            self.path_of(limits.as_ref()),
            self.path_of(key.as_ref()),
            self.path_of(on_missing.as_ref()),
            self.path_of(algorithm.as_ref()),
            self.path_of(cost.as_ref()),
            self.path_of(tiers.as_ref()),
            self.path_of(overrides.as_ref()),
            self.path_of(overrides_file.as_ref()),
            self.path_of(ban.as_ref()),
            self.path_of(lease.as_ref()),
            self.path_of(on_store_error.as_ref()),
            self.path_of(max_new_keys.as_ref()),
        ];
        for path in written.into_iter().flatten() {
            self.problems.error(
                &path,
                format!("a rule with `action: {action}` has no counters"),
                "remove this field, or the action",
            );
        }
    }

    /// Reports the fields of a rule with `action: allow` that say how it denies.
    fn refuse_denial_fields(&self, rule: &model::Rule) {
        let message = "a rule with `action: allow` never denies";
        if let Some(field) = &rule.mode {
            self.error(field, message, "remove `mode`");
        }
        if let Some(field) = &rule.answer {
            self.error(field, message, "remove `answer`");
        }
    }

    fn limit_action(
        &self,
        rule: &model::Rule,
        path: &FieldPath,
        matcher: &Matcher,
        defaults: &Defaults,
        name: &str,
    ) -> Option<LimitAction> {
        let choice = AlgorithmChoice {
            explicit: value(rule.algorithm.as_ref()).copied(),
            default: defaults.algorithm,
        };
        let on_missing = value(rule.on_missing.as_ref()).copied();
        let descriptor = Descriptor {
            parts: self.parts(rule.key.as_ref(), matcher),
            on_missing: on_missing.unwrap_or(defaults.on_missing),
        };
        let cost = self.cost(rule.cost.as_ref());
        let tiers = self.tiers(rule.tiers.as_ref(), name, choice);
        let overridden = OverriddenRule {
            rule: name,
            choice,
            descriptor: &descriptor,
            cost: &cost,
        };
        let overrides = self.overrides(rule, overridden);
        let ban = self.ban(rule.ban.as_ref(), name);
        let lease = self.lease(rule.lease.as_ref(), rule.ban.as_ref());
        let limits = (rule.limit.as_ref(), rule.limits.as_ref());
        let plan = self.plan(limits, path, name, choice)?;
        let mode = value(rule.mode.as_ref()).copied();
        let on_store_error = value(rule.on_store_error.as_ref()).copied();
        let max_new_keys = self.max_new_keys(rule.max_new_keys.as_ref());
        let action = LimitAction {
            descriptor,
            cost,
            plan,
            tiers,
            overrides,
            ban,
            lease,
            mode: mode.unwrap_or(defaults.mode),
            on_store_error: on_store_error.unwrap_or(defaults.on_store_error),
            max_new_keys: max_new_keys.unwrap_or(defaults.max_new_keys),
        };
        if let Some(field) = &rule.lease
            && action.limits().any(|limit| limit.candidate.is_some())
        {
            self.error(
                field,
                "a rule that tries a limit out has no lease: the limit has to see each request",
                "remove `lease`, or `try`",
            );
        }
        Some(action)
    }

    /// The budget of new counters, if one is given.
    pub(super) fn max_new_keys(&self, field: Option<&Field<u64>>) -> Option<u32> {
        let field = field?;
        let given = u32::try_from(field.value?).ok();
        let max = given.filter(|max| *max <= new_keys::MAX);
        if max.is_none() {
            self.error(
                field,
                format!(
                    "more than {} new counters per second are no budget",
                    new_keys::MAX
                ),
                "write a smaller number, or 0 for any number",
            );
        }
        max
    }
}
