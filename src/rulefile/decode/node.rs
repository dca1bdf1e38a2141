//! The tree as a serde deserializer.

use std::rc::Rc;

use serde::de::{
    DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    value::StrDeserializer,
};
use serde_yaml::Value;

use super::{
    error::Error,
    field::{FIELD, FieldPaths, SHORT, SHORT_TEXT},
};
use crate::{
    nearest::nearest,
    problem::Problem,
    rulefile::{
        problems::Problems,
        yaml::{FieldPath, describe, unmarked},
    },
};

/// Where a decoder puts what it finds beside values.
#[derive(Clone, Copy)]
pub(super) struct Sinks<'a> {
    pub(super) problems: &'a Problems,
    pub(super) paths: &'a FieldPaths,
}

/// A node of the tree, about to be decoded.
#[derive(Clone)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    /// How the value is spelled, if that is not its plain form.
    pub(super) spelling: Option<&'a str>,
    pub(super) path: Rc<FieldPath>,
    pub(super) sinks: Sinks<'a>,
    /// Whether it is where a list could be, and is taken for its only item.
    pub(super) single: bool,
}

impl<'a> Node<'a> {
    fn child(&self, path: FieldPath, value: &'a Value) -> Self {
        Self {
            path: Rc::new(path),
            ..Self::root(value, self.sinks)
        }
    }

    pub(super) fn root(value: &'a Value, sinks: Sinks<'a>) -> Self {
        let (value, spelling) = unmarked(value);
        Self {
            value,
            spelling,
            path: Rc::default(),
            sinks,
            single: false,
        }
    }

    /// The error of a mapping in place of a list, none of whose keys is known.
    fn no_item(&self, known: &[&'static str]) -> Option<Error> {
        let fields = self.value.as_mapping().filter(|_| self.single)?;
        let names: Vec<&str> = fields.keys().filter_map(Value::as_str).collect();
        if names.iter().any(|name| name.starts_with('-')) {
            return Some(Error::from(Problem::new(
                "expected a list, but found fields with names that begin with a dash",
                "put a space after each dash that begins an item",
            )));
        }
        let strange = |name: &&str| !known.contains(name) && nearest(name, known).is_none();
        (names.len() == fields.len() && !names.is_empty() && names.iter().all(strange)).then(|| {
            Error::from(Problem::new(
                "expected a list, but found fields",
                format!(
                    "begin each item with a dash; its fields are {}",
                    known.join(", ")
                ),
            ))
        })
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
            Value::Tagged(tagged) => Err(Error::from(Problem::new(
                format!("tags like {} are not supported", tagged.tag),
                "write the plain value",
            ))),
        }
    }

