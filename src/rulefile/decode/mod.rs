//! From the YAML tree to the model of [`model`](super::model), collecting errors instead of stopping at the first.
//!
//! A serde deserializer gives up at its first error. This one is made to go on at every [`Field`]: what is wrong within one
//! is recorded with its path, the field is left without a value, and the next one is read. Unknown keys are recorded too, with the
//! name that was probably meant.

mod error;
mod field;
mod node;

use std::rc::Rc;

use serde::de::Deserialize;
use serde_yaml::Value;

use self::node::{Node, Sinks};
pub(super) use self::{
    error::Expected,
    field::{Field, FieldPaths, SHORT},
};
use super::problems::Problems;

/// Decodes `value` as `T`. What is wrong is reported to `problems`; the field is without a value only
/// if the root itself is wrong.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(
    value: &Value,
    problems: &Problems,
    paths: &FieldPaths,
) -> Field<T> {
    let node = Node {
        value,
        path: Rc::default(),
        sinks: Sinks { problems, paths },
        single: false,
    };
    Field::deserialize(node).unwrap_or_else(|_| Field::missing())
}
