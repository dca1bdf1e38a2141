//! The query of a request and its parameters.

use std::borrow::Cow;

use super::percent::PercentBytes;

/// The query of a request target, without `?` and fragment; empty if there is none.
pub fn query_of(target: &str) -> &str {
    let end = target.find('#').unwrap_or(target.len());
    target[..end].split_once('?').map_or("", |(_, query)| query)
}

/// The decoded value of the first parameter called `name`. Names are compared after decoding.
pub(super) fn value_of<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query_pairs(query)
        .find(|(raw, _)| FormBytes(raw.as_bytes()).eq(name.bytes()))
        .map(|(_, value)| decoded_form(value))
}

/// The parameters of a query, names and values as sent.
fn query_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The decoded bytes of a name or value in a query.
fn decoded_form(text: &str) -> Cow<'_, [u8]> {
    if text.contains(['%', '+']) {
        Cow::Owned(FormBytes(text.as_bytes()).collect())
    } else {
        Cow::Borrowed(text.as_bytes())
    }
}

/// Like [`PercentBytes`], with `+` as a space.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_between_question_mark_and_fragment() {
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
                value_of(query, name).as_deref(),
                expected,
                "{query:?} {name:?}"
            );
        }
    }
}
