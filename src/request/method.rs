//! The normal form of a request's method.

use std::borrow::Cow;

/// The methods that are registered with IANA (HTTP Method Registry, RFC 9110 §18.2), and `BAN` and
/// `PURGE`, by which caches like Varnish are emptied. In alphabetical order.
pub const KNOWN_METHODS: [&str; 42] = [
    "ACL",
    "BAN",
    "BASELINE-CONTROL",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_methods_are_sorted_and_each_is_there_once() {
        assert!(KNOWN_METHODS.is_sorted_by(|a, b| a < b));
    }
}
