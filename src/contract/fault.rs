//! Faults of a proxy's configuration.

use std::fmt;

use http::HeaderName;

use crate::{metrics::ContractFault, problem::Problem};

/// A check that tollgate cannot understand because the proxy is not configured as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The path is not an endpoint.
    UnknownPath,
    /// No check, but a load balancer that probes the port: `GET /`.
    Probe,
    /// The proxy asks about a CONNECT by a CONNECT, as Envoy does, and waits for no answer.
    Tunnel,
    /// The proxy speaks HTTP/2.
    Http2,
    /// A header that the proxy has to set is missing.
    MissingHeader(HeaderName),
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
            Self::Probe => Problem::new(
                "something asks for / on the check port, and gets a 503",
                "point a load balancer's health check to /readyz on the admin port (8082); if it is \
                 the proxy that asks: set http_service.path_override: /v1/check in Envoy",
            ),
            Self::Tunnel => Problem::new(
                "a check came as a CONNECT: a client asks the proxy for a tunnel, and the proxy does not \
                 wait for an answer",
                "have the proxy refuse CONNECT before it checks, as Envoy does by itself without a connect_matcher, or let failed \
                 checks deny (failure_mode_allow: false)",
            ),
            Self::Http2 => Problem::new(
                "a proxy began with HTTP/2, which is not spoken on this port: a client could turn its \
                 check into an error, which is let through",
                "Envoy: set explicit_http_config: { http_protocol_options: {} } in the cluster of tollgate",
            ),
        }
    }

    /// The label for metrics.
    pub const fn kind(&self) -> ContractFault {
        match self {
            Self::UnknownPath => ContractFault::UnknownPath,
            Self::MissingHeader(_) => ContractFault::MissingHeader,
            Self::Probe => ContractFault::Probe,
            Self::Tunnel => ContractFault::Tunnel,
            Self::Http2 => ContractFault::Http2,
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
        "x-original-url" => {
            "ingress-nginx sends it by itself; nginx: proxy_set_header X-Original-URL $scheme://$http_host$request_uri"
        }
        "x-original-method" => {
            "ingress-nginx sends it by itself; nginx: proxy_set_header X-Original-Method $request_method"
        }
        "x-forwarded-method" => {
            "Envoy: headers_to_add x-forwarded-method \"%REQ(:METHOD)%\"; nginx: proxy_set_header X-Forwarded-Method $request_method"
        }
        _ => "see docs/proxies.md",
    }
}
