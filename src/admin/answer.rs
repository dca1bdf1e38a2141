//! The responses of the admin port.

use http::StatusCode;

use crate::wire::Response;

/// A text with its type.
pub(super) fn answer(status: StatusCode, content_type: &str, body: String) -> Response {
    let mut response = Response::new(status).with_body(body);
    response.set("content-type", content_type);
    response.set("cache-control", "no-store");
    response
}

/// A plain text.
pub(super) fn text(status: StatusCode, text: String) -> Response {
    answer(status, "text/plain; charset=utf-8", text)
}

/// A JSON text.
pub(super) fn json(status: StatusCode, json: String) -> Response {
    answer(status, "application/json", json)
}
