//! A connection over TCP or a Unix socket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BufMut as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::addr::ListenAddr;

/// A connected TCP or Unix socket.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP, with `TCP_NODELAY`.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Connects to what a [`super::Listener`] listens on.
    pub async fn connect(addr: &ListenAddr) -> io::Result<Self> {
        match addr {
            ListenAddr::Tcp(addr) => TcpStream::connect(addr).await.map(Self::from),
            ListenAddr::Unix(path) => UnixStream::connect(path).await.map(Self::from),
        }
    }
}

impl Stream {
    /// Waits until there is something to read: bytes, the end, or an error.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.readable().await,
            Self::Unix(unix) => unix.readable().await,
        }
    }

    /// As [`readable`](Self::readable). An error shows when it is read.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx).map(drop),
            Self::Unix(unix) => unix.poll_read_ready(cx).map(drop),
        }
    }

    /// Waits until the kernel has room for something to write.
    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.writable().await,
            Self::Unix(unix) => unix.writable().await,
        }
    }

    /// Reads what is there into the spare room of a buffer.
    ///
    /// Unlike [`try_read`](Self::try_read), it knows that there is no more after less than there
    /// was room for. That saves a system call for each request.
    pub(super) fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        // A `Vec` would offer to grow.
        let room = buf.capacity() - buf.len();
        let mut buf = buf.limit(room);
        std::pin::pin!(self.read_buf(&mut buf)).poll(cx)
    }

    /// Reads what is there, without waiting.
    pub(super) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_read(buf),
            Self::Unix(unix) => unix.try_read(buf),
        }
    }

    /// Writes what the kernel has room for, without waiting.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write(bytes),
            Self::Unix(unix) => unix.try_write(bytes),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        // A response is one small segment that nothing follows: Nagle's algorithm could only delay
        // it. An error means that the connection is gone already, which the first read will show.
        let _ = tcp.set_nodelay(true);
        Self::Tcp(tcp)
    }
}

impl From<UnixStream> for Stream {
    fn from(unix: UnixStream) -> Self {
        Self::Unix(unix)
    }
}

/// Calls the same method on whichever socket it is.
macro_rules! delegate {
    ($self:ident, $method:ident, $cx:expr $(, $arg:expr)*) => {
        match $self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).$method($cx $(, $arg)*),
            Stream::Unix(unix) => Pin::new(unix).$method($cx $(, $arg)*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, poll_read, cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write, cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown, cx)
    }
}
