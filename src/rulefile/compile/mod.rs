//! Compiles the model into a [`RuleSet`]: what the values mean together, and every error that a
//! single value does not show.
//!
//! Each file adds methods to one [`Compiler`], for the part of the model that it is named after. A
//! method returns `None`, or leaves a part out, where it has reported an error.

mod answer;
mod ban;
mod cost;
mod file;
mod key;
mod lease;
mod limits;
mod matching;
mod overrides;
mod rule;
mod rules;
mod tiers;

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use super::{
    addresses::Lists,
    beside::{LoadContext, beside},
    decode::{Field, FieldPaths},
    document::Document,
    include::Source,
    problems::Problems,
    yaml::FieldPath,
};
use crate::{
    problem::Problem,
    request::{ClientIpPolicy, PathPolicy},
    rules::RuleSet,
};

/// Compiles a rule file and the files that it includes. Problems go to their documents; `None` if
/// nothing could be compiled at all.
pub(super) fn compile(
    sources: &[Source<'_>],
    context: LoadContext<'_>,
    lists: &Lists<'_>,
) -> Option<RuleSet> {
    let (main, _) = sources.split_first()?;
    let compiler = Compiler {
        document: &main.document,
        path: &main.path,
        problems: &main.document.problems,
        paths: &main.paths,
        context,
        lists,
        client_ip: ClientIpPolicy::default(),
        path_policy: PathPolicy::default(),
    };
    compiler.rule_set(sources)
}

/// Compiles one file: where its fields are, where its problems go, and what all of its rules share.
struct Compiler<'a, 'text> {
    document: &'a Document<'text>,
    /// The file's path, relative to the main rule file's directory.
    path: &'a Path,
    problems: &'a Problems,
    paths: &'a FieldPaths,
    context: LoadContext<'a>,
    /// The lists of addresses that rules of all files name.
    lists: &'a Lists<'a>,
    client_ip: ClientIpPolicy,
    path_policy: PathPolicy,
}

/// The value of an optional field that was decoded without error.
fn value<T>(field: Option<&Field<T>>) -> Option<&T> {
    field.and_then(|field| field.value.as_ref())
}

impl<'a> Compiler<'a, '_> {
    /// The compiler of another file, with the settings of this one.
    fn of<'text>(
        &self,
        document: &'a Document<'text>,
        path: &'a Path,
        paths: &'a FieldPaths,
    ) -> Compiler<'a, 'text> {
        Compiler {
            document,
            path,
            problems: &document.problems,
            paths,
            context: self.context,
            lists: self.lists,
            client_ip: self.client_ip.clone(),
            path_policy: self.path_policy,
        }
    }
}

impl Compiler<'_, '_> {
    /// The path of a file that this one names, for reading it.
    fn beside(&self, other: &str) -> PathBuf {
        beside(self.path, Path::new(other))
    }

    /// The name in messages of a file that this one names.
    fn shown(&self, other: &str) -> String {
        let path = beside(Path::new(self.document.name()), Path::new(other));
        path.display().to_string()
    }

    /// The path of a field.
    fn path<T>(&self, field: &Field<T>) -> FieldPath {
        self.paths.of(field)
    }

    /// The path of a field, if it was written.
    fn path_of<T>(&self, field: Option<&Field<T>>) -> Option<FieldPath> {
        field.map(|field| self.path(field))
    }

    /// Reports an error in a field.
    fn error<T>(
        &self,
        field: &Field<T>,
        message: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) {
        self.problems.error(&self.path(field), message, hint);
    }

    /// Reports a problem with the value of a field.
    fn report<T>(&self, field: &Field<T>, problem: Problem) {
        self.error(field, problem.message, problem.hint);
    }

    /// Whether an error was reported in a field or within it.
    fn has_error<T>(&self, field: &Field<T>) -> bool {
        self.problems.has_error(&self.path(field))
    }
}
