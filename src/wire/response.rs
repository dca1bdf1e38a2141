//! A response, its fields as they are written (RFC 9112 §4).

use std::{
    io::{self, Write as _},
    time::SystemTime,
};

use http::StatusCode;

use super::{
    date,
    request::{Exchange, Wants},
};

/// A response with a body of known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: StatusCode,
    /// The lines of its fields.
    lines: Vec<u8>,
    body: Vec<u8>,
}

/// Room for the fields of an ordinary response.
const USUAL: usize = 256;

impl Response {
    /// A response without a body.
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            lines: Vec::new(),
            body: Vec::new(),
        }
    }

    /// The same response with a body.
    #[must_use]
    pub fn with_body(self, body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..self
        }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Sets a field. `name` is in lower case. A value that cannot be one is left out (RFC 9110
    /// §5.5): whatever is in it, it adds no line.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.write(name, |line| line.write_all(value.as_ref()));
    }

    /// Sets a field, whose value is written by `write`.
    pub fn write(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
        self.remove(name);
        if self.lines.capacity() == 0 {
            self.lines.reserve(USUAL);
        }
        let start = self.lines.len();
        self.lines.extend_from_slice(name.as_bytes());
        self.lines.extend_from_slice(b": ");
        let value = self.lines.len();
        // Writing to memory cannot fail.
        let written = write(&mut self.lines);
        let is_value = self.lines[value..].iter().all(|byte| is_of_values(*byte));
        if written.is_ok() && is_value {
            self.lines.extend_from_slice(b"\r\n");
        } else {
            self.lines.truncate(start);
        }
    }

    /// Removes the field of a name, if it is there.
    fn remove(&mut self, name: &str) {
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &self.lines[start..]) {
            let end = start + length + 1;
            if name_of(&self.lines[start..end]).0 == name.as_bytes() {
                self.lines.drain(start..end);
            } else {
                start = end;
            }
        }
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let mut fields = self.fields();
        fields.find_map(|(own, value)| (own == name.as_bytes()).then_some(value))
    }

    /// Its fields, but for those that every response has.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = self.lines.split_inclusive(|byte| *byte == b'\n');
        lines.map(name_of)
    }

    /// Writes the response to a request. If the connection `closes` after it, it says so.
    pub fn write_to(&self, out: &mut Vec<u8>, to: Exchange, closes: bool, now: SystemTime) {
        self.write_head(out, now);
        if closes {
            out.extend_from_slice(b"connection: close\r\n");
        } else if to.is_http_1_0 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        // A tunnel, and what has no body by its status (RFC 9112 §6.3).
        let is_bodiless = matches!(self.status.as_u16(), 100..=199 | 204 | 304)
            || self.status.is_success() && to.wants == Wants::Tunnel;
        if is_bodiless {
            out.extend_from_slice(b"\r\n");
            return;
        }
        self.write_length(out);
        // A HEAD gets only the head, with the length of what it does not get.
        if to.wants != Wants::Head {
            out.extend_from_slice(&self.body);
        }
    }

    /// Writes a response to what is no request, after which the connection closes.
    pub fn write_last(&self, out: &mut Vec<u8>, now: SystemTime) {
        self.write_head(out, now);
        out.extend_from_slice(b"connection: close\r\n");
        self.write_length(out);
        out.extend_from_slice(&self.body);
    }

    fn write_head(&self, out: &mut Vec<u8>, now: SystemTime) {
        out.reserve(self.lines.len() + self.body.len() + 160);
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.push(b' ');
        let reason = self.status.canonical_reason().unwrap_or_default();
        out.extend_from_slice(reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.lines);
        date::push(out, now);
    }

    fn write_length(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"content-length: ");
        // Writing to memory cannot fail.
        let _ = write!(out, "{}", self.body.len());
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// Whether a byte may be in a value: visible characters, spaces and tabs, and what is beyond ASCII.
fn is_of_values(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Name and value of a line that was written here.
fn name_of(line: &[u8]) -> (&[u8], &[u8]) {
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    let colon = memchr::memchr(b':', line).unwrap_or(line.len());
    (&line[..colon], line.get(colon + 2..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Request;

    fn written(response: &Response, request: &str, closes: bool) -> String {
        let head = format!("{request}\r\n\r\n").into_bytes();
        let (request, _) = Request::parse(head).unwrap();
        let mut out = Vec::new();
        response.write_to(&mut out, request.exchange(), closes, SystemTime::UNIX_EPOCH);
        let date = "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches(date).count(), 1);
        text.replace(date, "")
    }

    #[test]
    fn a_response_has_its_fields_its_length_and_its_body() {
        let mut response = Response::new(StatusCode::IM_A_TEAPOT).with_body("short");
        response.set("x-a", "1");
        response.set("x-b", "2");
        response.set("x-a", "3");
        let head = "HTTP/1.1 418 I'm a teapot\r\nx-b: 2\r\nx-a: 3\r\n";
        let text = written(&response, "GET / HTTP/1.1", false);
        assert_eq!(text, format!("{head}content-length: 5\r\n\r\nshort"));
        let text = written(&response, "HEAD / HTTP/1.1", true);
        assert_eq!(
            text,
            format!("{head}connection: close\r\ncontent-length: 5\r\n\r\n")
        );
        let text = written(&response, "GET / HTTP/1.0", false);
        assert!(text.contains("connection: keep-alive\r\n"));
        assert_eq!(response.get("x-a"), Some(&b"3"[..]));
        assert_eq!(response.get("x"), None);
        assert_eq!(response.fields().count(), 2);
    }

    #[test]
    fn what_cannot_be_a_value_adds_no_line() {
        let mut response = Response::new(StatusCode::OK);
        for value in ["a\r\nx-b: c", "a\n", "\0", "\u{7f}"] {
            response.set("x-a", value);
            assert_eq!(response.fields().count(), 0, "{value:?}");
        }
        response.set("x-a", "a\tü");
        assert_eq!(response.get("x-a"), Some("a\tü".as_bytes()));
    }

    #[test]
    fn some_responses_have_no_body_and_no_length() {
        for (status, request) in [
            (StatusCode::NO_CONTENT, "GET / HTTP/1.1"),
            (StatusCode::NOT_MODIFIED, "GET / HTTP/1.1"),
            (StatusCode::OK, "CONNECT h:1 HTTP/1.1"),
        ] {
            let response = Response::new(status).with_body("text");
            let text = written(&response, request, false);
            assert_eq!(text.lines().count(), 2, "{text}");
        }
        let refused = Response::new(StatusCode::FORBIDDEN).with_body("text");
        assert!(written(&refused, "CONNECT h:1 HTTP/1.1", true).ends_with("\r\n\r\ntext"));
    }
}
