//! The head of a request (RFC 9112), and what it says about its body and its connection.

use std::{mem::MaybeUninit, ops::Range};

use http::{
    HeaderName, Uri,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING},
};

use super::headers::{Headers, place};

/// The most header fields of a request. More than a hundred are rare, but a request that has them
/// is to be decided about, and not refused. nginx takes a thousand, and adds some.
pub const MAX_FIELDS: usize = 1024;

/// As many fields as are read without asking for memory.
const FEW_FIELDS: usize = 64;

/// A request.
#[derive(Debug)]
pub struct Request {
    headers: Headers,
    method: Range<u32>,
    target: Target,
    exchange: Exchange,
    body: Body,
}

/// What a request says about its response and its connection.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// How long the body is.
    pub framing: Framing,
    /// Whether the client holds the body back until it is asked for it (RFC 9110 §10.1.1).
    pub holds_body_back: bool,
    /// Whether the client would send another request on the connection (RFC 9112 §9.3).
    pub keeps_connection: bool,
    /// Whether it came over HTTP/1.0.
    pub is_http_1_0: bool,
    /// What it asks for.
    pub wants: Wants,
}

/// What a request asks for, by its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// A response with its content.
    Content,
    /// Its head alone: HEAD.
    Head,
    /// A tunnel: CONNECT.
    Tunnel,
}

/// The request target (RFC 9112 §3.2).
#[derive(Debug)]
enum Target {
    /// A path, maybe with a query, of characters about which there is no question; and where the
    /// path ends.
    Plain(Range<u32>, u32),
    /// Any other that is one.
    Uri(Box<Uri>),
}

/// How long the body of a request is (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; 0 without a body.
    Length(u64),
    /// Until its last chunk.
    Chunked,
    /// It has both a length and chunks: whoever reads on might be fooled.
    Unclear,
}

/// The body of a request, as far as the handler wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// All of it; empty if there is none, or if it is not wanted.
    Whole(Vec<u8>),
    /// It is longer than is wanted.
    TooLong,
    /// It did not arrive in time.
    Late,
    /// It broke off, or is none.
    Broken,
}

/// Why bytes are not the head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotARequest {
    /// They break the rules of HTTP/1.1.
    Malformed,
    /// It has more than [`MAX_FIELDS`] fields, or does not end.
    TooLarge,
}

impl Request {
    /// Reads the head that `bytes` begin with; returns what follows it, too.
    pub fn parse(mut bytes: Vec<u8>) -> Result<(Self, Vec<u8>), NotARequest> {
        let mut few = [const { MaybeUninit::uninit() }; FEW_FIELDS];
        let mut many;
        let mut parsed = httparse::Request::new(&mut []);
        let mut end = parsed.parse_with_uninit_headers(&bytes, &mut few);
        if end == Err(httparse::Error::TooManyHeaders) {
            many = vec![MaybeUninit::uninit(); MAX_FIELDS];
            end = parsed.parse_with_uninit_headers(&bytes, &mut many);
        }
        let end = match end {
            Ok(httparse::Status::Complete(end)) => end,
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(NotARequest::TooLarge);
            }
            Err(_) => return Err(NotARequest::Malformed),
        };
        let (Some(method), Some(target), Some(minor)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(NotARequest::Malformed);
        };
        let within = |part: &[u8]| {
            let start = place(part.as_ptr().addr() - bytes.as_ptr().addr());
            start..start + place(part.len())
        };
        let target = match target.strip_prefix('/') {
            Some(rest) if rest.bytes().all(is_plain) => {
                let range = within(target.as_bytes());
                let path = memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len());
                let end = range.start + place(path);
                Target::Plain(range, end)
            }
            _ => {
                let uri = Uri::try_from(target).map_err(|_| NotARequest::Malformed)?;
                Target::Uri(Box::new(uri))
            }
        };
        let method = within(method.as_bytes());
        let places: smallvec::SmallVec<[_; 32]> = parsed
            .headers
            .iter()
            .map(|field| (within(field.name.as_bytes()), within(field.value)))
            .collect();
        let rest = if end == bytes.len() {
            Vec::new()
        } else {
            let rest = bytes[end..].to_vec();
            bytes.truncate(end);
            rest
        };
        let headers = Headers::within(bytes, places.into_iter());
        let request = Self {
            exchange: exchange(&headers, text(headers.slice(&method)), minor == 0)?,
            headers,
            method,
            target,
            body: Body::Whole(Vec::new()),
        };
        Ok((request, rest))
    }

    /// The method, as it came.
    pub fn method(&self) -> &str {
        text(self.headers.slice(&self.method))
    }

    /// Path and query of the target; empty if it has none.
    pub fn path_and_query(&self) -> &str {
        match &self.target {
            Target::Plain(range, _) => text(self.headers.slice(range)),
            Target::Uri(uri) => uri.path_and_query().map_or("", |both| both.as_str()),
        }
    }

    /// The path of the target, as it came; `*` for the target `*`, and empty if there is none.
    pub fn path(&self) -> &str {
        match &self.target {
            Target::Plain(range, end) => text(self.headers.slice(&(range.start..*end))),
            Target::Uri(uri) => uri.path(),
        }
    }

    /// The query of the target, if it has one.
    pub fn query(&self) -> Option<&str> {
        let both = self.path_and_query();
        both.split_once('?').map(|(_, query)| query)
    }

    /// The host and port in the target, if they are there.
    pub fn authority(&self) -> Option<&str> {
        match &self.target {
            Target::Plain(..) => None,
            Target::Uri(uri) => uri.authority().map(http::uri::Authority::as_str),
        }
    }

    /// The header fields.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// What it says about its response and its connection.
    pub fn exchange(&self) -> Exchange {
        self.exchange
    }

    /// The body, as far as it was wanted.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// A request as it would come with these parts, for tests and tools.
    pub fn of(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Self, NotARequest> {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.push_str("\r\n");
        Self::parse(head.into_bytes()).map(|(request, _)| request)
    }

    /// The same request with a body.
    #[must_use]
    pub fn with_body(self, body: Body) -> Self {
        Self { body, ..self }
    }
}

