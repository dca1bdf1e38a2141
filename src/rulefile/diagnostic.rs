//! Diagnostics of a rule file: where, what is wrong, and what to do.

use std::fmt;

use serde::Serialize;

use crate::problem::Problem;

/// How serious a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but probably does not do what was intended.
    Warning,
}

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How serious it is.
    pub severity: Severity,
    /// The file name as the caller passed it.
    pub file: String,
    /// Line, counted from 1; 0 for the whole file.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// How many characters the caret underlines, at least 1.
    pub width: usize,
    /// The field, like `rules[2].match.path`; empty for the whole file.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The offending line; of a very long one, the part around the position.
    pub source: String,
    /// The column of the position in `source`: `column`, unless the line is very long.
    pub source_column: usize,
}

/// A position in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location<'a> {
    /// The line, counted from 1.
    pub(super) line: usize,
    /// The column in characters, counted from 1.
    pub(super) column: usize,
    /// How many characters are marked, at least 1.
    pub(super) width: usize,
    /// The line's text.
    pub(super) source: &'a str,
}

/// All errors and warnings of a rule file and the files that it names, in the order of their lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Diagnostics {
    /// The file name as the caller passed it.
    pub file: String,
    /// Errors and warnings.
    pub list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// The diagnostics of a file that cannot be read at all.
    pub fn unreadable(file: &str, reason: &str, hint: &'static str) -> Self {
        let problem = Problem::new(format!("the file cannot be read: {reason}"), hint);
        let location = Location::WHOLE_FILE;
        let diagnostic = Diagnostic::new(file, location, Severity::Error, "", &problem);
        Self {
            file: file.to_owned(),
            list: vec![diagnostic],
        }
    }

    /// Whether the file cannot be used.
    pub fn has_errors(&self) -> bool {
        self.of(Severity::Error).next().is_some()
    }

    /// The diagnostics with this severity.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Diagnostic> {
        self.list
            .iter()
            .filter(move |diagnostic| diagnostic.severity == severity)
    }

    /// The first error on one line, for logs and `/readyz`, with the number of further ones.
    pub fn summary(&self) -> String {
        let more = match self.of(Severity::Error).count() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        match self.of(Severity::Error).next() {
            Some(first) => format!("{}{}{more}", Where(first), first.headline()),
            None => self.file.clone(),
        }
    }
}

impl Location<'_> {
    /// No position: the problem concerns the whole file.
    pub(super) const WHOLE_FILE: Self = Self {
        line: 0,
        column: 0,
        width: 1,
        source: "",
    };
}

/// The longest line shown whole, in characters.
const MAX_SHOWN: usize = 200;
/// How much of a longer line is shown before the position.
const SHOWN_BEFORE: usize = 60;
/// The longest message and field name; they repeat text from the file.
const MAX_TEXT: usize = 600;

impl Diagnostic {
    /// Creates a diagnostic of a file whose lines and values may have any length.
    pub(super) fn new(
        file: &str,
        place: Location<'_>,
        severity: Severity,
        field: &str,
        problem: &Problem,
    ) -> Self {
        let Location {
            line,
            column,
            width,
            source,
        } = place;
        let (source, source_column) = excerpt(source, column);
        let left = source.chars().count() + 1 - source_column;
        Self {
            severity,
            file: file.to_owned(),
            line,
            column,
            width: width.min(left).max(1),
            field: one_line(field),
            message: one_line(&problem.message),
            hint: (!problem.hint.is_empty()).then(|| one_line(&problem.hint)),
            source,
            source_column,
        }
    }

    /// Says how many problems of a file are not shown.
    pub(super) fn omitted(file: &str, severity: Severity, number: usize) -> Self {
        let problem = Problem::new(
            format!("{number} more problems not shown"),
            "fix the ones above first",
        );
        Self::new(file, Location::WHOLE_FILE, severity, "", &problem)
    }

    fn headline(&self) -> String {
        let warning = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        if self.field.is_empty() {
            format!("{warning}{}", self.message)
        } else {
            format!("{warning}{}: {}", self.field, self.message)
        }
    }
}

