//! For the schema: that one of several fields must be there.

use serde_json::{Value, json};

/// The options of a `oneOf` or `anyOf`: each asks for one of these fields.
pub(super) fn each_of(fields: &[&str]) -> Vec<Value> {
    let each = fields.iter().map(|field| json!({ "required": [field] }));
    each.collect()
}
