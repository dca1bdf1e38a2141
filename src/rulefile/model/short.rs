//! Values that can be written in a short form, as one word or list, or with fields.

use serde::{
    Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::rulefile::decode::SHORT;

/// Reads a value that has fields, or a short form which the visitor takes. Unknown fields are recorded, with what was meant,
/// as those of any struct are.
pub(super) fn deserialize<'de, D: Deserializer<'de>, V: Visitor<'de>>(
    deserializer: D,
    fields: &'static [&'static str],
    visitor: V,
) -> Result<V::Value, D::Error> {
    deserializer.deserialize_struct(SHORT, fields, visitor)
}

/// What is left to a visitor's `visit_map`: the fields, which [`deserialize`] has looked through.
pub(super) fn fields<'de, A: MapAccess<'de>, T: serde::Deserialize<'de>>(
    map: A,
) -> Result<T, A::Error> {
    T::deserialize(MapAccessDeserializer::new(map))
}

/// A struct of optional fields with the list of their names.
macro_rules! optional_fields {
    ($(#[$attribute:meta])* $vis:vis struct $name:ident { $($(#[$field_attribute:meta])* $field:ident: $type:ty,)+ }) => {
        #[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        $(#[$attribute])*
        $vis struct $name {
            $($(#[$field_attribute])* $vis $field: Option<crate::rulefile::decode::Field<$type>>,)+
        }

        impl $name {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),+];
        }
    };
}

pub(super) use optional_fields;
