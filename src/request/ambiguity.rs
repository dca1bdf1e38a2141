//! Request targets that servers read differently.

use super::{
    path::{absolute, path_of},
    percent::canonical_encoding,
    policy::{DotSegments, EncodedSlash, LeadingSlashes, Parameters, PathPolicy},
};

/// Why a request target means one thing to one server and another to the next.
///
/// Whichever reading the rules were matched against, an application with the other one would serve
/// something else, under another rule's limit or none. What was found by trying proxies and servers
/// is in docs/proxies.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguity {
    /// Neither a path nor an `http` URL (RFC 9112 §3.2). Of `ftp://h/data` and `x:/data` some
    /// proxies make `/data`.
    Form,
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
    /// A dot segment. Some servers resolve it, to others `/data/../x` lies below `/data`. Those
    /// that resolve differ too: with parameters (`..;x`), which some strip first, and after an
    /// empty segment (`//..`), which some merge first. Clients resolve them before they send
    /// (RFC 3986 §5.2.4).
    DotSegment,
    /// A segment that is nothing but parameters (`/;x`): to servers that cut them it is none, and
    /// the path has one segment less.
    Parameters,
    /// A `%` that is not followed by two hexadecimal digits. Some servers take it as it is, others
    /// know escapes of their own (`%u0064`).
    Escape,
    /// Two slashes at the beginning: what follows is a host to servers that read the target as a
    /// reference (RFC 3986 §4.2), and the path is only what follows that.
    LeadingSlashes,
}

/// Why `target` is ambiguous, if it is.
pub(super) fn ambiguity(target: &str, policy: PathPolicy) -> Option<Ambiguity> {
    if !has_a_form(target) {
        return Some(Ambiguity::Form);
    }
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
            b'/' | b'.' => closer_look |= in_path && last == b'/',
            _ => {}
        }
        last = byte;
    }
    closer_look.then(|| in_segments(path_of(target), policy))?
}

/// Whether `target` is empty, a path, `*`, or an `http` URL.
fn has_a_form(target: &str) -> bool {
    target.is_empty()
        || target.starts_with(['/', '?'])
        || target == "*"
        || absolute(target).is_some_and(|(authority, _)| !authority.is_empty())
}

fn in_segments(raw: &str, policy: PathPolicy) -> Option<Ambiguity> {
    let is_escape = |escape: &str| {
        let digits = escape.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !raw.split('%').skip(1).all(is_escape) {
        return Some(Ambiguity::Escape);
    }
    let path = canonical_encoding(raw.as_bytes());
    for escape in path.match_indices('%').map(|(at, _)| &path[at + 1..]) {
        match escape.as_bytes() {
            [b'2', b'F', ..] if policy.encoded_slash == EncodedSlash::Refuse => {
                return Some(Ambiguity::EncodedSlash);
            }
            [b'5', b'C', ..] if policy.encoded_slash == EncodedSlash::Refuse => {
                return Some(Ambiguity::Backslash);
            }
            [b'0' | b'1', ..] | [b'7', b'F', ..] => return Some(Ambiguity::Control),
            _ => {}
        }
    }
    in_order(&path, policy)
}

/// What is ambiguous about the segments of a path in canonical encoding, in their order.
fn in_order(path: &str, policy: PathPolicy) -> Option<Ambiguity> {
    let merges = policy.leading_slashes == LeadingSlashes::Merge;
    if !merges
        && ["//", "/%2F", "/%5C"]
            .iter()
            .any(|two| path.starts_with(two))
    {
        return Some(Ambiguity::LeadingSlashes);
    }
    // Empty segments too: servers that keep them and servers that merge them resolve alike as long
    // as no `..` takes one of them away.
    let mut open: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        let name = segment.split(';').next().unwrap_or_default();
        let cuts_all = name.is_empty() && !segment.is_empty();
        if cuts_all && policy.parameters == Parameters::Ignore {
            return Some(Ambiguity::Parameters);
        }
        // An encoded slash that is kept separates to some servers, and not to others.
        let mut parts = segment.split("%2F").flat_map(|part| part.split("%5C"));
        let is_one = segment.len() == name.len() && parts.clone().nth(1).is_none();
        let has_dots = parts.any(|part| {
            let name = part.split(';').next().unwrap_or_default();
            matches!(name, "." | "..")
        });
        if !has_dots {
            open.push(segment);
            continue;
        }
        if policy.dot_segments == DotSegments::Refuse || !is_one {
            return Some(Ambiguity::DotSegment);
        }
        if name == ".."
            && let Some(gone) = open.pop()
            && (gone.is_empty() || gone.starts_with(';') || is_several(gone))
        {
            return Some(Ambiguity::DotSegment);
        }
    }
    let begins_empty = matches!(open[..], ["", _, ..]);
    (!merges && begins_empty).then_some(Ambiguity::LeadingSlashes)
}

