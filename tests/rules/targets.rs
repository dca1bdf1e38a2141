//! Request targets read by somebody else's parser: the WHATWG URL Standard, by the `url` crate.
//!
//! What is not refused must be the same path to both, or an application that reads targets as
//! browsers do would serve a path under another rule's limit.

use proptest::{collection::vec, prelude::*, sample::select};
use tollgate::request::{EncodedSlash, Parameters, PathPolicy, normal_path};
use url::Url;

const POLICY: PathPolicy = PathPolicy {
    encoded_slash: EncodedSlash::Refuse,
    parameters: Parameters::Keep,
};

/// The path that a server with a browser's parser sees.
fn whatwg(target: &str) -> Option<String> {
    let base = Url::parse("http://app.test/").unwrap();
    // `//x` would be another host to a browser; a server has the target of a request in its hand.
    let url = Url::parse(&format!("http://app.test{target}"));
    url.or_else(|_| base.join(target))
        .ok()
        .map(|url| url.path().to_owned())
}

/// Panics if `target` is let through and means another path to the two.
fn agree(target: &str) {
    let Ok(ours) = POLICY.read(target) else {
        return;
    };
    if let Some(theirs) = whatwg(target) {
        assert_eq!(ours, normal_path(&theirs), "{target:?} is {theirs:?}");
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
