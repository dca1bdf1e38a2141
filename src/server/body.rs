//! Request bodies that a handler has no use for.

use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

/// The longest body that is read to keep its connection.
const LONGEST: u64 = 1 << 20;

/// How long a body is waited for. A proxy that sends one has it at hand, and sends it with the head
/// or right after it; nginx may announce one that never comes.
const PATIENCE: Duration = Duration::from_millis(10);

/// An extension of responses: the request's body was read to its end. Without it the connection of
/// a request that has a body is closed.
#[derive(Debug, Clone, Copy)]
pub struct WholeBody;

/// A request body to be thrown away.
#[derive(Debug)]
pub struct UnwantedBody {
    body: Incoming,
    /// The client holds the body back until it is asked for it (RFC 9110 §10.1.1).
    held_back: bool,
}

impl UnwantedBody {
    /// Takes the body out of a request.
    pub fn of(request: Request<Incoming>) -> (Request<()>, Self) {
        let (parts, body) = request.into_parts();
        let held_back = parts.headers.contains_key(header::EXPECT);
        (Request::from_parts(parts, ()), Self { body, held_back })
    }

    /// Reads what comes of the body, so that the connection can take the next request. If that is
    /// not all of it, `response` says that the connection closes: a client that is not told would
    /// send its next request on it, and lose that.
    ///
    /// Call it with the response at hand: it waits for at most 10 ms.
    pub async fn discard<B>(self, response: &mut Response<B>) {
        if self.body.is_end_stream() {
            return;
        }
        let readable = !self.held_back && self.body.size_hint().lower() <= LONGEST;
        if readable && timeout(PATIENCE, read(self.body)).await.unwrap_or(false) {
            response.extensions_mut().insert(WholeBody);
        } else {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
    }
}

/// Reads a body to its end. Returns whether it has one, and is not too long.
async fn read(mut body: Incoming) -> bool {
    let mut left = LONGEST;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
}
