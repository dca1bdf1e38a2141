//! Rule files: from text to a [`RuleSet`], or to everything that is wrong with the text.
//!
//! [`load`] is the whole way. It goes down these steps, each of which reports problems and goes on,
//! so that one run shows all of them:
//!
//! ```text
//! text ─yaml─▶ tree ─decode─▶ model ─compile─▶ RuleSet ─lint─▶ warnings
//! ```
//!
//! * `include`: the files that belong to the rule file; the first two steps for each.
//! * `yaml`: the tree, and where its nodes are in the text.
//! * `decode`: a serde deserializer that goes on after an error.
//! * `model`: the file as it is written; the JSON Schema is derived from it.
//! * `addresses`: lists of addresses, which are no YAML.
//! * `compile`: what the values mean together.
//! * `lint`: what is valid and probably a mistake.
//! * `problems` collects what they find, `document` finds its position in the text, and
//!   `diagnostic` prints it.

mod addresses;
mod beside;
mod compile;
mod decode;
mod diagnostic;
mod document;
mod include;
mod lint;
mod model;
mod problems;
mod rate;
mod yaml;

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

pub use self::{
    beside::LoadContext,
    diagnostic::{Diagnostic, Diagnostics, Severity, counted},
    lint::SHIPPED_HEADERS,
};
use crate::{counter_key::KeySettings, rules::RuleSet};

/// The result of loading a rule file.
#[derive(Debug)]
pub struct Loaded {
    /// The rules; `None` if there was an error.
    pub set: Option<RuleSet>,
    /// Errors and warnings.
    pub diagnostics: Diagnostics,
    /// How many rule files there are: the main one and those that are included.
    pub files: usize,
    /// How many lists of addresses they name.
    pub lists: usize,
    /// How many blocks are in these lists.
    pub listed_blocks: usize,
}

/// Loads the text of a rule file. `name` is the file's name in messages.
pub fn load_with(name: &str, text: &str, context: LoadContext<'_>) -> Loaded {
    let sources = include::read(name, text, context);
    let lists = addresses::Lists::new(context.read);
    // Several rules may name one file of overrides: all get the same content, even if it changes
    // meanwhile. (Lists are kept as what was read from them, and rule files are read once.)
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
    let set = compile::compile(&sources, context, &lists);
    let (lists, listed_blocks) = lists.counts();
    let files = sources.len();
    let diagnostics = include::diagnostics(name, sources);
    Loaded {
        set: set.filter(|_| !diagnostics.has_errors()),
        diagnostics,
        files,
        lists,
        listed_blocks,
    }
}

/// Loads the text of a rule file that names no other file, without a key for hashes.
///
/// # Errors
///
/// Everything that is wrong with it, warnings included.
pub fn load(name: &str, text: &str) -> Result<RuleSet, Diagnostics> {
    let alone = |path: &Path| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "{} can only be read next to a rule file on disk",
                path.display()
            ),
        )
    };
    let context = LoadContext {
        keys: &KeySettings::default(),
        read: &|path| Err(alone(path)),
        list: &|dir, _| Err(alone(dir)),
        locate: &Path::to_path_buf,
    };
    let loaded = load_with(name, text, context);
    loaded.set.ok_or(loaded.diagnostics)
}

/// The JSON Schema of rule files, for editors (draft 2020-12). A test holds it against the model;
/// deriving it here would make the program larger by a third of a megabyte.
pub const SCHEMA: &str = include_str!("../../config/rules.schema.json");

#[cfg(test)]
mod tests;