    /// A text, which must not be a number in disguise.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.spelling {
            None => self.deserialize_any(visitor),
            Some(spelling) => Err(Error::from(Problem::new(
                format!("YAML reads {spelling} as {}", describe(self.value)),
                format!("put it in quotes: \"{spelling}\""),
            ))),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            // An empty `match:` would match everything, and an empty `key:` be shared by all
            // clients.
            Value::Null => {
                self.sinks.problems.error_at_name(
                    &self.path,
                    "the field has no value",
                    "write one, or remove the field; a value that begins with # must be in quotes",
                );
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    /// A list with one item may be written without the list.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Sequence(_) => self.deserialize_any(visitor),
            _ => visitor.visit_seq(Single(Some(Self {
                single: true,
                ..self
            }))),
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
        let index = self.sinks.paths.add(FieldPath::clone(&self.path));
        visitor.visit_map(FieldAccess { node: self, index })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Mapping(_) => match self.no_item(fields) {
                Some(error) => Err(error),
                None => visitor.visit_map(Entries::new(self, Some(fields))),
            },
            _ if name == SHORT => self.deserialize_any(visitor),
            _ if name == SHORT_TEXT => self.deserialize_str(visitor),
            Value::Null => Err(Error::from(Problem::new(
                "the value is missing",
                format!("the fields are {}", fields.join(", ")),
            ))),
            other => Err(Error::from(Problem::new(
                format!("expected fields, but found {}", describe(other)),
                format!("the fields are {}", fields.join(", ")),
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
            Value::String(text) => Err(Error::from(match nearest(text, variants) {
                Some(meant) if variants.len() > 1 => Problem::new(
                    format!("unknown value {text:?}"),
                    format!("did you mean {meant}? One of: {known}"),
                ),
                Some(meant) => Problem::new(
                    format!("unknown value {text:?}"),
                    format!("did you mean {meant}?"),
                ),
                None => Problem::new(
                    format!("unknown value {text:?}"),
                    format!("one of: {known}"),
                ),
            })),
            other => Err(Error::from(Problem::new(
                format!("expected one word, but found {}", describe(other)),
                format!("one of: {known}"),
            ))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct map identifier ignored_any
    }
}

/// Gives a [`Field`](super::Field) its path and value, and reports why it has none.
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
        seed.deserialize(self.node.clone()).inspect_err(|error| {
            let Problem { message, hint } = error.problem.clone();
            let path = error.path.as_ref().unwrap_or(&self.node.path);
            self.node.sinks.problems.error(path, message, hint);
        })
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
        let child = self.node.child(self.node.path.index(self.next), value);
        self.next += 1;
        let path = Rc::clone(&child.path);
        seed.deserialize(child)
            .map(Some)
            .map_err(|error| error.within(&path))
    }
}

/// A node as a list with one item.
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
    /// Keeps the entries whose keys are `known`, and reports the others.
    fn new(node: Node<'a>, known: Option<&[&'static str]>) -> Self {
        let mut entries = Vec::new();
        for (key, value) in node.value.as_mapping().into_iter().flatten() {
            match (key.as_str(), known) {
                (None, _) => node.report_key(key, known),
                (Some(key), Some(known)) if !known.contains(&key) => {
                    // A place for anchors, as in compose and OpenAPI files.
                    let is_extension = node.path.segments().is_empty() && key.starts_with("x-");
                    if !is_extension {
                        node.report_unknown(key, known);
                    }
                }
                (Some(key), _) => entries.push((key, value)),
            }
        }
        Self {
            node,
            known: entries,
            next: 0,
        }
    }
}

impl Node<'_> {
    /// Reports a key of this mapping that is not text.
    fn report_key(&self, key: &Value, known: Option<&[&'static str]>) {
        let (key, spelling) = unmarked(key);
        let written = match key {
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(value) => Some(value.to_string()),
            _ => None,
        };
        let written = spelling.map(str::to_owned).or(written);
        let hint = match (key, &written, known) {
            (Value::Mapping(_), ..) => {
                "if {{ … }} is a placeholder, fill it in before tollgate reads the file; a text that begins with a brace must be in quotes".to_owned()
            }
            (_, _, Some(known)) => format!("the fields are {}", known.join(", ")),
            (_, Some(text), None) => format!("write \"{text}\", in quotes"),
            (_, None, None) => "write a text before the colon".to_owned(),
        };
        let found = match spelling {
            Some(spelling) => format!("YAML reads {spelling} as {}", describe(key)),
            None => format!("this is {}", describe(key)),
        };
        let message = format!("the name of a field is a text, but {found}");
        let problems = self.sinks.problems;
        match written {
            Some(text) => problems.error_at_name(&self.path.key(&text), message, hint),
            None => problems.error(&self.path, message, hint),
        }
    }

    /// Reports a field of this mapping that is none of `known`.
    fn report_unknown(&self, key: &str, known: &[&'static str]) {
        let with_value = key.split_once(':').filter(|(name, _)| known.contains(name));
        let meant = nearest(key, known).filter(|_| with_value.is_none());
        let hint = match (with_value, meant) {
            (Some((name, value)), _) => format!("put a space after the colon: {name}: {value}"),
            (None, Some(meant)) => format!("did you mean {meant}?"),
            (None, None) => format!("the fields are {}", known.join(", ")),
        };
        let problem = Problem::new("unknown field", hint);
        let path = self.path.key(key);
        self.sinks.problems.unknown_field(&path, problem, meant);
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
        let child = self.node.child(self.node.path.key(key), value);
        let path = Rc::clone(&child.path);
        seed.deserialize(child).map_err(|error| error.within(&path))
    }
}
