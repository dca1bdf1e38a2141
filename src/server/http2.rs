//! Refuses HTTP/2, and says why.
//!
//! In a check over HTTP/2 the `:authority` and the path are the client's. An HTTP/2 library resets
//! the stream of a request that it finds malformed (`Host: a:b:c`), and ends the connection of a
//! peer that sends or resets too many. To a proxy both are errors, and a proxy that fails open lets
//! those requests through: one client could get around its own limit, and around that of all
//! others on the same connection. Over HTTP/1.1 such a request gets a response, and the connection
//! is no other check's.

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An empty SETTINGS frame (RFC 9113 §6.5), which must come first, then a GOAWAY frame (§6.8) with
/// the error `HTTP_1_1_REQUIRED` (§7) and a text for whoever reads the proxy's log.
const GOODBYE: &[u8] = b"\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x2f\x07\x00\x00\x00\x00\x00\
    \x00\x00\x00\x00\x00\x00\x00\x0d\
    tollgate takes checks by HTTP/1.1 only\n";

/// Says goodbye to a client that speaks HTTP/2, and closes the connection.
pub(super) async fn refuse(mut io: impl AsyncWrite + Unpin) {
    // The client may be gone already; it then learns nothing, and nothing is lost.
    if io.write_all(GOODBYE).await.is_ok() {
        let _ = io.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goodbye_has_the_lengths_that_it_announces() {
        let goaway = &GOODBYE[9..];
        let announced = u32::from_be_bytes([0, goaway[0], goaway[1], goaway[2]]);
        assert_eq!(usize::try_from(announced).unwrap(), goaway.len() - 9);
    }
}
