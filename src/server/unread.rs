//! Bytes of a connection that came before their turn, and the bodies among them.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::timeout;

use super::stream::Stream;
use crate::wire::{Body, Exchange, Framing};

/// The longest body that is read to keep its connection.
const LONGEST: u64 = 1 << 20;

/// How long a body is waited for. A proxy that sends one has it at hand, and sends it with the head
/// or right after it; nginx may announce one that never comes.
const PATIENCE: Duration = Duration::from_millis(10);

/// The most that is read at once, and the most that is kept while a request is with the handler.
const READ: usize = 4 * 1024;

/// The longest line with the size of a chunk. Extensions mean nothing to anybody.
const MAX_CHUNK_LINE: usize = 256;

/// What has been read of a connection and was not used yet.
pub(super) struct Unread<'a> {
    stream: &'a mut Stream,
    bytes: Vec<u8>,
}

impl<'a> Unread<'a> {
    pub(super) fn new(stream: &'a mut Stream, bytes: Vec<u8>) -> Self {
        Self { stream, bytes }
    }

    /// The connection, for writing.
    pub(super) fn stream(&self) -> &Stream {
        self.stream
    }

    /// What is left.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Reads ahead while a request is with the handler, to learn that the client has gone. It is
    /// ready then, and not before.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.bytes.len() < READ {
            ready!(self.stream.poll_read_ready(cx));
            match ready!(self.poll_read(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    /// Throws a body away, so that the connection can take the next request. Returns whether all of
    /// it came.
    pub(super) async fn discard(&mut self, exchange: Exchange) -> bool {
        match exchange.framing {
            Framing::Length(0) => true,
            _ if exchange.holds_body_back => false,
            Framing::Length(length) if length <= LONGEST => {
                timeout(PATIENCE, self.skip(length)).await.unwrap_or(false)
            }
            Framing::Chunked => timeout(PATIENCE, self.skip_chunks()).await.unwrap_or(false),
            Framing::Length(_) | Framing::Unclear => false,
        }
    }

    /// Reads a body of at most so many bytes for the handler.
    pub(super) async fn body(
        &mut self,
        exchange: Exchange,
        most: usize,
        patience: Duration,
    ) -> Body {
        let Framing::Length(length) = exchange.framing else {
            return Body::Broken;
        };
        let Some(length) = usize::try_from(length)
            .ok()
            .filter(|length| *length <= most)
        else {
            return Body::TooLong;
        };
        let whole = async {
            while self.bytes.len() < length {
                if !self.more().await {
                    return false;
                }
            }
            true
        };
        match timeout(patience, whole).await {
            Ok(true) => {
                let rest = self.bytes.split_off(length);
                Body::Whole(std::mem::replace(&mut self.bytes, rest))
            }
            Ok(false) => Body::Broken,
            Err(_) => Body::Late,
        }
    }

    /// Skips so many bytes. Returns whether they came.
    async fn skip(&mut self, mut length: u64) -> bool {
        loop {
            let have = self.bytes.len();
            let rest = length.saturating_sub(have as u64);
            if rest == 0 {
                // No more than there is, so it fits.
                self.bytes.drain(..usize::try_from(length).unwrap_or(have));
                return true;
            }
            length = rest;
            self.bytes.clear();
            if !self.more().await {
                return false;
            }
        }
    }

    /// Skips chunks (RFC 9112 §7.1). Returns whether they came, and ended without a trailer.
    async fn skip_chunks(&mut self) -> bool {
        let mut left = LONGEST;
        loop {
            let size = match httparse::parse_chunk_size(&self.bytes) {
                Ok(httparse::Status::Complete((line, size))) => {
                    self.bytes.drain(..line);
                    size
                }
                Ok(httparse::Status::Partial) if self.bytes.len() < MAX_CHUNK_LINE => {
                    if self.more().await {
                        continue;
                    }
                    return false;
                }
                Ok(httparse::Status::Partial) | Err(httparse::InvalidChunkSize) => return false,
            };
            let Some(rest) = left.checked_sub(size) else {
                return false;
            };
            left = rest;
            if !self.skip(size).await || !self.skip_line_end().await {
                return false;
            }
            if size == 0 {
                return true;
            }
        }
    }

    /// Skips the end of a line. Returns whether there was one.
    async fn skip_line_end(&mut self) -> bool {
        while self.bytes.len() < 2 {
            if !self.more().await {
                return false;
            }
        }
        let is_end = self.bytes.starts_with(b"\r\n");
        self.bytes.drain(..2);
        is_end
    }

    /// Waits for more bytes. Returns whether there are any.
    async fn more(&mut self) -> bool {
        let read = poll_fn(|cx| self.poll_read(cx)).await;
        read.is_ok_and(|count| count > 0)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.bytes.reserve(READ);
        self.stream.poll_read_into(cx, &mut self.bytes)
    }
}
