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

/// The name of `known` that `given` was probably meant to be: one that is spelt nearly so, or of which it is a part.
pub fn did_you_mean<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let nearest = known
        .iter()
        .map(|name| (distance(given, name), *name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name);
    let is_part = |whole: &str, part: &str| {
        let begins = part.len() >= 3 && whole.starts_with(part);
        begins
            || whole
                .strip_suffix(part)
                .is_some_and(|rest| rest.ends_with('_'))
    };
    nearest.or_else(|| {
        let mut names = known.iter().copied();
        names.find(|name| is_part(name, given) || is_part(given, name))
    })
}

/// `1 rule`, `2 rules`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// How many letters must be added, left out, replaced or exchanged with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Of the last two rows.
    let mut above: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i];
        for j in 1..=b.len() {
            let replaced = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(above[j - 2] + 1);
            }
            next.push(least);
        }
        above = std::mem::replace(&mut row, next);
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
        assert_eq!(did_you_mean("nmae", &known), Some("name"));
        assert_eq!(did_you_mean("colour", &known), None);
        let known = ["client_ip", "max", "algorithm"];
        assert_eq!(did_you_mean("ip", &known), Some("client_ip"));
        assert_eq!(did_you_mean("maximum", &known), Some("max"));
        assert_eq!(did_you_mean("algo", &known), Some("algorithm"));
        assert_eq!(did_you_mean("", &known), None);
    }
}
