//! Lines that could not be read: how many, why, and the first of them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::words::words;

words! {
    /// Why a line could not be read.
    pub enum Why {
        /// It is in none of the known formats.
        Format => "format",
        /// It is in a known format, and its time cannot be read.
        Time => "time",
        /// It is about no HTTP request: a connection without one, or a message of the proxy.
        NoRequest => "no_request",
        /// It is longer than 64 KiB.
        TooLong => "too_long",
    }
}

impl Why {
    /// In words.
    pub(super) const fn in_words(self) -> &'static str {
        match self {
            Self::Format => "not in a format that is known",
            Self::Time => "without a time that can be read",
            Self::NoRequest => "about no request",
            Self::TooLong => "longer than 64 KiB",
        }
    }
}

/// How many lines are shown.
const EXAMPLES: usize = 5;

/// How much of a line is shown, in characters.
const SHOWN: usize = 200;

/// A line that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The log.
    pub log: String,
    /// The number of the line, from 1.
    pub line: u64,
    /// Why it could not be read.
    pub why: Why,
    /// How the line begins.
    pub text: String,
}

/// A log that could not be read to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// The log.
    pub log: String,
    /// After how many lines.
    pub lines: u64,
    /// Why.
    pub error: String,
}

/// What could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// How many lines.
    pub lines: u64,
    /// How many for which reason, by its word.
    pub why: BTreeMap<&'static str, u64>,
    /// The first of them.
    pub examples: Vec<Example>,
    /// Logs that could not be read to their end.
    pub broken: Vec<Broken>,
}

impl Unread {
    /// Counts a line. `log` names the log.
    pub(super) fn add(&mut self, why: Why, log: &str, line: u64, text: &[u8]) {
        self.lines += 1;
        *self.why.entry(why.as_str()).or_default() += 1;
        if self.examples.len() < EXAMPLES {
            // A character has four bytes at most.
            let begin = &text[..text.len().min(4 * SHOWN)];
            let begin = String::from_utf8_lossy(begin);
            self.examples.push(Example {
                log: log.to_owned(),
                line,
                why,
                text: begin.chars().take(SHOWN).collect(),
            });
        }
    }
}
