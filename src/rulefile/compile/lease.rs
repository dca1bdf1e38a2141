//! Compiles `lease`: limits that are charged ahead of requests.

use super::Compiler;
use crate::{
    rulefile::{decode::Field, model},
    rules::{Lease, span::span_text},
};

impl Compiler<'_, '_> {
    /// A rule's lease; `ban` is that of the same rule.
    pub(super) fn lease(
        &self,
        field: Option<&Field<model::Lease>>,
        ban: Option<&Field<model::Ban>>,
    ) -> Option<Lease> {
        let field = field?;
        if ban.is_some() {
            self.error(
                field,
                "a rule with a ban has no lease: the ban has to see each denial, with all that was admitted before it",
                "remove `lease`, or `ban`",
            );
        }
        let model::Lease { share, ttl } = field.value.as_ref()?;
        let example = "for example { share: 10%, ttl: 100ms }";
        let path = self.path(field);
        for (name, is_missing) in [("share", share.is_none()), ("ttl", ttl.is_none())] {
            if is_missing && !self.problems.has_misspelt(&path, name) {
                self.error(field, format!("the lease has no `{name}`"), example);
            }
        }
        let (share, ttl) = (share.as_ref()?, ttl.as_ref()?);
        let (percent, ttl_us) = (share.value?.0, ttl.value?.0);
        let fitting = u8::try_from(percent).ok();
        let fitting = fitting.filter(|percent| (1..=Lease::MAX_SHARE).contains(percent));
        if fitting.is_none() {
            self.error(
                share,
                format!(
                    "the share of a lease is between 1% and {}%, not {percent}%",
                    Lease::MAX_SHARE
                ),
                "a larger one lets one replica keep more of the limit from the others",
            );
        }
        let is_span = (Lease::MIN_TTL_US..=Lease::MAX_TTL_US).contains(&ttl_us);
        if !is_span {
            let [least, most] = [Lease::MIN_TTL_US, Lease::MAX_TTL_US].map(span_text);
            self.error(
                ttl,
                format!("a lease lasts between {least} and {most}"),
                "what it holds is kept from other replicas for as long: 100ms is enough to spare most calls",
            );
        }
        is_span.then_some(Lease {
            share: fitting?,
            ttl_us,
        })
    }
}
