//! One connection, from its first byte to its end.
//!
//! It rests until a head has arrived whole, and has its place in the memory for requests; then the
//! request is answered, and it rests again. Only while a request is answered does it take more
//! memory than an idle connection.

use std::{io, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    common::Common,
    exchange::{Exchanged, exchange},
    http2,
    options::{ConnEvents, Handler},
    rest::{Rested, Resting},
    stream::Stream,
};

/// How long a closing connection is still read, for the client to close its side.
const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// The most bytes read while closing.
const CLOSE_LINGER_BYTES: usize = 1 << 20;

/// The answer to a head that does not arrive in time. It is a denial: a connection that closes
/// without an answer is an error, which a proxy that fails open lets through.
const TOO_LATE: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Serves one connection to its end.
pub(super) async fn run<H: Handler>(stream: Stream, common: Arc<Common<H>>) {
    common.events.opened();
    let _end = EndWatch(Arc::clone(&common.events));
    let mut resting = Resting::new(stream);
    loop {
        let place = match resting.rest(&common).await {
            Rested::Whole(place) => place,
            Rested::TooLate => return close(resting.stream, TOO_LATE).await,
            Rested::Over => return close(resting.stream, b"").await,
            Rested::Gone => return,
            Rested::Http2 => {
                common.events.http2_refused();
                return http2::refuse(resting.stream).await;
            }
        };
        let head = std::mem::take(&mut resting.head);
        // In a box, so that a connection has the room for it only while it is answered. It is made
        // where it stays: to move it there would cost more than to allocate it.
        let room = Box::new_uninit();
        let exchange = Box::write(room, exchange(&mut resting.stream, head, &common));
        let exchanged = Box::into_pin(exchange).await;
        drop(place);
        match exchanged {
            Exchanged::Kept(next) => resting.answered(next, &common.options, &common.drain),
            Exchanged::Last => return close(resting.stream, b"").await,
            Exchanged::Gone => return,
        }
    }
}

/// Sends the last bytes and closes our side, then reads until the client closes its own, for at
/// most a second and a megabyte.
///
/// Closing a socket with unread bytes in it (the body of a request that was answered without
/// reading it) resets the connection, and a reset destroys a response that the client has not read
/// yet (RFC 9112 §9.6).
async fn close(mut stream: Stream, last: &[u8]) {
    // The client may not read them, or be gone; then it learns nothing, and nothing is lost.
    let _ = stream.try_write(last);
    if tokio::io::AsyncWriteExt::shutdown(&mut stream)
        .await
        .is_err()
    {
        return;
    }
    let rest = async {
        let mut left = CLOSE_LINGER_BYTES;
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut [0; 1024]) {
                Ok(0) => return,
                Ok(count) if count > left => return,
                Ok(count) => left -= count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Reset by the client: no response of ours is on its way any more.
                Err(_) => return,
            }
        }
    };
    let _ = timeout(CLOSE_LINGER, rest).await;
}

/// Counts the connection out however it ends: done, aborted or panicked.
struct EndWatch(Arc<dyn ConnEvents>);

impl Drop for EndWatch {
    fn drop(&mut self) {
        self.0.closed();
    }
}
