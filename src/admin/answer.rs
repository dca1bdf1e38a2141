//! An answer of the admin port, before it is an HTTP response.

use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::Full;

/// An error of a request body, whichever server it came through.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A status and a body with its type.
pub(super) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Answer {
    pub(super) fn new(status: StatusCode, content_type: &'static str, body: String) -> Self {
        Self {
            status,
            content_type,
            body,
        }
    }

    /// A plain text.
    pub(super) fn text(status: StatusCode, text: String) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text)
    }

    /// A JSON text.
    pub(super) fn json(status: StatusCode, json: String) -> Self {
        Self::new(status, "application/json", json)
    }

    /// The response to a request with this method.
    pub(super) fn into_response(self, method: &Method) -> Response<Full<Bytes>> {
        let length = HeaderValue::from(self.body.len());
        // hyper withholds the body of a response to HEAD on HTTP/1, but not on HTTP/2.
        let body = if method == Method::HEAD {
            Bytes::new()
        } else {
            Bytes::from(self.body)
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static(self.content_type);
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
