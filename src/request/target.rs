//! From a request target to the path that rules are matched against.

use std::borrow::Cow;

use super::{
    ambiguity::{Ambiguity, ambiguity},
    path::{normal_path, path_of},
    policy::{Parameters, PathPolicy},
};

impl PathPolicy {
    /// The path of a request target as rules are matched against it: its
    /// [normal form](normal_path), unless servers would read it differently.
    pub fn read(self, target: &str) -> Result<Cow<'_, str>, Ambiguity> {
        if let Some(ambiguity) = ambiguity(target, self) {
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

    /// The path of a request target with the parameters that [`read`](Self::read) cuts, if it cuts
    /// any.
    pub fn with_parameters(self, target: &str) -> Option<String> {
        let path = path_of(target);
        let has_mark = path.bytes().any(|byte| matches!(byte, b';' | b'%'));
        let may_have = has_mark && [";", "%3B", "%3b"].iter().any(|mark| path.contains(mark));
        if self.parameters == Parameters::Keep || !may_have {
            return None;
        }
        Some(normal_path(target).into_owned()).filter(|path| path.contains(';'))
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
            ("/a;x//data", "/a/data", "/a;x/data"),
            ("/data%3Bv", "/data", "/data;v"),
            ("/data", "/data", "/data"),
        ] {
            assert_eq!(
                PathPolicy::default().read(target).as_deref(),
                Ok(ignored),
                "{target}"
            );
            assert_eq!(keep.read(target).as_deref(), Ok(kept), "{target}");
            assert_eq!(keep.with_parameters(target), None);
            let cut = PathPolicy::default().with_parameters(target);
            assert_eq!(
                cut.as_deref(),
                (ignored != kept).then_some(kept),
                "{target}"
            );
        }
        assert_eq!(keep.read("/;x/data").as_deref(), Ok("/;x/data"));
        for policy in [PathPolicy::default(), keep] {
            assert_eq!(policy.read("/x/..;/data"), Err(Ambiguity::DotSegment));
        }
    }
}
