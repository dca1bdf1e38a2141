//! From text to a YAML tree, or to what is wrong with the text.

use serde_yaml::Value;

use super::{
    locate,
    path::FieldPath,
    spelling,
    syntax::{self, Malformed},
    value::describe,
};
use crate::problem::Problem;

/// Why there is no tree.
pub(in crate::rulefile) enum ParseError {
    /// The text is not YAML.
    Malformed(Malformed),
    /// The text is YAML, and the node at this path makes it useless.
    Node(FieldPath, Problem),
}

/// The tree of a text that holds one document, with merge keys (`<<`) applied.
pub(in crate::rulefile) fn parse(text: &str) -> Result<Value, ParseError> {
    let malformed = |error| {
        ParseError::Malformed(duplicate_key(text).unwrap_or_else(|| syntax::explain(text, &error)))
    };
    let value: Value = serde_yaml::from_str(text).map_err(malformed)?;
    let mut value = spelling::mark(text, value);
    if let Some((path, found)) = bad_merge(&value) {
        let problem = Problem::new(
            format!("`<<` adds the fields of another mapping, but this is {found}"),
            "write <<: *name, and &name before the fields to add",
        );
        return Err(ParseError::Node(path, problem));
    }
    value.apply_merge().map_err(malformed)?;
    if value.is_null() {
        let problem = Problem::new(
            "the file is empty",
            "begin it with `version: 1`; docs/rules.md lists all fields",
        );
        return Err(ParseError::Node(FieldPath::root(), problem));
    }
    Ok(value)
}

/// A key that its mapping has twice. (The library's own error has the position of the mapping.)
fn duplicate_key(text: &str) -> Option<Malformed> {
    let (key, line, column) = locate::repeated_key(text)?;
    let (line, column) = locate::shown(text, (line, column));
    Some(Malformed {
        line,
        column,
        width: locate::token_width(locate::line(text, line), column, true),
        problem: Problem::new(format!("the field {key:?} is written twice"), "keep one"),
    })
}

/// The path of a `<<` whose value is not a mapping, and what that value is.
fn bad_merge(value: &Value) -> Option<(FieldPath, String)> {
    fn within(value: &Value, path: &FieldPath) -> Option<(FieldPath, String)> {
        match value {
            Value::Sequence(items) => items
                .iter()
                .enumerate()
                .find_map(|(index, item)| within(item, &path.index(index))),
            Value::Mapping(fields) => fields.iter().find_map(|(key, value)| {
                let path = path.key(key.as_str()?);
                if key.as_str() == Some("<<") {
                    let items = match value {
                        Value::Sequence(items) => items.as_slice(),
                        one => std::slice::from_ref(one),
                    };
                    let bad = items.iter().find(|item| !item.is_mapping())?;
                    return Some((path, describe(bad)));
                }
                within(value, &path)
            }),
            _ => None,
        }
    }
    within(value, &FieldPath::root())
}
