//! A message for people in two halves: what is wrong, and what to do about it.
//!
//! Every check of input that people write (the rule file, an option, a proxy's configuration)
//! fails with a [`Problem`]. Whoever reports it decides how the halves are laid out.

use std::{borrow::Cow, error::Error, fmt};

/// What is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// What is wrong: lower case, one line, names the thing.
    pub message: Cow<'static, str>,
    /// What to do: one line; empty if there is nothing to add.
    pub hint: Cow<'static, str>,
}

/// What comes between the two halves where both are written as one text.
const SEPARATOR: &str = "\nhint: ";

impl Problem {
    /// A problem with its hint.
    pub fn new(message: impl Into<Cow<'static, str>>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// A problem from text that its [`Display`](fmt::Display) may have written.
    ///
    /// Serde carries errors as text only, so this is how a problem gets through a deserializer.
    pub fn from_text(text: &str) -> Self {
        let (message, hint) = text.split_once(SEPARATOR).unwrap_or((text, ""));
        Self::new(message.to_owned(), hint.to_owned())
    }
}

/// The message, then `hint: …` on a line of its own.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, "{SEPARATOR}{}", self.hint)?;
        }
        Ok(())
    }
}

impl Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_survives_being_written_as_text() {
        for problem in [
            Problem::new("\"x\" is not a rate", "write one like 5/m"),
            Problem::new("no hint", ""),
        ] {
            assert_eq!(Problem::from_text(&problem.to_string()), problem);
        }
    }
}
