//! The bytes between hyper and the socket, while hyper has the connection.
//!
//! [`TimedIo`] sees every byte, and [`Progress`] learns from the service when a head was complete
//! and answered. So [`Pauses`] knows when hyper is to give the connection back (`conn.rs` says
//! why). hyper's own timeouts do not fit: the one for heads also runs while a connection is idle,
//! and answers that are not read have none.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::head::{FEW_LINES, Head, count_lines};

/// How long hyper keeps a connection without a request. Connections that are busier than that are
/// not handed to and fro.
const REST: Duration = Duration::from_secs(1);

/// The most that is read at once while a request is with the handler: of its body, or of the next
/// request. Less than hyper's first buffer, which it enlarges when a read fills it.
const READ: usize = 4 * 1024;

/// What is read of it first. Mostly there is nothing, and to make room for more costs as much as a
/// small part of a check.
const FIRST: usize = 64;

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
    /// The last request was answered, and there will be no other.
    Last = 3,
}

/// Shared between the service, the I/O and the connection's task. One task reads and writes it at a
/// time (the service runs inside the connection's task), so relaxed ordering is enough.
#[derive(Debug, Default)]
pub(super) struct Progress {
    phase: AtomicU8,
    /// How often the phase has changed.
    turn: AtomicU32,
    /// A response has been made and is not written yet.
    is_unsent: AtomicBool,
    /// hyper's buffers are large or about to be, or the head has many lines: hyper is not to have
    /// the connection for longer than it must.
    is_large: AtomicBool,
}

impl Progress {
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Head,
            1 => Phase::Busy,
            2 => Phase::Idle,
            _ => Phase::Last,
        }
    }

    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// A complete head has been handed to the handler.
    pub(super) fn head_complete(&self) {
        self.set(Phase::Busy);
    }

    /// The handler has answered a request, and said whether it is the last one.
    pub(super) fn answered(&self, is_last: bool) {
        self.is_unsent.store(true, Ordering::Relaxed);
        self.set(if is_last { Phase::Last } else { Phase::Idle });
    }
}

/// What to do with a connection that hyper waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// Wait with it.
    Short,
    /// Take it back: hyper has nothing to do for it, and nothing but bytes of the next head.
    Long,
    /// Close it: hyper should have done so.
    End,
}

/// Measures the pauses of a connection.
#[derive(Debug)]
pub(super) struct Pauses {
    /// The turn at which this pause began, and when.
    since: (u32, Instant),
    longest: Duration,
    timer: Timer,
}

impl Pauses {
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            since: (0, Instant::now()),
            longest: longest.min(REST),
            timer: Timer::default(),
        }
    }

    /// When this pause began.
    pub(super) fn since(&self) -> Instant {
        self.since.1
    }

    /// Call it whenever hyper has done what it could. `is_hurried` says that any pause is long.
    ///
    /// It is not enough to look when hyper reads in vain: it reads ahead while it waits for an
    /// answer, and not again after it.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        progress: &Progress,
        is_hurried: bool,
    ) -> Pause {
        let phase = progress.phase();
        if phase == Phase::Busy || progress.is_unsent.load(Ordering::Relaxed) {
            return Pause::Short;
        }
        let turn = progress.turn.load(Ordering::Relaxed);
        if turn != self.since.0 {
            self.since = (turn, Instant::now());
        }
        let is_hurried = is_hurried || progress.is_large.load(Ordering::Relaxed);
        let deadline = later(self.since.1, self.longest);
        let mut is_over = || self.timer.poll(cx, deadline).is_ready();
        match phase {
            Phase::Last => {
                if is_over() {
                    Pause::End
                } else {
                    Pause::Short
                }
            }
            _ if is_hurried || is_over() => Pause::Long,
            _ => Pause::Short,
        }
    }
}

/// A timer that is left armed when what it is for moves on: one that fires early costs one wake-up,
/// moving it costs something on every request.
#[derive(Debug, Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self
            .0
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

/// A connection that begins with the bytes that have been read of it.
pub(super) struct TimedIo<S> {
    inner: S,
    /// What has been read, and how much of that hyper has.
    read: (Vec<u8>, usize),
    progress: Arc<Progress>,
    /// The longest from a write that the client has no room for, to the end of what is to be
    /// written.
    write_limit: Duration,
    write_by: Option<Instant>,
    timer: Timer,
    /// Whether the last read while a request was with the handler got all that it asked for.
    is_more: bool,
    /// The bytes of this head so far, and its lines.
    head: usize,
    lines: usize,
    /// What has been read of a head with many lines, and is not for hyper before there is room for
    /// it.
    held: Vec<u8>,
}

