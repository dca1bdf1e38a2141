//! The responses of the admin port.

use http::StatusCode;

use crate::wire::{Body, Response};

/// A text with its type.
pub(super) fn answer(status: StatusCode, content_type: &str, body: String) -> Response {
    let mut response = Response::new(status).with_body(body);
    response.set("content-type", content_type);
    response.set("cache-control", "no-store");
    // What clients sent is in some of them.
    response.set("x-content-type-options", "nosniff");
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

/// The response to a question of at most `most` bytes whose body did not come.
pub(super) fn incomplete(body: &Body, most: usize) -> Response {
    let (status, message) = match body {
        Body::TooLong => (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a query has at most {most} bytes\n"),
        ),
        Body::Late => (
            StatusCode::REQUEST_TIMEOUT,
            "the query did not arrive in time\n".to_owned(),
        ),
        Body::Whole(_) | Body::Broken => (
            StatusCode::BAD_REQUEST,
            "the query broke off, or has no Content-Length\n".to_owned(),
        ),
    };
    text(status, message)
}
