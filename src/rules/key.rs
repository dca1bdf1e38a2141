//! Whose requests share a counter: the descriptor of a rule and the keys it makes.
//!
//! A key looks like `tollgate:{search:path.tenant=acme,header.x-api-key=k}:sliding_window:60s`. The braces make Redis Cluster
//! keep all limits of one rule for one caller in one slot. Keys are injective: rule names and part names hold none of
//! `: , = { }`, values are encoded so that they hold none either (but `:`, which separates nothing inside the braces after
//! the first), and a missing value is a part without `=`.

use http::HeaderName;
use serde::Serialize;

use super::matcher::Params;
use crate::{
    request::{Attributes, ClientIpPolicy, decoded_segment},
    store::{push_hash, push_value},
};

/// How every key begins, and what `redis-cli --scan --pattern 'tollgate:*'` finds.
pub const PREFIX: &str = "tollgate:";

/// What identifies a caller to a rule. No parts: one counter for everybody.
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
    /// The first line of a request header.
    Header {
        /// Which one.
        name: HeaderName,
        /// Whether only a hash of the value may be seen.
        secret: bool,
    },
    /// A parameter of the path template.
    Path {
        /// Its name, for the key.
        name: String,
        /// Its place among the parameters; the same in every path of the rule.
        place: usize,
    },
    /// The request's method.
    Method,
    /// The request's host.
    Host,
}

/// What it means when a request lacks a part of the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    /// All requests without it share one counter.
    #[default]
    Shared,
    /// The rule does not apply.
    Skip,
    /// The request is denied.
    Deny,
}

/// Headers whose values are secrets by their nature.
const SECRET_HEADERS: [HeaderName; 4] = [
    http::header::AUTHORIZATION,
    http::header::PROXY_AUTHORIZATION,
    http::header::COOKIE,
    http::header::SET_COOKIE,
];

/// Whether a header's value may only be shown as a hash, whatever the rule says.
pub fn is_secret(name: &HeaderName) -> bool {
    SECRET_HEADERS.contains(name)
}

impl Part {
    /// Appends the value as keys show it; `false` if the request has none.
    fn push(
        &self,
        out: &mut String,
        request: &Attributes<'_>,
        params: &Params<'_>,
        policy: &ClientIpPolicy,
    ) -> bool {
        match self {
            Self::ClientIp => match request.client_ip {
                Some(ip) => {
                    out.push('=');
                    policy.push_key(out, ip);
                    true
                }
                None => false,
            },
            Self::Header { name, secret } => match request.headers.get(name) {
                Some(value) => {
                    out.push('=');
                    if *secret {
                        push_hash(out, value.as_bytes());
                    } else {
                        push_value(out, value.as_bytes());
                    }
                    true
                }
                None => false,
            },
            Self::Path { place, .. } => match params.get(*place) {
                Some(segment) => {
                    out.push('=');
                    push_value(out, &decoded_segment(segment));
                    true
                }
                None => false,
            },
            Self::Method => {
                out.push('=');
                push_value(out, request.method.as_bytes());
                true
            }
            Self::Host if request.host.is_empty() => false,
            Self::Host => {
                out.push('=');
                push_value(out, request.host.as_bytes());
                true
            }
        }
    }

    /// The part's name, as keys show it.
    pub fn push_name(&self, out: &mut String) {
        match self {
            Self::ClientIp => out.push_str("client_ip"),
            Self::Method => out.push_str("method"),
            Self::Host => out.push_str("host"),
            Self::Header { name, .. } => {
                out.push_str("header.");
                out.push_str(name.as_str());
            }
            Self::Path { name, .. } => {
                out.push_str("path.");
                out.push_str(name);
            }
        }
    }
}

impl Descriptor {
    /// The names of the parts, as keys show them.
    pub fn names(&self) -> Vec<String> {
        let name = |part: &Part| {
            let mut out = String::new();
            part.push_name(&mut out);
            out
        };
        self.parts.iter().map(name).collect()
    }

    /// Appends `part=value,part=value` for a request; says whether a value was missing (its part then stands alone).
    pub fn push(
        &self,
        out: &mut String,
        request: &Attributes<'_>,
        params: &Params<'_>,
        policy: &ClientIpPolicy,
    ) -> bool {
        let mut missing = false;
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            part.push_name(out);
            missing |= !part.push(out, request, params, policy);
        }
        missing
    }
}
