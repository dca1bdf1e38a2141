//! `/metrics`.

use http::StatusCode;

use super::answer::answer;
use crate::{
    metrics::{CONTENT_TYPE, Metrics, process},
    wire::Response,
};

/// All metrics.
pub(super) fn metrics(metrics: &Metrics) -> Response {
    let all = process::encode() + &metrics.encode();
    answer(StatusCode::OK, CONTENT_TYPE, all)
}
