//! The schema of "exactly one of these fields".

use serde_json::{Value, json};

/// The options of a `oneOf` or `anyOf`, each of which requires one of these fields.
pub(super) fn each_of(fields: &[&str]) -> Vec<Value> {
    let each = fields.iter().map(|field| json!({ "required": [field] }));
    each.collect()
}
