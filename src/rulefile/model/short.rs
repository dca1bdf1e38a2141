//! Values that can be written in a short form (a word or a list) or with fields.

use serde::{
    Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::rulefile::decode::{SHORT, SHORT_TEXT};

/// Decodes a value with fields, or its short form, which the visitor reads. Unknown fields are
/// reported as those of any struct are.
pub(super) fn deserialize<'de, D: Deserializer<'de>, V: Visitor<'de>>(
    deserializer: D,
    fields: &'static [&'static str],
    visitor: V,
) -> Result<V::Value, D::Error> {
    deserializer.deserialize_struct(SHORT, fields, visitor)
}

/// Likewise, where the short form is a text and must not be a number in disguise.
pub(super) fn deserialize_text<'de, D: Deserializer<'de>, V: Visitor<'de>>(
    deserializer: D,
    fields: &'static [&'static str],
    visitor: V,
) -> Result<V::Value, D::Error> {
    deserializer.deserialize_struct(SHORT_TEXT, fields, visitor)
}

/// Decodes the fields in a visitor's `visit_map`, which [`deserialize`] has checked.
pub(super) fn fields<'de, A: MapAccess<'de>, T: serde::Deserialize<'de>>(
    map: A,
) -> Result<T, A::Error> {
    T::deserialize(MapAccessDeserializer::new(map))
}

/// The name of a field, without the mark of one that is a keyword of Rust.
pub(super) const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', rest @ ..] => match std::str::from_utf8(rest) {
            Ok(rest) => rest,
            Err(_) => name,
        },
        _ => name,
    }
}

/// Defines a struct of optional fields, with the list of their names.
macro_rules! optional_fields {
    ($(#[$attribute:meta])* $vis:vis struct $name:ident { $($(#[$field_attribute:meta])* $field:ident: $type:ty,)+ }) => {
        #[derive(Debug, Clone, serde::Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
        $(#[$attribute])*
        $vis struct $name {
            $($(#[$field_attribute])* $vis $field: Option<crate::rulefile::decode::Field<$type>>,)+
        }

        impl $name {
            const FIELDS: &'static [&'static str] = &[$(super::short::plain(stringify!($field))),+];
        }
    };
}

pub(super) use optional_fields;
