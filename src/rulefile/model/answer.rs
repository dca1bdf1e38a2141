//! `answer`: the response for a denied request.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::plan::Span;
use crate::rulefile::decode::Field;

/// The response for a denied request. What a rule leaves out is taken from `defaults.answer`.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(in crate::rulefile) struct Answer {
    /// The status: 400 to 499, or a redirection. By default 429 for a limit and 403 otherwise.
    #[cfg_attr(test, schemars(range(min = 301, max = 499)))]
    pub(in crate::rulefile) status: Option<Field<u64>>,
    /// Headers that are added to the usual ones, or replace them. `{rule}`, `{limit}`, `{rate}`,
    /// `{retry_after}` and `{status}` are filled in.
    pub(in crate::rulefile) headers: Option<Field<BTreeMap<String, Field<String>>>>,
    /// A body of plain text, with the same placeholders as headers.
    pub(in crate::rulefile) text: Option<Field<String>>,
    /// A body of JSON; its texts have the same placeholders as headers.
    #[cfg_attr(test, schemars(with = "Option<serde_json::Value>"))]
    pub(in crate::rulefile) json: Option<Field<serde_yaml::Value>>,
    /// Members of the usual problem+json, which replace its own or follow them.
    #[cfg_attr(
        test,
        schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")
    )]
    pub(in crate::rulefile) problem: Option<Field<serde_yaml::Mapping>>,
    /// The most that is added to `Retry-After` at random.
    pub(in crate::rulefile) retry_after_jitter: Option<Field<Span>>,
}
