//! The whole file, its defaults, and a rule.

use serde::Deserialize;

use super::{
    answer::Answer,
    key::KeyPart,
    limit::LimitSpec,
    matching::{Match, Network},
    plan::{Ban, Cost, Lease, Override, Tier},
};
use crate::{
    limit::Algorithm,
    request::{DotSegments, EncodedSlash, LeadingSlashes, Parameters},
    rulefile::decode::Field,
    rules::{Mode, OnStoreError, key::OnMissing},
};

/// The rules of a tollgate: which requests are limited, for which clients, and by how much.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(
    deny_unknown_fields,
    title = "tollgate rules",
    extend("anyOf" = super::one_of::each_of(&["rules", "include"])),
    extend("patternProperties" = { "^x-": { "description": "Anything, like a place for anchors." } }),
))]
pub(in crate::rulefile) struct RuleFile {
    /// The version of this format: 1.
    #[cfg_attr(test, schemars(required, extend("const" = 1)))]
    pub(in crate::rulefile) version: Option<Field<u64>>,
    /// How a client's address is found and written into keys.
    pub(in crate::rulefile) client_ip: Option<Field<ClientIp>>,
    /// How paths are read, where applications differ.
    pub(in crate::rulefile) paths: Option<Field<Paths>>,
    /// Headers that your proxy forwards beside those of the shipped configurations; "*" for all.
    /// Silences the warnings about them.
    pub(in crate::rulefile) forwarded_headers: Option<Field<Vec<Field<String>>>>,
    /// Settings for rules that do not have their own.
    pub(in crate::rulefile) defaults: Option<Field<Defaults>>,
    /// Further rule files, relative to this one, whose rules follow those of this file. `*` is any
    /// text in a file's name, `?` any character.
    #[cfg_attr(test, schemars(extend("minItems" = 1)))]
    pub(in crate::rulefile) include: Option<Field<Vec<Field<String>>>>,
    /// Read from top to bottom: `allow` and `deny` end the walk, and every `limit` rule that
    /// matches before that applies.
    #[cfg_attr(test, schemars(extend("minItems" = 1)))]
    pub(in crate::rulefile) rules: Option<Field<Vec<Field<Rule>>>>,
}

/// How a client's address is found and written into keys.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(in crate::rulefile) struct ClientIp {
    /// Proxies in front of your proxy, which are believed about the hop before them.
    pub(in crate::rulefile) trusted_proxies: Option<Field<Vec<Field<Network>>>>,
    /// How many bits identify an IPv6 client, 1 to 128. By default 64: a site.
    #[cfg_attr(test, schemars(range(min = 1, max = 128)))]
    pub(in crate::rulefile) ipv6_prefix: Option<Field<u64>>,
}

/// How paths are read, where applications differ.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(in crate::rulefile) struct Paths {
    /// What happens to a path with an encoded slash (%2F) or backslash (%5C). By default `refuse`.
    pub(in crate::rulefile) encoded_slash: Option<Field<EncodedSlash>>,
    /// What happens to a path with a dot segment (/x/../data). By default `refuse`.
    pub(in crate::rulefile) dot_segments: Option<Field<DotSegments>>,
    /// What happens to a path that begins with two slashes (//data). By default `refuse`.
    pub(in crate::rulefile) leading_slashes: Option<Field<LeadingSlashes>>,
    /// What parameters at the end of a segment (/data;v=2) are. By default `ignore`.
    pub(in crate::rulefile) parameters: Option<Field<Parameters>>,
}

/// Settings for rules that do not have their own.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(in crate::rulefile) struct Defaults {
    /// How limits count. By default `sliding_window`.
    pub(in crate::rulefile) algorithm: Option<Field<Algorithm>>,
    /// Whether rules deny. By default `enforce`.
    pub(in crate::rulefile) mode: Option<Field<Mode>>,
    /// What it means when a request lacks a part of a key. By default `shared`.
    pub(in crate::rulefile) on_missing: Option<Field<OnMissing>>,
    /// What a rule does while Redis does not answer. By default `local`.
    pub(in crate::rulefile) on_store_error: Option<Field<OnStoreError>>,
    /// How many counters of a rule may be new per second, on average over a minute. Clients beyond
    /// that share one. By default 1000; 0 for any number.
    #[cfg_attr(test, schemars(range(max = 1_000_000)))]
    pub(in crate::rulefile) max_new_keys: Option<Field<u64>>,
    /// The response for a denied request.
    pub(in crate::rulefile) answer: Option<Field<Answer>>,
}

