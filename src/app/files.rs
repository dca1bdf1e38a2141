//! The rule file and the files that it names, from disk to a rule set.

use std::{cell::RefCell, io, path::Path};

use crate::{
    hash::HashKey,
    rulefile::{self, LoadContext, Loaded},
    watch::{self, Other, Source},
};

/// Reads a rule file once, from a pipe too.
///
/// # Errors
///
/// Of the kind `InvalidData` if the file is not UTF-8 text.
pub fn read_text(path: &Path) -> io::Result<String> {
    as_text(watch::read_any(path)?)
}

/// The bytes of a file as text; the error says on which line they are not.
pub(super) fn as_text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let read = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = read.split(|byte| *byte == b'\n').count();
        let reason = format!("line {line} is not UTF-8 text");
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
}

/// Compiles the text of the rule file at `path`, and reads the files that it names.
pub fn load_rules(path: &Path, text: &str, hash_key: &HashKey) -> Loaded {
    load_noting(path, text, hash_key, &RefCell::default())
}

/// As [`load_rules`]; adds what the named files held to `others`, even if loading panics.
pub(super) fn load_noting(
    path: &Path,
    text: &str,
    hash_key: &HashKey,
    others: &RefCell<Vec<Other>>,
) -> Loaded {
    let noted = |source: Source| {
        let bytes = source.read(path);
        let mut others = others.borrow_mut();
        // What cannot be read is asked for by each rule that names it.
        if !others.iter().any(|known| known.source == source) {
            others.push(Other {
                source,
                content: bytes.as_ref().ok().cloned(),
            });
        }
        bytes
    };
    let read = |other: &Path| as_text(noted(Source::File(other.to_owned()))?);
    let list = |dir: &Path, pattern: &str| {
        let names = as_text(noted(Source::Names(dir.to_owned(), pattern.to_owned()))?)?;
        let names = names.split('/').filter(|name| !name.is_empty());
        Ok(names.map(str::to_owned).collect())
    };
    let name = path.display().to_string();
    let context = LoadContext {
        hash_key,
        read: &read,
        list: &list,
    };
    rulefile::load_with(&name, text, context)
}