/// The part of a line around a column, and the column within that part.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let length = line.chars().count();
    let column = column.clamp(1, length + 1);
    if length <= MAX_SHOWN {
        return (line.to_owned(), column);
    }
    let start = (column - 1).saturating_sub(SHOWN_BEFORE);
    let mut shown: String = line.chars().skip(start).take(MAX_SHOWN).collect();
    if start + MAX_SHOWN < length {
        shown.push('…');
    }
    if start > 0 {
        shown.insert(0, '…');
    }
    (shown, column - start + usize::from(start > 0))
}

/// Escapes and shortens a text that may repeat anything from the file, so that it stays on one
/// line.
fn one_line(text: &str) -> String {
    let escaped = |out: &mut String, c: char| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    };
    let (half, length) = (MAX_TEXT / 2, text.chars().count());
    let mut out = String::new();
    if length > MAX_TEXT {
        text.chars().take(half).for_each(|c| escaped(&mut out, c));
        out.push('…');
        let end = text.chars().skip(length - half);
        end.for_each(|c| escaped(&mut out, c));
    } else {
        text.chars().for_each(|c| escaped(&mut out, c));
    }
    out
}

struct Where<'a>(&'a Diagnostic);

impl fmt::Display for Where<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Diagnostic {
            file, line, column, ..
        }) = self;
        if *line == 0 {
            write!(f, "{file}: ")
        } else {
            write!(f, "{file}:{line}:{column}: ")
        }
    }
}

/// Prints diagnostics as compilers do:
///
/// ```text
/// config/rules.yaml:12:12: rules[1].limit: "fortnight" is not a unit of time
///    12 |     limit: 5/fortnight
///       |            ^^^^^^^^^^^
///   hint: units are ms, s, m, h, day and week
/// ```
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}{}", Where(diagnostic), diagnostic.headline())?;
            if diagnostic.line > 0 {
                let number = diagnostic.line;
                let indent = " ".repeat(diagnostic.source_column.saturating_sub(1));
                let caret = "^".repeat(diagnostic.width.max(1));
                write!(
                    f,
                    "\n{number:>6} | {}\n       | {indent}{caret}",
                    diagnostic.source
                )?;
            }
            if let Some(hint) = &diagnostic.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

/// `1 rule`, `2 rules`.
pub fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows the middle, the beginning and the end of a very long line, with the caret under the
    /// same character.
    #[test]
    fn a_long_line_is_shown_around_the_place() {
        let line = (0..1_000).fold(String::new(), |line, n| format!("{line}[{n:03}]"));
        let at = |column| {
            let place = Location {
                line: 1,
                column,
                width: 5_000,
                source: &line,
            };
            Diagnostic::new("r.yaml", place, Severity::Error, "", &Problem::new("m", ""))
        };
        for column in [1, 2, 60, 61, 62, 63, 2_500, 4_939, 4_999, 5_000] {
            let told = at(column);
            let shown = told.source.chars().nth(told.source_column - 1);
            assert_eq!(shown, line.chars().nth(column - 1), "{told:?}");
            let length = told.source.chars().count();
            assert!(length <= MAX_SHOWN + 2, "{told:?}");
            assert!(told.source_column - 1 + told.width <= length, "{told:?}");
            assert_eq!(told.column, column);
        }
        let end = at(5_001);
        assert_eq!(end.source_column, end.source.chars().count() + 1);
        let whole = Location {
            line: 1,
            column: 3,
            width: 2,
            source: "abcd",
        };
        let whole = Diagnostic::new("r.yaml", whole, Severity::Error, "", &Problem::new("m", ""));
        assert_eq!(
            (&*whole.source, whole.source_column, whole.width),
            ("abcd", 3, 2)
        );
    }

    #[test]
    fn a_long_text_is_shown_by_its_beginning_and_end() {
        let long = format!("{:?} is not a rate", "x".repeat(100_000));
        let told = one_line(&long);
        assert_eq!(told.chars().count(), MAX_TEXT + 1);
        assert!(told.starts_with("\"xxx") && told.ends_with("xxx\" is not a rate"));
        assert_eq!(one_line("a\nb"), "a\\nb");
    }
}
