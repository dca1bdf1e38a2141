//! `limit` and `limits`: from the model to limits with names.

use std::collections::HashMap;

use super::Compiler;
use crate::{
    limit::{Algorithm, InvalidLimit, Limit},
    rules::{NamedLimit, decode::Field, file::LimitText, quota::window_label},
};

impl Compiler<'_, '_> {
    pub(super) fn limits(
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
                        InvalidLimit::Amount | InvalidLimit::Window => "for example 5/m",
                    };
                    self.document.problem(&path, error.to_string(), hint);
                }
            }
        }
        limits
    }
}

/// Names, policies and key endings of a rule's limits.
pub(super) fn named(rule: &str, limits: Vec<(Limit, String)>) -> Vec<NamedLimit> {
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
