//! Reads the rule file and the files that it includes, each into a [`Source`].
//!
//! A file comes before those that it includes, and those come in the order in which it names them.
//! That is the order of the rules: a team's rules cannot come before those of the file that
//! includes them, whatever the order of the fields.

use std::{
    borrow::Cow,
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use serde_yaml::Value;

use super::{
    beside::{LoadContext, beside, reason, unreadable},
    decode::{Field, FieldPaths, decode},
    diagnostic::Diagnostics,
    document::Document,
    model::RuleFile,
    yaml::FieldPath,
};
use crate::{glob, problem::Problem};

/// The most rule files.
const MAX_FILES: usize = 1_000;
/// The most bytes of all rule files together.
const MAX_LENGTH: usize = 16 * 1024 * 1024;
/// How many files may include each other in a chain. It bounds recursion.
const MAX_DEPTH: usize = 16;

/// A rule file, as far as it could be read.
pub(super) struct Source<'a> {
    /// Its text and its problems.
    pub(super) document: Document<'a>,
    /// Its path, relative to the main file's directory.
    pub(super) path: PathBuf,
    /// Where it is, by whatever path it was named.
    location: PathBuf,
    /// The paths of its fields.
    pub(super) paths: FieldPaths,
    /// Its fields; `None` if there are none, which has been reported.
    pub(super) content: Option<RuleFile>,
}

/// Reads a rule file and the files that it includes. The first one is the file itself.
pub(super) fn read<'a>(name: &'a str, text: &'a str, context: LoadContext<'a>) -> Vec<Source<'a>> {
    let path = Path::new(name)
        .file_name()
        .map_or_else(PathBuf::new, PathBuf::from);
    let mut reader = Reader {
        name,
        context,
        sources: Vec::new(),
        known: HashSet::new(),
        chain: Vec::new(),
        length: 0,
        is_full: false,
    };
    let location = (context.locate)(&path);
    reader.add(name.into(), text.into(), path, location);
    reader.sources
}

/// Everything that is wrong with the files, in their order.
pub(super) fn diagnostics(name: &str, sources: Vec<Source<'_>>) -> Diagnostics {
    let mut documents = sources.into_iter().map(|source| source.document);
    let Some(main) = documents.next() else {
        return Diagnostics {
            file: name.to_owned(),
            list: Vec::new(),
        };
    };
    documents.for_each(|document| main.include(document));
    main.into_diagnostics()
}

struct Reader<'a> {
    /// The main file, as messages name it.
    name: &'a str,
    context: LoadContext<'a>,
    sources: Vec<Source<'a>>,
    /// The locations of the sources.
    known: HashSet<PathBuf>,
    /// The file being read, and before it the files that led to it.
    chain: Vec<usize>,
    length: usize,
    /// Whether a bound is reached, which is reported once.
    is_full: bool,
}

impl<'a> Reader<'a> {
    fn add(&mut self, name: Cow<'a, str>, text: Cow<'a, str>, path: PathBuf, location: PathBuf) {
        self.length += text.len();
        self.known.insert(location.clone());
        let document = Document::new(name, text);
        let paths = FieldPaths::default();
        let content = document.parse().and_then(|tree| {
            if is_of_overrides(&tree) {
                self.report_overrides(&document);
                return None;
            }
            let root: Field<RuleFile> = decode(&tree, &document.problems, &paths);
            root.value
        });
        let includes = content.as_ref().and_then(|file| file.include.as_ref());
        if let Some(field) = includes
            && field.value.as_ref().is_some_and(Vec::is_empty)
        {
            document.problems.error(
                &paths.of(field),
                "the list is empty",
                "name a file, like teams/*.yaml, or remove the field",
            );
        }
        let includes = includes.and_then(|field| field.value.as_ref());
        let includes: Vec<(FieldPath, String)> = includes
            .into_iter()
            .flatten()
            .filter_map(|field| Some((paths.of(field), field.value.clone()?)))
            .collect();
        self.chain.push(self.sources.len());
        self.sources.push(Source {
            document,
            path,
            location,
            paths,
            content,
        });
        for (at, pattern) in includes {
            self.include(&at, &pattern);
        }
        self.chain.pop();
    }

    /// Reports a file of overrides where a rule file is expected. Their folder is often that of the
    /// rule file that names them, and then a pattern for the one finds the other.
    fn report_overrides(&self, document: &Document<'_>) {
        let hint = if self.chain.is_empty() {
            "write its name into the `overrides_file` of a rule"
        } else {
            "move it to where no entry of `include` matches it, like overrides/search.yaml, and \
             write its new path into the `overrides_file` of the rule"
        };
        document.problems.error_at_name(
            &FieldPath::root().key("overrides"),
            "this is a file of overrides, and not a rule file",
            hint,
        );
    }

