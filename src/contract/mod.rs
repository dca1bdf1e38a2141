//! The external-authorization contracts: from a proxy's check to
//! [`Attributes`](crate::request::Attributes), and from a [`Decision`](crate::engine::Decision) to
//! a response.
//!
//! What the proxies send and accept was recorded from real ones; docs/proxies.md has their
//! configurations.
//!
//! | path                        | asked by                            | the request is read from      |
//! |-----------------------------|-------------------------------------|-------------------------------|
//! | `/v1/check`                 | Envoy ≥ 1.38, nginx, Caddy, HAProxy | `X-Forwarded-Method`, `-Uri`, |
//! |                             |                                     | `-Host` (else `Host`)         |
//! | `/v1/envoy` + original path | any Envoy (`path_prefix`)           | the request line and `Host`   |
//! | `/v1/auth-request`          | ingress-nginx, and nginx that knows | `X-Original-URL`, `-Method`;  |
//! |                             | only 401 and 403                    | denies by 403                 |
//!
//! The client must not be able to choose what is read. So nothing is read from the query of a fixed
//! path, and a header that a proxy sets must be there. A check without it, or on any other path, is
//! a [`Fault`] of the configuration, answered with 503: a 404 would reach clients as a denial.
//!
//! Nor must it be able to choose a 503, because proxies let such requests through. What a client
//! could have caused is a [`Refusal`], answered with 400: a request that servers read differently,
//! and a header that came twice (the client's own was passed on, and the two cannot be told apart).

mod answer;
mod fault;
mod headers;
mod read;
mod refusal;

pub use self::{
    answer::{AnswerOptions, answer, fault_answer, refusal_answer},
    fault::Fault,
    read::{Check, Reading, Unreadable, read},
    refusal::Refusal,
};
/// Which contract a check speaks; the same words are in metrics.
pub use crate::metrics::Contract as Endpoint;
