//! Whose requests share a counter: the descriptor of a rule, as it is written into keys.
//!
//! `path.tenant=acme,header.x-api-key=k`: names and values of the parts. How a key is made of it is
//! in [`counter_key`](crate::counter_key).

mod bearer;

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderName, header::COOKIE};

use super::matcher::Params;
use crate::{
    hash::{HashKey, is_hash, push_name},
    problem::Problem,
    request::{
        Attributes, ClientIpPolicy, Scheme, decoded_segment, normal_host, normal_method,
        parse_portless_ip,
    },
    words::words,
};

pub use self::bearer::claim;

/// The parts that identify a client to a rule. Without parts, all clients share one counter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// The parts, in the order of the rule file.
    pub parts: Vec<Part>,
    /// What a missing value means.
    pub on_missing: OnMissing,
}

/// One part of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The client's address, IPv6 by prefix.
    ClientIp,
    /// The request's method.
    Method,
    /// The request's scheme.
    Scheme,
    /// The request's host.
    Host,
    /// A parameter of the path template.
    Path {
        /// Its name, for the key.
        name: String,
        /// Its position among the parameters; the same in every path of the rule.
        place: usize,
    },
    /// The first line of a request header.
    Header {
        /// The header.
        name: HeaderName,
        /// Whether the value may only appear as a hash.
        secret: bool,
    },
    /// The first cookie of a name (RFC 6265 §4.2). Cookies are always secret.
    Cookie {
        /// The cookie; case matters.
        name: String,
    },
    /// The first query parameter of a name, decoded.
    Query {
        /// The parameter; case matters.
        name: String,
        /// Whether the value may only appear as a hash.
        secret: bool,
    },
    /// A claim of the bearer token, *not verified*. See [`claim`].
    Jwt {
        /// The claim, followed by the members within it.
        path: Vec<String>,
        /// Whether the value may only appear as a hash.
        secret: bool,
    },
}

words! {
    /// What it means when a request lacks a part of the key.
    pub enum OnMissing default Shared {
        /// All requests that lack it share a counter.
        Shared => "shared",
        /// The rule does not apply.
        Skip => "skip",
        /// The request is denied.
        Deny => "deny",
    }
}

impl Part {
    /// Appends `=` and the value as it appears in keys; `false` if the request has none.
    fn push(
        &self,
        out: &mut String,
        request: &Attributes<'_>,
        params: &Params<'_>,
        context: Context<'_>,
    ) -> bool {
        let Some(value) = self.value(request, params) else {
            return false;
        };
        out.push('=');
        match (self, value) {
            (_, Value::Ip(ip)) => context.client_ip.push_key(out, ip),
            (part, Value::Bytes(bytes)) if part.is_secret() => {
                context.hash_key.push_hash(out, &bytes);
            }
            (_, Value::Bytes(bytes)) => context.hash_key.push_value(out, &bytes),
        }
        true
    }

    /// Appends `=` and a value from the rule file, written as a request would have it. A secret may
    /// also be written as its hash.
    pub fn push_given(
        &self,
        out: &mut String,
        value: &str,
        context: Context<'_>,
    ) -> Result<(), Problem> {
        out.push('=');
        match self {
            Self::ClientIp => {
                let ip = parse_portless_ip(value).ok_or_else(|| {
                    Problem::new(
                        format!("{value:?} is not an address"),
                        "write one like 203.0.113.7, without a port; of IPv6, any address of the site",
                    )
                })?;
                context.client_ip.push_key(out, ip);
            }
            Self::Host => {
                let host = normal_host(value).ok().filter(|host| !host.is_empty());
                let host = host.ok_or_else(|| {
                    Problem::new(
                        format!("{value:?} is not a host"),
                        "write one like api.example.com",
                    )
                })?;
                context.hash_key.push_value(out, host.as_bytes());
            }
            Self::Method => {
                let method = normal_method(value);
                context.hash_key.push_value(out, method.as_bytes());
            }
            Self::Scheme => {
                let scheme = Scheme::parse(value).ok_or_else(|| {
                    Problem::new(format!("{value:?} is not a scheme"), "write http or https")
                })?;
                out.push_str(scheme.as_str());
            }
            _ if self.is_secret() && is_hash(value) => out.push_str(value),
            _ if self.is_secret() => context.hash_key.push_hash(out, value.as_bytes()),
            _ => context.hash_key.push_value(out, value.as_bytes()),
        }
        Ok(())
    }

