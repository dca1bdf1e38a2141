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
mod limits;
mod matching;
mod overrides;
mod rule;
mod tiers;

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use super::{
    decode::{Field, FieldPaths, decode},
    document::Document,
    model::RuleFile,
    problems::Problems,
    yaml::FieldPath,
};
use crate::{
    hash::HashKey,
    problem::Problem,
    request::{ClientIpPolicy, PathPolicy},
    rules::RuleSet,
};

/// What loading a rule file needs beside its own text.
#[derive(Clone, Copy)]
pub struct LoadContext<'a> {
    /// The key under which secrets are hashed.
    pub hash_key: &'a HashKey,
    /// Reads a file that the rule file names, by its path relative to the rule file's directory.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// Compiles a document. Problems go to the document; `None` if nothing could be compiled at all.
pub(super) fn compile(document: &Document<'_>, context: LoadContext<'_>) -> Option<RuleSet> {
    let tree = document.parse()?;
    // Several rules may name one file: all get the same content, even if it changes meanwhile.
    let known: RefCell<HashMap<PathBuf, String>> = RefCell::default();
    let read = |path: &Path| {
        if let Some(text) = known.borrow().get(path) {
            return Ok(text.clone());
        }
        let text = (context.read)(path)?;
        known.borrow_mut().insert(path.to_owned(), text.clone());
        Ok(text)
    };
    let context = LoadContext {
        read: &read,
        ..context
    };
    let paths = FieldPaths::default();
    let root: Field<RuleFile> = decode(&tree, &document.problems, &paths);
    let compiler = Compiler {
        document,
        problems: &document.problems,
        paths: &paths,
        context,
        client_ip: ClientIpPolicy::default(),
        path_policy: PathPolicy::default(),
    };
    root.value.as_ref().map(|file| compiler.rule_set(file))
}

/// Compiles one file: where its fields are, where its problems go, and what all of its rules share.
struct Compiler<'a, 'text> {
    document: &'a Document<'text>,
    problems: &'a Problems,
    paths: &'a FieldPaths,
    context: LoadContext<'a>,
    client_ip: ClientIpPolicy,
    path_policy: PathPolicy,
}

/// The value of an optional field that was decoded without error.
fn value<T>(field: Option<&Field<T>>) -> Option<&T> {
    field.and_then(|field| field.value.as_ref())
}

impl Compiler<'_, '_> {
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
