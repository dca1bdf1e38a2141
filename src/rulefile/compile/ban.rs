//! Compiles `ban`: clients that are denied too often are denied for longer.

use super::Compiler;
use crate::{
    limit::ban::{Ban, InvalidBan},
    rulefile::{decode::Field, model},
    rules::{NamedBan, span::span_text},
};

/// The end of a ban's name, after the rule's name.
pub(super) const BAN: &str = "ban";

impl Compiler<'_, '_> {
    pub(super) fn ban(&self, field: Option<&Field<model::Ban>>, rule: &str) -> Option<NamedBan> {
        let field = field?;
        let model::Ban {
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
            let path = self.path(field);
            let missing: Vec<&str> = missing
                .iter()
                .filter_map(|(name, missing)| missing.then_some(*name))
                .filter(|name| !self.problems.has_misspelt(&path, name))
                .collect();
            if !missing.is_empty() {
                self.error(
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
                    InvalidBan::After => self.error(after, error.to_string(), example),
                    InvalidBan::Within => self.error(within, error.to_string(), example),
                    InvalidBan::For => self.error(duration, error.to_string(), example),
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
}
