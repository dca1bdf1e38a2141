//! HTTP/1.1 as it is on the wire: heads of requests, read where they lie, and responses, written
//! into one buffer.
//!
//! A check is a head of a few hundred bytes, and its response another one. A library that makes a
//! map of the fields of each spends more on that than it takes to decide (docs/architecture.md has
//! the figures). The syntax is parsed by `httparse`; what a body is, and when a connection ends, is
//! decided here and in [`server`](crate::server).

mod date;
mod headers;
mod request;
mod response;

pub use self::{
    headers::Headers,
    request::{Body, Exchange, Framing, MAX_FIELDS, NotARequest, Request, Wants},
    response::Response,
};
