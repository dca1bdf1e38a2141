//! The time between two requests of a busy connection.
//!
//! To arm a timer and to watch for a drain, for each request anew, costs as much as a small part of
//! a check. So both are armed once, and left so when a request comes: what wakes a connection too
//! early costs one wake-up a second.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

use super::{common::Drain, stream::Stream, timer::later};

/// How long a connection without a request counts as busy.
const REST: Duration = Duration::from_secs(1);

/// Waits between the requests of a connection.
pub(super) struct Between {
    rest: Duration,
    timer: Pin<Box<Sleep>>,
    /// When the timer was armed, and whether a request has come since.
    armed: Instant,
    is_used: bool,
    drain: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Who is woken by both.
    waker: Option<Waker>,
}

/// How the time between two requests ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// There is something to read.
    Readable,
    /// Nothing came for a while, since a time; or the server drains.
    Idle(Instant),
}

impl Between {
    /// Begins after a request. A pause of `longest` is long in any case.
    pub(super) fn new(longest: Duration, mut begun: watch::Receiver<bool>) -> Self {
        let (armed, rest) = (Instant::now(), longest.min(REST));
        Self {
            rest,
            timer: Box::pin(sleep_until(later(armed, rest))),
            armed,
            is_used: false,
            drain: Box::pin(async move {
                // The sender lives as long as the server.
                let _ = begun.wait_for(|begun| *begun).await;
            }),
            waker: None,
        }
    }

    /// Waits for bytes.
    pub(super) async fn wait(&mut self, stream: &Stream, drain: &Drain) -> Ended {
        let ended = poll_fn(|cx| {
            if stream.poll_read_ready(cx).is_ready() {
                return Poll::Ready(Ended::Readable);
            }
            self.poll_idle(cx, drain)
        });
        let ended = ended.await;
        self.is_used = true;
        ended
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>, drain: &Drain) -> Poll<Ended> {
        if drain.has_begun() {
            return Poll::Ready(Ended::Idle(Instant::now()));
        }
        if self.timer.is_elapsed() {
            if !self.is_used {
                return Poll::Ready(Ended::Idle(self.armed));
            }
            self.armed = Instant::now();
            self.is_used = false;
            self.timer.as_mut().reset(later(self.armed, self.rest));
            self.waker = None;
        }
        let is_armed = self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()));
        if !is_armed {
            if self.timer.as_mut().poll(cx).is_ready() {
                // It is over already.
                cx.waker().wake_by_ref();
            }
            if self.drain.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ended::Idle(Instant::now()));
            }
            self.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt as _,
        net::UnixStream,
        time::{advance, timeout},
    };

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_second_without_a_request_is_idle_and_one_with_requests_is_not() {
        let drain = Drain::new();
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut server = Stream::from(server);
        let mut between = Between::new(3_600_000 * MS, drain.begun());
        let start = Instant::now();
        for _ in 0..5 {
            advance(400 * MS).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(between.wait(&server, &drain).await, Ended::Readable);
            let mut buf = Vec::with_capacity(8);
            let read = poll_fn(|cx| server.poll_read_into(cx, &mut buf));
            assert_eq!(read.await.unwrap(), 1);
        }
        let last = Instant::now();
        let Ended::Idle(since) = between.wait(&server, &drain).await else {
            panic!("there is nothing to read");
        };
        assert!(
            since >= last - REST && since <= last + REST,
            "{:?}",
            since - start
        );
        assert!(last.elapsed() <= 2 * REST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_it_at_once() {
        let drain = Drain::new();
        let (_client, server) = UnixStream::pair().unwrap();
        let server = Stream::from(server);
        let mut between = Between::new(3_600_000 * MS, drain.begun());
        let waiting = between.wait(&server, &drain);
        let begin = async {
            tokio::task::yield_now().await;
            drain.begin();
        };
        let (ended, ()) = tokio::join!(timeout(100 * MS, waiting), begin);
        assert!(matches!(ended, Ok(Ended::Idle(_))));
    }
}