    /// Whether the value may only appear as a hash.
    pub fn is_secret(&self) -> bool {
        match self {
            Self::Header { secret, .. } | Self::Query { secret, .. } | Self::Jwt { secret, .. } => {
                *secret
            }
            Self::Cookie { .. } => true,
            Self::ClientIp | Self::Method | Self::Scheme | Self::Host | Self::Path { .. } => false,
        }
    }

    /// The request's value; `None` if it has none.
    fn value<'a>(&self, request: &'a Attributes<'_>, params: &Params<'a>) -> Option<Value<'a>> {
        let bytes = match self {
            Self::ClientIp => return request.client_ip.map(Value::Ip),
            Self::Method => Cow::Borrowed(request.method.as_bytes()),
            Self::Scheme => Cow::Borrowed(request.scheme?.as_str().as_bytes()),
            Self::Host if request.host.is_empty() => return None,
            Self::Host => Cow::Borrowed(request.host.as_bytes()),
            Self::Path { place, .. } => decoded_segment(params.get(*place)?),
            Self::Header { name, .. } => Cow::Borrowed(request.headers.get(name)?),
            Self::Cookie { name } => Cow::Borrowed(cookie(request, name)?),
            Self::Query { name, .. } => request.query_value(name)?,
            Self::Jwt { path, .. } => Cow::Owned(claim(request.headers, path)?.into_bytes()),
        };
        Some(Value::Bytes(bytes))
    }

    /// Appends the part's name as it appears in keys.
    pub fn push_name(&self, out: &mut String) {
        let (source, name) = match self {
            Self::ClientIp => ("client_ip", ""),
            Self::Method => ("method", ""),
            Self::Scheme => ("scheme", ""),
            Self::Host => ("host", ""),
            Self::Header { name, .. } => ("header.", name.as_str()),
            Self::Path { name, .. } => ("path.", name.as_str()),
            Self::Cookie { name } => ("cookie.", name.as_str()),
            Self::Query { name, .. } => ("query.", name.as_str()),
            Self::Jwt { path, .. } => {
                out.push_str("jwt");
                for name in path {
                    out.push('.');
                    push_name(out, name);
                }
                return;
            }
        };
        out.push_str(source);
        push_name(out, name);
    }
}

/// A value before it is encoded.
enum Value<'a> {
    Ip(IpAddr),
    Bytes(Cow<'a, [u8]>),
}

/// What a value needs to become a part of a key.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// How addresses are written.
    pub client_ip: &'a ClientIpPolicy,
    /// The key under which secrets are hashed.
    pub hash_key: &'a HashKey,
}

/// The value of the first cookie of a name. Browsers send one `Cookie` line; HTTP/2 may split it.
fn cookie<'a>(request: &Attributes<'a>, name: &str) -> Option<&'a [u8]> {
    let lines = request.headers.get_all(&COOKIE);
    lines
        .flat_map(|line| line.split(|&byte| byte == b';'))
        .find_map(|pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|&byte| byte == b'=')?;
            (pair[..at].trim_ascii_end() == name.as_bytes())
                .then(|| pair[at + 1..].trim_ascii_start())
        })
}

impl Descriptor {
    /// The names of the parts as they appear in keys.
    pub fn names(&self) -> Vec<String> {
        let name = |part: &Part| {
            let mut out = String::new();
            part.push_name(&mut out);
            out
        };
        self.parts.iter().map(name).collect()
    }

    /// Appends `part=value,part=value` for a request. Returns whether a value is missing; its part
    /// then has no `=`.
    pub fn push(
        &self,
        out: &mut String,
        request: &Attributes<'_>,
        params: &Params<'_>,
        context: Context<'_>,
    ) -> bool {
        let mut missing = false;
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            part.push_name(out);
            missing |= !part.push(out, request, params, context);
        }
        missing
    }
}
