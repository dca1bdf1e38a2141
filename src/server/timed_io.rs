//! The bytes between hyper and the socket, while hyper has the connection.
//!
//! It sees every byte and learns from the service when a head was complete. So it knows when hyper
//! is to give the connection back (`conn.rs` says why), and sets a timer only when there is nothing
//! to read. hyper's own timeouts do not fit: the one for heads also runs while a connection is
//! idle, and answers that are not read have none.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::budget::Budget;

/// How long hyper keeps a connection without a request. Connections that are busier than that are
/// not handed to and fro.
const REST: Duration = Duration::from_secs(1);

/// The most that is read at once while a request is with the handler: of its body, or of the next
/// request. Less than hyper's first buffer, which it enlarges when a read fills it.
const READ: usize = 4 * 1024;

/// A head that is not complete with this is not read by hyper any further.
const LARGE: usize = 8 * 1024;

/// The phase of a connection's exchange of requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// A head has begun and is not complete.
    Head = 0,
    /// A request is with the handler.
    Busy = 1,
    /// The last request was answered, and no other has begun.
    Idle = 2,
}

/// Shared between the service, the I/O and the connection's task. One task reads and writes it at a
/// time (the service runs inside the connection's task), so relaxed ordering is enough.
#[derive(Debug, Default)]
pub(super) struct Progress {
    phase: AtomicU8,
    /// A response has been made and is not written yet.
    is_unsent: AtomicBool,
    /// There is nothing to read, and has not been for long enough.
    wants_rest: AtomicBool,
    /// The server drains: any pause is long enough.
    is_hurried: AtomicBool,
}

impl Progress {
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Head,
            1 => Phase::Busy,
            _ => Phase::Idle,
        }
    }

    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.wants_rest.store(false, Ordering::Relaxed);
    }

    /// A complete head has been handed to the handler.
    pub(super) fn head_complete(&self) {
        self.set(Phase::Busy);
    }

    /// The handler has answered a request.
    pub(super) fn answered(&self) {
        self.is_unsent.store(true, Ordering::Relaxed);
        self.set(Phase::Idle);
    }

    /// Any pause is long enough from now on.
    pub(super) fn hurry(&self) {
        self.is_hurried.store(true, Ordering::Relaxed);
    }

    /// Whether hyper can be relieved of the connection: it has nothing to do, and nothing but bytes
    /// of the next head.
    pub(super) fn may_rest(&self) -> bool {
        self.wants_rest.load(Ordering::Relaxed)
            && !self.is_unsent.load(Ordering::Relaxed)
            && self.phase() != Phase::Busy
    }
}

/// The time limits of a connection while hyper has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Without a request to the end of a head or the beginning of one; capped at a second.
    pub(super) rest: Duration,
    /// From a write that the client has no room for, to the end of what is to be written.
    pub(super) write: Duration,
}

/// A connection that begins with the bytes that have been read of it.
pub(super) struct TimedIo<S> {
    inner: S,
    /// What has been read, and how much of that hyper has.
    read: (Vec<u8>, usize),
    progress: Arc<Progress>,
    budget: Arc<Budget>,
    limits: Limits,
    /// When the head, or the pause before it, began; found out when it is first waited for.
    since: Option<(Phase, Instant)>,
    /// The bytes of this head so far.
    head: usize,
    /// Its buffers are large: it gives them back as soon as it can.
    is_large: bool,
    /// Until when the client must have taken what is to be written.
    write_by: Option<Instant>,
    /// Left armed when what it is for moves on: a timer that fires early costs one wake-up, moving
    /// it costs something on every request.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedIo<S> {
    pub(super) fn new(
        inner: S,
        read: Vec<u8>,
        progress: Arc<Progress>,
        budget: Arc<Budget>,
        limits: Limits,
    ) -> Self {
        Self {
            inner,
            is_large: read.len() > LARGE,
            read: (read, 0),
            progress,
            budget,
            limits,
            since: None,
            head: 0,
            write_by: None,
            timer: None,
        }
    }

