//! `match`: from the model to a [`Matcher`].

use super::given;
use crate::rules::{
    decode::Field,
    file,
    matcher::{HostPattern, Matcher, PathPattern},
};

pub(super) fn matcher(conditions: Option<&file::Match>) -> Matcher {
    fn values<T: Clone>(field: Option<&Field<file::OneOrMany<T>>>) -> Vec<T> {
        given(field)
            .into_iter()
            .flat_map(|many| &many.0)
            .filter_map(|field| field.value.clone())
            .collect()
    }
    let Some(conditions) = conditions else {
        return Matcher::default();
    };
    Matcher {
        paths: values(conditions.path.as_ref()),
        methods: values(conditions.methods.as_ref())
            .into_iter()
            .map(|method| method.0)
            .collect(),
        hosts: values(conditions.host.as_ref()),
    }
}

impl Matcher {
    /// Whether everything that `other` matches is matched by this one too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        fn all<T>(ours: &[T], theirs: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
            ours.is_empty()
                || (!theirs.is_empty() && theirs.iter().all(|b| ours.iter().any(|a| covers(a, b))))
        }
        all(&self.paths, &other.paths, PathPattern::covers)
            && all(&self.hosts, &other.hosts, HostPattern::covers)
            && all(&self.methods, &other.methods, |a, b| {
                a == b || (a == "GET" && b == "HEAD")
            })
    }
}
