//! How the numbers and booleans of a text are spelled.
//!
//! YAML reads `+49170123456` as the number 49170123456 and `0x1F` as 31. Where a number is meant,
//! that is right; where a text is meant, it is another text. The library gives only the value, so a
//! second pass along the tree marks each value and each key that is not spelled in its plain form.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_yaml::{
    Value,
    value::{Tag, TaggedValue},
};

/// The tag of a marked value and its spelling. No tag in a text can have a space.
const MARK: &str = "spelled otherwise";

/// Marks each number and boolean of `tree`, which `text` was read as, that is spelled in another
/// than its plain form.
pub(super) fn mark(text: &str, mut tree: Value) -> Value {
    // The text has been read once, so it can be read again.
    let _ = Marker(&mut tree).deserialize(serde_yaml::Deserializer::from_str(text));
    tree
}

/// A value without its mark, and its spelling if it was marked.
pub(in crate::rulefile) fn unmarked(value: &Value) -> (&Value, Option<&str>) {
    if let Value::Tagged(tagged) = value
        && tagged.tag == MARK
        && let Some([value, Value::String(spelling)]) =
            tagged.value.as_sequence().map(Vec::as_slice)
    {
        return (value, Some(spelling));
    }
    (value, None)
}

/// Reads the text again along a value of its tree.
struct Marker<'a>(&'a mut Value);

impl<'de> DeserializeSeed<'de> for Marker<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.0 {
            Value::Number(_) | Value::Bool(_) => deserializer.deserialize_str(self),
            Value::Sequence(_) => deserializer.deserialize_seq(self),
            Value::Mapping(_) => deserializer.deserialize_map(self),
            Value::Null | Value::String(_) | Value::Tagged(_) => {
                deserializer.deserialize_ignored_any(IgnoredAny).map(drop)
            }
        }
    }
}

impl<'de> Visitor<'de> for Marker<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what was read before")
    }

    /// A scalar as it is spelled.
    fn visit_str<E>(self, spelling: &str) -> Result<(), E> {
        let plain = match &*self.0 {
            Value::Number(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            _ => return Ok(()),
        };
        if spelling != plain {
            *self.0 = Value::Tagged(Box::new(TaggedValue {
                tag: Tag::new(MARK),
                value: Value::Sequence(vec![self.0.clone(), spelling.into()]),
            }));
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for item in self.0.as_sequence_mut().into_iter().flatten() {
            seq.next_element_seed(Marker(item))?;
        }
        seq.next_element::<IgnoredAny>()?
            .map_or(Ok(()), |_| Err(A::Error::custom("another item")))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut odd_keys = Vec::new();
        for (key, value) in self.0.as_mapping_mut().into_iter().flatten() {
            if key.is_string() {
                map.next_key::<IgnoredAny>()?;
            } else {
                let mut marked = key.clone();
                map.next_key_seed(Marker(&mut marked))?;
                if marked != *key {
                    odd_keys.push((key.clone(), marked));
                }
            }
            map.next_value_seed(Marker(value))?;
        }
        if !odd_keys.is_empty()
            && let Some(fields) = self.0.as_mapping_mut()
        {
            *fields = std::mem::take(fields)
                .into_iter()
                .map(|(key, value)| {
                    let marked = odd_keys.iter().find(|(plain, _)| *plain == key);
                    (marked.map_or(key, |(_, marked)| marked.clone()), value)
                })
                .collect();
        }
        map.next_key::<IgnoredAny>()?
            .map_or(Ok(()), |_| Err(A::Error::custom("another key")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_another_than_their_plain_form_are_marked() {
        let text = "{ a: 0, 31: 1, 0x1F0: +5, +6: { True: x }, \"+7\": y, [0x1F]: z, true: 2 }";
        let tree = mark(text, serde_yaml::from_str(text).unwrap());
        let fields = tree.as_mapping().unwrap();
        let spelled = |fields: &serde_yaml::Mapping| -> Vec<Option<String>> {
            let keys = fields.keys().map(|key| unmarked(key).1);
            keys.map(|spelling| spelling.map(str::to_owned)).collect()
        };
        let [odd, signed] = ["0x1F0", "+6"].map(|spelling| Some(spelling.to_owned()));
        assert_eq!(spelled(fields), [None, None, odd, signed, None, None, None]);
        let values: Vec<&Value> = fields.values().collect();
        assert_eq!(unmarked(values[2]), (&Value::from(5), Some("+5")));
        let within = values[3].as_mapping().unwrap();
        assert_eq!(spelled(within), [Some("True".to_owned())]);
    }

    #[test]
    fn values_in_another_than_their_plain_form_are_marked() {
        let text = "
plain: [5, -5, true, '+5', word, ~]
odd: { a: +5, b: 0x1F, c: [0o17, True], d: 1.50 }
again: &x { e: +6 }
merged: *x
";
        let tree = mark(text, serde_yaml::from_str(text).unwrap());
        let at = |path: &[&str]| {
            let value = path
                .iter()
                .fold(&tree, |value, key| match key.parse::<usize>() {
                    Ok(index) => &value[index],
                    Err(_) => &value[*key],
                });
            unmarked(value).1
        };
        for index in ["0", "1", "2", "3", "4", "5"] {
            assert_eq!(at(&["plain", index]), None, "{index}");
        }
        assert_eq!(at(&["odd", "a"]), Some("+5"));
        assert_eq!(at(&["odd", "b"]), Some("0x1F"));
        assert_eq!(at(&["odd", "c", "0"]), Some("0o17"));
        assert_eq!(at(&["odd", "c", "1"]), Some("True"));
        assert_eq!(at(&["odd", "d"]), Some("1.50"));
        assert_eq!(at(&["again", "e"]), Some("+6"));
        assert_eq!(at(&["merged", "e"]), Some("+6"));
    }
}
