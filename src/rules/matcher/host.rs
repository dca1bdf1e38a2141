//! Conditions on the host.

use std::{fmt, net::Ipv6Addr};

use crate::{problem::Problem, request::normal_host};

/// A host: `api.example.com`, or `*.example.com` for every name below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    name: String,
    below: bool,
}

impl HostPattern {
    /// Compiles a pattern. The error says what is wrong, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if name.contains("://") || name.contains('/') {
            return Err(Problem::new(
                format!("{text:?} is not a host"),
                "write only the name, like api.example.com; the path goes into `path`",
            ));
        }
        if text == "*" {
            return Err(Problem::new(
                format!("{text:?} is not a host"),
                "for every host, leave `host` out",
            ));
        }
        if name.contains('*') {
            return Err(Problem::new(
                format!("{text:?} is not a host"),
                "a * is only allowed at the start, before a dot: *.example.com matches every name below",
            ));
        }
        if name.parse::<Ipv6Addr>().is_ok() {
            return Err(Problem::new(
                format!("{text:?} is not a host"),
                format!("an IPv6 address as a host is in brackets: write \"[{name}]\""),
            ));
        }
        let normal = match normal_host(name) {
            Ok(normal) if !normal.is_empty() => normal,
            _ => {
                return Err(Problem::new(
                    format!("{text:?} is not a host"),
                    "write a name like api.example.com or *.example.com",
                ));
            }
        };
        // The colons of an address in brackets are no port.
        if name
            .rsplit(']')
            .next()
            .is_some_and(|rest| rest.contains(':'))
        {
            return Err(Problem::new(
                format!("{text:?} has a port, but hosts are compared without one"),
                format!("write {normal}"),
            ));
        }
        Ok(Self {
            name: normal.into_owned(),
            below,
        })
    }

    /// Whether a host, in normal form, matches.
    pub fn matches(&self, host: &str) -> bool {
        if self.below {
            host.strip_suffix(self.name.as_str())
                .is_some_and(|front| front.len() > 1 && front.ends_with('.'))
        } else {
            host == self.name
        }
    }

    /// The name, and whether the names below it are meant instead of itself.
    pub(in crate::rules) fn parts(&self) -> (&str, bool) {
        (&self.name, self.below)
    }

    /// Whether this pattern matches everything that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.below, other.below) {
            (false, true) => false,
            (true, true) if self.name == other.name => true,
            _ => self.matches(&other.name),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_exactly_or_below() {
        let matches =
            |pattern: &str, host: &str| HostPattern::parse(pattern).unwrap().matches(host);
        assert!(matches("api.Example.com", "api.example.com"));
        assert!(!matches("example.com", "api.example.com"));
        assert!(matches("*.example.com", "a.b.example.com"));
        assert!(!matches("*.example.com", "example.com"));
        assert!(!matches("*.example.com", "badexample.com"));
        assert!(matches("bücher.example", "xn--bcher-kva.example"));
        assert!(matches("*.BÜCHER.example.", "a.xn--bcher-kva.example"));
        assert!(matches("[2001:DB8::0:1]", "[2001:db8::1]"));
        for text in [
            "", ".", "*", "*.", "a*b.com", "http://x", "x/y", "x.com:80", "[::1]:80", "::1", "a b",
            "a..b",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }
}
