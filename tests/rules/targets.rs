//! Request targets read as servers of several kinds read them, one of them with somebody else's
//! parser: the WHATWG URL Standard, by the `url` crate.
//!
//! What is not refused must be the same path to all of them, or an application would serve a path
//! under another rule's limit.

use std::borrow::Cow;

use proptest::{collection::vec, prelude::*, sample::select};
use tollgate::request::{
    DotSegments, EncodedSlash, LeadingSlashes, Parameters, PathPolicy, normal_path,
};
use url::Url;

/// Every policy but those that keep encoded slashes, which these readers do not separate at.
fn policies() -> impl Iterator<Item = PathPolicy> {
    DotSegments::ALL.iter().flat_map(|&dot_segments| {
        LeadingSlashes::ALL
            .iter()
            .flat_map(move |&leading_slashes| {
                Parameters::ALL.iter().map(move |&parameters| PathPolicy {
                    encoded_slash: EncodedSlash::Refuse,
                    dot_segments,
                    leading_slashes,
                    parameters,
                })
            })
    })
}

/// The path that a server with a browser's parser sees: `new URL(target, base)`, as applications
/// on Node do, or with the host written before it.
fn whatwg(target: &str, policy: PathPolicy) -> Option<String> {
    // The crate keeps `/c:` in place in every URL; the standard does so in those of files (§4.4).
    if let [b'/', b'A'..=b'Z' | b'a'..=b'z', b':' | b'|', ..] = plain(target).as_bytes() {
        return None;
    }
    let base = Url::parse("http://app.test/").unwrap();
    let joined = match policy.leading_slashes {
        LeadingSlashes::Refuse => base.join(target),
        LeadingSlashes::Merge => Url::parse(&format!("http://app.test{target}")),
    };
    joined.ok().map(|url| url.path().to_owned())
}

/// The path without query, with `.` and `%2e` as one.
fn plain(target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    path.replace("%2e", ".").replace("%2E", ".")
}

/// `..` takes the segment before it away, also an empty one (RFC 3986 §5.2.4).
fn rfc3986(target: &str) -> String {
    let path = plain(target);
    let mut open = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(open.pop()),
            name => open.push(name),
        }
    }
    format!("/{}", open.join("/"))
}

/// Segments are cut at `;` first, then empty ones are dropped, then dots are resolved.
fn tomcat(target: &str) -> String {
    rfc3986(&literal(target))
}

/// Segments are cut at `;` and empty ones dropped, and dots mean nothing.
fn literal(target: &str) -> String {
    let path = plain(target);
    let names = path.split('/').map(|segment| segment.split(';').next());
    let names = names.flatten().filter(|name| !name.is_empty());
    format!("/{}", names.collect::<Vec<_>>().join("/"))
}

fn without_parameters(path: &str) -> Cow<'_, str> {
    let names = path.split('/').map(|segment| segment.split(';').next());
    let names: Vec<&str> = names.flatten().collect();
    Cow::Owned(names.join("/"))
}

/// Panics if `target` is let through and is another path to one of these servers.
fn agree(target: &str) {
    for policy in policies() {
        let Ok(ours) = policy.read(target) else {
            continue;
        };
        let mut readings = vec![whatwg(target, policy), Some(rfc3986(target))];
        if policy.parameters == Parameters::Ignore {
            readings.push(Some(tomcat(target)));
            if policy.dot_segments == DotSegments::Refuse {
                readings.push(Some(literal(target)));
            }
        }
        for theirs in readings.into_iter().flatten() {
            let kept = match policy.parameters {
                Parameters::Ignore => without_parameters(&theirs),
                Parameters::Keep => Cow::Borrowed(&*theirs),
            };
            let kept = normal_path(&kept);
            assert_eq!(ours, kept, "{target:?} is {theirs:?}, {policy:?}");
        }
    }
}

/// Every short path of the characters that matter to segments.
#[test]
fn no_short_path_means_two_things() {
    let mut targets = vec!["/".to_owned()];
    let mut from = 0;
    for _ in 0..6 {
        let to = targets.len();
        for at in from..to {
            for piece in ["/", "a", ".", "..", ";"] {
                // A longer name is a name like any other.
                if piece == "/" || targets[at].ends_with(['/', ';']) || piece == ";" {
                    targets.push(format!("{}{piece}", targets[at]));
                }
            }
        }
        from = to;
    }
    assert!(targets.len() > 4_000, "{}", targets.len());
    for target in &targets {
        agree(target);
    }
}

/// Of the kinds in the URL tests of WPT.
#[test]
fn targets_that_parsers_disagree_about_are_refused() {
    for target in [
        "/",
        "/foo/bar",
        "/foo/./bar",
        "/foo/..",
        "/foo/bar/../ton",
        "/foo/bar/../ton/../../a",
        "/foo/../../..",
        "/foo/../../../ton",
        "/foo/%2e",
        "/foo/%2e%2",
        "/foo/%2e./%2e%2e/.%2e/%2e.bar",
        "//foo",
        "////../..",
        "/foo/bar//../..",
        "/foo/bar//..",
        "/a//./../",
        "/foo",
        "/%20foo",
        "/foo%",
        "/foo%2",
        "/foo%2zbar",
        "/foo%2\u{a9}zbar",
        "/foo%41%7a",
        "/foo\t%91",
        "/foo%00%51",
        "/(%28:%3A%29)",
        "/%3A%3a%3C%3c",
        "/foo\tbar",
        "/foo\\\\bar",
        "/%7Ffp3%3Eju%3Dduvgw%3Dd",
        "/@asdf%40",
        "/\u{4f60}\u{597d}\u{4f60}\u{597d}",
        "/\u{2025}/foo",
        "/\u{feff}/foo",
        "/\u{202e}/foo/\u{202d}/bar",
        "/a;b/../c;d",
        "/a/..;/b",
        "/a?b#c",
        "/a#b?c",
        "/foo/[61:24:74]:98",
        "/C|/foo/bar",
        "/C:\\a\\b",
        "/..//",
        "/.//path",
        "/a/%2E%2e;x/b",
        "/a%2fb/..",
        "/a%5c..%5cb",
        "/x/....//y",
        "/%c0%ae%c0%ae/x",
        "/^",
        "/`{}",
        "/\"<>",
        "/'",
        "/?q=\u{fffd}",
        "/%",
        "/;",
        "/:80",
    ] {
        agree(target);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_not_refused_means_one_thing(
        pieces in vec(select(vec![
            "/", "/", "/", "a", "b", ".", "..", "%2e", "%2E", "%2f", "%5C", "\\", ";", "#", "?", "%", "%25",
            "%61", "%00", "\t", " ", ":", "@", "[", "|", "\u{e9}", "%c3%a9", "%ff", "&", "=", "//", "/../",
        ]), 0..12),
    ) {
        agree(&format!("/{}", pieces.concat()));
    }
}