    /// The connection, what hyper has not read, and since when it has waited.
    pub(super) fn into_parts(self) -> (S, Vec<u8>, Option<Instant>) {
        let (mut read, taken) = self.read;
        read.drain(..taken);
        (self.inner, read, self.since.map(|(_, since)| since))
    }

    /// Notes bytes for hyper.
    fn saw(&mut self, count: usize) {
        match self.progress.phase() {
            Phase::Idle => {
                self.progress.set(Phase::Head);
                self.since = None;
                self.head = count;
            }
            Phase::Head => self.head += count,
            Phase::Busy => {}
        }
    }

    /// Notes that there is nothing to read, and tells the connection's task when it has been so for
    /// long enough.
    fn poll_rest(&mut self, cx: &mut Context<'_>) {
        let phase = self.progress.phase();
        if phase == Phase::Busy {
            return;
        }
        let since = match self.since {
            Some((same, since)) if same == phase => since,
            _ => Instant::now(),
        };
        self.since = Some((phase, since));
        let at_once = self.is_large
            || self.head >= LARGE
            || self.progress.is_hurried.load(Ordering::Relaxed)
            || self.budget.is_tight();
        if at_once || self.poll_timer(cx, later(since, self.limits.rest.min(REST))).is_ready() {
            self.progress.wants_rest.store(true, Ordering::Relaxed);
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
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

    fn poll_read_little(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        let count = buf.remaining().min(READ);
        let mut little = ReadBuf::new(buf.initialize_unfilled_to(count));
        let result = Pin::new(&mut self.inner).poll_read(cx, &mut little);
        let count = little.filled().len();
        buf.advance(count);
        result
    }

    /// Passes the result of a write on. One that the client has no room for has a time limit, and
    /// nothing is read meanwhile: a client that does not read its answers gets no more of them.
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => {
                let limit = self.limits.write;
                let by = *self.write_by.get_or_insert_with(|| later(Instant::now(), limit));
                ready!(self.poll_timer(cx, by));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Ready(Ok(written)) if *written == length && self.write_by.take().is_some() => {
                // What was not read waits for its turn.
                cx.waker().wake_by_ref();
            }
            Poll::Ready(_) => {}
        }
        result
    }
}

/// A time after another. One beyond what the clock can hold counts as 30 years.
pub(super) fn later(time: Instant, by: Duration) -> Instant {
    time.checked_add(by)
        .unwrap_or_else(|| time + Duration::from_secs(30 * 365 * 24 * 60 * 60))
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let (read, taken) = &mut me.read;
        if *taken < read.len() {
            let count = buf.remaining().min(read.len() - *taken);
            buf.put_slice(&read[*taken..*taken + count]);
            *taken += count;
            if *taken == read.len() {
                me.read = (Vec::new(), 0);
            }
            me.saw(count);
            return Poll::Ready(Ok(()));
        }
        if me.write_by.is_some() {
            return Poll::Pending;
        }
        if (me.is_large || me.head >= LARGE) && me.progress.phase() != Phase::Busy {
            me.poll_rest(cx);
            return Poll::Pending;
        }
        if me.progress.phase() == Phase::Busy {
            return me.poll_read_little(cx, buf);
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut me.inner).poll_read(cx, buf);
        match result {
            Poll::Ready(Ok(())) => {
                me.is_large |= buf.remaining() == 0;
                me.saw(buf.filled().len() - before);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => me.poll_rest(cx),
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let result = Pin::new(&mut me.inner).poll_write(cx, buf);
        me.wrote(cx, buf.len(), result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let result = Pin::new(&mut me.inner).poll_write_vectored(cx, bufs);
        me.wrote(cx, bufs.iter().map(|buf| buf.len()).sum(), result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// Called by hyper when it has written everything.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(Pin::new(&mut me.inner).poll_flush(cx))?;
        me.progress.is_unsent.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Does nothing: the connection is taken back from hyper and closed then, without its buffers.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    const WRITE: Duration = Duration::from_secs(10);

    fn connection(
        read: &[u8],
        budget: usize,
    ) -> (DuplexStream, TimedIo<DuplexStream>, Arc<Progress>) {
        let (client, server) = duplex(4096);
        let progress = Arc::new(Progress::default());
        let limits = Limits {
            rest: Duration::from_secs(4500),
            write: WRITE,
        };
        let budget = Arc::new(Budget::new(budget));
        let io = TimedIo::new(server, read.to_vec(), Arc::clone(&progress), budget, limits);
        (client, io, progress)
    }

    /// Reads for so long, and returns whether the connection may rest then.
    async fn rests_within(
        io: &mut TimedIo<DuplexStream>,
        progress: &Progress,
        time: Duration,
    ) -> bool {
        let mut buf = [0; 64];
        assert!(timeout(time, io.read(&mut buf)).await.is_err(), "was read");
        progress.may_rest()
    }

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn it_rests_after_a_second_without_a_request_and_not_while_one_is_answered() {
        let (mut client, mut io, progress) = connection(b"GET", 1 << 20);
        let mut buf = [0; 64];
        assert_eq!(io.read(&mut buf).await.unwrap(), 3);
        assert!(!rests_within(&mut io, &progress, 900 * MS).await);
        assert!(rests_within(&mut io, &progress, 200 * MS).await, "half a head");

        client.write_all(b" / ...").await.unwrap();
        assert_eq!(io.read(&mut buf).await.unwrap(), 6);
        progress.head_complete();
        assert!(!rests_within(&mut io, &progress, 100 * REST).await, "busy");

        progress.answered();
        assert!(!rests_within(&mut io, &progress, 2 * REST).await, "not written");
        io.flush().await.unwrap();
        assert!(progress.may_rest());
        client.write_all(b"G").await.unwrap();
        assert_eq!(io.read(&mut buf).await.unwrap(), 1);
        assert!(!progress.may_rest(), "another request has begun");
    }

    #[tokio::test(start_paused = true)]
    async fn it_rests_at_once_when_memory_is_short_the_server_drains_or_its_buffers_are_large() {
        let (_client, mut io, progress) = connection(b"", 1 << 20);
        assert!(!rests_within(&mut io, &progress, MS).await);
        progress.hurry();
        assert!(rests_within(&mut io, &progress, MS).await);

        let (_client, mut io, progress) = connection(&[b'x'; LARGE + 1], 1 << 20);
        let mut buf = vec![0; LARGE + 1];
        io.read_exact(&mut buf).await.unwrap();
        assert!(rests_within(&mut io, &progress, MS).await);

        let (_client, mut io, progress) = connection(b"", 1 << 20);
        let mut places = Vec::new();
        while !io.budget.is_tight() {
            places.push(io.budget.place(0).await);
        }
        assert!(rests_within(&mut io, &progress, MS).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_read_is_given_back() {
        let (_client, mut io, progress) = connection(b"GET / and more", 1 << 20);
        let mut buf = [0; 5];
        assert_eq!(io.read(&mut buf).await.unwrap(), 5);
        assert_eq!(progress.phase(), Phase::Head);
        let (_, read, _) = io.into_parts();
        assert_eq!(read, b" and more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_answers_is_given_up_and_not_read_meanwhile() {
        let (mut client, mut io, _) = connection(b"", 1 << 20);
        client.write_all(b"GET").await.unwrap();
        let start = Instant::now();
        let wrote = io.write_all(&[b'x'; 10_000]).await;
        assert_eq!(wrote.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), WRITE.as_secs());
        let mut buf = [0; 64];
        assert!(timeout(MS, io.read(&mut buf)).await.is_err());
    }
}
