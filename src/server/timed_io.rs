//! The time limits of one connection, enforced where its bytes pass.
//!
//! hyper has a header timeout for HTTP/1, but it does not fit: it also runs while a kept-alive
//! connection is idle (where proxies expect an hour, not seconds), and it sets a timer for each
//! request. This wrapper sees every byte, learns from the service when a head was complete, and
//! sets a timer only when it has to wait with half a head in hand.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

use super::http2::PREFACE;

/// How long a closing connection is still read, for the client to close its side. See
/// [`TimedIo::poll_shutdown`].
const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// The most bytes read while closing.
const CLOSE_LINGER_BYTES: usize = 1 << 20;

/// The phase of a connection's exchange of requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing has arrived yet.
    Fresh = 0,
    /// A head has begun and is not complete.
    Head = 1,
    /// A request is with the handler.
    Busy = 2,
    /// The last request was answered, and no other has begun.
    Idle = 3,
    /// The client began with HTTP/2, which is [not spoken here](super::http2).
    Http2 = 4,
}

/// Shared between the service, the I/O and the connection's task. One task reads and writes it at a
/// time (the service runs inside the connection's task), so relaxed ordering is enough.
#[derive(Debug, Default)]
pub(super) struct Progress {
    phase: AtomicU8,
    heads: AtomicU32,
    http2: Notify,
}

impl Progress {
    /// Completes when the client has begun with HTTP/2. Nothing is read from then on.
    pub(super) async fn http2(&self) {
        self.http2.notified().await;
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Fresh,
            1 => Phase::Head,
            2 => Phase::Busy,
            3 => Phase::Idle,
            _ => Phase::Http2,
        }
    }

    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// A complete head has been handed to the handler.
    pub(super) fn head_complete(&self) {
        self.heads.fetch_add(1, Ordering::Relaxed);
        self.set(Phase::Busy);
    }

    /// The handler has answered a request.
    pub(super) fn answered(&self) {
        self.set(Phase::Idle);
    }

    /// The number of requests so far (wrapping): unchanged means that none came.
    pub(super) fn heads(&self) -> u32 {
        self.heads.load(Ordering::Relaxed)
    }
}

/// The limits that [`TimedIo`] enforces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From the first byte of a head to its end.
    pub(super) header: Duration,
    /// From accept, or from an answer, to the first byte of the next head.
    pub(super) idle: Duration,
}

/// A connection that fails its reads with [`io::ErrorKind::TimedOut`] when a limit is exceeded.
pub(super) struct TimedIo<S> {
    inner: S,
    progress: Arc<Progress>,
    limits: Limits,
    /// How much of HTTP/2's preface has arrived, and is held back; `None` once it is known not to
    /// come.
    preface: Option<usize>,
    /// What is awaited, and until when.
    deadline: Option<(Wait, Instant)>,
    /// Never later than the deadline, and left armed when that moves on: a timer that fires early
    /// costs one wake-up, moving it costs something on every request.
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes that may still be discarded; `None` until closing.
    closing: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Head,
    Idle,
    Close,
}

impl<S> TimedIo<S> {
    pub(super) fn new(inner: S, progress: Arc<Progress>, limits: Limits) -> Self {
        Self {
            inner,
            progress,
            limits,
            preface: Some(0),
            deadline: None,
            timer: None,
            closing: None,
        }
    }

    /// Notes bytes that have arrived.
    fn saw(&mut self, bytes: &[u8]) {
        match self.progress.phase() {
            Phase::Fresh | Phase::Idle => {
                self.progress.set(Phase::Head);
                self.deadline = None;
            }
            Phase::Head | Phase::Busy | Phase::Http2 => {}
        }
        if let Some(matched) = self.preface {
            let rest = &PREFACE[matched..];
            let new = bytes.len().min(rest.len());
            self.preface = (bytes[..new] == rest[..new]).then_some(matched + new);
            if self.preface == Some(PREFACE.len()) {
                self.progress.set(Phase::Http2);
                self.preface = None;
            }
        }
    }

