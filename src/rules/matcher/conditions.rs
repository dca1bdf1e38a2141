//! The conditions of a rule, and the walk over them.

use super::{
    host::HostPattern,
    mismatch::{Failed, Mismatch},
    network::Networks,
    params::Params,
    path::PathPattern,
    value::{HeaderTest, QueryTest},
};
use crate::request::{Attributes, Scheme};

/// All conditions of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matcher {
    /// What must hold.
    pub when: Conditions,
    /// Blocks of conditions; none of them may hold as a whole.
    pub not: Vec<Conditions>,
    /// What it means to match.
    pub purpose: Purpose,
}

/// What it means that a request matches: which decides in doubt.
///
/// Where parameters were cut from a path (`/data;v=2`), some applications serve another path than
/// the one that is compared. Such a request is limited if one of the two matches, and exempted only
/// if both do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// It is limited or denied.
    #[default]
    Limit,
    /// It is exempted from the rules below.
    Exempt,
}

/// Conditions that hold together. An empty list is no condition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conditions {
    /// One of these paths.
    pub paths: Vec<PathPattern>,
    /// One of these methods, in upper case.
    pub methods: Vec<String>,
    /// One of these schemes.
    pub schemes: Vec<Scheme>,
    /// One of these hosts.
    pub hosts: Vec<HostPattern>,
    /// The client's address is in one of these networks.
    pub client_ip: Option<Networks>,
    /// Conditions on headers, all of which must hold. If a header occurs several times, the first
    /// line counts.
    pub headers: Vec<HeaderTest>,
    /// Conditions on query parameters, all of which must hold. If a parameter occurs several times,
    /// the first counts.
    pub query: Vec<QueryTest>,
}

impl Matcher {
    /// The parameters of the path if the request matches.
    pub fn matches<'a>(&'a self, request: &'a Attributes<'_>) -> Option<Params<'a>> {
        self.check(request).ok()
    }

    /// The parameters of the path if the request matches, else the first condition that does not
    /// hold.
    pub fn check<'a>(&'a self, request: &'a Attributes<'_>) -> Result<Params<'a>, Mismatch<'a>> {
        let (when, not) = match self.purpose {
            Purpose::Limit => (Purpose::Limit, Purpose::Exempt),
            Purpose::Exempt => (Purpose::Exempt, Purpose::Limit),
        };
        let params = self.when.check(request, when)?;
        for (index, block) in self.not.iter().enumerate() {
            if block.check(request, not).is_ok() {
                return Err(Mismatch::new(
                    Failed::Not {
                        index,
                        of: self.not.len(),
                    },
                    request,
                ));
            }
        }
        Ok(params)
    }
}

impl Conditions {
    fn check<'a>(
        &'a self,
        request: &'a Attributes<'_>,
        purpose: Purpose,
    ) -> Result<Params<'a>, Mismatch<'a>> {
        match self.walk(request, purpose) {
            Ok(params) => Ok(params),
            Err(failed) => Err(Mismatch::new(failed, request)),
        }
    }

    fn walk<'a>(
        &'a self,
        request: &'a Attributes<'_>,
        purpose: Purpose,
    ) -> Result<Params<'a>, Failed<'a>> {
        // Takes all fields apart: a condition that is forgotten here would match every request.
        let Self {
            paths,
            methods,
            schemes,
            hosts,
            client_ip,
            headers,
            query,
        } = self;
        let params = if paths.is_empty() {
            Params::default()
        } else {
            let matching = |path| paths.iter().find_map(|pattern| pattern.matches(path));
            let mut each = request.paths().map(matching);
            let some = match purpose {
                Purpose::Limit => each.find_map(|params| params),
                Purpose::Exempt => {
                    let first = each.next().flatten();
                    if first.is_some() && each.any(|params| params.is_none()) {
                        return Err(Failed::Parameters(paths));
                    }
                    first
                }
            };
            some.ok_or(Failed::Path(paths))?
        };
        if !matches_method(methods, &request.method) {
            return Err(Failed::Method(methods));
        }
        if !schemes.is_empty()
            && !request
                .scheme
                .is_some_and(|scheme| schemes.contains(&scheme))
        {
            return Err(Failed::Scheme(schemes));
        }
        if !hosts.is_empty() && !hosts.iter().any(|host| host.matches(&request.host)) {
            return Err(Failed::Host(hosts));
        }
        if let Some(networks) = client_ip
            && !request.client_ip.is_some_and(|ip| networks.contains(ip))
        {
            return Err(Failed::ClientIp(networks));
        }
        for header in headers {
            let value = request.headers.get(&header.name);
            if !header.test.holds(value) {
                return Err(Failed::Header(header));
            }
        }
        for parameter in query {
            let value = request.query_value(&parameter.name);
            if !parameter.test.holds(value.as_deref()) {
                return Err(Failed::Query(parameter));
            }
        }
        Ok(params)
    }
}

/// Whether one of these methods is that of the request; none is no condition.
///
/// `GET` includes `HEAD`: servers do the same work for it, and a limit on `GET` that `HEAD` evades
/// is none.
fn matches_method(methods: &[String], method: &str) -> bool {
    let is_same = |m: &String| m == method || (m == "GET" && method == "HEAD");
    methods.is_empty() || methods.iter().any(is_same)
}
