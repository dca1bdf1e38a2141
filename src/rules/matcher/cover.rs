//! What can be shown about matchers without a request: that one covers another, or matches nothing.

use super::{
    conditions::{Conditions, Matcher},
    host::HostPattern,
    path::PathPattern,
    value::{HeaderTest, QueryTest},
};

impl Matcher {
    /// Whether this matcher matches everything that `other` matches; `true` only if that can be
    /// shown.
    pub fn covers(&self, other: &Self) -> bool {
        // What this one excludes, the other must exclude too.
        self.when.covers(&other.when)
            && self
                .not
                .iter()
                .all(|ours| other.not.iter().any(|theirs| theirs.covers(ours)))
    }

    /// Why no request can ever match, if that can be shown.
    pub fn impossible(&self) -> Option<String> {
        // The other conditions can always hold: the reader refuses values that no request has.
        let Conditions {
            headers,
            query,
            paths: _,
            methods: _,
            schemes: _,
            hosts: _,
            client_ip: _,
        } = &self.when;
        for HeaderTest { name, test } in headers {
            if test.is_impossible() {
                return Some(format!("no value of the header {name} is both: {test}"));
            }
        }
        for QueryTest { name, test } in query {
            if test.is_impossible() {
                return Some(format!(
                    "no value of the query parameter {name} is both: {test}"
                ));
            }
        }
        let index = self.not.iter().position(|not| not.covers(&self.when))?;
        let place = if self.not.len() == 1 {
            "not".to_owned()
        } else {
            format!("not[{index}]")
        };
        Some(format!(
            "`{place}` excludes everything that the rule matches"
        ))
    }
}

impl Conditions {
    /// Whether these conditions hold for everything for which `other` holds; `true` only if that
    /// can be shown.
    pub fn covers(&self, other: &Self) -> bool {
        fn all<T>(ours: &[T], theirs: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
            ours.is_empty()
                || (!theirs.is_empty() && theirs.iter().all(|b| ours.iter().any(|a| covers(a, b))))
        }
        // Takes all fields apart: a condition that is forgotten here would make rules unreachable.
        let Self {
            paths,
            methods,
            schemes,
            hosts,
            client_ip,
            headers,
            query,
        } = self;
        let headers_cover = headers.iter().all(|ours| {
            other
                .headers
                .iter()
                .any(|theirs| ours.name == theirs.name && ours.test.covers(&theirs.test))
        });
        let query_covers = query.iter().all(|ours| {
            other
                .query
                .iter()
                .any(|theirs| ours.name == theirs.name && ours.test.covers(&theirs.test))
        });
        let client_ip_covers = || match (client_ip, &other.client_ip) {
            (None, _) => true,
            (Some(_), None) => false,
            // An empty list is empty for now. Nothing else is wrong with its rule.
            (Some(ours), Some(theirs)) => !theirs.is_empty() && ours.covers(theirs),
        };
        headers_cover
            && query_covers
            && all(paths, &other.paths, PathPattern::covers)
            && all(schemes, &other.schemes, PartialEq::eq)
            && all(hosts, &other.hosts, HostPattern::covers)
            && all(methods, &other.methods, |a, b| {
                a == b || (a == "GET" && b == "HEAD")
            })
            // Last, because lists may be long.
            && client_ip_covers()
    }

    /// Whether there are no conditions.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
