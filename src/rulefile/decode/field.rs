//! A field: a value with its path in the file.

use std::{cell::RefCell, fmt, marker::PhantomData};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::rulefile::yaml::FieldPath;

/// A value with its path; `None` if the value was wrong, which has been reported.
#[derive(Debug, Clone)]
pub(in crate::rulefile) struct Field<T> {
    path: usize,
    pub(in crate::rulefile) value: Option<T>,
}

/// The paths of the fields that were decoded.
///
/// A [`Field`] holds only the number of its path, because a serde deserializer can hand over
/// nothing but plain values.
#[derive(Default)]
pub(in crate::rulefile) struct FieldPaths(RefCell<Vec<FieldPath>>);

impl FieldPaths {
    /// The path of a field; the root for a field that was never decoded.
    pub(in crate::rulefile) fn of<T>(&self, field: &Field<T>) -> FieldPath {
        let paths = self.0.borrow();
        paths.get(field.path).cloned().unwrap_or_default()
    }

    /// Adds a path, and returns its number.
    pub(super) fn add(&self, path: FieldPath) -> usize {
        let mut paths = self.0.borrow_mut();
        paths.push(path);
        paths.len() - 1
    }
}

/// The name by which [`Field`] asks [`Node`](super::node::Node) for its path.
pub(super) const FIELD: &str = "tollgate::rulefile::Field";

/// The name of a struct that has a short form, which its visitor reads.
pub(in crate::rulefile) const SHORT: &str = "tollgate::rulefile::Short";

/// Likewise, where the short form is a text.
pub(in crate::rulefile) const SHORT_TEXT: &str = "tollgate::rulefile::ShortText";

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
                // The error has been reported where it happened.
                let value = map.next_value().ok();
                Ok(Field { path, value })
            }
        }

        deserializer.deserialize_newtype_struct(FIELD, FieldVisitor(PhantomData))
    }
}

impl<T> Field<T> {
    /// A field whose value cannot be decoded at all.
    pub(super) fn missing() -> Self {
        Self {
            path: 0,
            value: None,
        }
    }
}
