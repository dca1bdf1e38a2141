//! A request to be explained, as people and programs write it down.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use http::{HeaderName, HeaderValue, Method, header::HOST};
use serde::Deserialize;

use crate::{
    contract::Refusal,
    problem::Problem,
    request::{Attributes, PathPolicy, Scheme, normal_host, parse_ip},
    wire::Headers,
};

/// A request to be explained.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// The method of the request.
    #[serde(default = "get")]
    pub method: String,
    /// Path and query, or a whole URL.
    #[serde(rename = "path", alias = "uri")]
    pub target: String,
    /// The host of the request; by default that of the URL or of a `Host` header.
    pub host: Option<String>,
    /// The address of the client.
    pub ip: Option<String>,
    /// The headers, as the proxy would forward them.
    #[serde(default)]
    pub headers: BTreeMap<String, Lines>,
}

/// The value of a header, or its values.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Lines {
    /// One value.
    One(String),
    /// Several values, in order.
    Many(Vec<String>),
}

const X_FORWARDED_PROTO: &str = "x-forwarded-proto";

fn get() -> String {
    "GET".to_owned()
}

/// Why a query cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidQuery {
    /// Not a method.
    Method(String),
    /// Neither a path nor a URL.
    Target(String),
    /// Not an address.
    Ip(String),
    /// Not a host.
    Host(String),
    /// Not the name of a header.
    HeaderName(String),
    /// Not a value of the header of this name.
    HeaderValue(String),
    /// A header on the command line without a colon.
    Header(String),
}

impl From<InvalidQuery> for Problem {
    fn from(error: InvalidQuery) -> Self {
        let (message, hint) = match error {
            InvalidQuery::Method(text) => (
                format!("{text:?} is not a method"),
                "write one like GET or POST",
            ),
            InvalidQuery::Target(text) => (
                format!("{text:?} is not a path"),
                "write one like /v1/items?page=2, or a URL",
            ),
            InvalidQuery::Ip(text) => (
                format!("{text:?} is not an address"),
                "write one like 203.0.113.7 or 2001:db8::1",
            ),
            InvalidQuery::Host(text) => (
                format!("{text:?} is not a host"),
                "write one like api.example.com",
            ),
            InvalidQuery::HeaderName(name) => (
                format!("{name:?} is not the name of a header"),
                "write it like x-api-key",
            ),
            InvalidQuery::HeaderValue(name) => (
                format!("the header {name} cannot have this value"),
                "a value is one line of printable characters",
            ),
            InvalidQuery::Header(line) => (
                format!("{line:?} is not a header"),
                "write it like 'x-api-key: k'",
            ),
        };
        Self::new(message, hint)
    }
}

impl fmt::Display for InvalidQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Problem::from(self.clone()).fmt(f)
    }
}

impl std::error::Error for InvalidQuery {}

/// A query that was checked and can be explained.
#[derive(Debug, Clone)]
pub struct ValidQuery {
    method: String,
    target: String,
    scheme: Option<Scheme>,
    host: String,
    ip: Option<IpAddr>,
    headers: Headers,
}

impl Query {
    /// Checks a query.
    pub fn checked(self) -> Result<ValidQuery, InvalidQuery> {
        if Method::from_bytes(self.method.as_bytes()).is_err() {
            return Err(InvalidQuery::Method(self.method));
        }
        let (url_scheme, authority, target) = match self.target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?', '#']) => {
                let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let authority = &rest[..at];
                // User and password are not part of the host.
                let host = authority
                    .rsplit_once('@')
                    .map_or(authority, |(_, host)| host);
                (Some(scheme), Some(host), &rest[at..])
            }
            _ if self.target.starts_with('/') => (None, None, &*self.target),
            _ => return Err(InvalidQuery::Target(self.target)),
        };
        let mut headers = Headers::default();
        for (name, lines) in &self.headers {
            let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
                return Err(InvalidQuery::HeaderName(name.clone()));
            };
            let lines = match lines {
                Lines::One(line) => std::slice::from_ref(line),
                Lines::Many(lines) => lines,
            };
            for line in lines {
                let value = HeaderValue::from_str(line)
                    .map_err(|_| InvalidQuery::HeaderValue(name.clone()))?;
                headers.append(header.as_str(), value);
            }
        }
        let named = headers.get(&HOST).and_then(text);
        let host = self.host.as_deref().or(authority).or(named);
        let host = host.unwrap_or_default();
        if normal_host(host).is_err() {
            return Err(InvalidQuery::Host(host.to_owned()));
        }
        let forwarded = headers.get(&HeaderName::from_static(X_FORWARDED_PROTO));
        let scheme = forwarded.and_then(text).or(url_scheme);
        // Read in the same way as the address of a check.
        let ip = match &self.ip {
            None => None,
            Some(text) => Some(parse_ip(text).ok_or_else(|| InvalidQuery::Ip(text.clone()))?),
        };
        Ok(ValidQuery {
            ip,
            scheme: scheme.and_then(Scheme::parse),
            host: host.to_owned(),
            target: target.to_owned(),
            method: self.method,
            headers,
        })
    }
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// `name: value`, as curl's `-H` takes it.
pub fn parse_header(line: &str) -> Result<(String, String), InvalidQuery> {
    match line.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned())),
        None => Err(InvalidQuery::Header(line.to_owned())),
    }
}