/// Whether a character of a target means the same to everybody.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/?&=%+:,;@!$'()*".contains(&byte)
}

/// Text that the parser has looked at.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn exchange(headers: &Headers, method: &str, is_http_1_0: bool) -> Result<Exchange, NotARequest> {
    let wants = match method {
        "HEAD" => Wants::Head,
        "CONNECT" => Wants::Tunnel,
        _ => Wants::Content,
    };
    Ok(Exchange {
        framing: framing(headers, is_http_1_0)?,
        holds_body_back: headers.get(&EXPECT).is_some(),
        // What follows would belong to the tunnel.
        keeps_connection: keeps_connection(headers, is_http_1_0) && wants != Wants::Tunnel,
        is_http_1_0,
        wants,
    })
}

fn keeps_connection(headers: &Headers, is_http_1_0: bool) -> bool {
    let (mut close, mut keep) = (false, false);
    for line in headers.get_all(&CONNECTION) {
        for option in line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            close |= option.eq_ignore_ascii_case(b"close");
            keep |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    !close && (keep || !is_http_1_0)
}

fn framing(headers: &Headers, is_http_1_0: bool) -> Result<Framing, NotARequest> {
    let mut length = None;
    for line in headers.get_all(&CONTENT_LENGTH) {
        let own = number(line).ok_or(NotARequest::Malformed)?;
        if length.is_some_and(|length| length != own) {
            return Err(NotARequest::Malformed);
        }
        length = Some(own);
    }
    let Some(coding) = last_coding(headers) else {
        return Ok(Framing::Length(length.unwrap_or(0)));
    };
    // What is coded in another way has no end that anybody knows.
    if is_http_1_0 || !coding.eq_ignore_ascii_case(b"chunked") {
        return Err(NotARequest::Malformed);
    }
    Ok(match length {
        None => Framing::Chunked,
        Some(_) => Framing::Unclear,
    })
}

fn last_coding(headers: &Headers) -> Option<&[u8]> {
    const NAME: HeaderName = TRANSFER_ENCODING;
    let line = headers.get_all(&NAME).next_back()?;
    line.rsplit(|byte| *byte == b',')
        .next()
        .map(<[u8]>::trim_ascii)
}

/// A number of decimal digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    text(digits).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Request, NotARequest> {
        let head = format!("{head}\r\n\r\n").into_bytes();
        Request::parse(head).map(|(request, rest)| {
            assert!(rest.is_empty());
            request
        })
    }

    fn framing_of(head: &str) -> Result<Framing, NotARequest> {
        parse(&format!("POST / HTTP/1.1\r\n{head}")).map(|request| request.exchange().framing)
    }

    #[test]
    fn a_head_is_read_where_it_lies_and_what_follows_is_returned() {
        let head = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nX-Y:  z \r\n\r\nGET /next";
        let (request, rest) = Request::parse(head.to_vec()).unwrap();
        assert_eq!((request.method(), request.path()), ("GET", "/a"));
        assert_eq!(request.path_and_query(), "/a?b=c");
        assert_eq!((request.query(), request.authority()), (Some("b=c"), None));
        let name = HeaderName::from_static("x-y");
        assert_eq!(request.headers().get(&name), Some(&b"z"[..]));
        assert_eq!(request.headers().len(), 2);
        assert_eq!(rest, b"GET /next");
        assert_eq!(*request.body(), Body::Whole(Vec::new()));
    }

    #[test]
    fn every_form_of_target_is_read_and_what_is_none_is_refused() {
        let read = |target: &str| {
            let request = parse(&format!("GET {target} HTTP/1.1"))?;
            let authority = request.authority().unwrap_or("-");
            Ok(format!(
                "{authority} {} {}",
                request.path(),
                request.path_and_query()
            ))
        };
        for (target, expected) in [
            ("/", "- / /"),
            ("/a/../%2f?x", "- /a/../%2f /a/../%2f?x"),
            ("/a#b", "- /a /a"),
            ("/\"{}|", "- /\"{}| /\"{}|"),
            ("*", "- * *"),
            ("http://h:1/a?b", "h:1 /a /a?b"),
            ("h:1", "h:1  "),
        ] {
            assert_eq!(read(target).as_deref(), Ok(expected), "{target}");
        }
        for target in ["/<", "/`", "http://", "a b", "x:/", "?"] {
            assert_eq!(read(target), Err(NotARequest::Malformed), "{target}");
        }
    }

    #[test]
    fn a_body_has_one_length_or_chunks() {
        let malformed = Err(NotARequest::Malformed);
        for (head, expected) in [
            ("x: y", Ok(Framing::Length(0))),
            ("content-length: 7", Ok(Framing::Length(7))),
            (
                "content-length: 7\r\ncontent-length: 07",
                Ok(Framing::Length(7)),
            ),
            ("content-length: 7\r\ncontent-length: 8", malformed),
            ("content-length: 7, 7", malformed),
            ("content-length: -7", malformed),
            ("content-length: 18446744073709551616", malformed),
            ("content-length:", malformed),
            ("transfer-encoding: Chunked", Ok(Framing::Chunked)),
            ("transfer-encoding: gzip, chunked", Ok(Framing::Chunked)),
            (
                "transfer-encoding: gzip\r\ntransfer-encoding: chunked",
                Ok(Framing::Chunked),
            ),
            (
                "transfer-encoding: chunked\r\ntransfer-encoding: gzip",
                malformed,
            ),
            ("transfer-encoding: chunked, gzip", malformed),
            ("transfer-encoding:", malformed),
            (
                "content-length: 7\r\ntransfer-encoding: chunked",
                Ok(Framing::Unclear),
            ),
        ] {
            assert_eq!(framing_of(head), expected, "{head}");
        }
        let old = parse("POST / HTTP/1.0\r\ntransfer-encoding: chunked");
        assert_eq!(old.unwrap_err(), NotARequest::Malformed);
    }

    #[test]
    fn a_connection_is_kept_as_version_and_options_say() {
        let keeps = |head: &str| parse(head).unwrap().exchange().keeps_connection;
        for (head, expected) in [
            ("GET / HTTP/1.1", true),
            ("GET / HTTP/1.1\r\nconnection: te, Close", false),
            (
                "GET / HTTP/1.1\r\nconnection: close\r\nconnection: keep-alive",
                false,
            ),
            ("GET / HTTP/1.0", false),
            ("GET / HTTP/1.0\r\nconnection: Keep-Alive", true),
            ("CONNECT h:1 HTTP/1.1", false),
        ] {
            assert_eq!(keeps(head), expected, "{head}");
        }
    }

    #[test]
    fn a_thousand_fields_are_read_and_more_are_refused() {
        let head = |count| format!("GET / HTTP/1.1{}", "\r\na: b".repeat(count));
        let request = parse(&head(MAX_FIELDS)).unwrap();
        assert_eq!(request.headers().len(), MAX_FIELDS);
        assert_eq!(
            parse(&head(MAX_FIELDS + 1)).unwrap_err(),
            NotARequest::TooLarge
        );
        for cut in ["GET / HTTP/1.1\r\na: b", "GET / HT"] {
            let error = Request::parse(cut.as_bytes().to_vec()).unwrap_err();
            assert_eq!(error, NotARequest::TooLarge, "{cut}");
        }
    }
}
