//! A rule file as a tree, and where in the text each node stands.
//!
//! The YAML library gives values without positions, but every error that it reports has one. So when there is something
//! to report about a node, the text is read once more by a [`Probe`] that follows the path to that node and fails there: the
//! error's place is the node's. A good file is read once; a bad one is small enough to be read some more times.

use std::{cell::RefCell, collections::HashSet, fmt};

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_yaml::Value;

use super::diagnostic::{Diagnostic, Report};

/// One step from a node to a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The way from the root to a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    pub(super) fn child(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Something to report, before its place in the text is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) path: Path,
    /// Whether the key is meant, not the value.
    pub(super) at_key: bool,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// A text on its way to a rule set, with everything that is wrong so far.
pub(super) struct Document<'a> {
    text: &'a str,
    pub(super) problems: Vec<Problem>,
    /// An error of the YAML itself, which has its place already.
    broken: Option<Diagnostic>,
}

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            problems: Vec::new(),
            broken: None,
        }
    }

    /// The tree; `None` when the text is not YAML, which is then reported.
    pub(super) fn parse(&mut self) -> Option<Value> {
        let parsed = serde_yaml::from_str::<Value>(self.text).and_then(|mut value| {
            value.apply_merge()?;
            Ok(value)
        });
        match parsed {
            Ok(value) => Some(value),
            Err(error) => {
                self.broken = Some(self.twice_written().unwrap_or_else(|| self.syntax(&error)));
                None
            }
        }
    }

    pub(super) fn problem(&mut self, path: &Path, message: impl Into<String>, hint: &str) {
        self.problems.push(Problem {
            path: path.clone(),
            at_key: false,
            message: message.into(),
            hint: Some(hint.to_owned()),
        });
    }

    /// Everything that is wrong, in the order of the lines.
    pub(super) fn report(self, file: &str) -> Report {
        let mut diagnostics: Vec<Diagnostic> = self
            .problems
            .iter()
            .map(|problem| self.diagnostic(problem))
            .collect();
        diagnostics.sort_by_key(|d| (d.line, d.column));
        diagnostics.dedup();
        diagnostics.extend(self.broken);
        Report {
            file: file.to_owned(),
            diagnostics,
        }
    }

    fn diagnostic(&self, problem: &Problem) -> Diagnostic {
        // A node that came in through a merge key has no place of its own: its parent's is the nearest.
        let mut steps = &problem.path.0[..];
        let mut at_key = problem.at_key;
        let (line, column) = loop {
            match self.locate(steps, at_key) {
                Some(place) => break place,
                None if steps.is_empty() => break (1, 1),
                None => {
                    steps = &steps[..steps.len() - 1];
                    at_key = false;
                }
            }
        };
        let source = self.line(line);
        Diagnostic {
            line,
            column,
            width: token_width(source, column, at_key),
            field: problem.path.to_string(),
            message: problem.message.clone(),
            hint: problem.hint.clone(),
            source: source.to_owned(),
        }
    }

    fn syntax(&self, error: &serde_yaml::Error) -> Diagnostic {
        let (line, column) = error
            .location()
            .map_or((0, 0), |at| (at.line(), at.column()));
        Diagnostic {
            line,
            column,
            width: 1,
            field: String::new(),
            message: syntax_message(&error.to_string()),
            hint: self.syntax_hint(line),
            source: self.line(line).to_owned(),
        }
    }

    /// The first key that its mapping has already. (The library's own error has the place of the mapping.)
    fn twice_written(&self) -> Option<Diagnostic> {
        let key = RefCell::new(None);
        let error = Twice(&key)
            .deserialize(serde_yaml::Deserializer::from_str(self.text))
            .err()?;
        let place = error.location()?;
        let key = key.into_inner()?;
        let source = self.line(place.line());
        Some(Diagnostic {
            line: place.line(),
            column: place.column(),
            width: token_width(source, place.column(), true),
            field: String::new(),
            message: format!("the field {key:?} is written twice"),
            hint: Some("keep the one you mean".to_owned()),
            source: source.to_owned(),
        })
    }

    fn line(&self, number: usize) -> &str {
        number
            .checked_sub(1)
            .and_then(|index| self.text.lines().nth(index))
            .unwrap_or_default()
    }

    fn syntax_hint(&self, line: usize) -> Option<String> {
        let source = self.line(line);
        let text = if source.trim_start_matches(' ').starts_with('\t') || source.contains('\t') {
            "YAML is indented with spaces: replace the tab"
        } else if source.contains(['{', '}', '*', '&', '@', '%']) {
            "quote values with { } * & @ or %, like path: \"/users/{id}\""
        } else if source.matches(": ").count() > 1 {
            "quote a value that holds a colon and a space"
        } else {
            return None;
        };
        Some(text.to_owned())
    }

    /// Line and column of a node, or of the key that leads to it.
    fn locate(&self, steps: &[Step], at_key: bool) -> Option<(usize, usize)> {
        let found = RefCell::new(false);
        let probe = Probe {
            steps,
            at_key,
            found: &found,
        };
        let error = probe
            .deserialize(serde_yaml::Deserializer::from_str(self.text))
            .err()?;
        let place = error.location()?;
        found.into_inner().then(|| (place.line(), place.column()))
    }
}

/// The message and, if it carries one, its hint.
pub(super) fn split_hint(text: &str) -> (String, Option<String>) {
    match text.split_once("\nhint: ") {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (text.to_owned(), None),
    }
}

/// The library's message without the place, which stands in front anyway.
fn syntax_message(text: &str) -> String {
    let end = text.find(" at line ").unwrap_or(text.len());
    let message = &text[..end];
    match message.split_once(": ") {
        Some((path, rest)) if path.starts_with("rules") => rest.to_owned(),
        _ => message.to_owned(),
    }
}

/// How long the key or scalar is that begins at `column`.
fn token_width(line: &str, column: usize, is_key: bool) -> usize {
    let rest: String = line.chars().skip(column.saturating_sub(1)).collect();
    let end = match rest.chars().next() {
        _ if is_key => rest.find(':').unwrap_or(rest.len()),
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |at| at + 2),
        Some('[' | '{') => 1,
        _ => {
            let comment = rest.find(" #").unwrap_or(rest.len());
            let flow = rest.find([',', ']', '}']).unwrap_or(rest.len());
            let key = rest
                .find(": ")
                .or_else(|| rest.strip_suffix(':').map(str::len));
            comment.min(flow).min(key.unwrap_or(rest.len()))
        }
    };
    rest[..end].trim_end().chars().count().max(1)
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
