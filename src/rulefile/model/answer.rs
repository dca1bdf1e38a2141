//! `answer`: what a denied caller gets.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::plan::Span;
use crate::rulefile::decode::Field;

/// What a denied caller gets. What a rule does not say is taken from `defaults.answer`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(in crate::rulefile) struct Answer {
    /// 400 to 499, or a redirection; 429 for a limit and 403 otherwise, if not said.
    #[schemars(range(min = 301, max = 499))]
    pub(in crate::rulefile) status: Option<Field<u64>>,
    /// Headers that are added, or put in place of usual ones; `{rule}`, `{limit}`, `{rate}`, `{retry_after}` and `{status}` are
    /// filled in.
    pub(in crate::rulefile) headers: Option<Field<BTreeMap<String, Field<String>>>>,
    /// A body of text.
    pub(in crate::rulefile) text: Option<Field<String>>,
    /// A body of JSON; its texts are filled in as those of headers are.
    #[schemars(with = "Option<serde_json::Value>")]
    pub(in crate::rulefile) json: Option<Field<serde_yaml::Value>>,
    /// Members of the usual problem+json, in place of its own or after them.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub(in crate::rulefile) problem: Option<Field<serde_yaml::Mapping>>,
    /// Up to so much is added to `Retry-After`, by chance.
    pub(in crate::rulefile) retry_after_jitter: Option<Field<Span>>,
}
