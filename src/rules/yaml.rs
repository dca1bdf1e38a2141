//! A rule file as a tree, and where in the text each node stands.
//!
//! The YAML library gives values without positions, but every error that it reports has one. So when there is something
//! to report about a node, the text is read once more by a visitor that follows the path to that node and fails there
//! ([`locate`]): the error's place is the node's. A good file is read once; a bad one is small enough to be read some more times.

use std::{collections::HashSet, fmt};

use serde_yaml::Value;

use super::{
    diagnostic::{Diagnostic, Place, Report, Severity},
    locate,
    syntax::{self, Broken},
};

/// The most problems of one file that are told. For each of them the text is read again, and a file of some kilobytes can have
/// tens of thousands: aliases repeat what is wrong.
const MAX_TOLD: usize = 100;

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
    pub(super) severity: Severity,
    pub(super) path: Path,
    /// Whether the key is meant, not the value.
    pub(super) at_key: bool,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// A text on its way to a rule set, with everything that is wrong so far.
pub(super) struct Document<'a> {
    pub(super) name: &'a str,
    text: &'a str,
    pub(super) problems: Vec<Problem>,
    /// An error of the YAML itself, which has its place already.
    broken: Option<Diagnostic>,
    /// What is wrong in the files that belong to this one.
    elsewhere: Vec<Diagnostic>,
    /// File, field and message of what is told in `elsewhere`.
    included: HashSet<(String, String, String)>,
}