impl<S> TimedIo<S> {
    pub(super) fn new(
        inner: S,
        head: Head,
        progress: Arc<Progress>,
        write_limit: Duration,
    ) -> Self {
        // hyper's buffer grows to take it, or its table of fields.
        let is_large = head.len() > LARGE || head.is_many();
        progress.is_large.store(is_large, Ordering::Relaxed);
        Self {
            inner,
            read: (head.into_bytes(), 0),
            progress,
            write_limit,
            write_by: None,
            timer: Timer::default(),
            is_more: false,
            head: 0,
            lines: 0,
            held: Vec::new(),
        }
    }

    /// The connection, and what hyper has not read.
    pub(super) fn into_parts(self) -> (S, Vec<u8>) {
        let (mut read, taken) = self.read;
        read.drain(..taken);
        read.extend(self.held);
        (self.inner, read)
    }

    /// Notes bytes for hyper.
    fn saw(&mut self, count: usize) {
        // To read in vain is nothing new.
        if count == 0 {
            return;
        }
        match self.progress.phase() {
            Phase::Idle => {
                self.progress.set(Phase::Head);
                self.head = count;
            }
            Phase::Head => self.head += count,
            Phase::Busy | Phase::Last => {}
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
        let most = if self.is_more { READ } else { FIRST };
        let count = buf.remaining().min(most);
        let mut little = ReadBuf::new(buf.initialize_unfilled_to(count));
        let result = Pin::new(&mut self.inner).poll_read(cx, &mut little);
        let read = little.filled().len();
        self.is_more = read == count;
        buf.advance(read);
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
                let limit = self.write_limit;
                let by = *self
                    .write_by
                    .get_or_insert_with(|| later(Instant::now(), limit));
                ready!(self.timer.poll(cx, by));
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
        match me.progress.phase() {
            // The connection is about to be taken back, or ends.
            Phase::Head | Phase::Idle if me.progress.is_large.load(Ordering::Relaxed) => {
                return Poll::Pending;
            }
            Phase::Head | Phase::Idle => {}
            Phase::Busy | Phase::Last => return me.poll_read_little(cx, buf),
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut me.inner).poll_read(cx, buf);
        let read = &buf.filled()[before..];
        let lines = count_lines(read);
        me.lines = match me.progress.phase() {
            Phase::Head => me.lines + lines,
            _ => lines,
        };
        let (count, is_many) = (read.len(), me.lines > FEW_LINES);
        if is_many {
            me.held = read.to_vec();
            buf.set_filled(before);
        }
        me.saw(count);
        if is_many || buf.remaining() == 0 || me.head >= LARGE {
            me.progress.is_large.store(true, Ordering::Relaxed);
        }
        if is_many { Poll::Pending } else { result }
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
    use std::future::poll_fn;

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    const WRITE: Duration = Duration::from_secs(10);
    const MS: Duration = Duration::from_millis(1);

    fn connection(read: &[u8]) -> (DuplexStream, TimedIo<DuplexStream>, Arc<Progress>) {
        let (client, server) = duplex(16_384);
        let progress = Arc::new(Progress::default());
        let io = TimedIo::new(server, Head::later(read), Arc::clone(&progress), WRITE);
        (client, io, progress)
    }

    /// Whether a pause of this length is long.
    async fn after(
        time: Duration,
        pauses: &mut Pauses,
        progress: &Progress,
        hurried: bool,
    ) -> Pause {
        let over = poll_fn(|cx| match pauses.poll(cx, progress, hurried) {
            Pause::Short => Poll::Pending,
            pause => Poll::Ready(pause),
        });
        timeout(time, over).await.unwrap_or(Pause::Short)
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_long_after_a_second_and_not_while_a_request_is_answered() {
        let (mut client, mut io, progress) = connection(b"GET");
        let mut pauses = Pauses::new(Duration::from_secs(4500));
        let mut buf = [0; 64];
        assert_eq!(io.read(&mut buf).await.unwrap(), 3);
        assert_eq!(
            after(900 * MS, &mut pauses, &progress, false).await,
            Pause::Short
        );
        assert_eq!(
            after(200 * MS, &mut pauses, &progress, false).await,
            Pause::Long
        );

        progress.head_complete();
        assert_eq!(
            after(100 * REST, &mut pauses, &progress, true).await,
            Pause::Short
        );
        progress.answered(false);
        // Not written yet.
        assert_eq!(
            after(100 * REST, &mut pauses, &progress, true).await,
            Pause::Short
        );
        io.flush().await.unwrap();
        assert_eq!(
            after(900 * MS, &mut pauses, &progress, false).await,
            Pause::Short
        );
        client.write_all(b"G").await.unwrap();
        assert_eq!(io.read(&mut buf).await.unwrap(), 1);
        assert_eq!(progress.phase(), Phase::Head);
        assert_eq!(
            after(900 * MS, &mut pauses, &progress, false).await,
            Pause::Short
        );
        assert_eq!(after(MS, &mut pauses, &progress, true).await, Pause::Long);

        progress.head_complete();
        progress.answered(true);
        io.flush().await.unwrap();
        assert_eq!(
            after(900 * MS, &mut pauses, &progress, true).await,
            Pause::Short
        );
        assert_eq!(
            after(200 * MS, &mut pauses, &progress, true).await,
            Pause::End
        );
    }

    #[tokio::test(start_paused = true)]
    async fn to_read_in_vain_begins_no_head_and_no_other_pause() {
        let (_client, mut io, progress) = connection(b"");
        progress.answered(false);
        io.flush().await.unwrap();
        let mut pauses = Pauses::new(REST);
        let start = Instant::now();
        let mut buf = [0; 64];
        assert_eq!(
            after(600 * MS, &mut pauses, &progress, false).await,
            Pause::Short
        );
        assert!(timeout(MS, io.read(&mut buf)).await.is_err());
        assert_eq!(progress.phase(), Phase::Idle);
        assert_eq!(
            after(450 * MS, &mut pauses, &progress, false).await,
            Pause::Long
        );
        assert_eq!(pauses.since(), start);
    }

    #[tokio::test(start_paused = true)]
    async fn large_buffers_are_not_kept() {
        let (_client, mut io, progress) = connection(&[b'x'; LARGE + 1]);
        let mut pauses = Pauses::new(REST);
        let mut buf = vec![0; LARGE + 1];
        io.read_exact(&mut buf).await.unwrap();
        assert_eq!(after(MS, &mut pauses, &progress, false).await, Pause::Long);

        // A head that comes in small parts.
        let (mut client, mut io, progress) = connection(b"");
        let mut pauses = Pauses::new(REST);
        for _ in 0..LARGE / 64 {
            assert_eq!(after(MS, &mut pauses, &progress, false).await, Pause::Short);
            client.write_all(&[b'x'; 64]).await.unwrap();
            assert_eq!(io.read(&mut buf).await.unwrap(), 64);
        }
        assert_eq!(after(MS, &mut pauses, &progress, false).await, Pause::Long);
    }

    /// It has a place for an ordinary head only.
    #[tokio::test(start_paused = true)]
    async fn a_head_with_many_lines_is_not_for_hyper_while_it_has_the_connection() {
        let (mut client, mut io, progress) = connection(b"");
        progress.answered(false);
        io.flush().await.unwrap();
        let mut pauses = Pauses::new(REST);
        let mut buf = [0; 1024];
        client.write_all(&[b'\n'; FEW_LINES]).await.unwrap();
        assert_eq!(io.read(&mut buf).await.unwrap(), FEW_LINES);
        assert_eq!(after(MS, &mut pauses, &progress, false).await, Pause::Short);
        client.write_all(b"one\nmore").await.unwrap();
        assert!(timeout(MS, io.read(&mut buf)).await.is_err());
        assert_eq!(after(MS, &mut pauses, &progress, false).await, Pause::Long);
        assert_eq!(io.into_parts().1, b"one\nmore");

        // The next head begins anew, and a body may have any number of lines.
        let (mut client, mut io, progress) = connection(b"");
        for _ in 0..2 {
            progress.answered(false);
            io.flush().await.unwrap();
            client.write_all(&[b'\n'; FEW_LINES]).await.unwrap();
            assert_eq!(io.read(&mut buf).await.unwrap(), FEW_LINES);
            progress.head_complete();
            client.write_all(&[b'\n'; 2 * FEW_LINES]).await.unwrap();
            let body = &mut buf[..2 * FEW_LINES];
            assert_eq!(io.read_exact(body).await.unwrap(), 2 * FEW_LINES);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_read_is_given_back() {
        let (_client, mut io, _) = connection(b"GET / and more");
        let mut buf = [0; 5];
        assert_eq!(io.read(&mut buf).await.unwrap(), 5);
        assert_eq!(io.into_parts().1, b" and more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_answers_is_given_up_and_not_read_meanwhile() {
        let (mut client, mut io, _) = connection(b"");
        client.write_all(b"GET").await.unwrap();
        let start = Instant::now();
        let wrote = io.write_all(&vec![b'x'; 100_000]).await;
        assert_eq!(wrote.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), WRITE.as_secs());
        let mut buf = [0; 64];
        assert!(timeout(MS, io.read(&mut buf)).await.is_err());
    }
}
