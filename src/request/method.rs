//! The normal form of a request's method.

use std::borrow::Cow;

/// The methods that are registered with IANA (HTTP Method Registry, RFC 9110 §18.2), and those that
/// caches and browsers use beside them.
pub const KNOWN_METHODS: [&str; 43] = [
    "ACL",
    "BASELINE-CONTROL",
    "BAN",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PRI",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "REFRESH",
];

/// The method in upper case.
///
/// HTTP says that case matters (RFC 9110 §9.1), but some application servers run the POST handler
/// for `post`; a limit that `post` evades is none.
pub fn normal_method(method: &str) -> Cow<'_, str> {
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Cow::Owned(method.to_ascii_uppercase())
    } else {
        Cow::Borrowed(method)
    }
}
