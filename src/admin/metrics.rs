//! `/metrics`.

use http::StatusCode;

use super::answer::answer;
use crate::{
    metrics::{CONTENT_TYPE, Metrics},
    wire::Response,
};

/// All metrics.
pub(super) fn metrics(metrics: &Metrics) -> Response {
    answer(StatusCode::OK, CONTENT_TYPE, metrics.encode())
}
