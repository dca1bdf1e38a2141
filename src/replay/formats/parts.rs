//! The parts of a request, as all formats have them.

use super::quoted::push_percent;
use crate::replay::{
    record::Record,
    wanted::{Holds, Wanted},
};

/// Splits `GET /path HTTP/1.1` into method and target. HTTP/0.9 has no version.
pub(super) fn request_line(line: &str) -> Option<(&str, &str)> {
    let (method, rest) = line.split_once(' ')?;
    let target = match rest.rsplit_once(' ') {
        Some((target, version)) if version.starts_with("HTTP/") => target,
        _ => rest,
    };
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_method = !method.is_empty() && method.bytes().all(is_token);
    (is_method && !target.is_empty()).then_some((method, target))
}

/// A value, unless it is the hyphen that stands for none.
pub(super) fn present(value: &str) -> Option<&str> {
    (!value.is_empty() && value != "-").then_some(value)
}

/// Adds a wanted header. A value that no header has is left out: it was escaped beyond recognition.
pub(super) fn add_header(record: &mut Record, wanted: &Wanted, place: usize, value: Option<&str>) {
    record.holds.add(Holds::header(place));
    if let (Some(name), Some(value)) = (wanted.headers().get(place), value) {
        record.headers.append(name.as_str(), value);
    }
}

/// Appends a path that was decoded as one would be sent: nginx's `$uri`.
pub(super) fn push_encoded(out: &mut String, path: &str, has_query: bool) {
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = path.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let is_sent = match byte {
            b'%' => is_hex(bytes.get(at + 1)) && is_hex(bytes.get(at + 2)),
            b'?' => has_query,
            b'#' | b'\\' | b'"' => false,
            _ => byte.is_ascii_graphic(),
        };
        if is_sent {
            out.push(char::from(byte));
        } else {
            push_percent(out, byte);
        }
    }
}
