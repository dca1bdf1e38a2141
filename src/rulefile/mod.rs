//! Rule files: from text to a [`RuleSet`], or to everything that is wrong with the text.
//!
//! [`load`] is the whole way. It goes down these steps, each of which reports problems and goes on,
//! so that one run shows all of them:
//!
//! ```text
//! text ─yaml─▶ tree ─decode─▶ model ─compile─▶ RuleSet ─lint─▶ warnings
//! ```
//!
//! * `yaml`: the tree, and where its nodes are in the text.
//! * `decode`: a serde deserializer that goes on after an error.
//! * `model`: the file as it is written; the JSON Schema is derived from it.
//! * `compile`: what the values mean together.
//! * `lint`: what is valid and probably a mistake.
//! * `problems` collects what they find, `document` finds its position in the text, and
//!   `diagnostic` prints it.

mod compile;
mod decode;
mod diagnostic;
mod document;
mod lint;
mod model;
mod problems;
mod rate;
mod yaml;

use std::{io, path::Path};

use self::document::Document;
pub use self::{
    compile::LoadContext,
    diagnostic::{Diagnostic, Diagnostics, Severity, counted},
    lint::SHIPPED_HEADERS,
};
use crate::{hash::HashKey, rules::RuleSet};

/// The result of loading a rule file.
#[derive(Debug)]
pub struct Loaded {
    /// The rules; `None` if there was an error.
    pub set: Option<RuleSet>,
    /// Errors and warnings.
    pub diagnostics: Diagnostics,
}

/// Loads the text of a rule file. `name` is the file's name in messages.
pub fn load_with(name: &str, text: &str, context: LoadContext<'_>) -> Loaded {
    let document = Document::new(name, text);
    let set = compile::compile(&document, context);
    let diagnostics = document.into_diagnostics();
    Loaded {
        set: set.filter(|_| !diagnostics.has_errors()),
        diagnostics,
    }
}

/// Loads the text of a rule file that names no other file, without a key for hashes.
///
/// # Errors
///
/// Everything that is wrong with it, warnings included.
pub fn load(name: &str, text: &str) -> Result<RuleSet, Diagnostics> {
    let alone = |path: &Path| {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "{} can only be read next to a rule file on disk",
                path.display()
            ),
        ))
    };
    let context = LoadContext {
        hash_key: &HashKey::default(),
        read: &alone,
    };
    let loaded = load_with(name, text, context);
    loaded.set.ok_or(loaded.diagnostics)
}

/// The JSON Schema of rule files, for editors (draft 2020-12).
pub fn schema() -> serde_json::Value {
    model::schema()
}

#[cfg(test)]
mod tests;
