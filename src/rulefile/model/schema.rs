//! The JSON Schema of the rule file, with which editors complete and check it.
//!
//! Most of it is derived from the model. Here are the values with a short form or read from text,
//! and the rules for the whole file. The program has the schema as a file, which a test here holds
//! against the model: what derives it is code for tests.

use std::{borrow::Cow, env, fs};

use schemars::{
    JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema,
    transform::transform_subschemas,
};
use serde_json::{Map, Value, json};

use super::{
    file::RuleFile,
    key::{KeyPart, NamedPart, PlainPart},
    limit::{LimitFields, LimitSpec, Per, RateSpec},
    matching::{
        Method, Network, NetworkFile, NetworkSpec, PathSpec, Regex, RegexFields, Text, ValueSpec,
        ValueTests,
    },
    plan::{Cost, CostFields, KeyValue, Percent, Span},
};
use crate::{
    limit::Algorithm,
    request::{DotSegments, EncodedSlash, LeadingSlashes, Parameters, Scheme},
    rulefile::decode::Field,
    rules::{Mode, OnStoreError, key::OnMissing, matcher::HostPattern, span::unit_names},
};

/// The schema, as draft 2020-12.
fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<RuleFile>();
    as_yaml_is_read(&mut schema);
    schema.into()
}

#[test]
fn the_schema_in_config_is_that_of_the_model() {
    let path = "config/rules.schema.json";
    let expected = format!("{:#}\n", schema());
    if env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(path, &expected).unwrap();
    }
    assert!(
        fs::read_to_string(path).unwrap_or_default() == expected,
        "{path} is not that of the model: write it anew with\n  UPDATE_SCHEMA=1 cargo test --lib schema"
    );
}

/// Describes what the decoder does with every value: a list with one item may be written without
/// the list, and an optional field is left out rather than written as null.
fn as_yaml_is_read(schema: &mut Schema) {
    transform_subschemas(&mut as_yaml_is_read, schema);
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [kind] = &types[..] {
            let kind = kind.clone();
            object.insert("type".to_owned(), kind);
        }
    }
    if let Some(Value::Array(options)) = object.get_mut("anyOf") {
        options.retain(|option| option.get("type") != Some(&json!("null")));
        if let [Value::Object(only)] = &options[..] {
            let only = only.clone();
            object.remove("anyOf");
            for (name, value) in only {
                object.entry(name).or_insert(value);
            }
        }
    }
    // Rust's names of number types mean nothing to an editor.
    object.remove("format");
    if object.get("type") == Some(&json!("array"))
        && let Some(items) = object.remove("items")
    {
        object.remove("type");
        let mut list = json!({ "type": "array", "items": items });
        if let Some(least) = object.remove("minItems") {
            list["minItems"] = least;
        }
        object.insert("anyOf".to_owned(), json!([items, list]));
    }
}

/// A field is its value.
impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// Values read from text: a description, examples, and a pattern.
macro_rules! texts {
    ($($type:ty as $name:literal: $schema:expr;)+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )+};
}

