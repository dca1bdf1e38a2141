//! One YAML file on its way to a rule set: its text, and everything found wrong with it.

use std::{borrow::Cow, cell::RefCell, collections::HashSet};

use serde_yaml::Value;

use super::{
    diagnostic::{Diagnostic, Diagnostics, Location, Severity},
    problems::{FieldProblem, Problems},
    yaml::{FieldPath, Malformed, ParseError, line, node, parse, shown, token_width},
};

/// The most problems reported of one file.
///
/// Each costs another read of the text to find its position, and aliases can repeat a mistake tens
/// of thousands of times in a file of a few kilobytes.
pub(super) const MAX_REPORTED: usize = 100;

/// A file with its problems.
pub(super) struct Document<'a> {
    name: Cow<'a, str>,
    text: Cow<'a, str>,
    /// What is wrong with its fields.
    pub(super) problems: Problems,
    /// Why the text is not YAML. It has its position already.
    malformed: RefCell<Option<Malformed>>,
    included: RefCell<Included>,
}

/// Problems in the files that a file names.
#[derive(Default)]
struct Included {
    diagnostics: Vec<Diagnostic>,
    /// File, field and message of each problem: several rules may name one file.
    reported: HashSet<(String, String, String)>,
}

impl<'a> Document<'a> {
    pub(super) fn new(name: impl Into<Cow<'a, str>>, text: impl Into<Cow<'a, str>>) -> Self {
        let mut text = text.into();
        // Some editors begin files with a byte order mark.
        if let Some(rest) = text.strip_prefix('\u{feff}') {
            text = rest.to_owned().into();
        }
        Self {
            name: name.into(),
            text,
            problems: Problems::default(),
            malformed: RefCell::default(),
            included: RefCell::default(),
        }
    }

    /// The file, as messages name it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where a field is, as messages say it: `rules.yaml:12`.
    pub(super) fn place(&self, path: &FieldPath) -> String {
        let line = node(&self.text, path.segments(), false).map(|at| shown(&self.text, at).0);
        match line {
            Some(line) => format!("{}:{line}", self.name),
            None => self.name.to_string(),
        }
    }

    /// The tree; `None` if the text is not YAML, which is then reported.
    pub(super) fn parse(&self) -> Option<Value> {
        match parse(&self.text) {
            Ok(value) => return Some(value),
            Err(ParseError::Malformed(malformed)) => {
                self.malformed.replace(Some(malformed));
            }
            Err(ParseError::Node(path, problem)) => {
                self.problems.error(&path, problem.message, problem.hint);
            }
        }
        None
    }

    /// Adds what is wrong in a file that this one names, unless it was added before.
    pub(super) fn include(&self, other: Document<'_>) {
        let mut included = self.included.borrow_mut();
        let name = other.name.to_string();
        let is_new = |problem: &FieldProblem| {
            let field = problem.path.to_string();
            let message = problem.problem.message.to_string();
            included.reported.insert((name.clone(), field, message))
        };
        for diagnostic in other.diagnostics_of(is_new).list {
            if !included.diagnostics.contains(&diagnostic) {
                included.diagnostics.push(diagnostic);
            }
        }
    }

    /// Adds what is wrong in a file that is no YAML.
    pub(super) fn include_list(&self, found: Vec<Diagnostic>) {
        self.included.borrow_mut().diagnostics.extend(found);
    }

    /// Everything that is wrong, in the order of the lines. Of more than [`MAX_REPORTED`] problems
    /// the errors come first, and the rest is counted.
    pub(super) fn into_diagnostics(self) -> Diagnostics {
        self.diagnostics_of(|_| true)
    }

    fn diagnostics_of(self, wanted: impl FnMut(&FieldProblem) -> bool) -> Diagnostics {
        let mut problems = self.problems.into_list();
        problems.retain(wanted);
        problems.sort_by_key(|problem| problem.severity);
        let omitted = problems.split_off(problems.len().min(MAX_REPORTED));
        let text = Text {
            name: &self.name,
            text: &self.text,
        };
        let mut list: Vec<Diagnostic> = problems.iter().map(|p| text.diagnostic(p)).collect();
        list.sort_by_key(|d| (d.line, d.column));
        list.dedup();
        if let Some(first) = omitted.first() {
            let number = omitted.len();
            list.push(Diagnostic::omitted(&self.name, first.severity, number));
        }
        if let Some(malformed) = self.malformed.into_inner() {
            list.push(text.malformed(&malformed));
        }
        list.extend(self.included.into_inner().diagnostics);
        Diagnostics {
            file: self.name.into_owned(),
            list,
        }
    }
}

/// The text of a file, for finding positions.
struct Text<'a> {
    name: &'a str,
    text: &'a str,
}

impl Text<'_> {
    fn diagnostic(&self, found: &FieldProblem) -> Diagnostic {
        let field = found.path.to_string();
        let (line, column, at_name) = self.position(found);
        let source = self::line(self.text, line);
        let location = Location {
            line,
            column,
            width: token_width(source, column, at_name),
            source,
        };
        Diagnostic::new(self.name, location, found.severity, &field, &found.problem)
    }

    /// Line and column of the problem's field, and whether they are those of its name.
    ///
    /// A node from a merge key has no position of its own: that of the nearest node above it is
    /// used.
    fn position(&self, found: &FieldProblem) -> (usize, usize, bool) {
        let mut segments = found.path.segments();
        let mut at_name = found.at_name;
        loop {
            if let Some(position) = node(self.text, segments, at_name) {
                let (line, column) = shown(self.text, position);
                return (line, column, at_name);
            }
            let Some((_, parent)) = segments.split_last() else {
                return (1, 1, at_name);
            };
            segments = parent;
            at_name = false;
        }
    }

    fn malformed(&self, malformed: &Malformed) -> Diagnostic {
        let Malformed {
            line,
            column,
            width,
            problem,
        } = malformed;
        let location = Location {
            line: *line,
            column: *column,
            width: *width,
            source: self::line(self.text, *line),
        };
        Diagnostic::new(self.name, location, Severity::Error, "", problem)
    }
}
