//! Compiles `tiers`: limits for one kind of client.

use std::sync::Arc;

use super::{Compiler, ban::BAN, limits::AlgorithmChoice, value};
use crate::{
    rulefile::{decode::Field, model},
    rules::Tier,
};

impl Compiler<'_, '_> {
    /// The name of a tier or an override. The name of the rule's ban is taken.
    pub(super) fn plan_name(&self, field: &Field<String>, what: &str) -> Option<Arc<str>> {
        if field.value.as_deref() == Some(BAN) {
            self.error(
                field,
                format!("{BAN:?} cannot be the name of {what}: in responses, this name means the rule's ban"),
                "choose another name",
            );
            return None;
        }
        self.name(field, what)
    }

    pub(super) fn tiers(
        &self,
        field: Option<&Field<Vec<Field<model::Tier>>>>,
        rule: &str,
        choice: AlgorithmChoice,
    ) -> Vec<Tier> {
        let mut tiers: Vec<Tier> = Vec::new();
        for (index, field) in value(field).into_iter().flatten().enumerate() {
            let Some(tier) = &field.value else { continue };
            let path = self.path(field);
            let name = match &tier.name {
                Some(field) => self.plan_name(field, "a tier"),
                None => Some(format!("tier{}", index + 1).into()),
            };
            if tier.when.is_none() && !self.problems.has_misspelt(&path, "when") {
                self.problems.error(
                    &path,
                    "the tier has no `when`",
                    "add `when:` with conditions as in `match`; the rule's own limit is for all other requests",
                );
            }
            let Some(name) = name else { continue };
            if tiers.iter().any(|other| other.name == name) {
                self.problems.error(
                    &path,
                    format!("another tier already has the name {name:?}"),
                    "give each its own name: responses show which one applied",
                );
            }
            let when = self.matcher(tier.when.as_ref());
            let limits = (tier.limit.as_ref(), tier.limits.as_ref());
            if let Some(plan) = self.plan(limits, &path, &format!("{rule}/{name}"), choice) {
                tiers.push(Tier { name, when, plan });
            }
        }
        tiers
    }
}
