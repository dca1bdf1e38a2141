//! YAML values in words.

use serde_yaml::Value;

use super::spelling::unmarked;

/// What a value is, for messages: `a list`, `the number 5`.
pub(in crate::rulefile) fn describe(value: &Value) -> String {
    match unmarked(value).0 {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) => format!("the text {value:?}"),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "fields".to_owned(),
        Value::Tagged(tagged) => format!("the tag {}", tagged.tag),
    }
}
