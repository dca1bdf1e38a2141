//! What is wrong with a rule file: where, why, and what to do about it.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, and probably does not do what was meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named.
    pub file: String,
    /// Line, counted from 1; 0 if the place is not known.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// How many characters the caret underlines, at least 1.
    pub width: usize,
    /// The field, as `rules[2].match.path`; empty for the whole file.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The offending line.
    pub source: String,
}

/// Everything that is wrong with a rule file and those that belong to it, in the order of their lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Report {
    /// The file, as it was named.
    pub file: String,
    /// Errors and warnings.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Whether the file cannot be used.
    pub fn has_errors(&self) -> bool {
        self.of(Severity::Error).next().is_some()
    }

    /// What is as bad as that.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics
            .iter()
            .filter(move |diagnostic| diagnostic.severity == severity)
    }

    /// The first error diagnostic on one line, for logs and `/readyz`, with the number of further ones.
    pub fn summary(&self) -> String {
        let more = match self.of(Severity::Error).count() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        match self.of(Severity::Error).next() {
            Some(first) => format!("{}{}{more}", Place(first), first.headline()),
            None => self.file.clone(),
        }
    }
}

impl Diagnostic {
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

struct Place<'a>(&'a Diagnostic);

impl fmt::Display for Place<'_> {
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

/// As compilers print it:
///
/// ```text
/// config/rules.yaml:12:12: rules[1].limit: "5/fortnight": "fortnight" is not a unit of time
///    12 |     limit: 5/fortnight
///       |            ^^^^^^^^^^^
///   hint: units are ms, s, m, h, day and week
/// ```
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}{}", Place(diagnostic), diagnostic.headline())?;
            if diagnostic.line > 0 {
                let number = diagnostic.line;
                let indent = " ".repeat(diagnostic.column.saturating_sub(1));
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

/// The name of `known` that `given` was probably meant to be.
pub fn did_you_mean<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (distance(given, name), *name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_recognised_and_another_word_is_not() {
        let known = ["limit", "limits", "match", "name"];
        assert_eq!(did_you_mean("limt", &known), Some("limit"));
        assert_eq!(did_you_mean("nam", &known), Some("name"));
        assert_eq!(did_you_mean("colour", &known), None);
    }
}
