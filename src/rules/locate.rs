//! Visitors that find a place in a YAML text by failing there: the library's errors are the only things of it that have one.

use std::{cell::RefCell, collections::HashSet, fmt};

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::yaml::Step;

/// Line and column of the node that `steps` lead to, or of the last key on the way to it.
pub(super) fn node(text: &str, steps: &[Step], at_key: bool) -> Option<(usize, usize)> {
    let found = RefCell::new(false);
    let probe = Probe {
        steps,
        at_key,
        found: &found,
    };
    let place = fails_at(probe, text)?;
    found.into_inner().then_some(place)
}

/// The first key that its mapping has already, with its line and column.
pub(super) fn repeated_key(text: &str) -> Option<(String, usize, usize)> {
    let key = RefCell::new(None);
    let (line, column) = fails_at(Twice(&key), text)?;
    Some((key.into_inner()?, line, column))
}

/// Where the second document of a text begins.
pub(super) fn second_document(text: &str) -> Option<(usize, usize)> {
    let second = serde_yaml::Deserializer::from_str(text).nth(1)?;
    let nowhere = Probe {
        steps: &[],
        at_key: false,
        found: &RefCell::new(false),
    };
    let place = nowhere.deserialize(second).err()?.location()?;
    Some((place.line(), place.column()))
}

/// Where an editor shows what the library has found at `line` and `column`. For the library a line also ends at a carriage return
/// and three characters of Unicode; and an end that comes too early lies behind the last line.
pub(super) fn shown(text: &str, (line, column): (usize, usize)) -> (usize, usize) {
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

/// Follows `steps` and fails at their end.
#[derive(Clone, Copy)]
struct Probe<'a> {
    steps: &'a [Step],
    at_key: bool,
    found: &'a RefCell<bool>,
}

impl Probe<'_> {
    fn found<E: serde::de::Error>(&self) -> E {
        self.found.replace(true);
        E::custom("here")
    }
}

impl<'de> DeserializeSeed<'de> for Probe<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Probe<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A scalar where the path goes on, or where it ends: both stop here.
        if self.steps.is_empty() {
            self.found.replace(true);
        }
        f.write_str("a node")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Err(self.scalar())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), rest)) = self.steps.split_first() else {
            return Err(self.scalar());
        };
        for _ in 0..*wanted {
            seq.next_element::<IgnoredAny>()?;
        }
        seq.next_element_seed(Probe {
            steps: rest,
            ..self
        })?;
        Err(A::Error::custom("no such element"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.steps.split_first() else {
            return Err(self.scalar());
        };
        let key = KeyProbe {
            wanted,
            stop: self.at_key && rest.is_empty(),
            probe: self,
        };
        while let Some(is_wanted) = map.next_key_seed(key)? {
            if is_wanted {
                map.next_value_seed(Probe {
                    steps: rest,
                    ..self
                })?;
                break;
            }
            map.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::custom("no such key"))
    }
}

impl Probe<'_> {
    fn scalar<E: serde::de::Error>(&self) -> E {
        if self.steps.is_empty() {
            self.found()
        } else {
            E::custom("the path goes on")
        }
    }
}

/// Compares a key, and fails at it if it is itself what is looked for.
#[derive(Clone, Copy)]
struct KeyProbe<'a> {
    wanted: &'a str,
    stop: bool,
    probe: Probe<'a>,
}

impl<'de> DeserializeSeed<'de> for KeyProbe<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyProbe<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        match key == self.wanted {
            true if self.stop => Err(self.probe.found()),
            is_wanted => Ok(is_wanted),
        }
    }
}

/// Reads everything and fails at the first key that stands in one mapping for the second time, leaving it in the cell.
#[derive(Clone, Copy)]
struct Twice<'a>(&'a RefCell<Option<String>>);

impl<'de> DeserializeSeed<'de> for Twice<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Twice<'_> {
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
            .next_key_seed(NewKey {
                seen: &seen,
                twice: self.0,
            })?
            .is_some()
        {
            map.next_value_seed(self)?;
        }
        Ok(())
    }
}

/// Fails at a key that has been seen.
struct NewKey<'a> {
    seen: &'a RefCell<HashSet<String>>,
    twice: &'a RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<(), E> {
        if self.seen.borrow_mut().insert(key.to_owned()) {
            return Ok(());
        }
        self.twice.replace(Some(key.to_owned()));
        Err(E::custom("twice"))
    }
}
