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
//! | `/v1/auth-request`          | nginx that knows only 401 and 403   | as `/v1/check`; denies by 403 |
//!
//! The client must not be able to choose what is read. So nothing is read from the query of a fixed
//! path. A header that a proxy sets must be there, and only once: twice means that the client's own
//! was passed on, and they cannot be told apart. Any other path is a fault of the configuration,
//! answered with 503: a 404 would reach clients as a denial.

mod answer;
mod fault;
mod headers;
mod read;

pub use self::{
    answer::{AnswerOptions, answer, fault_answer},
    fault::Fault,
    read::{Check, read},
};
/// Which contract a check speaks; the same words are in metrics.
pub use crate::metrics::Contract as Endpoint;
