//! `/metrics`.

use http::StatusCode;

use super::answer::Answer;
use crate::metrics::{CONTENT_TYPE, Metrics};

/// All metrics.
pub(super) fn metrics(metrics: &Metrics) -> Answer {
    Answer::new(StatusCode::OK, CONTENT_TYPE, metrics.encode())
}
