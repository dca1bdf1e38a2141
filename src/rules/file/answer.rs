//! `answer`: what a denied caller gets.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::plan::Span;
use crate::rules::decode::Field;

/// What a denied caller gets. What a rule does not say is taken from `defaults.answer`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::rules) struct Answer {
    pub(in crate::rules) status: Option<Field<u64>>,
    pub(in crate::rules) headers: Option<Field<BTreeMap<String, Field<String>>>>,
    pub(in crate::rules) text: Option<Field<String>>,
    pub(in crate::rules) json: Option<Field<serde_yaml::Value>>,
    pub(in crate::rules) problem: Option<Field<serde_yaml::Mapping>>,
    pub(in crate::rules) retry_after_jitter: Option<Field<Span>>,
}
