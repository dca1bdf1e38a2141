//! Faults of a proxy's configuration.

use std::fmt;

use http::HeaderName;

use crate::{metrics::ContractFault, problem::Problem};

/// A check that tollgate cannot understand because the proxy is not configured as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The path is not an endpoint.
    UnknownPath,
    /// A header that the proxy has to set is missing.
    MissingHeader(HeaderName),
    /// A header that the proxy has to set came twice.
    RepeatedHeader(HeaderName),
    /// A header that the proxy has to set cannot be read.
    UnreadableHeader(HeaderName),
}

impl Fault {
    /// What is wrong, and which setting to change.
    pub fn problem(&self) -> Problem {
        match self {
            Self::UnknownPath => Problem::new(
                "no check endpoint at this path",
                "Envoy: set http_service.path_override: /v1/check (1.38 and later) or path_prefix: /v1/envoy; \
                 nginx: proxy_pass http://…/v1/check; others: point forward-auth to /v1/check",
            ),
            Self::MissingHeader(name) => {
                Problem::new(format!("the check has no {name} header"), header_hint(name))
            }
            Self::RepeatedHeader(name) => Problem::new(
                format!("the check has more than one {name} header"),
                "the proxy must overwrite what a client sends under this name, not append to it",
            ),
            Self::UnreadableHeader(name) => Problem::new(
                format!("the {name} header of the check cannot be read"),
                header_hint(name),
            ),
        }
    }

    /// The label for metrics.
    pub const fn kind(&self) -> ContractFault {
        match self {
            Self::UnknownPath => ContractFault::UnknownPath,
            Self::MissingHeader(_) => ContractFault::MissingHeader,
            Self::RepeatedHeader(_) => ContractFault::RepeatedHeader,
            Self::UnreadableHeader(_) => ContractFault::UnreadableHeader,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem().fmt(f)
    }
}

impl std::error::Error for Fault {}

fn header_hint(name: &HeaderName) -> &'static str {
    match name.as_str() {
        "x-forwarded-uri" => {
            "Envoy: headers_to_add x-forwarded-uri \"%REQ(:PATH)%\"; nginx: proxy_set_header X-Forwarded-Uri $request_uri"
        }
        "x-forwarded-method" => {
            "Envoy: headers_to_add x-forwarded-method \"%REQ(:METHOD)%\"; nginx: proxy_set_header X-Forwarded-Method $request_method"
        }
        _ => "see docs/proxies.md",
    }
}