texts! {
    Method as "Method": json_schema!({
        "description": "A method; case does not matter.",
        "type": "string",
        "pattern": "^[^\\s]+$",
        "examples": ["GET", "POST"],
    });
    HostPattern as "Host": json_schema!({
        "description": "A host without port, or *. and a name for every host below it.",
        "type": "string",
        "examples": ["api.example.com", "*.example.com"],
    });
    Network as "Network": json_schema!({
        "description": "A CIDR block, or one address.",
        "type": "string",
        "pattern": "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$",
        "examples": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"],
    });
    Regex as "Regex": json_schema!({
        "description": "A regular expression (Rust's regex crate) for the whole value.",
        "type": "string",
        "minLength": 1,
        "maxLength": 1000,
    });
    Text as "Text": json_schema!({
        "description": "A text; YAML may read it as a number or a boolean.",
        "type": ["string", "integer", "boolean"],
    });
    Percent as "Share": json_schema!({
        "description": "A whole number of percent, up to 50.",
        "type": "string",
        "pattern": "^0*([1-9]|[1-4][0-9]|50)%$",
        "examples": ["10%"],
    });
    KeyValue as "KeyValue": json_schema!({
        "description": "The value of a key part, as in a request. For a secret, its hash in Redis is accepted too.",
        "type": ["string", "integer", "boolean"],
    });
    Span as "Span": json_schema!({
        "description": "A length of time.",
        "type": "string",
        "pattern": format!("^\\s*{}\\s*$", span()),
        "examples": ["30s", "5 minutes", "1h 30m"],
    });
    Per as "Window": json_schema!({
        "description": "The window of a limit.",
        "type": "string",
        "pattern": format!("^\\s*({}|month|mo)\\s*$", span()),
        "examples": ["1m", "30s", "day"],
    });
    RateSpec as "Rate": json_schema!({
        "description": "Requests per time, with a burst for a token bucket; `unlimited`; or 0 to deny.",
        "anyOf": [
            { "type": "string", "pattern": rate() },
            { "enum": ["unlimited", "0", 0] },
        ],
        "examples": ["5/m", "20/s burst 40", "1000 per 5 minutes", "10000/month"],
    });
}

/// Enums of the rule set, which knows nothing of schemas.
macro_rules! enums {
    ($($type:ident),+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let values = $type::ALL.iter().map(|value| {
                    let about = value.about().trim();
                    json!({ "description": about, "type": "string", "const": value })
                });
                json_schema!({
                    "description": $type::ABOUT.trim(),
                    "oneOf": values.collect::<Vec<_>>(),
                })
            }
        }
    )+};
}

enums!(
    Algorithm,
    DotSegments,
    EncodedSlash,
    LeadingSlashes,
    Mode,
    OnMissing,
    OnStoreError,
    Parameters,
    Scheme
);

/// The units of time as alternatives of a pattern, in any case.
fn units() -> String {
    let any_case = |name: &str| -> String {
        let both = |c: char| format!("[{}{c}]", c.to_ascii_uppercase());
        name.chars().map(both).collect()
    };
    let names: Vec<String> = unit_names().map(any_case).collect();
    names.join("|")
}

/// The pattern of a length of time: a unit with or without a number, or several units with numbers.
fn span() -> String {
    let units = units();
    format!("(({units})|(_*[0-9][0-9_]*\\s*({units})\\s*)+)")
}

fn rate() -> String {
    format!(
        "^\\s*_*[0-9][0-9_]*\\s*(/| per )\\s*({}|month|mo)\\s*(burst\\s*_*[0-9][0-9_]*)?\\s*$",
        span()
    )
}

/// Values that can be written in a short form or with fields.
macro_rules! either {
    ($($type:ty as $name:literal: $short:expr, or $($fields:ty),+;)+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let short: fn(&mut SchemaGenerator) -> Value = $short;
                let mut options = vec![short(generator)];
                $(options.push(generator.subschema_for::<$fields>().into());)+
                let mut object = Map::new();
                object.insert("anyOf".to_owned(), Value::Array(options));
                object.into()
            }
        }
    )+};
}

either! {
    PathSpec as "Path": |_| json!({
        "description": "A path, as a template.",
        "type": "string",
        "pattern": "^/",
        "examples": ["/data", "/users/{id}", "/static/**"],
    }), or RegexFields;
    NetworkSpec as "NetworkOrFile": |generator| generator.subschema_for::<Network>().into(), or NetworkFile;
    KeyPart as "KeyPart": |_| json!({ "enum": PlainPart::ALL }), or NamedPart;
    LimitSpec as "Limit": |generator| generator.subschema_for::<RateSpec>().into(), or LimitFields;
    Cost as "Cost": |_| json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000_000 }), or CostFields;
    ValueSpec as "Value": |generator| {
        json!({ "description": "A value, or a list of values.", "type": "array", "items": generator.subschema_for::<Text>() })
    }, or ValueTests;
}
