//! A client's request as tollgate sees it: borrowed, in normal form, the same for every proxy.

mod ambiguity;
mod client_ip;
mod host;
mod method;
mod path;
mod percent;
mod policy;
mod query;
mod scheme;
mod target;

use std::{borrow::Cow, net::IpAddr};

use http::HeaderName;

use crate::wire::Headers;

pub(crate) use self::path::normal_part;
pub use self::{
    ambiguity::Ambiguity,
    client_ip::{ClientIpPolicy, parse_ip, parse_portless_ip, unmapped},
    host::{NotAHost, normal_host},
    method::{KNOWN_METHODS, normal_method},
    path::{decoded_segment, normal_path},
    policy::{DotSegments, EncodedSlash, LeadingSlashes, Parameters, PathPolicy},
    query::query_of,
    scheme::Scheme,
};

/// A client's request, as the proxy described it.
#[derive(Debug)]
pub struct Attributes<'a> {
    /// The client's method, [in upper case](normal_method).
    pub method: Cow<'a, str>,
    /// How the client reached the proxy; `None` if the proxy did not say.
    pub scheme: Option<Scheme>,
    /// The client's host in [normal form](normal_host); empty if there is none.
    pub host: Cow<'a, str>,
    /// The path in [normal form](normal_path), without query.
    pub path: Cow<'a, str>,
    /// The path with the parameters that were cut from `path` (`/data;v=2`), if any were: what it
    /// is to servers that do not cut them.
    pub with_parameters: Option<String>,
    /// The query as sent, without `?` and fragment; empty if there is none.
    pub query: Cow<'a, str>,
    /// The client's address; `None` if the proxy sent none that can be parsed.
    pub client_ip: Option<IpAddr>,
    /// The headers that the proxy forwarded.
    pub headers: &'a Headers,
}

impl<'a> Attributes<'a> {
    /// The paths that it may be to the application: without parameters, and with them if it has
    /// any.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let with_parameters = self.with_parameters.as_deref();
        std::iter::once(&*self.path).chain(with_parameters)
    }

    /// Builds a request from its parts as a client sends them; `target` is path and query. What is
    /// no host counts as none.
    pub fn new(
        method: &'a str,
        host: &'a str,
        target: &'a str,
        client_ip: Option<IpAddr>,
        headers: &'a Headers,
    ) -> Self {
        Self {
            method: normal_method(method),
            scheme: None,
            host: normal_host(host).unwrap_or_default(),
            path: normal_path(target),
            with_parameters: None,
            query: query_of(target).into(),
            client_ip,
            headers,
        }
    }

    /// The value of a query parameter, decoded: `%XX` is a byte, `+` a space (the form encoding of
    /// the WHATWG URL Standard, §5.1).
    ///
    /// Names are compared after decoding. If a parameter occurs several times, the first one
    /// counts. A parameter without `=` has an empty value.
    pub fn query_value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        query::value_of(&self.query, name)
    }
}

/// Headers whose values are always secret.
const SECRET_HEADERS: [HeaderName; 4] = [
    http::header::AUTHORIZATION,
    http::header::PROXY_AUTHORIZATION,
    http::header::COOKIE,
    http::header::SET_COOKIE,
];

/// Whether a header's value may only appear as a hash, whatever the rule says.
pub fn is_secret(name: &HeaderName) -> bool {
    SECRET_HEADERS.contains(name)
}