    /// The file being read.
    fn current(&self) -> Option<&Source<'a>> {
        self.sources.get(*self.chain.last()?)
    }

    fn report(&self, at: &FieldPath, problem: Problem) {
        if let Some(source) = self.current() {
            let problems = &source.document.problems;
            problems.error(at, problem.message, problem.hint);
        }
    }

    /// Adds the files that an entry of `include` names.
    fn include(&mut self, at: &FieldPath, pattern: &str) {
        let found = match self.matching(pattern) {
            Ok(found) => found,
            Err(problem) => return self.report(at, problem),
        };
        for path in found {
            if self.is_full {
                return;
            }
            if let Err(problem) = self.file(path) {
                self.report(at, problem);
            }
        }
    }

    /// The paths of the files that an entry of `include` names.
    fn matching(&self, pattern: &str) -> Result<Vec<PathBuf>, Problem> {
        let (own, location) = match self.current() {
            Some(source) => (&*source.path, &*source.location),
            None => (Path::new(""), Path::new("")),
        };
        let (dir, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
        if matches!(name, "" | "." | "..") {
            return Err(Problem::new(
                format!("{pattern:?} names no file"),
                "write the path of a rule file, like teams/search.yaml, or a pattern like teams/*.yaml",
            ));
        }
        if glob::is_pattern(dir) {
            return Err(Problem::new(
                format!("{pattern:?} has a pattern in the name of a directory"),
                "`*` and `?` stand for parts of a file's name; write an entry for each directory",
            ));
        }
        let path = beside(own, Path::new(pattern));
        if !glob::is_pattern(name) {
            return Ok(vec![path]);
        }
        let dir = path.parent().unwrap_or(Path::new(""));
        let names = (self.context.list)(dir, name).map_err(|error| unlisted(pattern, &error))?;
        let found = names.iter().map(|name| path.with_file_name(name));
        // A pattern for the files of a directory is also one for the file that is written in.
        let is_other = |path: &PathBuf| (self.context.locate)(path) != location;
        let found: Vec<PathBuf> = found.filter(is_other).collect();
        if found.is_empty() {
            return Err(Problem::new(
                format!("no file matches {pattern:?}"),
                "the path is relative to this file's directory; `*` is any text in a file's name, and `?` any character",
            ));
        }
        Ok(found)
    }

    /// Adds a file, unless it has been added before.
    fn file(&mut self, path: PathBuf) -> Result<(), Problem> {
        let location = (self.context.locate)(&path);
        let in_chain = |index: &usize| self.sources[*index].location == location;
        if let Some(begin) = self.chain.iter().position(in_chain) {
            let names = self.chain[begin..].iter().chain([&self.chain[begin]]);
            let names: Vec<&str> = names
                .map(|index| self.sources[*index].document.name())
                .collect();
            return Err(Problem::new(
                format!("a file cannot include itself: {}", names.join(" → ")),
                "remove one of these includes",
            ));
        }
        if self.known.contains(&location) {
            return Ok(());
        }
        if self.chain.len() > MAX_DEPTH {
            return Err(Problem::new(
                format!("more than {MAX_DEPTH} files include each other in a chain"),
                "include these files from one of the first",
            ));
        }
        if self.sources.len() >= MAX_FILES {
            self.is_full = true;
            return Err(Problem::new(
                format!("there are more than {MAX_FILES} rule files"),
                "put several of them into one",
            ));
        }
        let shown = Path::new(self.name).with_file_name(&path);
        let text = (self.context.read)(&path).map_err(|error| unreadable(&path, &error))?;
        if self.length + text.len() > MAX_LENGTH {
            self.is_full = true;
            return Err(Problem::new(
                format!(
                    "with {}, the rule files are longer than 16 MiB together",
                    path.display()
                ),
                "include less, or move long lists of overrides to an `overrides_file`",
            ));
        }
        self.add(
            shown.display().to_string().into(),
            text.into(),
            path,
            location,
        );
        Ok(())
    }
}

/// Whether a file has overrides and nothing that a rule file needs.
fn is_of_overrides(tree: &Value) -> bool {
    let has = |name: &str| tree.get(name).is_some();
    has("overrides") && !has("rules") && !has("include")
}

/// Why the names in a directory are not known.
fn unlisted(pattern: &str, error: &io::Error) -> Problem {
    let dir = pattern.rsplit_once('/').map_or(".", |(dir, _)| dir);
    let hint =
        "write the path of a directory that tollgate may list, relative to this file's directory";
    if error.kind() == io::ErrorKind::NotFound {
        return Problem::new(format!("there is no directory {dir}"), hint);
    }
    let reason = reason(error);
    Problem::new(
        format!("the files in {dir} cannot be listed: {reason}"),
        hint,
    )
}
