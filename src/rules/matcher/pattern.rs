//! Regular expressions, alone and many at once: bounded, and always matched against the whole
//! value.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use crate::problem::Problem;

/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 1_000;
/// The most memory of one compiled pattern, in bytes.
const MAX_COMPILED: usize = 256 * 1024;
/// The most memory that one search of a pattern uses for its states, in bytes.
const MAX_STATES: usize = 1024 * 1024;

/// How many patterns share an automaton, and how much memory automata take.
#[derive(Debug, Clone, Copy)]
pub struct SetLimits {
    /// The largest automaton, in bytes.
    ///
    /// The library does not determinise an automaton whose fewest states would not fit into its
    /// memory for states, and is then hundreds of times slower. With the same bound for both, that
    /// has not been seen.
    pub compiled: usize,
    /// The most automata.
    pub automata: usize,
}

impl Default for SetLimits {
    fn default() -> Self {
        Self {
            compiled: 4 * 1024 * 1024,
            automata: 16,
        }
    }
}

/// The most memory that each thread uses for the states of one automaton of many patterns, in
/// bytes.
const MAX_STATES_OF_SET: usize = 4 * 1024 * 1024;

/// A regular expression that matches whole values. It works on bytes: `.` is any byte, `\w` and
/// `\d` are ASCII.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl Pattern {
    /// Compiles a pattern of at most 1,000 bytes. The error says what is wrong, and what to write
    /// instead.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        if text.is_empty() {
            return Err(Problem::new(
                "the regex is empty",
                "write a pattern for the whole value, like \"v[0-9]+\"",
            ));
        }
        if text.len() > MAX_PATTERN {
            return Err(Problem::new(
                format!(
                    "the regex has {} bytes, but at most {MAX_PATTERN} are allowed",
                    text.len()
                ),
                "write a list of shorter ones, or several rules",
            ));
        }
        // By itself first: `a)|(b` would only become a pattern with something around it.
        build(text).map_err(|error| explain(&error))?;
        let regex = build(&anchored(text)).map_err(|error| match error {
            regex::Error::Syntax(_) => Problem::new(
                "the regex is not complete",
                "with (?x), do not end it with a comment",
            ),
            other => explain(&other),
        })?;
        Ok(Self {
            text: text.to_owned(),
            regex,
        })
    }

    /// Whether the whole value matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn regex(&self) -> &Regex {
        &self.regex
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Patterns in one automaton or a few. Each reads a value once, however many patterns it has.
#[derive(Debug, Clone, Default)]
pub struct PatternSet {
    /// Each automaton with the number of patterns before its own.
    automata: Vec<(usize, RegexSet)>,
    len: usize,
}

impl PatternSet {
    /// Compiles as many of the patterns as fit, from the first on.
    pub fn new(patterns: &[&Pattern], limits: SetLimits) -> Self {
        let texts: Vec<String> = patterns
            .iter()
            .map(|pattern| anchored(&pattern.text))
            .collect();
        let mut set = Self::default();
        set.add(&texts, limits);
        set
    }

    /// Adds patterns, in halves if they are too big together; `false` if not all were added.
    fn add(&mut self, texts: &[String], limits: SetLimits) -> bool {
        if texts.is_empty() {
            return true;
        }
        if self.automata.len() == limits.automata {
            return false;
        }
        let built = RegexSetBuilder::new(texts)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(limits.compiled)
            .dfa_size_limit(MAX_STATES_OF_SET)
            .build();
        match built {
            Ok(automaton) => {
                self.automata.push((self.len, automaton));
                self.len += texts.len();
                true
            }
            Err(_) if texts.len() == 1 => false,
            Err(_) => {
                let (one, other) = texts.split_at(texts.len() / 2);
                self.add(one, limits) && self.add(other, limits)
            }
        }
    }

    /// How many of the given patterns it has, counted from the first.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The patterns that match a value, by their positions in the order given.
    pub fn matching(&self, value: &[u8]) -> impl Iterator<Item = usize> {
        self.automata.iter().flat_map(move |(before, automaton)| {
            let found = automaton.matches(value).into_iter();
            found.map(move |place| before + place)
        })
    }
}

/// A pattern that must match the whole value.
pub(in crate::rules) fn anchored(text: &str) -> String {
    format!("^(?:{text})$")
}

fn build(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .unicode(false)
        .dot_matches_new_line(true)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_STATES)
        .build()
}

