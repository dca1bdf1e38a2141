//! The rule file as it is written: the serde model. What the values mean together is decided in [`compile`](super::compile).

mod answer;
mod key;
mod limit;
mod matching;
mod plan;
mod short;
mod text;

use serde::Deserialize;

pub(super) use self::{
    answer::Answer,
    key::{KEY_PARTS, KeyPart, NamedPart},
    limit::{LimitFields, LimitSpec, Rate},
    matching::{Match, Network, PathSpec, ValueSpec, ValueTests},
    plan::{Ban, Cost, CostFields, KeyValue, Override, OverridesFile, Tier},
};
use super::{Mode, OnStoreError, decode::Field, key::OnMissing};
use crate::limit::Algorithm;

#[derive(Debug, Deserialize)]
pub(super) struct RuleFile {
    pub(super) version: Option<Field<u64>>,
    pub(super) client_ip: Option<Field<ClientIp>>,
    pub(super) forwarded_headers: Option<Field<Vec<Field<String>>>>,
    pub(super) defaults: Option<Field<Defaults>>,
    pub(super) rules: Option<Field<Vec<Field<Rule>>>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ClientIp {
    pub(super) trusted_proxies: Option<Field<Vec<Field<Network>>>>,
    pub(super) ipv6_prefix: Option<Field<u64>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Defaults {
    pub(super) algorithm: Option<Field<AlgorithmName>>,
    pub(super) mode: Option<Field<ModeName>>,
    pub(super) on_missing: Option<Field<OnMissingName>>,
    pub(super) on_store_error: Option<Field<OnStoreErrorName>>,
    pub(super) answer: Option<Field<Answer>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rule {
    pub(super) name: Option<Field<String>>,
    #[serde(rename = "match")]
    pub(super) matches: Option<Field<Match>>,
    pub(super) action: Option<Field<ActionName>>,
    pub(super) key: Option<Field<Vec<Field<KeyPart>>>>,
    pub(super) on_missing: Option<Field<OnMissingName>>,
    pub(super) limit: Option<Field<LimitSpec>>,
    pub(super) limits: Option<Field<Vec<Field<LimitSpec>>>>,
    pub(super) algorithm: Option<Field<AlgorithmName>>,
    pub(super) cost: Option<Field<Cost>>,
    pub(super) tiers: Option<Field<Vec<Field<Tier>>>>,
    pub(super) overrides: Option<Field<Vec<Field<Override>>>>,
    pub(super) overrides_file: Option<Field<String>>,
    pub(super) ban: Option<Field<Ban>>,
    pub(super) answer: Option<Field<Answer>>,
    pub(super) mode: Option<Field<ModeName>>,
    pub(super) on_store_error: Option<Field<OnStoreErrorName>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ActionName {
    Limit,
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AlgorithmName {
    FixedWindow,
    SlidingWindow,
    SlidingLog,
    TokenBucket,
}

impl From<AlgorithmName> for Algorithm {
    fn from(name: AlgorithmName) -> Self {
        match name {
            AlgorithmName::FixedWindow => Self::FixedWindow,
            AlgorithmName::SlidingWindow => Self::SlidingWindow,
            AlgorithmName::SlidingLog => Self::SlidingLog,
            AlgorithmName::TokenBucket => Self::TokenBucket,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ModeName {
    Enforce,
    Shadow,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Enforce => Self::Enforce,
            ModeName::Shadow => Self::Shadow,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnMissingName {
    Shared,
    Skip,
    Deny,
}

impl From<OnMissingName> for OnMissing {
    fn from(name: OnMissingName) -> Self {
        match name {
            OnMissingName::Shared => Self::Shared,
            OnMissingName::Skip => Self::Skip,
            OnMissingName::Deny => Self::Deny,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnStoreErrorName {
    Local,
    Allow,
    Deny,
    Proxy,
}

impl From<OnStoreErrorName> for OnStoreError {
    fn from(name: OnStoreErrorName) -> Self {
        match name {
            OnStoreErrorName::Local => Self::Local,
            OnStoreErrorName::Allow => Self::Allow,
            OnStoreErrorName::Deny => Self::Deny,
            OnStoreErrorName::Proxy => Self::Proxy,
        }
    }
}
