//! Decoding errors in the words of the rule file.

use std::fmt;

use serde::de::{self, Unexpected};

use crate::{problem::Problem, rulefile::yaml::FieldPath};

/// An error of the deserializer: a problem, and its path if it is not in the field that fails.
#[derive(Debug)]
pub(in crate::rulefile) struct Error {
    pub(super) problem: Problem,
    pub(super) path: Option<FieldPath>,
}

impl Error {
    /// This error, which happened at `path` unless it happened further inside.
    pub(super) fn within(mut self, path: &FieldPath) -> Self {
        self.path.get_or_insert_with(|| path.clone());
        self
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            path: None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Problem::from_text(&message.to_string()).into()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        wrong_type(found, &expected.to_string()).into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        wrong_type(found, &expected.to_string()).into()
    }
}

/// The kind of value that a visitor expects, and how to write one.
///
/// It crosses serde as text, as a [`Problem`] does.
#[derive(Debug, Clone, Copy)]
pub(in crate::rulefile) struct Expected {
    kind: &'static str,
    hint: &'static str,
}

impl Expected {
    pub(in crate::rulefile) const fn new(kind: &'static str, hint: &'static str) -> Self {
        Self { kind, hint }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Problem::new(self.kind, self.hint).fmt(f)
    }
}

/// The problem of a value of the wrong kind. `expected` is serde's name of a type, or an
/// [`Expected`] as text.
fn wrong_type(found: Unexpected<'_>, expected: &str) -> Problem {
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
    let expected = match expected {
        "a string" => Problem::new("a text", text_hint(found)),
        "u64" => Problem::new("a whole number", number_hint(found)),
        "a boolean" => Problem::new("true or false", "write true or false"),
        "a map" | "a YAML mapping" => {
            Problem::new("names with values", "write them like { name: value }")
        }
        other => {
            let mut expected = Problem::from_text(other);
            if expected.hint.is_empty() {
                expected.hint = "write that, or remove the field".into();
            }
            expected
        }
    };
    let message = format!("expected {}, but found {shown}", expected.message);
    Problem::new(message, expected.hint)
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
        _ => "write it in digits only".to_owned(),
    }
}
