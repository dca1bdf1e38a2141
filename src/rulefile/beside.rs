//! The files that a rule file names: where they are, how they are read, and why they cannot be.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use crate::{counter_key::KeySettings, problem::Problem};

/// What loading a rule file needs beside its own text.
///
/// Paths are relative to the main rule file's directory.
#[derive(Clone, Copy)]
pub struct LoadContext<'a> {
    /// How keys are written.
    pub keys: &'a KeySettings,
    /// Reads a file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
    /// The names in a directory that match a pattern, sorted.
    pub list: &'a dyn Fn(&Path, &str) -> io::Result<Vec<String>>,
    /// Where a file really is, by which two paths of one file are known to be that; the path itself
    /// if there is no such file.
    pub locate: &'a dyn Fn(&Path) -> PathBuf,
}

/// The path of a file that the file at `path` names. `..` goes up by name, as for any file that
/// two others name there must be one path.
pub(super) fn beside(path: &Path, other: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.with_file_name(other).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some() => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Why a file that another one names cannot be read. `path` is as messages show it.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let path = path.display();
    let hint = match error.kind() {
        io::ErrorKind::InvalidData => "save it in the encoding UTF-8",
        io::ErrorKind::FileTooLarge => "split it into several files, and name each of them",
        _ => "write the path of a file that tollgate may read, relative to this file's directory",
    };
    if error.kind() == io::ErrorKind::NotFound {
        return Problem::new(format!("there is no file {path}"), hint);
    }
    let reason = reason(error);
    Problem::new(format!("{path} cannot be read: {reason}"), hint)
}

/// An error of the system in words.
pub(super) fn reason(error: &io::Error) -> String {
    let error = error.to_string();
    let reason = error.split(" (os error").next();
    reason.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_one_path() {
        for (path, other, expected) in [
            ("rules.yaml", "o.yaml", "o.yaml"),
            ("rules.yaml", "./teams//o.yaml", "teams/o.yaml"),
            ("teams/a.yaml", "o.yaml", "teams/o.yaml"),
            ("teams/a.yaml", "../o.yaml", "o.yaml"),
            ("teams/a.yaml", "../../o.yaml", "../o.yaml"),
            ("../a.yaml", "../o.yaml", "../../o.yaml"),
            ("teams/a.yaml", "/etc/../o.yaml", "/o.yaml"),
            ("", "o.yaml", "o.yaml"),
        ] {
            let found = beside(Path::new(path), Path::new(other));
            assert_eq!(found, Path::new(expected), "{path} {other}");
        }
    }
}
