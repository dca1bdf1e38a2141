//! Finds positions in a YAML text with visitors that fail there: only the library's errors have
//! positions.

use std::{cell::RefCell, collections::HashSet, fmt};

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::path::Segment;

/// The line and column of the node that `segments` lead to, or of the last key on the way.
pub(in crate::rulefile) fn node(
    text: &str,
    segments: &[Segment],
    at_key: bool,
) -> Option<(usize, usize)> {
    let found = RefCell::new(false);
    let locator = NodeLocator {
        segments,
        at_key,
        found: &found,
    };
    let place = fails_at(locator, text)?;
    found.into_inner().then_some(place)
}

/// The first key that its mapping has twice, with the line and column of the second one.
pub(in crate::rulefile) fn repeated_key(text: &str) -> Option<(String, usize, usize)> {
    let key = RefCell::new(None);
    let (line, column) = fails_at(DuplicateKeyFinder(&key), text)?;
    Some((key.into_inner()?, line, column))
}

/// Where the second document of a text begins.
pub(in crate::rulefile) fn second_document(text: &str) -> Option<(usize, usize)> {
    let second = serde_yaml::Deserializer::from_str(text).nth(1)?;
    let nowhere = NodeLocator {
        segments: &[],
        at_key: false,
        found: &RefCell::new(false),
    };
    let place = nowhere.deserialize(second).err()?.location()?;
    Some((place.line(), place.column()))
}

/// Where an editor shows the library's `line` and `column`.
///
/// For the library a line also ends at a carriage return and at three characters of Unicode. An
/// unexpected end of the text is reported after the last line.
pub(in crate::rulefile) fn shown(text: &str, (line, column): (usize, usize)) -> (usize, usize) {
    let mut rest = text;
    for _ in 1..line {
        let Some(at) = rest.find(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) else {
            rest = "";
            break;
        };
        let length = rest[at..].chars().next().map_or(0, char::len_utf8);
        rest = rest[at..]
            .strip_prefix("\r\n")
            .unwrap_or(&rest[at + length..]);
    }
    if rest.is_empty() {
        let last = text.lines().last().unwrap_or_default();
        return (text.lines().count().max(1), last.chars().count() + 1);
    }
    let before = &text[..text.len() - rest.len()];
    let begun = before.rsplit_once('\n').map_or(before, |(_, begun)| begun);
    (
        before.matches('\n').count() + 1,
        begun.chars().count() + column,
    )
}

fn fails_at<'de>(seed: impl DeserializeSeed<'de>, text: &'de str) -> Option<(usize, usize)> {
    let error = seed
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .err()?;
    let place = error.location()?;
    Some((place.line(), place.column()))
}

/// Follows `segments` and fails at their end.
#[derive(Clone, Copy)]
struct NodeLocator<'a> {
    segments: &'a [Segment],
    at_key: bool,
    found: &'a RefCell<bool>,
}

impl NodeLocator<'_> {
    fn found<E: serde::de::Error>(&self) -> E {
        self.found.replace(true);
        E::custom("here")
    }
}

impl<'de> DeserializeSeed<'de> for NodeLocator<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeLocator<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A scalar in the middle or at the end of the path: both stop here.
        if self.segments.is_empty() {
            self.found.replace(true);
        }
        f.write_str("a node")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Err(self.scalar())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((Segment::Index(wanted), rest)) = self.segments.split_first() else {
            return Err(self.scalar());
        };
        for _ in 0..*wanted {
            seq.next_element::<IgnoredAny>()?;
        }
        seq.next_element_seed(NodeLocator {
            segments: rest,
            ..self
        })?;
        Err(A::Error::custom("no such element"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Segment::Key(wanted), rest)) = self.segments.split_first() else {
            return Err(self.scalar());
        };
        let key = KeyLocator {
            wanted,
            stop: self.at_key && rest.is_empty(),
            locator: self,
        };
        while let Some(is_wanted) = map.next_key_seed(key)? {
            if is_wanted {
                map.next_value_seed(NodeLocator {
                    segments: rest,
                    ..self
                })?;
                break;
            }
            map.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::custom("no such key"))
    }
}

impl NodeLocator<'_> {
    fn scalar<E: serde::de::Error>(&self) -> E {
        if self.segments.is_empty() {
            self.found()
        } else {
            E::custom("the path goes on")
        }
    }
}

/// Compares a key, and fails at it if the key itself is wanted.
#[derive(Clone, Copy)]
struct KeyLocator<'a> {
    wanted: &'a str,
    stop: bool,
    locator: NodeLocator<'a>,
}

impl<'de> DeserializeSeed<'de> for KeyLocator<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyLocator<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        match key == self.wanted {
            true if self.stop => Err(self.locator.found()),
            is_wanted => Ok(is_wanted),
        }
    }
}

/// Reads everything and fails at the first key that its mapping has twice, leaving the key in the
/// cell.
#[derive(Clone, Copy)]
struct DuplicateKeyFinder<'a>(&'a RefCell<Option<String>>);

impl<'de> DeserializeSeed<'de> for DuplicateKeyFinder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DuplicateKeyFinder<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let seen = RefCell::new(HashSet::new());
        while map
            .next_key_seed(KeyRecorder {
                seen: &seen,
                duplicate: self.0,
            })?
            .is_some()
        {
            map.next_value_seed(self)?;
        }
        Ok(())
    }
}

/// Fails at a key that has been seen before.
struct KeyRecorder<'a> {
    seen: &'a RefCell<HashSet<String>>,
    duplicate: &'a RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for KeyRecorder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyRecorder<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<(), E> {
        if self.seen.borrow_mut().insert(key.to_owned()) {
            return Ok(());
        }
        self.duplicate.replace(Some(key.to_owned()));
        Err(E::custom("twice"))
    }
}

/// The length of the key or scalar that begins at `column`.
pub(in crate::rulefile) fn token_width(line: &str, column: usize, is_key: bool) -> usize {
    let rest: String = line.chars().skip(column.saturating_sub(1)).collect();
    let end = match rest.chars().next() {
        _ if is_key => rest.find(':').unwrap_or(rest.len()),
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |at| at + 2),
        Some('[' | '{') => 1,
        Some('-') if rest.starts_with("- ") => 1,
        _ => {
            let comment = rest.find(" #").unwrap_or(rest.len());
            // Outside braces and brackets, commas and closing brackets belong to the value.
            let before: String = line.chars().take(column.saturating_sub(1)).collect();
            let is_within = before.contains(['{', '[']);
            let flow = rest.find([',', ']', '}']).filter(|_| is_within);
            let flow = flow.unwrap_or(rest.len());
            let key = rest
                .find(": ")
                .or_else(|| rest.strip_suffix(':').map(str::len));
            comment.min(flow).min(key.unwrap_or(rest.len()))
        }
    };
    rest[..end].trim_end().chars().count().max(1)
}

/// A line of a text, counted from 1; empty if there is none.
pub(in crate::rulefile) fn line(text: &str, number: usize) -> &str {
    number
        .checked_sub(1)
        .and_then(|index| text.lines().nth(index))
        .unwrap_or_default()
}