impl<'a> Document<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        // Some editors begin files with a mark of their encoding.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self {
            name,
            text,
            problems: Vec::new(),
            broken: None,
            elsewhere: Vec::new(),
            included: HashSet::new(),
        }
    }

    /// The tree; `None` when the text is not YAML, which is then reported.
    pub(super) fn parse(&mut self) -> Option<Value> {
        let parsed = serde_yaml::from_str::<Value>(self.text).and_then(|mut value| {
            if let Some((path, found)) = syntax::bad_merge(&value) {
                self.problem(
                    &path,
                    format!("`<<` takes in the fields of another mapping, and this is {found}"),
                    "write <<: *name, and &name in front of the fields that are meant",
                );
                return Ok(None);
            }
            value.apply_merge()?;
            Ok(Some(value))
        });
        match parsed {
            Ok(Some(Value::Null)) => {
                self.problem(
                    &Path::default(),
                    "the file is empty",
                    "begin it with `version: 1`; all fields are in docs/rules.md",
                );
                None
            }
            Ok(value) => value,
            Err(error) => {
                self.broken = Some(self.twice_written().unwrap_or_else(|| self.syntax(&error)));
                None
            }
        }
    }

    /// Reports what is wrong with the name of a field.
    pub(super) fn problem_with_name(&mut self, path: &Path, message: String, hint: &str) {
        self.problem(path, message, hint);
        if let Some(problem) = self.problems.last_mut() {
            problem.at_key = true;
        }
    }

    pub(super) fn problem(&mut self, path: &Path, message: impl Into<String>, hint: &str) {
        self.push(Severity::Error, path, message.into(), hint);
    }

    /// What can be used and was probably not meant.
    pub(super) fn warning(&mut self, path: &Path, message: impl Into<String>, hint: &str) {
        self.push(Severity::Warning, path, message.into(), hint);
    }

    /// Adds what is wrong in a file that belongs to this one. Several rules can name it: what has been told is not looked for and
    /// told again.
    pub(super) fn include(&mut self, mut other: Document<'_>) {
        let name = other.name;
        other.problems.retain(|problem| {
            let field = problem.path.to_string();
            self.included
                .insert((name.to_owned(), field, problem.message.clone()))
        });
        for diagnostic in other.report().diagnostics {
            if !self.elsewhere.contains(&diagnostic) {
                self.elsewhere.push(diagnostic);
            }
        }
    }

    fn push(&mut self, severity: Severity, path: &Path, message: String, hint: &str) {
        self.problems.push(Problem {
            severity,
            path: path.clone(),
            at_key: false,
            message,
            hint: Some(hint.to_owned()),
        });
    }

    /// Everything that is wrong, in the order of the lines; of very much, errors first, only as much as anybody reads.
    pub(super) fn report(mut self) -> Report {
        self.problems.sort_by_key(|problem| problem.severity);
        let told = self.problems.len().min(MAX_TOLD);
        let untold = self.problems.split_off(told);
        let mut diagnostics: Vec<Diagnostic> = self
            .problems
            .iter()
            .map(|problem| self.diagnostic(problem))
            .collect();
        diagnostics.sort_by_key(|d| (d.line, d.column));
        diagnostics.dedup();
        if let Some(first) = untold.first() {
            let message = format!("further problems that are not told here: {}", untold.len());
            let hint = Some("repair those above first");
            let (place, severity) = (Place::NOWHERE, first.severity);
            let more = Diagnostic::at(self.name, place, severity, "", &message, hint);
            diagnostics.push(more);
        }
        diagnostics.extend(self.broken);
        diagnostics.extend(self.elsewhere);
        Report {
            file: self.name.to_owned(),
            diagnostics,
        }
    }

    fn diagnostic(&self, problem: &Problem) -> Diagnostic {
        // A node that came in through a merge key has no place of its own: its parent's is the nearest.
        let mut steps = &problem.path.0[..];
        let mut at_key = problem.at_key;
        let (line, column) = loop {
            match locate::node(self.text, steps, at_key) {
                Some(place) => break locate::shown(self.text, place),
                None if steps.is_empty() => break (1, 1),
                None => {
                    steps = &steps[..steps.len() - 1];
                    at_key = false;
                }
            }
        };
        let source = self.line(line);
        let place = Place {
            line,
            column,
            width: token_width(source, column, at_key),
            source,
        };
        let field = problem.path.to_string();
        let hint = problem.hint.as_deref();
        let severity = problem.severity;
        Diagnostic::at(self.name, place, severity, &field, &problem.message, hint)
    }

    fn syntax(&self, error: &serde_yaml::Error) -> Diagnostic {
        let Broken {
            line,
            column,
            width,
            message,
            hint,
        } = syntax::explain(self.text, error);
        let place = Place {
            line,
            column,
            width,
            source: self.line(line),
        };
        let hint = Some(&*hint);
        Diagnostic::at(self.name, place, Severity::Error, "", &message, hint)
    }

    /// A key that is written twice. (The library's own error has the place of the mapping, not of the key.)
    fn twice_written(&self) -> Option<Diagnostic> {
        let (key, line, column) = locate::repeated_key(self.text)?;
        let (line, column) = locate::shown(self.text, (line, column));
        let source = self.line(line);
        let place = Place {
            line,
            column,
            width: token_width(source, column, true),
            source,
        };
        let message = format!("the field {key:?} is written twice");
        let hint = Some("keep the one you mean");
        let severity = Severity::Error;
        Some(Diagnostic::at(
            self.name, place, severity, "", &message, hint,
        ))
    }

    fn line(&self, number: usize) -> &str {
        number
            .checked_sub(1)
            .and_then(|index| self.text.lines().nth(index))
            .unwrap_or_default()
    }
}

/// The message and, if it carries one, its hint.
pub(super) fn split_hint(text: &str) -> (String, Option<String>) {
    match text.split_once("\nhint: ") {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (text.to_owned(), None),
    }
}

/// How long the key or scalar is that begins at `column`.
fn token_width(line: &str, column: usize, is_key: bool) -> usize {
    let rest: String = line.chars().skip(column.saturating_sub(1)).collect();
    let end = match rest.chars().next() {
        _ if is_key => rest.find(':').unwrap_or(rest.len()),
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |at| at + 2),
        Some('[' | '{') => 1,
        Some('-') if rest.starts_with("- ") => 1,
        _ => {
            let comment = rest.find(" #").unwrap_or(rest.len());
            // Outside of braces and brackets, commas and more of them belong to the value.
            let before: String = line.chars().take(column.saturating_sub(1)).collect();
            let is_within = before.contains(['{', '[']);
            let flow = rest.find([',', ']', '}']).filter(|_| is_within);
            let flow = flow.unwrap_or(rest.len());
            let key = rest
                .find(": ")
                .or_else(|| rest.strip_suffix(':').map(str::len));
            comment.min(flow).min(key.unwrap_or(rest.len()))
        }
    };
    rest[..end].trim_end().chars().count().max(1)
}
