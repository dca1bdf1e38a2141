//! From the YAML tree to the model of [`file`](super::file), collecting errors instead of stopping at the first.
//!
//! A serde deserializer gives up at its first error. This one is made to go on at every [`Field`]: what is wrong within one
//! is recorded with its path, the field is left without a value, and the next one is read. Unknown keys are recorded too, with the
//! name that was probably meant.

mod error;
mod node;

use std::{borrow::Cow, cell::RefCell, fmt, marker::PhantomData, rc::Rc};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_yaml::Value;

use self::node::Node;
pub(super) use self::{error::Error, node::describe};
use super::{
    diagnostic::Severity,
    yaml::{Path, Problem, split_hint},
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

fn did_you_mean_hint(meant: &str) -> String {
    format!("did you mean {meant}?")
}
