//! The rule file and the files that it names, from disk to a rule set.

use std::{cell::RefCell, io, path::Path};

use crate::{
    counter_key::KeySettings,
    rulefile::{self, LoadContext, Loaded},
    watch::{self, Digest, Other, Source},
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
pub fn load_rules(path: &Path, text: &str, keys: &KeySettings) -> Loaded {
    load_noting(path, text, keys, &RefCell::default())
}

/// As [`load_rules`]; adds the files that are named, with their digests, to `others`, even if
/// loading panics.
pub(super) fn load_noting(
    path: &Path,
    text: &str,
    keys: &KeySettings,
    others: &RefCell<Vec<Other>>,
) -> Loaded {
    let noted = |source: Source| {
        let bytes = source.read(path);
        let mut others = others.borrow_mut();
        // What cannot be read is asked for by each rule that names it.
        if !others.iter().any(|known| known.source == source) {
            others.push(Other {
                source,
                content: bytes.as_deref().ok().map(Digest::of),
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
    let locate = |other: &Path| {
        let path = watch::beside(path, other);
        path.canonicalize().unwrap_or(path)
    };
    let context = LoadContext {
        keys,
        read: &read,
        list: &list,
        locate: &locate,
    };
    rulefile::load_with(&name, text, context)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// Loads `rules.yaml` by the path `name`, beside `team.yaml` and a link to each.
    fn load(name: &str, include: &str) -> (Loaded, String) {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let team = "rules: [{ name: team, limit: 5/m }]\n";
        fs::write(at("team.yaml"), team).unwrap();
        symlink("team.yaml", at("team-link.yaml")).unwrap();
        let include = include.replace("DIR", dir.path().to_str().unwrap());
        let text = format!("version: 1\ninclude: [{include}]\n");
        fs::write(at("rules.yaml"), &text).unwrap();
        symlink("rules.yaml", at("rules-link.yaml")).unwrap();
        let loaded = load_rules(&at(name), &text, &KeySettings::default());
        let told = loaded.diagnostics.to_string();
        (loaded, told)
    }

    #[test]
    fn a_file_is_included_once_whatever_its_name() {
        for include in [
            "DIR/team.yaml, team.yaml",
            "team.yaml, DIR/team.yaml, ./team.yaml",
            "team-link.yaml, team.yaml",
            "team-link.yaml, \"*.yaml\"",
            "\"*.yaml\", DIR/team-link.yaml",
        ] {
            for name in ["rules.yaml", "rules-link.yaml"] {
                let (loaded, told) = load(name, include);
                assert!(loaded.set.is_some(), "{name} {include}: {told}");
                assert_eq!(loaded.files, 2, "{name} {include}");
            }
        }
    }

    #[test]
    fn a_file_cannot_include_itself_by_another_name() {
        for include in ["DIR/rules.yaml", "rules-link.yaml", "DIR/rules-link.yaml"] {
            let (_, told) = load("rules.yaml", include);
            let expected = "include[0]: a file cannot include itself: ";
            assert!(told.contains(expected), "{include}: {told}");
        }
    }
}
