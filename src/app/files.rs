//! The rule file and the files that it names, from disk to a rule set.

use std::{cell::RefCell, io, path::Path};

use crate::{
    hash::HashKey,
    rulefile::{self, LoadContext, Loaded},
    watch::{self, Other},
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
    let read = |other: &Path| {
        let bytes = watch::read(&watch::beside(path, other));
        let mut others = others.borrow_mut();
        // A file that cannot be read is asked for by each rule that names it.
        if !others.iter().any(|known| known.path == other) {
            others.push(Other {
                path: other.to_owned(),
                content: bytes.as_ref().ok().cloned(),
            });
        }
        as_text(bytes?)
    };
    let name = path.display().to_string();
    let context = LoadContext {
        hash_key,
        read: &read,
    };
    rulefile::load_with(&name, text, context)
}