/// Whether a segment is several to servers that separate at encoded slashes.
fn is_several(segment: &str) -> bool {
    segment.contains("%2F") || segment.contains("%5C")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tolerant of all that can be settled by a rule file.
    const TOLERANT: PathPolicy = PathPolicy {
        encoded_slash: EncodedSlash::Keep,
        dot_segments: DotSegments::Resolve,
        leading_slashes: LeadingSlashes::Merge,
        parameters: Parameters::Ignore,
    };

    fn of(target: &str) -> Option<Ambiguity> {
        ambiguity(target, PathPolicy::default())
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
            ("/x/../data", Ambiguity::DotSegment),
            ("/data/.", Ambiguity::DotSegment),
            ("/%2E/data", Ambiguity::DotSegment),
            ("//data", Ambiguity::LeadingSlashes),
            ("//x/data", Ambiguity::LeadingSlashes),
            ("http://h//x/data", Ambiguity::LeadingSlashes),
            ("ftp://h/data", Ambiguity::Form),
            ("x:/data", Ambiguity::Form),
            ("http:/data", Ambiguity::Form),
            ("http:data", Ambiguity::Form),
            ("http:///data", Ambiguity::Form),
            ("http://?/data", Ambiguity::Form),
            ("data", Ambiguity::Form),
            ("*/data", Ambiguity::Form),
            (".", Ambiguity::Form),
            ("h:443", Ambiguity::Form),
            ("/100%", Ambiguity::Escape),
            ("/100%2", Ambiguity::Escape),
            ("/%u0064ata", Ambiguity::Escape),
            ("/%u002e%u002e/data", Ambiguity::Escape),
            ("/%%36%34ata", Ambiguity::Escape),
            ("/users/;7", Ambiguity::Parameters),
            ("/users/%3B7", Ambiguity::Parameters),
            ("/;", Ambiguity::Parameters),
        ] {
            assert_eq!(of(target), Some(expected), "{target:?}");
        }
    }

    #[test]
    fn dot_segments_that_take_an_empty_segment_away_are_never_resolved() {
        for target in [
            "/data//..",
            "/data//../x",
            "/data//%2e./x",
            "/data//./..",
            "/data//x/../..",
            "/x/..;/data",
            "/x/.;/data",
            "/data/x%2Fy/../..",
            "/data/a%5Cb/../..",
            "/data/%2F/../..",
            "/x%2F../data",
            "/x/..%2Fdata",
            "/x/..%5C;/data",
        ] {
            assert_eq!(
                ambiguity(target, TOLERANT),
                Some(Ambiguity::DotSegment),
                "{target:?}"
            );
        }
        for target in [
            "/x/../data",
            "/../data",
            "/x/..",
            "/x//y/..",
            "//x/./y",
            "/x;v/..",
        ] {
            assert_eq!(ambiguity(target, TOLERANT), None, "{target:?}");
        }
    }

    #[test]
    fn what_all_servers_read_alike_is_not() {
        for target in [
            "/",
            "",
            "*",
            "/data",
            "/login//x",
            "/data//",
            "/.well-known/x",
            "/x/..data",
            "/data;v=1",
            "/data;..",
            "/caf%C3%A9",
            "/caf\u{e9}",
            "/%25",
            "/a?x=100%",
            "/a?next=%2Fb%5C%00",
            "/a?x=\\",
            "/a?x=//..",
            "http://h/login",
            "HTTPS://h",
            "http://h?x=//..",
            "?x",
            "/x/...;/data",
        ] {
            assert_eq!(of(target), None, "{target:?}");
        }
    }

    #[test]
    fn encoded_slashes_can_be_kept() {
        assert_eq!(ambiguity("/a%2Fb%5Cc", TOLERANT), None);
        assert_eq!(ambiguity("/a\\b", TOLERANT), Some(Ambiguity::Backslash));
        assert_eq!(ambiguity("/a%00", TOLERANT), Some(Ambiguity::Control));
    }

    #[test]
    fn what_begins_with_two_slashes_once_it_is_resolved_is_refused() {
        let resolving = PathPolicy {
            encoded_slash: EncodedSlash::Keep,
            dot_segments: DotSegments::Resolve,
            ..PathPolicy::default()
        };
        for target in ["/.//x/data", "/y/..//x/data", "/%2Fx/data", "/%5Cx/data"] {
            assert_eq!(
                ambiguity(target, resolving),
                Some(Ambiguity::LeadingSlashes),
                "{target:?}"
            );
            assert_eq!(ambiguity(target, TOLERANT), None, "{target:?}");
        }
        for target in ["/", "/./", "/x/..", "/x/../y//z", "/x//"] {
            assert_eq!(ambiguity(target, resolving), None, "{target:?}");
        }
    }
}
