//! Values in quotes, with the escapes of nginx and Apache.

use std::borrow::Cow;

use memchr::memchr2;

/// Splits a text that begins behind a quote at the quote that ends it: the value, still escaped,
/// and what follows.
pub(super) fn until_quote(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut from = 0;
    loop {
        let at = from + memchr2(b'"', b'\\', text.get(from..)?)?;
        if text[at] == b'"' {
            return Some((&text[..at], &text[at + 1..]));
        }
        from = at + 2;
    }
}

/// The next value in quotes, unescaped, and what follows it.
pub(super) fn next(text: &[u8]) -> Option<(Cow<'_, str>, &[u8])> {
    let begin = memchr::memchr(b'"', text)?;
    let (value, rest) = until_quote(&text[begin + 1..])?;
    Some((unescaped(value), rest))
}

/// Without escapes: `\x22`, `\"`, `\\`, `\n` and the like. Bytes that are not text are
/// percent-encoded, as a [check](crate::contract) would have them.
pub(super) fn unescaped(value: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', value).is_none()
        && let Ok(text) = std::str::from_utf8(value)
    {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        let (byte, after) = match *rest {
            [b'x' | b'X', high, low, ref after @ ..] => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => (high * 16 + low, after),
                _ => (b'\\', rest),
            },
            [b'n', ref after @ ..] => (b'\n', after),
            [b't', ref after @ ..] => (b'\t', after),
            [b'r', ref after @ ..] => (b'\r', after),
            [b'v', ref after @ ..] => (0x0b, after),
            [b'b', ref after @ ..] => (0x08, after),
            [b'f', ref after @ ..] => (0x0c, after),
            [byte @ (b'"' | b'\\' | b'/'), ref after @ ..] => (byte, after),
            _ => (b'\\', rest),
        };
        bytes.push(byte);
        rest = after;
    }
    Cow::Owned(text(bytes))
}

fn text(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let mut out = String::new();
            for &byte in error.as_bytes() {
                if byte.is_ascii() {
                    out.push(char::from(byte));
                } else {
                    push_percent(&mut out, byte);
                }
            }
            out
        }
    }
}

/// Appends a byte as `%XX`.
pub(super) fn push_percent(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    for digit in [byte >> 4, byte & 15] {
        out.push(char::from(DIGITS[usize::from(digit)]));
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        for (escaped, expected) in [
            ("/data?x=1", "/data?x=1"),
            (r"/\x22q\x22", "/\"q\""),
            (r#"say \"hi\""#, "say \"hi\""),
            (r"a\\x22", r"a\x22"),
            (r"tab\t", "tab\t"),
            (r"\xE2\x82\xAC", "€"),
            (r"\xff/\xg1", r"%FF/\xg1"),
            (r"end\", r"end\"),
            (r"\u0041", r"\u0041"),
        ] {
            assert_eq!(unescaped(escaped.as_bytes()), expected, "{escaped}");
        }
        assert_eq!(unescaped(b"/\xff"), "/%FF");
        assert_eq!(
            until_quote(br#"a \"b\" c" rest"#),
            Some((&br#"a \"b\" c"#[..], &b" rest"[..]))
        );
        for open in [&b""[..], b"a", b"a\\", b"a\\\""] {
            assert_eq!(until_quote(open), None);
        }
        let (value, rest) = next(br#" 200 "x" "y""#).unwrap();
        assert_eq!((&*value, rest), ("x", &br#" "y""#[..]));
    }
}
