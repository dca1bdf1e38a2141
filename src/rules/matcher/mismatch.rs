//! Why a request does not match, in words.

use std::fmt;

use http::HeaderName;

use super::{
    host::HostPattern,
    list::list,
    network::Networks,
    path::PathPattern,
    value::{HeaderTest, QueryTest, ValueTest},
};
use crate::request::{Attributes, Scheme, is_secret};

/// The first condition that does not hold, with the request.
///
/// It borrows both, and is written out only on demand, as half a sentence: `the path is /data, not
/// /v1/**`. Values of secret headers are not shown.
#[derive(Debug, Clone, Copy)]
pub struct Mismatch<'a> {
    failed: Failed<'a>,
    request: &'a Attributes<'a>,
}

/// A condition that does not hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Failed<'a> {
    Path(&'a [PathPattern]),
    /// The path with its parameters does not match, and both must.
    Parameters(&'a [PathPattern]),
    Method(&'a [String]),
    Scheme(&'a [Scheme]),
    Host(&'a [HostPattern]),
    ClientIp(&'a Networks),
    Header(&'a HeaderTest),
    Query(&'a QueryTest),
    Not {
        index: usize,
        of: usize,
    },
}

/// A value that a condition applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// A header.
    Header(&'a HeaderName),
    /// A query parameter.
    Query(&'a str),
}

/// A mismatch in words.
struct InWords<'a> {
    mismatch: &'a Mismatch<'a>,
    may_show: &'a dyn Fn(Named<'_>) -> bool,
}

/// How many alternatives are listed.
const NAMED: usize = 5;

impl<'a> Mismatch<'a> {
    pub(super) fn new(failed: Failed<'a>, request: &'a Attributes<'a>) -> Self {
        Self { failed, request }
    }

    /// Like its `Display`, but hides what `may_show` rejects: neither the value of that header or
    /// query parameter nor what it should be is shown.
    pub fn in_words(&self, may_show: &dyn Fn(Named<'_>) -> bool) -> String {
        let mismatch = self;
        InWords { mismatch, may_show }.to_string()
    }
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        InWords {
            mismatch: self,
            may_show: &|_| true,
        }
        .fmt(f)
    }
}

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { failed, request } = self.mismatch;
        match failed {
            Failed::Path(paths) => {
                write!(f, "the path is {}, not ", request.path)?;
                list(f, paths, NAMED)
            }
            Failed::Parameters(paths) => {
                let path = request.paths().last().unwrap_or_default();
                write!(f, "to some servers the path is {path}, not ")?;
                list(f, paths, NAMED)
            }
            Failed::Method(methods) => {
                write!(f, "the method is {}, not ", request.method)?;
                list(f, methods, NAMED)
            }
            Failed::Scheme(schemes) => {
                match request.scheme {
                    Some(scheme) => write!(f, "the scheme is {scheme}, not ")?,
                    None => f.write_str("the scheme is not known, and it must be ")?,
                }
                list(f, schemes, NAMED)
            }
            Failed::Host(hosts) => {
                if request.host.is_empty() {
                    f.write_str("there is no host, and it must be ")?;
                } else {
                    write!(f, "the host is {}, not ", request.host)?;
                }
                list(f, hosts, NAMED)
            }
            Failed::ClientIp(networks) => match request.client_ip {
                Some(ip) => write!(f, "the client's address {ip} is not in {networks}"),
                None => write!(f, "the client's address is not known to be in {networks}"),
            },
            Failed::Header(HeaderTest { name, test }) => {
                let value = request.headers.get(name);
                let is_hidden = is_secret(name) || !(self.may_show)(Named::Header(name));
                let shown = value.map(|value| (value, is_hidden));
                value_mismatch(f, "header", name.as_str(), test, shown)
            }
            Failed::Query(QueryTest { name, test }) => {
                let value = request.query_value(name);
                let is_hidden = !(self.may_show)(Named::Query(name));
                let shown = value.as_deref().map(|value| (value, is_hidden));
                value_mismatch(f, "query parameter", name, test, shown)
            }
            Failed::Not { of: 1, .. } => f.write_str("`not` excludes it"),
            Failed::Not { index, .. } => write!(f, "`not[{index}]` excludes it"),
        }
    }
}

/// `value` comes with whether it is hidden.
fn value_mismatch(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    name: &str,
    test: &ValueTest,
    value: Option<(&[u8], bool)>,
) -> fmt::Result {
    match value {
        None => write!(f, "there is no {what} {name}"),
        Some(_) if test.absent => write!(f, "there is a {what} {name}"),
        // What it should be may be a secret as well.
        Some((_, true)) => write!(f, "the {what} {name} has another value"),
        Some((value, false)) => {
            write!(f, "the {what} {name} is {}, not {test}", Shown(value))
        }
    }
}

/// The longest value shown whole, in bytes.
const MAX_SHOWN: usize = 64;

/// A value in quotes, as ASCII, shortened if it is long.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.len().min(MAX_SHOWN);
        let more = if end < self.0.len() { "\u{2026}" } else { "" };
        write!(f, "\"{}{more}\"", self.0[..end].escape_ascii())
    }
}

/// What a value must be: `"gold"`, `"a" or "b"`, `like v[0-9]+`.
impl fmt::Display for ValueTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.absent {
            return f.write_str("absent");
        }
        if self.is_presence() {
            return f.write_str("present");
        }
        let quoted = |values: &[String]| -> Vec<String> {
            values.iter().map(|value| format!("{value:?}")).collect()
        };
        let mut and = "";
        if !self.exact.as_slice().is_empty() {
            list(f, &quoted(self.exact.as_slice()), NAMED)?;
            and = " and ";
        }
        if !self.prefix.is_empty() {
            write!(f, "{and}beginning with ")?;
            list(f, &quoted(&self.prefix), NAMED)?;
            and = " and ";
        }
        if let Some(pattern) = &self.regex {
            write!(f, "{and}like {pattern}")?;
        }
        Ok(())
    }
}