/// The library's message as a problem.
fn explain(error: &regex::Error) -> Problem {
    match error {
        regex::Error::CompiledTooBig(_) => Problem::new(
            "the regex takes too much memory",
            "use smaller counts in {…}",
        ),
        regex::Error::Syntax(text) => {
            let reason = text
                .rsplit_once("error: ")
                .map_or(text.as_str(), |(_, reason)| reason);
            let reason = reason.lines().next().unwrap_or_default().trim();
            let hint = if reason.contains("look-around") {
                "move the pattern under `not`"
            } else if reason.contains("backreferences") {
                "write it without"
            } else if reason.contains("repetition operator missing") {
                "*, + and ? repeat the element before them; .* matches any text"
            } else if reason.contains("Unicode") {
                "patterns match bytes: in paths write %C3%A9 for \u{e9}, elsewhere \\xC3\\xA9"
            } else {
                "the syntax is described at https://docs.rs/regex; in YAML, single quotes keep backslashes"
            };
            Problem::new(format!("the regex is not valid: {reason}"), hint)
        }
        other => Problem::new(
            format!("the regex cannot be used: {other}"),
            "write a simpler one",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_about_the_whole_value() {
        let matches = |text: &str, value: &[u8]| Pattern::parse(text).unwrap().matches(value);
        assert!(matches("v[0-9]+", b"v12"));
        assert!(!matches("v[0-9]+", b"v12x"));
        assert!(!matches("v[0-9]+", b"xv12"));
        assert!(!matches("a|b", b"ab"));
        assert!(matches("a|b", b"b"));
        assert!(!matches("a", b"a\n"));
        assert!(matches(".*bot.*", b"\xff\nbot"));
        assert!(matches("(?i)BOT", b"bot"));
        assert!(matches("\\w\\d", b"a1"));
        assert!(matches("\\xC3\\xA9", "\u{e9}".as_bytes()));
    }

    #[test]
    fn many_patterns_are_as_each_of_them() {
        let texts = [
            "v[0-9]+",
            "a|b",
            ".*bot.*",
            "(?i)BOT",
            "(?x) a # b\n",
            "\\xC3.",
            "v1",
        ];
        let patterns: Vec<Pattern> = texts
            .iter()
            .map(|text| Pattern::parse(text).unwrap())
            .collect();
        let patterns: Vec<&Pattern> = patterns.iter().collect();
        let few = SetLimits {
            compiled: 1_000,
            ..SetLimits::default()
        };
        for limits in [SetLimits::default(), few] {
            let set = PatternSet::new(&patterns, limits);
            assert_eq!(set.len(), patterns.len());
            assert_eq!(set.automata.len() > 1, limits.compiled == 1_000);
            for value in ["v1", "v12x", "a", "ab", "\u{e9}", "x\nbot", "Bot", ""] {
                let value = value.as_bytes();
                let each: Vec<usize> = (0..patterns.len())
                    .filter(|index| patterns[*index].matches(value))
                    .collect();
                assert_eq!(set.matching(value).collect::<Vec<_>>(), each, "{value:?}");
            }
        }
        assert_eq!(PatternSet::default().matching(b"v1").count(), 0);
    }

    #[test]
    fn with_too_many_patterns_the_first_are_taken() {
        let patterns: Vec<Pattern> = (0..20)
            .map(|number| Pattern::parse(&format!("/[a-z]+/{number}")).unwrap())
            .collect();
        let patterns: Vec<&Pattern> = patterns.iter().collect();
        let limits = SetLimits {
            compiled: 2_000,
            automata: 2,
        };
        let set = PatternSet::new(&patterns, limits);
        assert!((1..20).contains(&set.len()), "{}", set.len());
        let last = set.len() - 1;
        let value = format!("/abc/{last}");
        assert_eq!(set.matching(value.as_bytes()).collect::<Vec<_>>(), [last]);
        let none = SetLimits {
            compiled: 100,
            ..limits
        };
        assert!(PatternSet::new(&patterns, none).is_empty());
    }

    #[test]
    fn patterns_that_cannot_be_are_refused_in_one_line_with_a_hint() {
        let long = "a".repeat(MAX_PATTERN + 1);
        for (text, expected) in [
            ("", "is empty"),
            ("[a", "unclosed character class"),
            ("a)|(b", "unopened group"),
            ("(?x)a # b", "is not complete"),
            ("(?=a)", "look-around"),
            ("(a)\\1", "backreferences"),
            ("\\pL", "Unicode"),
            ("(a{1000}){1000}", "too much memory"),
            ("(?:x{99}){99}{99}", "too much memory"),
            (&long, "1001 bytes"),
        ] {
            let error = Pattern::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.contains("\nhint: "), "{text}: {error}");
            assert_eq!(error.lines().count(), 2, "{text}: {error}");
        }
    }
}
