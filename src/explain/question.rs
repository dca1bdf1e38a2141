//! A request to be explained, as people and programs write it down.

use std::{collections::BTreeMap, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::HOST};
use serde::Deserialize;

use crate::request::{Attributes, normal_host, normal_path, parse_ip, query_of};

/// A request to be explained.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The client's method.
    #[serde(default = "get")]
    pub method: String,
    /// Path and query, or a whole URL.
    #[serde(rename = "path", alias = "uri")]
    pub target: String,
    /// The client's host; by default that of the URL, or of a `Host` header.
    pub host: Option<String>,
    /// The client's address.
    pub ip: Option<String>,
    /// The client's headers, as the proxy would forward them.
    #[serde(default)]
    pub headers: BTreeMap<String, Lines>,
}

/// The line of a header, or its lines.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Lines {
    /// One.
    One(String),
    /// As many as there are, in their order.
    Many(Vec<String>),
}

fn get() -> String {
    "GET".to_owned()
}

/// A question that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unaskable {
    /// Not a method.
    #[error("{0:?} is not a method: write one like GET or POST")]
    Method(String),
    /// Neither a path nor a URL.
    #[error("{0:?} is not a path: write one like /v1/items?page=2, or a URL")]
    Target(String),
    /// Not an address.
    #[error("{0:?} is not an address: write one like 203.0.113.7 or 2001:db8::1")]
    Ip(String),
    /// Not a host.
    #[error("{0:?} is not a host: write one like api.example.com")]
    Host(String),
    /// Not the name of a header.
    #[error("{0:?} is not the name of a header: write it like x-api-key")]
    HeaderName(String),
    /// Not a value of a header.
    #[error("the header {0} cannot have this value: it is one line of printable characters")]
    HeaderValue(String),
    /// A header on the command line without a colon.
    #[error("{0:?} is not a header: write it like 'x-api-key: k'")]
    Header(String),
}

/// A question that can be asked.
#[derive(Debug, Clone)]
pub struct Asked {
    method: String,
    target: String,
    host: String,
    ip: Option<IpAddr>,
    headers: HeaderMap,
}

impl Question {
    /// Checks the question.
    pub fn checked(self) -> Result<Asked, Unaskable> {
        if Method::from_bytes(self.method.as_bytes()).is_err() {
            return Err(Unaskable::Method(self.method));
        }
        let (authority, target) = match self.target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?', '#']) => {
                let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let authority = &rest[..at];
                // User and password are not the host.
                let host = authority
                    .rsplit_once('@')
                    .map_or(authority, |(_, host)| host);
                (Some(host), &rest[at..])
            }
            _ if self.target.starts_with('/') => (None, &*self.target),
            _ => return Err(Unaskable::Target(self.target)),
        };
        let mut headers = HeaderMap::new();
        for (name, lines) in &self.headers {
            let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
                return Err(Unaskable::HeaderName(name.clone()));
            };
            let lines = match lines {
                Lines::One(line) => std::slice::from_ref(line),
                Lines::Many(lines) => lines,
            };
            for line in lines {
                let value = HeaderValue::from_str(line)
                    .map_err(|_| Unaskable::HeaderValue(name.clone()))?;
                headers.append(&header, value);
            }
        }
        let named = headers.get(HOST).and_then(|value| value.to_str().ok());
        let host = self.host.as_deref().or(authority).or(named);
        let host = host.unwrap_or_default();
        if host.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Unaskable::Host(host.to_owned()));
        }
        // Read as that of a check is.
        let ip = match &self.ip {
            None => None,
            Some(text) => Some(parse_ip(text).ok_or_else(|| Unaskable::Ip(text.clone()))?),
        };
        Ok(Asked {
            ip,
            host: host.to_owned(),
            target: target.to_owned(),
            method: self.method,
            headers,
        })
    }
}

/// `name: value`, as curl's `-H` takes it.
pub fn parse_header(line: &str) -> Result<(String, String), Unaskable> {
    match line.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned())),
        None => Err(Unaskable::Header(line.to_owned())),
    }
}

impl Asked {
    /// The request as a proxy would have described it.
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes {
            method: &self.method,
            host: normal_host(&self.host),
            path: normal_path(&self.target),
            query: query_of(&self.target).into(),
            client_ip: self.ip,
            headers: &self.headers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(target: &str) -> Question {
        Question {
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
            let asked = question(target).checked().unwrap();
            let request = asked.attributes();
            format!("{} {} {}", request.host, request.path, request.query)
        };
        assert_eq!(seen("/a/../b?x=1"), " /b x=1");
        assert_eq!(
            seen("https://API.example.com:8443/b?x=1"),
            "api.example.com /b x=1"
        );
        assert_eq!(seen("http://example.com"), "example.com / ");
        assert_eq!(seen("http://user:pw@example.com/p"), "example.com /p ");
        assert_eq!(seen("/a?next=http://x/"), " /a next=http://x/");
        let with_host = Question {
            headers: [("Host".to_owned(), Lines::One("h.example.com".to_owned()))].into(),
            ..question("/")
        };
        assert_eq!(
            with_host.checked().unwrap().attributes().host,
            "h.example.com"
        );
    }

    #[test]
    fn what_cannot_be_asked_is_said() {
        let error = |question: Question| question.checked().unwrap_err().to_string();
        assert!(error(question("data")).contains("\"data\" is not a path"));
        let method = Question {
            method: "G T".to_owned(),
            ..question("/")
        };
        assert!(error(method).contains("is not a method"));
        let host = Question {
            host: Some("a\u{1b}b".to_owned()),
            ..question("/")
        };
        assert!(error(host).contains("is not a host"));
        let ip = |text: &str| Question {
            ip: Some(text.to_owned()),
            ..question("/")
        };
        assert!(error(ip("here")).contains("is not an address"));
        let mapped = ip("::ffff:10.0.0.1").checked().unwrap();
        assert_eq!(mapped.attributes().client_ip, "10.0.0.1".parse().ok());
        for (name, value, expected) in [
            ("a b", "x", "not the name of a header"),
            ("a", "x\ny", "cannot have this value"),
        ] {
            let bad = Question {
                headers: [(name.to_owned(), Lines::One(value.to_owned()))].into(),
                ..question("/")
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
