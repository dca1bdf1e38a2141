//! One exchange: a request, and its response.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use tokio::time::{Instant, timeout_at};

use super::{
    common::Common,
    head::Head,
    options::{ConnEvents, Handler},
    stream::Stream,
    timer::later,
    unread::Unread,
};
use crate::wire::{Body, Framing, NotARequest, Request, Response};

/// How an exchange ended.
pub(super) enum Exchanged {
    /// The connection is kept, and this came of the next request.
    Kept(Head),
    /// The response was the last one.
    Last,
    /// The client has gone, or does not read.
    Gone,
}

/// Answers the request in `head`.
pub(super) async fn exchange<H: Handler>(
    stream: &mut Stream,
    head: Head,
    common: &Common<H>,
) -> Exchanged {
    let limit = common.options.header_timeout;
    let (mut request, rest) = match Request::parse(head.into_bytes()) {
        Ok(parsed) => parsed,
        Err(error) => return refuse(stream, error, limit).await,
    };
    let exchange = request.exchange();
    let mut unread = Unread::new(stream, rest);
    let wanted = common.handler.wants(&request);
    let mut has_body = exchange.framing != Framing::Length(0);
    if has_body && wanted > 0 {
        if exchange.holds_body_back
            && !write(unread.stream(), b"HTTP/1.1 100 Continue\r\n\r\n", limit).await
        {
            return Exchanged::Gone;
        }
        let body = unread.body(exchange, wanted, limit).await;
        has_body = !matches!(body, Body::Whole(_));
        request = request.with_body(body);
    }
    let Some(response) = respond(common, request, &mut unread).await else {
        return Exchanged::Gone;
    };
    // What is left of a body must never be taken for the next request; and a client that is not
    // told that the connection closes would send its next request on it, and lose that.
    let is_whole = !has_body || wanted == 0 && unread.discard(exchange).await;
    let closes = !is_whole || !exchange.keeps_connection || common.drain.announced();
    let mut out = Vec::new();
    response.write_to(&mut out, exchange, closes, time_of_day());
    if !write(unread.stream(), &out, limit).await {
        return Exchanged::Gone;
    }
    if closes {
        Exchanged::Last
    } else {
        Exchanged::Kept(Head::later(&unread.into_bytes()))
    }
}

/// Waits for the response; `None` if the client has gone meanwhile. A proxy that closes while its
/// check is under way no longer wants the response, so the handler is cancelled.
async fn respond<H: Handler>(
    common: &Common<H>,
    request: Request,
    unread: &mut Unread<'_>,
) -> Option<Response> {
    let _panics = PanicWatch(&common.events);
    let mut responding = pin!(common.handler.respond(request));
    poll_fn(|cx| match responding.as_mut().poll(cx) {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending => unread.poll_gone(cx).map(|()| None),
    })
    .await
}

/// The response to what is no request: a denial.
async fn refuse(stream: &Stream, error: NotARequest, limit: Duration) -> Exchanged {
    let status = match error {
        NotARequest::Malformed => StatusCode::BAD_REQUEST,
        NotARequest::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    };
    let mut out = Vec::new();
    Response::new(status).write_last(&mut out, time_of_day());
    if write(stream, &out, limit).await {
        Exchanged::Last
    } else {
        Exchanged::Gone
    }
}

/// Writes everything, and waits at most `limit` for a client that has no room. Nothing is read
/// meanwhile: a client that does not read its answers gets no more of them. Returns whether it was
/// written.
async fn write(stream: &Stream, mut bytes: &[u8], limit: Duration) -> bool {
    let mut until = None;
    loop {
        match stream.try_write(bytes) {
            Ok(count) if count == bytes.len() => return true,
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let until = *until.get_or_insert_with(|| later(Instant::now(), limit));
                if !matches!(timeout_at(until, stream.writable()).await, Ok(Ok(()))) {
                    return false;
                }
            }
            Err(error) => {
                // Proxies close connections in all sorts of ways, which matters only to someone who
                // is debugging.
                tracing::debug!(%error, "connection ended early");
                return false;
            }
        }
    }
}

/// For the `Date` of responses.
#[expect(clippy::disallowed_methods, reason = "nothing is decided by it")]
fn time_of_day() -> SystemTime {
    SystemTime::now()
}

/// Reports a panic in a handler, which then ends the connection's task.
struct PanicWatch<'a>(&'a Arc<dyn ConnEvents>);

impl Drop for PanicWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "a request handler panicked, its request was not answered; this is a bug, please report it"
            );
            self.0.handler_panicked();
        }
    }
}
