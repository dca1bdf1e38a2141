//! From the YAML tree to the model of [`file`](super::file), collecting errors instead of stopping at the first.
//!
//! A serde deserializer gives up at its first error. This one is made to go on at every [`Field`]: what is wrong within one
//! is recorded with its path, the field is left without a value, and the next one is read. Unknown keys are recorded too, with the
//! name that was probably meant.

use std::{borrow::Cow, cell::RefCell, fmt, marker::PhantomData, rc::Rc};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor, value::StrDeserializer,
};
use serde_yaml::Value;

use super::{
    diagnostic::{Severity, did_you_mean},
    yaml::{Path, Problem, Step, split_hint},
};

/// A value with its place in the file; `None` if it was wrong, which is then recorded.
#[derive(Debug, Clone)]
pub(super) struct Field<T> {
    path: usize,
    pub(super) value: Option<T>,
}

/// In the schema a field is its value.
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

/// What was found on the way: the paths of all fields, and all problems.
#[derive(Default)]
pub(super) struct Findings {
    paths: RefCell<Vec<Path>>,
    problems: RefCell<Vec<Problem>>,
}

impl Findings {
    /// Reads `value` as `T`; `None` only if the root itself is wrong, which is then recorded.
    pub(super) fn decode<T: for<'de> Deserialize<'de>>(&self, value: &Value) -> Field<T> {
        let node = Node {
            value,
            path: Rc::default(),
            findings: self,
        };
        Field::deserialize(node).unwrap_or(Field {
            path: 0,
            value: None,
        })
    }

    pub(super) fn path<T>(&self, field: &Field<T>) -> Path {
        self.paths
            .borrow()
            .get(field.path)
            .cloned()
            .unwrap_or_default()
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    fn record(&self, path: &Path, at_key: bool, error: &Error) {
        let (message, hint) = split_hint(&error.0);
        self.problems.borrow_mut().push(Problem {
            severity: Severity::Error,
            path: path.clone(),
            at_key,
            message,
            hint,
        });
    }
}

/// The name by which [`Field`] makes itself known to [`Node`].
const FIELD: &str = "tollgate::rules::Field";

/// The name of a struct that may also be written in a short form, which is then its visitor's to read.
pub(super) const SHORT: &str = "tollgate::rules::Short";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
            type Value = Field<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field<T>, A::Error> {
                let path = map.next_key::<usize>()?.unwrap_or(0);
                // The error has been recorded where it happened.
                let value = map.next_value().ok();
                Ok(Field { path, value })
            }
        }

        deserializer.deserialize_newtype_struct(FIELD, FieldVisitor(PhantomData))
    }
}

/// A message, with `\nhint: …` where there is one.
#[derive(Debug)]
pub(super) struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// A node of the tree, on its way to become a value.
#[derive(Clone)]
struct Node<'a> {
    value: &'a Value,
    path: Rc<Path>,
    findings: &'a Findings,
}

impl<'a> Node<'a> {
    fn child(&self, step: Step, value: &'a Value) -> Self {
        Self {
            value,
            path: Rc::new(self.path.child(step)),
            findings: self.findings,
        }
    }
}

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => {
                if let Some(value) = number.as_u64() {
                    visitor.visit_u64(value)
                } else if let Some(value) = number.as_i64() {
                    visitor.visit_i64(value)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Sequence(items) => visitor.visit_seq(Items {
                node: self,
                values: items,
                next: 0,
            }),
            Value::Mapping(_) => visitor.visit_map(Entries::new(self, None)),
            Value::Tagged(tagged) => Err(Error(format!(
                "tags like {} are not supported\nhint: write the plain value",
                tagged.tag
            ))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// A list of one may be written without the list.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Sequence(_) => self.deserialize_any(visitor),
            _ => visitor.visit_seq(Single(Some(self))),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name != FIELD {
            return visitor.visit_newtype_struct(self);
        }
        let mut paths = self.findings.paths.borrow_mut();
        paths.push(Path::clone(&self.path));
        let index = paths.len() - 1;
        drop(paths);
        visitor.visit_map(FieldAccess { node: self, index })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Mapping(_) => visitor.visit_map(Entries::new(self, Some(fields))),
            _ if name == SHORT => self.deserialize_any(visitor),
            other => Err(Error(format!(
                "expected fields, and found {}\nhint: the fields are {}",
                describe(other),
                fields.join(", ")
            ))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let known = variants.join(", ");
        match self.value {
            Value::String(text) if variants.contains(&text.as_str()) => {
                visitor.visit_enum(text.as_str().into_deserializer())
            }
            Value::String(text) => Err(Error(match did_you_mean(text, variants) {
                Some(meant) => {
                    format!("unknown value {text:?}\nhint: did you mean {meant}? One of: {known}")
                }
                None => format!("unknown value {text:?}\nhint: one of: {known}"),
            })),
            other => Err(Error(format!(
                "expected one word, and found {}\nhint: one of: {known}",
                describe(other)
            ))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct map identifier ignored_any
    }
}

/// A value in words.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) => format!("the text {value:?}"),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "fields".to_owned(),
        Value::Tagged(tagged) => format!("the tag {}", tagged.tag),
    }
}

/// Gives a [`Field`] its path and its value, and records why there is none.
struct FieldAccess<'a> {
    node: Node<'a>,
    index: usize,
}

impl<'de> MapAccess<'de> for FieldAccess<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        seed.deserialize(self.index.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(self.node.clone())
            .inspect_err(|error| self.node.findings.record(&self.node.path, false, error))
    }
}

struct Items<'a> {
    node: Node<'a>,
    values: &'a [Value],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(value) = self.values.get(self.next) else {
            return Ok(None);
        };
        let child = self.node.child(Step::Index(self.next), value);
        self.next += 1;
        seed.deserialize(child).map(Some)
    }
}

/// A node as the list of itself.
struct Single<'a>(Option<Node<'a>>);

impl<'de> SeqAccess<'de> for Single<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        self.0.take().map(|node| seed.deserialize(node)).transpose()
    }
}

struct Entries<'a> {
    node: Node<'a>,
    known: Vec<(&'a str, &'a Value)>,
    next: usize,
}

impl<'a> Entries<'a> {
    /// The entries whose keys are `known`; the others are recorded.
    fn new(node: Node<'a>, known: Option<&[&'static str]>) -> Self {
        let mut entries = Vec::new();
        for (key, value) in node.value.as_mapping().into_iter().flatten() {
            let Some(key) = key.as_str() else {
                let error = Error(format!(
                    "a field's name is a text, not {}\nhint: remove it",
                    describe(key)
                ));
                node.findings.record(&node.path, false, &error);
                continue;
            };
            match known {
                Some(known) if !known.contains(&key) => {
                    let hint = match did_you_mean(key, known) {
                        Some(meant) => format!("did you mean {meant}?"),
                        None => format!("the fields are {}", known.join(", ")),
                    };
                    let path = node.path.child(Step::Key(key.to_owned()));
                    node.findings.record(
                        &path,
                        true,
                        &Error(format!("unknown field\nhint: {hint}")),
                    );
                }
                _ => entries.push((key, value)),
            }
        }
        Self {
            node,
            known: entries,
            next: 0,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, _)) = self.known.get(self.next) else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.known[self.next];
        self.next += 1;
        seed.deserialize(self.node.child(Step::Key(key.to_owned()), value))
    }
}