impl ValidQuery {
    /// The request as a proxy would describe it; an error if it would be refused before any rule
    /// is asked.
    pub fn attributes(&self, paths: PathPolicy) -> Result<Attributes<'_>, Refusal> {
        let Self {
            method,
            target,
            scheme,
            host,
            ip,
            headers,
        } = self;
        Ok(Attributes {
            scheme: *scheme,
            path: paths.read(target).map_err(Refusal::Target)?,
            with_parameters: paths.with_parameters(target),
            ..Attributes::new(method, host, target, *ip, headers)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(target: &str) -> Query {
        Query {
            method: get(),
            target: target.to_owned(),
            host: None,
            ip: None,
            headers: BTreeMap::new(),
        }
    }

    #[test]
    fn a_path_or_a_whole_url() {
        let seen = |target: &str| {
            let asked = query(target).checked().unwrap();
            let request = asked.attributes(PathPolicy::default()).unwrap();
            format!("{} {} {}", request.host, request.path, request.query)
        };
        assert_eq!(seen("/%62/?x=1"), " /b x=1");
        assert_eq!(
            seen("https://API.example.com:8443/b?x=1"),
            "api.example.com /b x=1"
        );
        assert_eq!(seen("http://example.com"), "example.com / ");
        assert_eq!(seen("http://user:pw@example.com/p"), "example.com /p ");
        assert_eq!(seen("/a?next=http://x/"), " /a next=http://x/");
        let with_host = Query {
            headers: [("Host".to_owned(), Lines::One("h.example.com".to_owned()))].into(),
            ..query("/")
        };
        assert_eq!(
            with_host
                .checked()
                .unwrap()
                .attributes(PathPolicy::default())
                .unwrap()
                .host,
            "h.example.com"
        );
    }

    #[test]
    fn an_invalid_query_is_reported_with_a_hint() {
        let error = |question: Query| question.checked().unwrap_err().to_string();
        assert!(error(query("data")).contains("\"data\" is not a path"));
        let method = Query {
            method: "G T".to_owned(),
            ..query("/")
        };
        assert!(error(method).contains("is not a method"));
        let host = Query {
            host: Some("a\u{1b}b".to_owned()),
            ..query("/")
        };
        assert!(error(host).contains("is not a host"));
        let ip = |text: &str| Query {
            ip: Some(text.to_owned()),
            ..query("/")
        };
        assert!(error(ip("here")).contains("is not an address"));
        let mapped = ip("::ffff:10.0.0.1").checked().unwrap();
        assert_eq!(
            mapped.attributes(PathPolicy::default()).unwrap().client_ip,
            "10.0.0.1".parse().ok()
        );
        for (name, value, expected) in [
            ("a b", "x", "not the name of a header"),
            ("a", "x\ny", "cannot have this value"),
        ] {
            let bad = Query {
                headers: [(name.to_owned(), Lines::One(value.to_owned()))].into(),
                ..query("/")
            };
            assert!(error(bad).contains(expected));
        }
        assert!(parse_header("no colon").is_err());
        assert_eq!(
            parse_header("X-Api-Key:  a:b ").unwrap(),
            ("x-api-key".to_owned(), "a:b".to_owned())
        );
    }
}
