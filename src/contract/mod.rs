//! The external-authorization contracts: from a proxy's check to [`Attributes`](crate::request::Attributes), and from a
//! [`Decision`](crate::engine::Decision) to an answer.
//!
//! What the proxies send and accept was recorded from real ones; docs/proxies.md has the configurations.
//!
//! | path                        | who                                  | the request is read from                                  |
//! |-----------------------------|--------------------------------------|-----------------------------------------------------------|
//! | `/v1/check`                 | Envoy ≥ 1.38, nginx, Caddy, HAProxy  | `X-Forwarded-Method`, `-Uri`, `-Host` (else `Host`)        |
//! | `/v1/envoy` + original path | any Envoy (`path_prefix: /v1/envoy`) | the request line and `Host`                               |
//! | `/v1/auth-request`          | nginx that knows only 401 and 403    | as `/v1/check`; denies with 403                           |
//!
//! The client must not be able to choose what is read. So nothing is ever read from the query of a fixed path; a header that
//! a proxy sets must be there, and only once (twice means that the client's own was let through, and nobody can tell which is
//! which); and whatever is not one of these paths is a fault of the configuration, answered with 503: a 404 would
//! reach clients as a denial.

mod answer;
mod read;

pub use self::{
    answer::{AnswerOptions, answer, fault_answer},
    read::{Check, read},
};

use std::fmt;

use http::{HeaderName, HeaderValue};

/// Which contract a check speaks; the same words stand in metrics.
pub use crate::metrics::Contract as Endpoint;
use crate::{metrics::ContractFault, problem::Problem};

/// A check that tollgate cannot understand because the proxy is not configured as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// None of the endpoints.
    UnknownPath,
    /// A header that the proxy has to set is missing.
    MissingHeader(HeaderName),
    /// A header that the proxy has to set came twice.
    RepeatedHeader(HeaderName),
    /// A header that the proxy has to set cannot be read.
    UnreadableHeader(HeaderName),
}

impl Fault {
    /// What is wrong, and which setting to mend.
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

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_ENVOY_BUDGET: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// The rule that decided.
const X_TOLLGATE_RULE: HeaderName = HeaderName::from_static("x-tollgate-rule");
/// The limit that denied.
const X_TOLLGATE_LIMIT: HeaderName = HeaderName::from_static("x-tollgate-limit");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
