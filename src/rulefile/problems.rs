//! Everything found wrong with one file so far.
//!
//! Decoding, compiling and linting report here, and look here for what has been reported already.

use std::{borrow::Cow, cell::RefCell};

use super::{diagnostic::Severity, yaml::FieldPath};
use crate::problem::Problem;

/// A problem of a field, before its position in the text is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldProblem {
    pub(super) severity: Severity,
    pub(super) path: FieldPath,
    /// Whether the field's name is wrong, not its value.
    pub(super) at_name: bool,
    pub(super) problem: Problem,
    /// The field that an unknown one was probably meant to be.
    suggestion: Option<&'static str>,
}

/// The problems of one file.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<FieldProblem>>);

impl Problems {
    /// Reports an error: the file cannot be used.
    pub(super) fn error(
        &self,
        path: &FieldPath,
        message: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) {
        self.push(Severity::Error, path, false, Problem::new(message, hint));
    }

    /// Reports an error in the name of a field.
    pub(super) fn error_at_name(
        &self,
        path: &FieldPath,
        message: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) {
        self.push(Severity::Error, path, true, Problem::new(message, hint));
    }

    /// Reports a warning: the file can be used, but this is probably a mistake.
    pub(super) fn warning(
        &self,
        path: &FieldPath,
        message: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) {
        self.push(Severity::Warning, path, false, Problem::new(message, hint));
    }

    /// Reports an unknown field, with the known one that was probably meant.
    pub(super) fn unknown_field(
        &self,
        path: &FieldPath,
        problem: Problem,
        suggestion: Option<&'static str>,
    ) {
        self.push(Severity::Error, path, true, problem);
        if let Some(last) = self.0.borrow_mut().last_mut() {
            last.suggestion = suggestion;
        }
    }

    fn push(&self, severity: Severity, path: &FieldPath, at_name: bool, problem: Problem) {
        self.0.borrow_mut().push(FieldProblem {
            severity,
            path: path.clone(),
            at_name,
            problem,
            suggestion: None,
        });
    }

    /// Whether an error was reported in the field at `path` or within it.
    ///
    /// What such a field lacks is probably a consequence of that error, and not worth another.
    pub(super) fn has_error(&self, path: &FieldPath) -> bool {
        let problems = self.0.borrow();
        let mut errors = problems.iter().filter(|p| p.severity == Severity::Error);
        errors.any(|problem| problem.path.is_within(path))
    }

    /// Whether anything was reported in the field at `path` or within it, a warning included.
    pub(super) fn has_any(&self, path: &FieldPath) -> bool {
        let problems = self.0.borrow();
        problems.iter().any(|problem| problem.path.is_within(path))
    }

    /// Whether an unknown field in the mapping at `path` was probably meant to be `name`.
    pub(super) fn has_misspelt(&self, path: &FieldPath, name: &str) -> bool {
        let problems = self.0.borrow();
        problems.iter().any(|problem| {
            problem.suggestion == Some(name) && problem.path.parent() == Some(path.segments())
        })
    }

    /// All problems, in the order in which they were reported.
    pub(super) fn into_list(self) -> Vec<FieldProblem> {
        self.0.into_inner()
    }
}
