//! A rule with the place where it is written.

use crate::{
    rulefile::{problems::Problems, yaml::FieldPath},
    rules::Rule,
};

/// A rule with its place.
#[derive(Clone, Copy)]
pub(in crate::rulefile) struct Placed<'a> {
    pub(in crate::rulefile) rule: &'a Rule,
    pub(in crate::rulefile) path: &'a FieldPath,
    /// The problems of its file.
    pub(in crate::rulefile) problems: &'a Problems,
    /// Its file, as messages name it.
    pub(in crate::rulefile) file: &'a str,
}

impl Placed<'_> {
    /// The rule's name for a message about `other`, with the file if that is another one.
    pub(super) fn seen_from(&self, other: &Placed<'_>) -> String {
        let name = &self.rule.name;
        if self.file == other.file {
            format!("{name:?}")
        } else {
            format!("{name:?} of {}", self.file)
        }
    }
}
