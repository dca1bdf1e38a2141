//! Values read from text.

use std::fmt::{self, Display as _};

use serde::de::{self, Visitor};

use crate::{problem::Problem, rulefile::decode::Expected};

/// A value read from text.
pub(in crate::rulefile) trait FromText: Sized {
    /// The kind of text, and how to write one.
    const EXPECTED: Expected;

    /// Reads the text.
    fn from_text(text: &str) -> Result<Self, Problem>;

    /// The value or problem of a whole number; `None` if it is as wrong as any other value.
    fn from_number(_number: u64) -> Option<Result<Self, Problem>> {
        None
    }
}

pub(in crate::rulefile) struct TextVisitor<T>(pub(in crate::rulefile) std::marker::PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::EXPECTED.fmt(f)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        match T::from_number(number) {
            Some(value) => value.map_err(E::custom),
            None => Err(E::invalid_type(de::Unexpected::Unsigned(number), &self)),
        }
    }
}

impl<T> TextVisitor<T> {
    pub(in crate::rulefile) const NEW: Self = Self(std::marker::PhantomData);
}

macro_rules! deserialize_from_text {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextVisitor(std::marker::PhantomData))
            }
        }
    )*};
}
pub(super) use deserialize_from_text;
