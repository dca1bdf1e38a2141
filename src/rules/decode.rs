//! From the YAML tree to the model of [`file`](super::file), collecting errors instead of stopping at the first.
//!
//! A serde deserializer gives up at its first error. This one is made to go on at every [`Field`]: what is wrong within one
//! is recorded with its path, the field is left without a value, and the next one is read. Unknown keys are recorded too, with the
//! name that was probably meant.

use std::{borrow::Cow, cell::RefCell, fmt, marker::PhantomData, rc::Rc};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor, value::StrDeserializer,
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
            single: false,
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

    /// Whether something is wrong in the field at `path` or within it.
    pub(super) fn troubled(&self, path: &Path) -> bool {
        let problems = self.problems.borrow();
        problems
            .iter()
            .any(|problem| problem.path.0.starts_with(&path.0))
    }

    /// Whether an unknown field beside the one that is missed at `path` was probably meant to be it.
    pub(super) fn misspelt(&self, path: &Path, name: &str) -> bool {
        let meant = did_you_mean_hint(name);
        self.problems.borrow().iter().any(|problem| {
            let beside = problem.path.0.split_last().map(|(_, parent)| parent);
            problem.at_key && beside == Some(&path.0) && problem.hint.as_ref() == Some(&meant)
        })
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    fn record(&self, path: &Path, at_key: bool, error: &Error) {
        let (message, hint) = split_hint(&error.text);
        self.problems.borrow_mut().push(Problem {
            severity: Severity::Error,
            path: error.place.as_ref().unwrap_or(path).clone(),
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

/// A message, with `\nhint: …` where there is one, and its place if that is not the field in which it is found.
#[derive(Debug)]
pub(super) struct Error {
    text: String,
    place: Option<Path>,
}

impl Error {
    fn new(text: String) -> Self {
        Self { text, place: None }
    }

    /// This error, which happened at `path` if it is not known to have happened further inside.
    fn within(mut self, path: &Path) -> Self {
        self.place.get_or_insert_with(|| path.clone());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(wrong_type(found, &expected.to_string()))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(wrong_type(found, &expected.to_string()))
    }
}

/// Says in words of the rule file that a value is of a wrong kind. `expected` is serde's name of a type, or a visitor's own
/// text, which may end in `\nhint: …`.
fn wrong_type(found: Unexpected<'_>, expected: &str) -> String {
    let shown = match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number:?}"),
        Unexpected::Str(text) => format!("the text {text:?}"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "fields".to_owned(),
        _ => "nothing".to_owned(),
    };
    let (expected, hint) = match expected {
        "a string" => ("a text", text_hint(found)),
        "u64" => ("a whole number", number_hint(found)),
        "a boolean" => ("true or false", "write true or false".to_owned()),
        "a map" | "a YAML mapping" => (
            "names with values",
            "write them like { name: value }".to_owned(),
        ),
        other => match other.split_once("\nhint: ") {
            Some((expected, hint)) => (expected, hint.to_owned()),
            None => (other, "write that, or remove the field".to_owned()),
        },
    };
    format!("expected {expected}, and found {shown}\nhint: {hint}")
}

fn text_hint(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("write \"{value}\", in quotes"),
        Unexpected::Unsigned(number) => format!("write \"{number}\", in quotes"),
        Unexpected::Signed(_) | Unexpected::Float(_) => "put it in quotes".to_owned(),
        _ => "write one text".to_owned(),
    }
}

fn number_hint(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) if text.parse::<u64>().is_ok() => {
            format!("write {text}, without quotes")
        }
        Unexpected::Float(number) if number.fract() == 0.0 && number >= 0.0 => {
            format!("write {number:.0}")
        }
        _ => "write it in digits alone".to_owned(),
    }
}

/// A node of the tree, on its way to become a value.
#[derive(Clone)]
struct Node<'a> {
    value: &'a Value,
    path: Rc<Path>,
    findings: &'a Findings,
    /// Whether it stands where a list could, and is taken for the only item.
    single: bool,
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

fn did_you_mean_hint(meant: &str) -> String {
    format!("did you mean {meant}?")
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
