//! Decodes the YAML tree into the [`model`](super::model), and reports all errors instead of the
//! first.
//!
//! A serde deserializer gives up at its first error. This one goes on at every [`Field`]: an error
//! within a field is reported with its path, the field has no value, and the next field is read.
//! Unknown keys are reported too, with the name that was probably meant.

mod error;
mod field;
mod node;

use serde::de::Deserialize;
use serde_yaml::Value;

use self::node::{Node, Sinks};
pub(super) use self::{
    error::Expected,
    field::{Field, FieldPaths, SHORT, SHORT_TEXT},
};
use super::problems::Problems;

/// Decodes `value` as `T`. Errors go to `problems`; the field has no value only if the root itself
/// is wrong.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(
    value: &Value,
    problems: &Problems,
    paths: &FieldPaths,
) -> Field<T> {
    let node = Node::root(value, Sinks { problems, paths });
    Field::deserialize(node).unwrap_or_else(|_| Field::missing())
}
