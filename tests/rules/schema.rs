//! The JSON Schema accepts and refuses the same files as tollgate, as far as a schema can.

use std::{fs, path::Path};

use jsonschema::{ValidationError, error::ValidationErrorKind};
use serde_json::Value;
use tollgate::{counter_key::KeySettings, rulefile};

fn validator() -> jsonschema::Validator {
    let schema = serde_json::from_str(rulefile::SCHEMA).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

/// The YAML as a schema's validator sees it.
fn tree(text: &str) -> Option<Value> {
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).ok()?;
    value.apply_merge().ok()?;
    serde_json::to_value(value).ok()
}

fn complaints(text: &str) -> Vec<String> {
    let tree = tree(text).unwrap();
    let validator = validator();
    validator
        .iter_errors(&tree)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// An error, or the errors of all alternatives, of which an editor shows the deepest.
fn leaves(error: &ValidationError<'_>) -> Vec<String> {
    match error.kind() {
        ValidationErrorKind::AnyOf { context } => {
            context.iter().flatten().flat_map(leaves).collect()
        }
        _ => vec![format!("{}: {error}", error.instance_path())],
    }
}

/// The rule files of a folder, by name.
fn files(folder: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        let is_yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml");
        if is_yaml && !name.contains(".overrides.") {
            out.push((name, fs::read_to_string(path).unwrap()));
        }
    }
    out.sort();
    out
}

#[test]
fn the_shipped_rules_name_their_schema() {
    for (name, text) in files("config").into_iter().chain(files("config/examples")) {
        let line = text.lines().next().unwrap();
        let schema = line
            .strip_prefix("# yaml-language-server: $schema=")
            .unwrap_or_else(|| panic!("{name} begins with {line:?}"));
        assert!(
            Path::new(&name).with_file_name(schema).exists(),
            "{name}: {schema}"
        );
    }
}

#[test]
fn valid_files_are_valid_by_the_schema() {
    let mut count = 0;
    let documents = ["README.md", "docs/rules.md"].map(|path| fs::read_to_string(path).unwrap());
    let blocks = documents
        .iter()
        .flat_map(|text| text.split("```yaml\n").skip(1))
        .map(|block| block.split("```").next().unwrap().to_owned())
        .filter(|block| block.starts_with("version:") && block.contains("rules:"))
        .map(|block| ("document".to_owned(), block));
    let shipped = files("config").into_iter().chain(files("config/examples"));
    for (name, text) in blocks.chain(shipped).chain(files("tests/corpus/warned")) {
        let complaints = complaints(&text);
        assert!(complaints.is_empty(), "{name}:\n{text}\n{complaints:#?}");
        count += 1;
    }
    assert!(count > 25, "only {count} rule files found");
}

/// Every way to write a value that has several.
#[test]
fn every_short_form_is_valid_by_the_schema() {
    let text = r#"
version: 1
client_ip: { trusted_proxies: 10.0.0.0/8 }
forwarded_headers: "*"
rules:
  - name: a
    match: { path: /a, methods: GET, host: "*.x.com", client_ip: ["::1", { file: bots.txt }], headers: { x: 1, y: [a, b], z: { prefix: v }, w: { absent: true } }, query: { p: true } }
    key: client_ip
    limit: 0
  - name: b
    match: { path: [{ regex: "/v[0-9]+" }, /c], not: { methods: [POST], client_ip: { file: b.txt } } }
    key: [host, { header: x }, { jwt: sub }, { jwt: [a, b], secret: false }]
    limits: [5/m, "1000 per 5 Minutes", 1_000/30s, "0/m", { rate: 9/month, align: calendar, timezone: Europe/Paris }, "20/s burst 40"]
    cost: 5
    overrides: [{ key: [a, 1, true, d], limit: unlimited }]
"#;
    assert_eq!(complaints(text), Vec::<String>::new());
    // All but `0/m`, which cannot be combined, are also accepted by tollgate.
    let text = text.replace("\"0/m\", ", "").replace("9/month", "9/day");
    let context = rulefile::LoadContext {
        keys: &KeySettings::default(),
        read: &|_| Ok("192.0.2.1\n".to_owned()),
        list: &|_, _| Ok(Vec::new()),
        locate: &Path::to_path_buf,
    };
    let loaded = rulefile::load_with("rules.yaml", &text, context);
    assert!(loaded.set.is_some(), "{}", loaded.diagnostics);
}

/// A schema cannot check everything. The bad files that it accepts are listed in a snapshot, so
/// that a regression is noticed.
#[test]
fn invalid_files_are_invalid_by_the_schema_where_it_can_tell() {
    let keys = KeySettings::default();
    let read = |_: &Path| Err(std::io::Error::other("not here"));
    let surroundings = rulefile::LoadContext {
        keys: &keys,
        read: &read,
        list: &|_, _| Err(std::io::Error::other("not here")),
        locate: &Path::to_path_buf,
    };
    let validator = validator();
    let (mut told, mut taken) = (0, Vec::new());
    for (name, text) in files("tests/corpus/bad") {
        let Some(tree) = tree(&text) else { continue };
        assert!(
            rulefile::load_with(&name, &text, surroundings)
                .set
                .is_none()
        );
        if validator.is_valid(&tree) {
            taken.push(name.replace("tests/corpus/bad/", ""));
        } else {
            told += 1;
        }
    }
    insta::assert_snapshot!(format!("told: {told}\ntaken:\n{}", taken.join("\n")));
}

#[test]
fn typos_are_reported_where_they_are() {
    for (text, expected) in [
        (
            "version: 1\nrules: [{ name: a, limit: 5/m }, { name: b, limt: 5/m }]",
            "/rules/1: Additional properties are not allowed ('limt' was unexpected)",
        ),
        ("version: 2\nrules: [{ name: a, limit: 5/m }]", "/version: "),
        (
            "version: 1\nrules: [{ name: a, limits: [5/m, 5/fortnight] }]",
            "/rules/0/limits/1: \"5/fortnight\" does not match",
        ),
        (
            "version: 1\nrules: [{ name: a, limit: 5/m, mode: shadwo }]",
            "/rules/0/mode: \"shadwo\" is not valid under any",
        ),
        (
            "version: 1\nrules: [{ name: a, limit: 5/m, ban: { after: 1, within: 1h, for: 2x } }]",
            "/rules/0/ban/for: \"2x\" does not match",
        ),
        ("version: 1", ": \"rules\" is a required property"),
    ] {
        let tree = tree(text).unwrap();
        let validator = validator();
        let told: Vec<String> = validator
            .iter_errors(&tree)
            .flat_map(|error| leaves(&error))
            .collect();
        assert!(
            told.iter().any(|told| told.starts_with(expected)),
            "{text}: {told:#?}"
        );
    }
}
