//! The rule file as it is written: the serde model. What the values mean together is decided in
//! [`compile`](super::compile).

mod answer;
mod file;
mod key;
mod limit;
mod matching;
#[cfg(test)]
mod one_of;
mod plan;
#[cfg(test)]
mod schema;
mod short;
mod text;

pub(super) use self::{
    answer::Answer,
    file::{ActionName, Rule, RuleFile},
    key::{KeyPart, NamedPart, PlainPart, key_parts},
    limit::{LimitFields, LimitSpec, Per, RateSpec},
    matching::{Match, Method, Network, NetworkFile, NetworkSpec, PathSpec, ValueSpec, ValueTests},
    plan::{Ban, Cost, CostFields, KeyValue, Lease, Override, OverridesFile, Tier},
    text::FromText,
};
