//! `/livez` and `/readyz`.

use http::StatusCode;

use super::answer::{json, text};
use crate::{health::Health, wire::Response};

/// Always 200: what is wrong with Redis or the rule file is not mended by a restart.
pub(super) fn livez() -> Response {
    text(StatusCode::OK, "ok\n".to_owned())
}

/// 200 if traffic should come here, else 503, with the state of each component.
pub(super) fn readyz(health: &Health) -> Response {
    let report = health.report();
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(status, report.to_json() + "\n")
}
