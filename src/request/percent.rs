//! Percent-encoding.

use std::fmt::Write as _;

/// Whether a byte is printable ASCII that may occur in a path unencoded.
pub(super) const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(
            byte,
            b'"' | b'#' | b'%' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
}

/// Writes every byte either as itself or as upper-case `%XX`, so that each has one spelling.
pub(super) fn canonical_encoding(bytes: &[u8]) -> String {
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

/// Decodes percent-encoding. A `%` that encodes nothing is itself.
pub(super) struct PercentBytes<'a>(pub(super) &'a [u8]);

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
