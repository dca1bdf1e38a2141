//! Why a value is not what it should be, in words of the rule file.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use crate::rules::yaml::Path;

/// A message, with `\nhint: …` where there is one, and its place if that is not the field in which it is found.
#[derive(Debug)]
pub(in crate::rules) struct Error {
    pub(super) text: String,
    pub(super) place: Option<Path>,
}

impl Error {
    pub(super) fn new(text: String) -> Self {
        Self { text, place: None }
    }

    /// This error, which happened at `path` if it is not known to have happened further inside.
    pub(super) fn within(mut self, path: &Path) -> Self {
        self.place.get_or_insert_with(|| path.clone());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(wrong_type(found, &expected.to_string()))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(wrong_type(found, &expected.to_string()))
    }
}

/// Says in words of the rule file that a value is of a wrong kind. `expected` is serde's name of a type, or a visitor's own
/// text, which may end in `\nhint: …`.
fn wrong_type(found: Unexpected<'_>, expected: &str) -> String {
    let shown = match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number:?}"),
        Unexpected::Str(text) => format!("the text {text:?}"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "fields".to_owned(),
        _ => "nothing".to_owned(),
    };
    let (expected, hint) = match expected {
        "a string" => ("a text", text_hint(found)),
        "u64" => ("a whole number", number_hint(found)),
        "a boolean" => ("true or false", "write true or false".to_owned()),
        "a map" | "a YAML mapping" => (
            "names with values",
            "write them like { name: value }".to_owned(),
        ),
        other => match other.split_once("\nhint: ") {
            Some((expected, hint)) => (expected, hint.to_owned()),
            None => (other, "write that, or remove the field".to_owned()),
        },
    };
    format!("expected {expected}, and found {shown}\nhint: {hint}")
}

fn text_hint(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("write \"{value}\", in quotes"),
        Unexpected::Unsigned(number) => format!("write \"{number}\", in quotes"),
        Unexpected::Signed(_) | Unexpected::Float(_) => "put it in quotes".to_owned(),
        _ => "write one text".to_owned(),
    }
}

fn number_hint(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) if text.parse::<u64>().is_ok() => {
            format!("write {text}, without quotes")
        }
        Unexpected::Float(number) if number.fract() == 0.0 && number >= 0.0 => {
            format!("write {number:.0}")
        }
        _ => "write it in digits alone".to_owned(),
    }
}