    /// Ready when what is awaited did not come in time.
    fn poll_too_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (wait, limit) = match self.progress.phase() {
            _ if self.closing.is_some() => (Wait::Close, CLOSE_LINGER),
            Phase::Head => (Wait::Head, self.limits.header),
            // A proxy opens a connection for each waiting check, and keeps one that came too late
            // for the next. Closed any earlier than an idle one, it would lose that check.
            Phase::Fresh | Phase::Idle => (Wait::Idle, self.limits.idle),
            Phase::Busy | Phase::Http2 => return Poll::Pending,
        };
        let deadline = match self.deadline {
            Some((same, deadline)) if same == wait => deadline,
            _ => far(limit),
        };
        self.deadline = Some((wait, deadline));

        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

/// `limit` from now. A limit beyond what the clock can hold counts as 30 years.
fn far(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit)
        .unwrap_or_else(|| now + Duration::from_secs(30 * 365 * 24 * 60 * 60))
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = buf.filled().len();
        loop {
            let held = me.preface.unwrap_or(0);
            // There is room: hyper reads into 8 kB at first.
            buf.put_slice(&PREFACE[..held]);
            let read = Pin::new(&mut me.inner).poll_read(cx, buf);
            let bytes = &buf.filled()[before + held..];
            match read {
                Poll::Ready(Ok(())) if bytes.is_empty() => {
                    me.preface = None;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) => {
                    me.saw(bytes);
                    if me.preface.is_none() && me.progress.phase() != Phase::Http2 {
                        return Poll::Ready(Ok(()));
                    }
                    // Not for hyper: it would answer a part of the preface with a 400, and close.
                    buf.set_filled(before);
                    if me.progress.phase() == Phase::Http2 {
                        me.progress.http2.notify_one();
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Err(error)) => {
                    buf.set_filled(before);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    buf.set_filled(before);
                    ready!(me.poll_too_late(cx));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TimedIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    /// Closes our side, then reads until the client closes its own, for at most a second and a
    /// megabyte.
    ///
    /// Closing a socket with unread bytes in it (the body of a request that was answered without
    /// reading it) resets the connection, and a reset destroys a response that the client has not
    /// read yet (RFC 9112 §9.6).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.closing.is_none() {
            ready!(Pin::new(&mut me.inner).poll_shutdown(cx))?;
            me.closing = Some(CLOSE_LINGER_BYTES);
        }
        let mut scratch = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut me.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) => {
                    let read = buf.filled().len();
                    let left = me.closing.and_then(|left| left.checked_sub(read));
                    if read == 0 || left.is_none() {
                        return Poll::Ready(Ok(()));
                    }
                    me.closing = left;
                }
                // Reset by the client: no response of ours is on its way any more.
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(me.poll_too_late(cx));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::advance;

    const HEADER: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(4500);

    fn connection() -> (DuplexStream, TimedIo<DuplexStream>, Arc<Progress>) {
        let (client, server) = duplex(4096);
        let progress = Arc::new(Progress::default());
        let limits = Limits {
            header: HEADER,
            idle: IDLE,
        };
        (
            client,
            TimedIo::new(server, progress.clone(), limits),
            progress,
        )
    }

    /// Reads until something arrives or the limit is reached, and returns after how long (the
    /// test's clock jumps to the next timer).
    async fn read(io: &mut TimedIo<DuplexStream>) -> (Result<usize, io::ErrorKind>, Duration) {
        let start = Instant::now();
        let mut buf = [0; 64];
        let result = io.read(&mut buf).await.map_err(|e| e.kind());
        // Timers have a resolution of a millisecond and fire at its end.
        (result, Duration::from_secs(start.elapsed().as_secs()))
    }

    const TOO_LATE: Result<usize, io::ErrorKind> = Err(io::ErrorKind::TimedOut);

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_has_not_been_used_yet_is_kept_as_long_as_an_idle_one() {
        let (_client, mut io, _) = connection();
        assert_eq!(read(&mut io).await, (TOO_LATE, IDLE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickled_head_does_not_extend_the_limit() {
        let (mut client, mut io, _) = connection();
        let trickle = async {
            for byte in b"GET / HTTP/1.1\r\nx:y" {
                client.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let start = Instant::now();
        let reader = async { while read(&mut io).await.0.is_ok() {} };
        tokio::select! {
            () = reader => assert_eq!(start.elapsed().as_secs(), HEADER.as_secs()),
            () = trickle => panic!("the whole head could be trickled in"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_idle_connections_time_out() {
        let (mut client, mut io, progress) = connection();
        client.write_all(b"GET").await.unwrap();
        assert_eq!(read(&mut io).await.0, Ok(3));
        progress.head_complete();
        let waited = tokio::time::timeout(10 * IDLE, read(&mut io)).await;
        assert!(waited.is_err(), "closed while the handler was at work");

        progress.answered();
        assert_eq!(read(&mut io).await, (TOO_LATE, IDLE));
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_gets_the_header_limit_from_its_first_byte() {
        let (mut client, mut io, progress) = connection();
        let fresh = tokio::time::timeout(IDLE / 2, read(&mut io)).await;
        assert!(fresh.is_err(), "closed before its first request");
        for _ in 0..3 {
            client.write_all(b"GET").await.unwrap();
            assert_eq!(read(&mut io).await.0, Ok(3));
            progress.head_complete();
            progress.answered();
            let idle = tokio::time::timeout(IDLE / 2, read(&mut io)).await;
            assert!(idle.is_err(), "closed while idle");
        }
        client.write_all(b"G").await.unwrap();
        assert_eq!(read(&mut io).await.0, Ok(1));
        assert_eq!(read(&mut io).await, (TOO_LATE, HEADER));
    }

    #[tokio::test(start_paused = true)]
    async fn http2_is_noticed_however_its_preface_is_cut() {
        for cut in 1..PREFACE.len() {
            let (mut client, mut io, progress) = connection();
            client.write_all(&PREFACE[..cut]).await.unwrap();
            // Nothing of it is for hyper.
            let waited = tokio::time::timeout(HEADER / 2, read(&mut io)).await;
            assert!(waited.is_err(), "{cut} bytes were read");
            assert_eq!(progress.phase(), Phase::Head);
            client.write_all(&PREFACE[cut..]).await.unwrap();
            client.write_all(b"and frames").await.unwrap();
            tokio::select! {
                read = read(&mut io) => panic!("{read:?}"),
                () = progress.http2() => {}
            }
            assert_eq!(progress.phase(), Phase::Http2);
        }

        let (mut client, mut io, _) = connection();
        client.write_all(&PREFACE[..23]).await.unwrap();
        assert_eq!(read(&mut io).await, (TOO_LATE, HEADER));
    }

    #[tokio::test(start_paused = true)]
    async fn what_only_begins_like_http2_is_read_whole() {
        for text in ["P", "POST / HTTP/1.1", "PRI * HTTP/2.0\r\nX: y\r\n\r\n"] {
            for cut in 0..=text.len() {
                let (mut client, mut io, _) = connection();
                let (first, second) = text.as_bytes().split_at(cut);
                let writer = async {
                    client.write_all(first).await.unwrap();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    client.write_all(second).await.unwrap();
                    drop(client);
                };
                let mut got = String::new();
                let ((), read) = tokio::join!(writer, io.read_to_string(&mut got));
                read.unwrap();
                assert_eq!(got, text, "cut at {cut}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closing_reads_on_until_the_client_closes_or_a_second_has_passed() {
        let (mut client, mut io, progress) = connection();
        client.write_all(b"POST and a body").await.unwrap();
        progress.head_complete();
        progress.answered();
        let start = Instant::now();
        io.shutdown().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), CLOSE_LINGER.as_secs());

        let (mut client, mut io, _) = connection();
        client.write_all(b"POST and a body").await.unwrap();
        drop(client);
        let start = Instant::now();
        io.shutdown().await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        advance(Duration::ZERO).await;
    }
}
