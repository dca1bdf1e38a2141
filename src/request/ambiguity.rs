//! Request targets that servers read differently.

use super::{path::path_of, percent::canonical_encoding};
use crate::words::words;

/// Why a request target means one thing to one server and another to the next.
///
/// Whichever reading the rules were matched against, an application with the other one would serve
/// something else, under another rule's limit or none. What was found by trying proxies and servers
/// is in docs/proxies.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguity {
    /// A raw `#`. No request target has one (RFC 9112 §3.2); some servers cut there, others resolve
    /// the `..` that follow it.
    Fragment,
    /// A backslash, raw or as `%5C`: a slash to servers that read targets as browsers do (WHATWG
    /// URL Standard) and to those on Windows.
    Backslash,
    /// `%2F`: to some servers a slash.
    EncodedSlash,
    /// A raw space, or a control character, raw or encoded. Some servers end the path at a NUL, and
    /// regular expressions match before a line break at the end.
    Control,
    /// A dot segment that not all servers resolve alike: with parameters (`..;x`), which some strip
    /// first, or after an empty segment (`//..`), which some merge first.
    DotSegment,
}

words! {
    /// What happens to a path with an encoded slash (`%2F`) or backslash (`%5C`).
    pub enum EncodedSlash default Refuse {
        /// Its request is refused.
        Refuse => "refuse",
        /// It is a character like any other, and separates nothing.
        Keep => "keep",
    }
}

/// Why `target` is ambiguous, if it is.
pub(super) fn ambiguity(target: &str, slashes: EncodedSlash) -> Option<Ambiguity> {
    // One pass over what is nearly always plain.
    let mut in_path = true;
    let mut closer_look = false;
    let mut last = 0;
    for byte in target.bytes() {
        match byte {
            b'#' => return Some(Ambiguity::Fragment),
            // Some servers cut the request line at a space.
            0..=0x20 | 0x7f => return Some(Ambiguity::Control),
            b'?' => in_path = false,
            b'\\' if in_path => return Some(Ambiguity::Backslash),
            b'%' | b';' => closer_look |= in_path,
            b'/' => closer_look |= in_path && last == b'/',
            _ => {}
        }
        last = byte;
    }
    closer_look.then(|| in_segments(path_of(target), slashes))?
}

fn in_segments(path: &str, slashes: EncodedSlash) -> Option<Ambiguity> {
    let path = canonical_encoding(path.as_bytes());
    for escape in path.match_indices('%').map(|(at, _)| &path[at + 1..]) {
        match escape.as_bytes() {
            [b'2', b'F', ..] if slashes == EncodedSlash::Refuse => {
                return Some(Ambiguity::EncodedSlash);
            }
            [b'5', b'C', ..] if slashes == EncodedSlash::Refuse => {
                return Some(Ambiguity::Backslash);
            }
            [b'0' | b'1', ..] | [b'7', b'F', ..] => return Some(Ambiguity::Control),
            _ => {}
        }
    }
    let mut before = None;
    for segment in path.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        let dots = matches!(name, "." | "..");
        // The path begins with a slash, and so with an empty segment that is none.
        if dots && name.len() < segment.len() || segment == ".." && before == Some("") {
            return Some(Ambiguity::DotSegment);
        }
        before = before.map(|_| segment).or(Some("the first"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str) -> Option<Ambiguity> {
        ambiguity(target, EncodedSlash::Refuse)
    }

    #[test]
    fn what_servers_read_differently_is_ambiguous() {
        for (target, expected) in [
            ("/#/../data.txt", Ambiguity::Fragment),
            ("/data#", Ambiguity::Fragment),
            ("/data?x=1#y", Ambiguity::Fragment),
            ("/x\\..\\data", Ambiguity::Backslash),
            ("/x%5C..%5cdata", Ambiguity::Backslash),
            ("/a%2Fb", Ambiguity::EncodedSlash),
            ("/a%2fb?x", Ambiguity::EncodedSlash),
            ("/data%00.png", Ambiguity::Control),
            ("/data%0A", Ambiguity::Control),
            ("/data%7f", Ambiguity::Control),
            ("/da\tta", Ambiguity::Control),
            ("/data ", Ambiguity::Control),
            ("/data?x=\u{1}", Ambiguity::Control),
            ("/x/..;/data", Ambiguity::DotSegment),
            ("/x/..;v=1/data", Ambiguity::DotSegment),
            ("/x/%2e%2E%3Bv/data", Ambiguity::DotSegment),
            ("/x/.;/data", Ambiguity::DotSegment),
            ("/login//..", Ambiguity::DotSegment),
            ("/login//../x", Ambiguity::DotSegment),
            ("/login//%2e./x", Ambiguity::DotSegment),
            ("http://h/login//..", Ambiguity::DotSegment),
        ] {
            assert_eq!(of(target), Some(expected), "{target:?}");
        }
    }

    #[test]
    fn what_all_servers_read_alike_is_not() {
        for target in [
            "/",
            "",
            "*",
            "/data",
            "/x/../data",
            "/../data",
            "//data",
            "/login//x",
            "/x/..",
            "/data;v=1",
            "/data;..",
            "/..;".strip_suffix(';').unwrap(),
            "/caf%C3%A9",
            "/caf\u{e9}",
            "/100%",
            "/%25",
            "/a?next=%2Fb%5C%00",
            "/a?x=\\",
            "/a?x=//..",
            "http://h/login",
            "/x/...;/data",
        ] {
            assert_eq!(of(target), None, "{target:?}");
        }
    }

    #[test]
    fn encoded_slashes_can_be_kept() {
        let keep = EncodedSlash::Keep;
        assert_eq!(ambiguity("/a%2Fb%5Cc", keep), None);
        assert_eq!(ambiguity("/a\\b", keep), Some(Ambiguity::Backslash));
        assert_eq!(ambiguity("/a%00", keep), Some(Ambiguity::Control));
    }
}
