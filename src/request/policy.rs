//! How paths are read, where applications differ.

use std::borrow::Cow;

use super::{
    ambiguity::{Ambiguity, EncodedSlash, ambiguity},
    path::normal_path,
};
use crate::words::words;

words! {
    /// What parameters at the end of a path segment (`/data;v=2`) are.
    pub enum Parameters default Ignore {
        /// Nothing: the path is `/data`, as it is to servers like Tomcat and Jetty.
        Ignore => "ignore",
        /// Part of the path, as they are to most other servers.
        Keep => "keep",
    }
}

/// How paths are read, where applications differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathPolicy {
    /// Whether a path may have an encoded slash.
    pub encoded_slash: EncodedSlash,
    /// Whether parameters are part of a path.
    pub parameters: Parameters,
}

impl PathPolicy {
    /// The path of a request target as rules are matched against it: its
    /// [normal form](normal_path), unless servers would read it differently.
    pub fn read(self, target: &str) -> Result<Cow<'_, str>, Ambiguity> {
        if let Some(ambiguity) = ambiguity(target, self.encoded_slash) {
            return Err(ambiguity);
        }
        let path = normal_path(target);
        if self.parameters == Parameters::Keep || !path.contains(';') {
            return Ok(path);
        }
        let names = path.split('/').map(|segment| segment.split(';').next());
        let names: Vec<&str> = names.map(Option::unwrap_or_default).collect();
        Ok(Cow::Owned(normal_path(&names.join("/")).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_no_part_of_a_path_unless_they_are_kept() {
        let keep = PathPolicy {
            parameters: Parameters::Keep,
            ..PathPolicy::default()
        };
        for (target, ignored, kept) in [
            ("/data;v=2", "/data", "/data;v=2"),
            ("/data;v=2/x;y?z;", "/data/x", "/data;v=2/x;y"),
            ("/;x/data", "/data", "/;x/data"),
            ("/data%3Bv", "/data", "/data;v"),
            ("/;", "/", "/;"),
            ("/data", "/data", "/data"),
        ] {
            assert_eq!(
                PathPolicy::default().read(target).as_deref(),
                Ok(ignored),
                "{target}"
            );
            assert_eq!(keep.read(target).as_deref(), Ok(kept), "{target}");
        }
        for policy in [PathPolicy::default(), keep] {
            assert_eq!(policy.read("/x/..;/data"), Err(Ambiguity::DotSegment));
        }
    }
}
