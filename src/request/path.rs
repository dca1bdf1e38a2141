//! The normal form of a request's path.

use std::borrow::Cow;

use super::percent::{PercentBytes, canonical_encoding, is_plain};

/// The path of a request target in normal form, which rules are matched against.
///
/// Two targets that a server treats alike must meet the same limits (RFC 3986 §6.2.2):
///
/// * everything from `?` or `#` on is cut, and so are the scheme and authority of an absolute
///   target;
/// * percent-encoding is undone for every byte that may occur in a path as it is, and written in
///   upper case for all others; raw bytes that may not occur in a path are encoded. `%2F` stays: an
///   encoded slash separates nothing;
/// * `.` and `..` segments are resolved; empty segments (`//`) and a trailing slash are dropped.
///
/// The result begins with `/`. It is borrowed when nothing changes, which is nearly always.
pub fn normal_path(target: &str) -> Cow<'_, str> {
    let path = path_of(target);
    if is_normal(path) {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(normalise(path))
    }
}

/// Cuts the query, the fragment, and the scheme and authority of an absolute target.
pub(super) fn path_of(target: &str) -> &str {
    let end = target.find(['?', '#']).unwrap_or(target.len());
    let path = &target[..end];
    match absolute(path) {
        Some((_, "")) => "/",
        Some((_, path)) => path,
        None => path,
    }
}

/// The authority and path of an absolute target (RFC 9112 §3.2.2), if it is one.
pub(super) fn absolute(target: &str) -> Option<(&str, &str)> {
    // Nearly all targets are paths, which need no search.
    if target.starts_with('/') {
        return None;
    }
    let (scheme, rest) = target.split_once("://")?;
    let is_http = ["http", "https"]
        .iter()
        .any(|name| scheme.eq_ignore_ascii_case(name));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    is_http.then(|| rest.split_at(end))
}

fn is_normal(path: &str) -> bool {
    let Some(segments) = path.strip_prefix('/') else {
        return false;
    };
    if segments.is_empty() {
        return true;
    }
    // One look at each byte: this is done for every check.
    let (mut length, mut is_dots) = (0, true);
    let is_segment = |length, is_dots: bool| length > 2 || length > 0 && !is_dots;
    for byte in segments.bytes() {
        if byte == b'/' {
            if !is_segment(length, is_dots) {
                return false;
            }
            (length, is_dots) = (0, true);
        } else if is_plain(byte) {
            length += 1;
            is_dots &= byte == b'.';
        } else {
            return false;
        }
    }
    is_segment(length, is_dots)
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

/// The decoded bytes of a path segment in normal form.
pub fn decoded_segment(segment: &str) -> Cow<'_, [u8]> {
    if segment.contains('%') {
        Cow::Owned(PercentBytes(segment.as_bytes()).collect())
    } else {
        Cow::Borrowed(segment.as_bytes())
    }
}

/// A part of a path pattern, encoded as in a path's normal form.
pub(crate) fn normal_part(part: &str) -> String {
    canonical_encoding(part.as_bytes())
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
    fn a_normal_path_is_borrowed() {
        assert!(matches!(
            normal_path("/v1/acme/search?q=1"),
            Cow::Borrowed("/v1/acme/search")
        ));
    }
}
