//! The rule file as it is written: the serde model. What the values mean together is decided in [`compile`](super::compile).

mod answer;
mod key;
mod limit;
mod matching;
mod one_of;
mod plan;
mod schema;
mod short;
mod text;

use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use self::{
    answer::Answer,
    key::{KeyPart, NamedPart, PlainPart, key_parts},
    limit::{LimitFields, LimitSpec, RateSpec},
    matching::{Match, Network, PathSpec, ValueSpec, ValueTests},
    plan::{Ban, Cost, CostFields, KeyValue, Override, OverridesFile, Tier},
    schema::schema,
};
use super::decode::Field;
use crate::{
    limit::Algorithm,
    rules::{Mode, OnStoreError, key::OnMissing},
};

/// The rules of a tollgate: which requests are limited, for whom, and by how much.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, title = "tollgate rules")]
pub(super) struct RuleFile {
    /// The version of this format: 1.
    #[schemars(required, extend("const" = 1))]
    pub(super) version: Option<Field<u64>>,
    /// How a client's address is found and keyed.
    pub(super) client_ip: Option<Field<ClientIp>>,
    /// Headers that your proxy forwards beside those of the shipped configurations; "*" for all. Spares the warnings of them.
    pub(super) forwarded_headers: Option<Field<Vec<Field<String>>>>,
    /// What holds for rules that say nothing themselves.
    pub(super) defaults: Option<Field<Defaults>>,
    /// Read from top to bottom: `allow` and `deny` end the walk, and every `limit` rule that matches until then applies.
    #[schemars(required, extend("minItems" = 1))]
    pub(super) rules: Option<Field<Vec<Field<Rule>>>>,
}

/// How a client's address is found and keyed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct ClientIp {
    /// Proxies in front of your proxy. Only their word about the hop before them is believed.
    pub(super) trusted_proxies: Option<Field<Vec<Field<Network>>>>,
    /// How many bits tell IPv6 clients apart, 1 to 128; 64 if not said: a site.
    #[schemars(range(min = 1, max = 128))]
    pub(super) ipv6_prefix: Option<Field<u64>>,
}

/// What holds for rules that say nothing themselves.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Defaults {
    /// How limits count; `sliding_window` if not said.
    pub(super) algorithm: Option<Field<Algorithm>>,
    /// Whether rules deny; `enforce` if not said.
    pub(super) mode: Option<Field<Mode>>,
    /// What it means when a request lacks a part of a key; `shared` if not said.
    pub(super) on_missing: Option<Field<OnMissing>>,
    /// What a rule does while Redis does not answer; `local` if not said.
    pub(super) on_store_error: Option<Field<OnStoreError>>,
    /// What a denied caller gets.
    pub(super) answer: Option<Field<Answer>>,
}

/// A rule: which requests, and what happens to them.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(
    deny_unknown_fields,
    extend(
        "if" = { "properties": { "action": { "enum": ["allow", "deny"] } }, "required": ["action"] },
        "then" = { "not": { "anyOf": one_of::each_of(&["limit", "limits"]) } },
        "else" = { "oneOf": one_of::each_of(&["limit", "limits"]) },
    )
)]
pub(super) struct Rule {
    /// Unique; part of Redis keys, answers, logs and metrics.
    #[schemars(
        required,
        length(min = 1, max = 64),
        regex(pattern = r"^[A-Za-z0-9_.-]+$")
    )]
    pub(super) name: Option<Field<String>>,
    /// Conditions that must all hold; without any, the rule is about every request.
    #[serde(rename = "match")]
    pub(super) matches: Option<Field<Match>>,
    /// `limit` if not said.
    pub(super) action: Option<Field<ActionName>>,
    /// Whose requests share a counter; without it, everybody's.
    pub(super) key: Option<Field<Vec<Field<KeyPart>>>>,
    /// What it means when a request lacks a part of the key.
    pub(super) on_missing: Option<Field<OnMissing>>,
    /// How many requests per how long.
    pub(super) limit: Option<Field<LimitSpec>>,
    /// Several limits; all apply.
    #[schemars(extend("minItems" = 1))]
    pub(super) limits: Option<Field<Vec<Field<LimitSpec>>>>,
    /// How this rule's limits count.
    pub(super) algorithm: Option<Field<Algorithm>>,
    /// What a request takes from the limits; 1 if not said.
    pub(super) cost: Option<Field<Cost>>,
    /// Limits for callers of one kind; the first whose `when` holds.
    pub(super) tiers: Option<Field<Vec<Field<Tier>>>>,
    /// Limits for single callers; before tiers.
    pub(super) overrides: Option<Field<Vec<Field<Override>>>>,
    /// A file with further overrides, relative to this one; watched too.
    pub(super) overrides_file: Option<Field<String>>,
    /// Who is denied too often is denied for longer.
    pub(super) ban: Option<Field<Ban>>,
    /// What a denied caller gets.
    pub(super) answer: Option<Field<Answer>>,
    /// `shadow` counts and tells, and never denies.
    pub(super) mode: Option<Field<Mode>>,
    /// What the rule does while Redis does not answer.
    pub(super) on_store_error: Option<Field<OnStoreError>>,
}

/// What happens to requests that match.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ActionName {
    /// Counts them.
    Limit,
    /// Lets them pass, and ends the walk.
    Allow,
    /// Turns them away, and ends the walk.
    Deny,
}