/// A rule: which requests it applies to, and what happens to them.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(
    deny_unknown_fields,
    extend(
        "if" = { "properties": { "action": { "enum": ["allow", "deny"] } }, "required": ["action"] },
        "then" = { "not": { "anyOf": super::one_of::each_of(&["limit", "limits"]) } },
        "else" = { "oneOf": super::one_of::each_of(&["limit", "limits"]) },
    )
))]
pub(in crate::rulefile) struct Rule {
    /// A unique name; it is part of Redis keys, responses, logs and metrics.
    #[cfg_attr(
        test,
        schemars(
            required,
            length(min = 1, max = 64),
            regex(pattern = r"^[A-Za-z0-9_.-]+$")
        )
    )]
    pub(in crate::rulefile) name: Option<Field<String>>,
    /// Conditions that must all hold. Without any, the rule applies to every request.
    #[serde(rename = "match")]
    pub(in crate::rulefile) matches: Option<Field<Match>>,
    /// What the rule does. By default `limit`.
    pub(in crate::rulefile) action: Option<Field<ActionName>>,
    /// Whose requests share a counter. Without it, all clients share one.
    pub(in crate::rulefile) key: Option<Field<Vec<Field<KeyPart>>>>,
    /// What it means when a request lacks a part of the key.
    pub(in crate::rulefile) on_missing: Option<Field<OnMissing>>,
    /// How many requests are admitted per window.
    pub(in crate::rulefile) limit: Option<Field<LimitSpec>>,
    /// Several limits; all apply.
    #[cfg_attr(test, schemars(extend("minItems" = 1)))]
    pub(in crate::rulefile) limits: Option<Field<Vec<Field<LimitSpec>>>>,
    /// How this rule's limits count.
    pub(in crate::rulefile) algorithm: Option<Field<Algorithm>>,
    /// What a request takes from the limits. By default 1.
    pub(in crate::rulefile) cost: Option<Field<Cost>>,
    /// Limits for kinds of clients; the first tier whose `when` holds applies.
    pub(in crate::rulefile) tiers: Option<Field<Vec<Field<Tier>>>>,
    /// Limits for single clients; they come before tiers.
    pub(in crate::rulefile) overrides: Option<Field<Vec<Field<Override>>>>,
    /// A file with further overrides, relative to this one; it is watched too.
    pub(in crate::rulefile) overrides_file: Option<Field<String>>,
    /// Denies clients for longer that are denied too often.
    pub(in crate::rulefile) ban: Option<Field<Ban>>,
    /// Charges ahead of requests, so that most of them need not ask Redis. Not with a ban.
    pub(in crate::rulefile) lease: Option<Field<Lease>>,
    /// The response for a denied request.
    pub(in crate::rulefile) answer: Option<Field<Answer>>,
    /// `shadow` counts and reports, and never denies.
    pub(in crate::rulefile) mode: Option<Field<Mode>>,
    /// What the rule does while Redis does not answer.
    pub(in crate::rulefile) on_store_error: Option<Field<OnStoreError>>,
    /// How many of its counters may be new per second, on average over a minute. Clients beyond
    /// that share one. 0 for any number.
    #[cfg_attr(test, schemars(range(max = 1_000_000)))]
    pub(in crate::rulefile) max_new_keys: Option<Field<u64>>,
}

/// What happens to requests that match.
#[derive(Debug, Clone, Copy, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(in crate::rulefile) enum ActionName {
    /// Counts them.
    Limit,
    /// Admits them, and ends the walk.
    Allow,
    /// Denies them, and ends the walk.
    Deny,
}
