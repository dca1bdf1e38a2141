//! Values that are read from one text.

use std::fmt;

use serde::de::{self, Visitor};

/// A value that is read from one text.
pub(in crate::rules) trait FromText: Sized {
    const EXPECTED: &'static str;

    /// The error may end in `\nhint: …`.
    fn from_text(text: &str) -> Result<Self, String>;

    /// What a whole number means; `None` if it is as wrong as anything else.
    fn from_number(_number: u64) -> Option<Result<Self, String>> {
        None
    }
}

pub(in crate::rules) struct TextVisitor<T>(pub(in crate::rules) std::marker::PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
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
    pub(in crate::rules) const NEW: Self = Self(std::marker::PhantomData);
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
