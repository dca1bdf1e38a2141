//! The rules in force: what runs for each request.
//!
//! A [`RuleSet`] is immutable. [`rulefile`](crate::rulefile) makes one of a rule file; this module
//! knows nothing of YAML.

pub mod answer;
mod index;
pub mod key;
pub mod matcher;
pub mod needs;
mod rule;
mod set;
pub mod span;

pub use self::{
    rule::{
        Action, AmountHeader, Cost, Lease, LimitAction, Mode, NamedBan, NamedLimit, OnStoreError,
        Plan, PlanSource, Rule, Tier,
    },
    set::RuleSet,
};
