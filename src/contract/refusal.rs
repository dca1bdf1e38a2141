//! Requests that are refused before any rule is asked.

use std::fmt;

use http::HeaderName;

use crate::{metrics::RefusalReason, problem::Problem, request::Ambiguity};

/// A client's request that cannot be judged, because servers would read it differently.
///
/// It is denied with a 400, on `/v1/auth-request` with a 403. A 503 would be let through by a proxy
/// that fails open, and the client could have chosen it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The target means one thing to one server and another to the next.
    Target(Ambiguity),
    /// The host is invalid, or there is more than one.
    Host,
    /// The method is not a token (RFC 9110 §9.1).
    Method,
    /// A header that the proxy sets came twice: the client's own was passed on.
    RepeatedHeader(HeaderName),
}

impl Refusal {
    /// What is wrong, and what to do about it.
    pub fn problem(&self) -> Problem {
        let (message, hint) = match self {
            Self::Target(Ambiguity::Fragment) => (
                "the request target has a `#`",
                "a client must send it as %23, or leave the fragment out",
            ),
            Self::Target(Ambiguity::Backslash) => (
                "the path has a backslash, which some servers take for a slash",
                "if your application needs %5C: `paths: { encoded_slash: keep }` in the rule file",
            ),
            Self::Target(Ambiguity::EncodedSlash) => (
                "the path has an encoded slash (%2F), which some servers take for a slash",
                "if your application needs it: `paths: { encoded_slash: keep }` in the rule file",
            ),
            Self::Target(Ambiguity::Control) => (
                "the request target has a space or a control character",
                "no client has a reason to send one",
            ),
            Self::Target(Ambiguity::DotSegment) => (
                "the path has a dot segment, which servers resolve differently",
                "a client must resolve `.` and `..` itself; if yours do not, and your application \
                 resolves them: `paths: { dot_segments: resolve }` in the rule file",
            ),
            Self::Target(Ambiguity::LeadingSlashes) => (
                "the path begins with two slashes, which some servers take for the beginning of a host",
                "if your application takes them for one: `paths: { leading_slashes: merge }` in the rule \
                 file",
            ),
            Self::Target(Ambiguity::Parameters) => (
                "the path has a segment of nothing but parameters (`/;x`), which some servers drop",
                "if it is a segment to your application: `paths: { parameters: keep }` in the rule file",
            ),
            Self::Target(Ambiguity::Escape) => (
                "the path has a `%` without two hexadecimal digits behind it",
                "a client must send a percent sign as %25",
            ),
            Self::Target(Ambiguity::Form) => (
                "the request target is neither a path nor an http URL",
                "it must begin with a slash, or with http:// and a host",
            ),
            Self::Host => (
                "the host of the request is not one host",
                "a client must send one name or address, with at most one port",
            ),
            Self::Method => (
                "the request method is not a valid token",
                "a client must send one like GET",
            ),
            Self::RepeatedHeader(name) => {
                return Problem::new(
                    format!("the check has more than one {name} header"),
                    "the proxy must overwrite what a client sends under this name, not append to it",
                );
            }
        };
        Problem::new(message, hint)
    }

    /// The problem for somebody who asks what would happen to such a request.
    pub fn explained(&self) -> Problem {
        let Problem { message, hint } = self.problem();
        let message = format!(
            "refused before any rule is asked, with a 400 (on /v1/auth-request, a 403): {message}"
        );
        Problem {
            message: message.into(),
            hint,
        }
    }

    /// The label for metrics.
    pub const fn reason(&self) -> RefusalReason {
        match self {
            Self::Target(Ambiguity::Fragment) => RefusalReason::Fragment,
            Self::Target(Ambiguity::Backslash) => RefusalReason::Backslash,
            Self::Target(Ambiguity::EncodedSlash) => RefusalReason::EncodedSlash,
            Self::Target(Ambiguity::Control) => RefusalReason::Control,
            Self::Target(Ambiguity::DotSegment) => RefusalReason::DotSegment,
            Self::Target(Ambiguity::LeadingSlashes) => RefusalReason::LeadingSlashes,
            Self::Target(Ambiguity::Parameters) => RefusalReason::Parameters,
            Self::Target(Ambiguity::Escape) => RefusalReason::Escape,
            Self::Target(Ambiguity::Form) => RefusalReason::Form,
            Self::Host => RefusalReason::Host,
            Self::Method => RefusalReason::Method,
            Self::RepeatedHeader(_) => RefusalReason::RepeatedHeader,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem().fmt(f)
    }
}

impl std::error::Error for Refusal {}
