//! The whole file, its defaults, and a rule.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    answer::Answer,
    key::KeyPart,
    limit::LimitSpec,
    matching::{Match, Network},
    one_of::each_of,
    plan::{Ban, Cost, Override, Tier},
};
use crate::{
    limit::Algorithm,
    rulefile::decode::Field,
    rules::{Mode, OnStoreError, key::OnMissing},
};

/// The rules of a tollgate: which requests are limited, for whom, and by how much.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, title = "tollgate rules")]
pub(in crate::rulefile) struct RuleFile {
    /// The version of this format: 1.
    #[schemars(required, extend("const" = 1))]
    pub(in crate::rulefile) version: Option<Field<u64>>,
    /// How a client's address is found and keyed.
    pub(in crate::rulefile) client_ip: Option<Field<ClientIp>>,
    /// Headers that your proxy forwards beside those of the shipped configurations; "*" for all. Spares the warnings of them.
    pub(in crate::rulefile) forwarded_headers: Option<Field<Vec<Field<String>>>>,
    /// What holds for rules that say nothing themselves.
    pub(in crate::rulefile) defaults: Option<Field<Defaults>>,
    /// Read from top to bottom: `allow` and `deny` end the walk, and every `limit` rule that matches until then applies.
    #[schemars(required, extend("minItems" = 1))]
    pub(in crate::rulefile) rules: Option<Field<Vec<Field<Rule>>>>,
}

/// How a client's address is found and keyed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(in crate::rulefile) struct ClientIp {
    /// Proxies in front of your proxy. Only their word about the hop before them is believed.
    pub(in crate::rulefile) trusted_proxies: Option<Field<Vec<Field<Network>>>>,
    /// How many bits tell IPv6 clients apart, 1 to 128; 64 if not said: a site.
    #[schemars(range(min = 1, max = 128))]
    pub(in crate::rulefile) ipv6_prefix: Option<Field<u64>>,
}

/// What holds for rules that say nothing themselves.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(in crate::rulefile) struct Defaults {
    /// How limits count; `sliding_window` if not said.
    pub(in crate::rulefile) algorithm: Option<Field<Algorithm>>,
    /// Whether rules deny; `enforce` if not said.
    pub(in crate::rulefile) mode: Option<Field<Mode>>,
    /// What it means when a request lacks a part of a key; `shared` if not said.
    pub(in crate::rulefile) on_missing: Option<Field<OnMissing>>,
    /// What a rule does while Redis does not answer; `local` if not said.
    pub(in crate::rulefile) on_store_error: Option<Field<OnStoreError>>,
    /// What a denied caller gets.
    pub(in crate::rulefile) answer: Option<Field<Answer>>,
}

/// A rule: which requests, and what happens to them.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(
    deny_unknown_fields,
    extend(
        "if" = { "properties": { "action": { "enum": ["allow", "deny"] } }, "required": ["action"] },
        "then" = { "not": { "anyOf": each_of(&["limit", "limits"]) } },
        "else" = { "oneOf": each_of(&["limit", "limits"]) },
    )
)]
pub(in crate::rulefile) struct Rule {
    /// Unique; part of Redis keys, answers, logs and metrics.
    #[schemars(
        required,
        length(min = 1, max = 64),
        regex(pattern = r"^[A-Za-z0-9_.-]+$")
    )]
    pub(in crate::rulefile) name: Option<Field<String>>,
    /// Conditions that must all hold; without any, the rule is about every request.
    #[serde(rename = "match")]
    pub(in crate::rulefile) matches: Option<Field<Match>>,
    /// `limit` if not said.
    pub(in crate::rulefile) action: Option<Field<ActionName>>,
    /// Whose requests share a counter; without it, everybody's.
    pub(in crate::rulefile) key: Option<Field<Vec<Field<KeyPart>>>>,
    /// What it means when a request lacks a part of the key.
    pub(in crate::rulefile) on_missing: Option<Field<OnMissing>>,
    /// How many requests per how long.
    pub(in crate::rulefile) limit: Option<Field<LimitSpec>>,
    /// Several limits; all apply.
    #[schemars(extend("minItems" = 1))]
    pub(in crate::rulefile) limits: Option<Field<Vec<Field<LimitSpec>>>>,
    /// How this rule's limits count.
    pub(in crate::rulefile) algorithm: Option<Field<Algorithm>>,
    /// What a request takes from the limits; 1 if not said.
    pub(in crate::rulefile) cost: Option<Field<Cost>>,
    /// Limits for callers of one kind; the first whose `when` holds.
    pub(in crate::rulefile) tiers: Option<Field<Vec<Field<Tier>>>>,
    /// Limits for single callers; before tiers.
    pub(in crate::rulefile) overrides: Option<Field<Vec<Field<Override>>>>,
    /// A file with further overrides, relative to this one; watched too.
    pub(in crate::rulefile) overrides_file: Option<Field<String>>,
    /// Who is denied too often is denied for longer.
    pub(in crate::rulefile) ban: Option<Field<Ban>>,
    /// What a denied caller gets.
    pub(in crate::rulefile) answer: Option<Field<Answer>>,
    /// `shadow` counts and tells, and never denies.
    pub(in crate::rulefile) mode: Option<Field<Mode>>,
    /// What the rule does while Redis does not answer.
    pub(in crate::rulefile) on_store_error: Option<Field<OnStoreError>>,
}

/// What happens to requests that match.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::rulefile) enum ActionName {
    /// Counts them.
    Limit,
    /// Lets them pass, and ends the walk.
    Allow,
    /// Turns them away, and ends the walk.
    Deny,
}
