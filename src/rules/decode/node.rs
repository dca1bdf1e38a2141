//! The tree as a serde deserializer.

use std::rc::Rc;

use serde::de::{
    DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    value::StrDeserializer,
};
use serde_yaml::Value;

use super::{Error, FIELD, Findings, SHORT, did_you_mean_hint};
use crate::rules::{
    diagnostic::did_you_mean,
    yaml::{Path, Step},
};

/// A node of the tree, on its way to become a value.
#[derive(Clone)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    pub(super) path: Rc<Path>,
    pub(super) findings: &'a Findings,
    /// Whether it stands where a list could, and is taken for the only item.
    pub(super) single: bool,
}

impl<'a> Node<'a> {
    fn child(&self, step: Step, value: &'a Value) -> Self {
        Self {
            value,
            path: Rc::new(self.path.child(step)),
            findings: self.findings,
            single: false,
        }
    }

    /// Why fields that stand in place of a list are not its only item: none of them is known.
    fn no_item(&self, known: &[&'static str]) -> Option<Error> {
        let fields = self.value.as_mapping().filter(|_| self.single)?;
        let names: Vec<&str> = fields.keys().filter_map(Value::as_str).collect();
        if names.iter().any(|name| name.starts_with('-')) {
            return Some(Error::new(
                "expected a list, and found fields whose names begin with a dash\nhint: put a space after each dash that begins an item"
                    .to_owned(),
            ));
        }
        let strange = |name: &&str| !known.contains(name) && did_you_mean(name, known).is_none();
        (names.len() == fields.len() && !names.is_empty() && names.iter().all(strange)).then(|| {
            Error::new(format!(
                "expected a list, and found fields of other names\nhint: begin each item with a dash; its fields are {}",
                known.join(", ")
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
            Value::Tagged(tagged) => Err(Error::new(format!(
                "tags like {} are not supported\nhint: write the plain value",
                tagged.tag
            ))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            // A `match:` that was left empty would match everything, and a `key:` be everybody's.
            Value::Null => {
                let error = Error::new(
                    "the field has no value\nhint: write one, or remove the field; a value that begins with # must be in quotes"
                        .to_owned(),
                );
                self.findings.record(&self.path, true, &error);
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    /// A list of one may be written without the list.
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
            Value::Mapping(_) => match self.no_item(fields) {
                Some(error) => Err(error),
                None => visitor.visit_map(Entries::new(self, Some(fields))),
            },
            _ if name == SHORT => self.deserialize_any(visitor),
            Value::Null => Err(Error::new(format!(
                "there is nothing here\nhint: the fields are {}",
                fields.join(", ")
            ))),
            other => Err(Error::new(format!(
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
            Value::String(text) => Err(Error::new(match did_you_mean(text, variants) {
                Some(meant) if variants.len() > 1 => {
                    format!("unknown value {text:?}\nhint: did you mean {meant}? One of: {known}")
                }
                Some(meant) => format!("unknown value {text:?}\nhint: did you mean {meant}?"),
                None => format!("unknown value {text:?}\nhint: one of: {known}"),
            })),
            other => Err(Error::new(format!(
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
pub(in crate::rules) fn describe(value: &Value) -> String {
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
        let path = Rc::clone(&child.path);
        seed.deserialize(child)
            .map(Some)
            .map_err(|error| error.within(&path))
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
                let plain = match key {
                    Value::Number(number) => Some(number.to_string()),
                    Value::Bool(value) => Some(value.to_string()),
                    _ => None,
                };
                let found = describe(key);
                let hint = match (&plain, known) {
                    (_, Some(known)) => format!("the fields are {}", known.join(", ")),
                    (Some(text), None) => format!("write \"{text}\", in quotes"),
                    (None, None) => "write a text in front of the colon".to_owned(),
                };
                let hint = match key {
                    Value::Mapping(_) => {
                        "if {{ … }} is a place to fill in, fill it in before tollgate reads the file; a text that begins with a brace must be in quotes"
                    }
                    _ => &hint,
                };
                let error = Error::new(format!(
                    "a field's name is a text, and this is {found}\nhint: {hint}"
                ));
                let (path, at_key) = match plain {
                    Some(text) => (node.path.child(Step::Key(text)), true),
                    None => (Path::clone(&node.path), false),
                };
                node.findings.record(&path, at_key, &error);
                continue;
            };
            match known {
                Some(known) if !known.contains(&key) => {
                    let path = node.path.child(Step::Key(key.to_owned()));
                    let error = Error::new(format!(
                        "unknown field\nhint: {}",
                        hint_for_unknown(key, known)
                    ));
                    node.findings.record(&path, true, &error);
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

/// What to do about a field that is none of `known`.
fn hint_for_unknown(key: &str, known: &[&'static str]) -> String {
    if let Some((name, value)) = key.split_once(':')
        && known.contains(&name)
    {
        return format!("put a space after the colon: {name}: {value}");
    }
    match did_you_mean(key, known) {
        Some(meant) => did_you_mean_hint(meant),
        None => format!("the fields are {}", known.join(", ")),
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
        let child = self.node.child(Step::Key(key.to_owned()), value);
        let path = Rc::clone(&child.path);
        seed.deserialize(child).map_err(|error| error.within(&path))
    }
}
