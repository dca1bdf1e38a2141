//! What tollgate knows of a request, whichever proxy told it: borrowed, normalised, neutral.

mod client_ip;

use std::{borrow::Cow, fmt::Write as _, net::IpAddr};

use http::{HeaderMap, HeaderName};

pub use self::client_ip::{ClientIpPolicy, parse_ip};

/// A client's request, as the proxy described it.
#[derive(Debug)]
pub struct Attributes<'a> {
    /// The client's method, as it was sent.
    pub method: &'a str,
    /// The client's host, lower-case, without port and trailing dot; empty if none was sent.
    pub host: Cow<'a, str>,
    /// The path in its one [normal form](normal_path), without query.
    pub path: Cow<'a, str>,
    /// The query as it was sent, without `?` and fragment; empty if there is none.
    pub query: Cow<'a, str>,
    /// The client's address; `None` if the proxy told none that can be read.
    pub client_ip: Option<IpAddr>,
    /// The headers that the proxy forwarded.
    pub headers: &'a HeaderMap,
}

impl<'a> Attributes<'a> {
    /// A request from its parts as a client sends them: `target` is path and query.
    pub fn new(
        method: &'a str,
        host: &'a str,
        target: &'a str,
        client_ip: Option<IpAddr>,
        headers: &'a HeaderMap,
    ) -> Self {
        Self {
            method,
            host: normal_host(host),
            path: normal_path(target),
            query: query_of(target).into(),
            client_ip,
            headers,
        }
    }

    /// The value of a query parameter, decoded: what `%XX` stands for, and a space for `+` (the form encoding of the WHATWG URL
    /// Standard, §5.1). Names are compared decoded too. Of a parameter that comes several times, the first counts; one
    /// without `=` has an empty value.
    pub fn query_value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        query_pairs(&self.query)
            .find(|(raw, _)| FormBytes(raw.as_bytes()).eq(name.bytes()))
            .map(|(_, value)| decoded_form(value))
    }
}

/// Headers whose values are secrets by their nature.
const SECRET_HEADERS: [HeaderName; 4] = [
    http::header::AUTHORIZATION,
    http::header::PROXY_AUTHORIZATION,
    http::header::COOKIE,
    http::header::SET_COOKIE,
];

/// Whether a header's value may only be shown as a hash, whatever the rule says.
pub fn is_secret(name: &HeaderName) -> bool {
    SECRET_HEADERS.contains(name)
}

/// The parameters of a query, names and values as they were sent.
pub(crate) fn query_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The query of a request target, without `?` and fragment; empty if there is none.
pub fn query_of(target: &str) -> &str {
    let end = target.find('#').unwrap_or(target.len());
    target[..end].split_once('?').map_or("", |(_, query)| query)
}

/// The path of a request target in the one form that rules are matched against, so that two targets that a server takes
/// for the same also meet the same limits (RFC 3986 §6.2.2):
///
/// * what follows `?` or `#` is cut, and so are scheme and authority of an absolute target;
/// * percent-encoding is undone for every byte that can stand in a path as it is, and upper-case for all others; raw
///   bytes that cannot stand in a path are encoded. `%2F` stays: a slash that was encoded separates nothing;
/// * `.` and `..` segments are resolved, empty segments (`//`) and a trailing slash are dropped.
///
/// The result begins with `/`. It borrows when there is nothing to do, which is nearly always.
pub fn normal_path(target: &str) -> Cow<'_, str> {
    let path = path_of(target);
    if is_normal(path) {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(normalise(path))
    }
}

/// Cuts query, fragment, and the scheme and authority of an absolute target.
fn path_of(target: &str) -> &str {
    let end = target.find(['?', '#']).unwrap_or(target.len());
    let path = &target[..end];
    let is_scheme =
        |name: &str| name.eq_ignore_ascii_case("http") || name.eq_ignore_ascii_case("https");
    match path.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => path,
    }
}

/// Printable ASCII that stands in a path for itself.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(
            byte,
            b'"' | b'#' | b'%' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
}

fn is_normal(path: &str) -> bool {
    let bytes = path.as_bytes();
    if bytes == b"/" {
        return true;
    }
    bytes.first() == Some(&b'/')
        && bytes.last() != Some(&b'/')
        && bytes.iter().all(|&byte| is_plain(byte))
        && !bytes.windows(2).any(|pair| pair == b"//")
        && !path
            .split('/')
            .any(|segment| segment == "." || segment == "..")
}

fn normalise(path: &str) -> String {
    let decoded = canonical_encoding(path.as_bytes());
    let mut out = String::with_capacity(decoded.len() + 1);
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            name => {
                out.push('/');
                out.push_str(name);
            }
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

/// Every byte either for itself or as upper-case `%XX`, never one that could be the other.
fn canonical_encoding(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| h * 16 + l),
            _ => None,
        };
        rest = if escaped.is_some() {
            &after[2..]
        } else {
            after
        };
        match escaped {
            Some(byte) if is_plain(byte) && byte != b'/' => out.push(char::from(byte)),
            None if is_plain(first) => out.push(char::from(first)),
            // Writing to a String cannot fail.
            byte => drop(write!(out, "%{:02X}", byte.unwrap_or(first))),
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// The bytes of a path segment in normal form, decoded.
pub fn decoded_segment(segment: &str) -> Cow<'_, [u8]> {
    if segment.contains('%') {
        Cow::Owned(PercentBytes(segment.as_bytes()).collect())
    } else {
        Cow::Borrowed(segment.as_bytes())
    }
}

