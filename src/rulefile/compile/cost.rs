//! Compiles `cost`: what a request takes from the limits.

use http::HeaderName;

use super::{Compiler, value};
use crate::{
    limit::MAX_AMOUNT,
    rulefile::{
        decode::Field,
        model::{self, CostFields},
    },
    rules::Cost,
};

impl Compiler<'_, '_> {
    pub(super) fn cost(&self, field: Option<&Field<model::Cost>>) -> Cost {
        const FREE: Cost = Cost::Fixed(1);
        let Some((field, cost)) = field.and_then(|field| Some((field, field.value.as_ref()?)))
        else {
            return FREE;
        };
        match cost {
            model::Cost::Fixed(cost) => {
                if !self.check_cost(field, *cost) {
                    return FREE;
                }
                Cost::Fixed(*cost)
            }
            model::Cost::Fields(fields) => self.cost_from_header(field, fields).unwrap_or(FREE),
        }
    }

    fn cost_from_header(&self, field: &Field<model::Cost>, fields: &CostFields) -> Option<Cost> {
        let Some(header) = &fields.header else {
            if !self.has_error(field) {
                self.error(field, "the cost names no header", "add `header: x-cost`");
            }
            return None;
        };
        let name = self.header_name(header, "x-cost")?;
        let Some(max) = &fields.max else {
            if !self.has_error(field) {
                self.error(
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
        let (max_cost, default_cost) = (max.value?, value(default).copied().unwrap_or(1));
        if default_cost > max_cost {
            self.error(
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

    /// The header that says a number. `example` is how its name is written.
    pub(super) fn header_name(&self, field: &Field<String>, example: &str) -> Option<HeaderName> {
        let text = field.value.as_deref()?;
        let name = HeaderName::from_bytes(text.as_bytes());
        if name.is_err() {
            self.error(
                field,
                format!("{text:?} is not the name of a header"),
                format!("write it like {example}"),
            );
        }
        name.ok()
    }

    fn check_cost<T>(&self, field: &Field<T>, cost: u64) -> bool {
        let fits = (1..=MAX_AMOUNT).contains(&cost);
        if !fits {
            let hint = match cost {
                0 => {
                    "for requests that cost nothing, write a rule with `action: allow` above this one"
                }
                _ => "write a smaller one, and a smaller limit with it",
            };
            self.error(
                field,
                format!("a cost is between 1 and {MAX_AMOUNT}, not {cost}"),
                hint,
            );
        }
        fits
    }
}
