//! The manifests in `deploy/kubernetes`.

use std::fs;

use serde::Deserialize as _;
use serde_json::Value;

/// The documents of a YAML text.
pub fn parse(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text);
    let values = documents.map(|document| {
        // Not at once to JSON, which knows no anchors.
        let yaml = serde_yaml::Value::deserialize(document).unwrap();
        serde_json::to_value(yaml).unwrap()
    });
    values.filter(|value| !value.is_null()).collect()
}

/// The documents of a file of `deploy/kubernetes`.
pub fn read(file: &str) -> Vec<Value> {
    let path = format!("deploy/kubernetes/{file}");
    parse(&fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
}

/// The only document of this kind.
pub fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let mut found = documents.iter().filter(|value| value["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    first
}