/// The bytes of a name or value in a query, decoded.
pub(crate) fn decoded_form(text: &str) -> Cow<'_, [u8]> {
    if text.contains(['%', '+']) {
        Cow::Owned(FormBytes(text.as_bytes()).collect())
    } else {
        Cow::Borrowed(text.as_bytes())
    }
}

/// A part of a path pattern in the encoding of a path's normal form.
pub(crate) fn normal_part(part: &str) -> String {
    canonical_encoding(part.as_bytes())
}

/// Undoes percent-encoding; a `%` that encodes nothing stands for itself.
struct PercentBytes<'a>(&'a [u8]);

impl Iterator for PercentBytes<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&first, after) = self.0.split_first()?;
        self.0 = after;
        if let (b'%', [high, low, rest @ ..]) = (first, after)
            && let Some((high, low)) = hex(*high).zip(hex(*low))
        {
            self.0 = rest;
            return Some(high * 16 + low);
        }
        Some(first)
    }
}

/// As [`PercentBytes`], and `+` is a space.
struct FormBytes<'a>(&'a [u8]);

impl Iterator for FormBytes<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        if let [b'+', rest @ ..] = self.0 {
            self.0 = rest;
            return Some(b' ');
        }
        let mut bytes = PercentBytes(self.0);
        let byte = bytes.next();
        self.0 = bytes.0;
        byte
    }
}

/// A host without port and trailing dot, lower-case.
pub fn normal_host(host: &str) -> Cow<'_, str> {
    let without_port = match host.rfind(':') {
        // The colons of a bracketed IPv6 address are not a port's.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    let name = without_port.strip_suffix('.').unwrap_or(without_port);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_normal_form() {
        for (target, expected) in [
            ("/data", "/data"),
            ("/", "/"),
            ("", "/"),
            ("/data/", "/data"),
            ("/data?x=/../y", "/data"),
            ("/data#f", "/data"),
            ("//data", "/data"),
            ("/x/../login", "/login"),
            ("/x/%2e%2E/login", "/login"),
            ("/./login/.", "/login"),
            ("/../../login", "/login"),
            ("/log%69n", "/login"),
            ("/a/b%20c/../d", "/a/d"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2F..%2Flogin", "/a%2F..%2Flogin"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a!b", "/a!b"),
            ("/a%21b", "/a!b"),
            ("/100%", "/100%25"),
            ("/100%25", "/100%25"),
            ("/100%zz", "/100%25zz"),
            ("/a\\b", "/a%5Cb"),
            ("http://h/login?x", "/login"),
            ("HTTPS://h", "/"),
            ("login", "/login"),
            ("*", "/*"),
        ] {
            assert_eq!(normal_path(target), expected, "{target:?}");
        }
    }

    #[test]
    fn what_is_already_normal_is_borrowed() {
        assert!(matches!(
            normal_path("/v1/acme/search?q=1"),
            Cow::Borrowed("/v1/acme/search")
        ));
    }

    #[test]
    fn a_query_is_what_stands_between_question_mark_and_fragment() {
        for (target, expected) in [
            ("/data", ""),
            ("/data?", ""),
            ("/data?x=1&y", "x=1&y"),
            ("/data?x=1#y?z", "x=1"),
            ("/data#y?z", ""),
            ("/data?a?b", "a?b"),
            ("http://h/x?a=http://b", "a=http://b"),
        ] {
            assert_eq!(query_of(target), expected, "{target:?}");
        }
    }

    #[test]
    fn query_values_are_decoded_and_the_first_counts() {
        let headers = HeaderMap::new();
        let value = |query: &str, name: &str| {
            let request = Attributes {
                method: "GET",
                host: "".into(),
                path: "/".into(),
                query: query.into(),
                client_ip: None,
                headers: &headers,
            };
            request.query_value(name).map(Cow::into_owned)
        };
        for (query, name, expected) in [
            ("", "x", None),
            ("", "", None),
            ("&&", "", None),
            ("=1", "", Some(&b"1"[..])),
            ("x", "x", Some(b"")),
            ("x=", "x", Some(b"")),
            ("x=1&x=2", "x", Some(b"1")),
            ("xx=1&x=2", "x", Some(b"2")),
            ("x=a=b", "x", Some(b"a=b")),
            ("%78=1", "x", Some(b"1")),
            ("a+b=c+d%2B%20", "a b", Some(b"c d+ ")),
            ("x=%ff%C3%A9", "x", Some(b"\xff\xc3\xa9")),
            ("x=100%&y=%z1%4", "x", Some(b"100%")),
            ("x=100%&y=%z1%4", "y", Some(b"%z1%4")),
            ("X=1", "x", None),
            ("x;y=1", "x", None),
        ] {
            assert_eq!(
                value(query, name).as_deref(),
                expected,
                "{query:?} {name:?}"
            );
        }
    }

    #[test]
    fn hosts_lose_port_dot_and_case() {
        for (host, expected) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.com:8080", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("api.example.com.:443", "api.example.com"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("", ""),
        ] {
            assert_eq!(normal_host(host), expected, "{host:?}");
        }
    }
}
