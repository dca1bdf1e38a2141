//! A connection that has no request: it waits for a head, and reads it.

use std::{cell::RefCell, future::poll_fn, io, task::Poll};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    between::{Between, Ended},
    budget::{Budget, FIRST_READ, Place, Room},
    common::{Common, Drain},
    head::{Head, Seen},
    options::Options,
    stream::Stream,
    timer::later,
};

/// A connection without a request.
pub(super) struct Resting {
    pub(super) stream: Stream,
    /// What has arrived of a head.
    pub(super) head: Head,
    /// When the head began; without one, when the connection was opened or last used.
    since: Instant,
    /// While it is busy.
    between: Option<Between>,
}

/// How a rest ended.
pub(super) enum Rested {
    /// With a head, and a place to answer it.
    Whole(Place),
    /// A head has begun, and did not arrive in time or while there was room.
    TooLate,
    /// Unused for too long, or while the server drains.
    Over,
    /// The client has gone.
    Gone,
    /// With HTTP/2.
    Http2,
}

impl Resting {
    /// A connection that was opened now.
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            head: Head::default(),
            since: Instant::now(),
            between: None,
        }
    }

    /// Begins again after a request, with what has come of the next one.
    pub(super) fn answered(&mut self, head: Head, options: &Options, drain: &Drain) {
        if !head.is_empty() {
            self.since = Instant::now();
        }
        self.head = head;
        if self.between.is_none() {
            let longest = options.header_timeout.min(options.idle_timeout);
            self.between = Some(Between::new(longest, drain.begun()));
        }
    }

    /// Waits for a head, and reads it.
    pub(super) async fn rest<H>(&mut self, common: &Common<H>) -> Rested {
        if self.head.is_empty()
            && let Some(between) = &mut self.between
        {
            match between.wait(&self.stream, &common.drain).await {
                Ended::Readable => {
                    let place = common.budget.place(0).await;
                    match self.read().await {
                        Ok(0) => return Rested::Gone,
                        Ok(_)
                            if self.head.seen() == Seen::Whole && self.head.len() <= FIRST_READ =>
                        {
                            return Rested::Whole(place);
                        }
                        Ok(_) => self.since = Instant::now(),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            self.since = Instant::now();
                        }
                        Err(error) => return gone(&error),
                    }
                }
                Ended::Idle(since) => self.since = since,
            }
            self.between = None;
        }
        self.whole(&common.options, &common.budget, &common.drain)
            .await
    }

    /// As [`rest`](Self::rest), with all the time in the world.
    async fn whole(&mut self, options: &Options, budget: &Budget, drain: &Drain) -> Rested {
        let mut begun = drain.begun();
        let mut room = budget.room();
        // A place for what is read first: usually the whole head.
        let mut place = None;
        // Empty lines have come, which have the time of a head: or they would keep a connection
        // open.
        let mut is_blank = false;
        loop {
            let seen = self.head.seen();
            match seen {
                Seen::Whole => {
                    room.arrived();
                    let place = match place {
                        Some(place) if self.head.len() <= FIRST_READ => place,
                        other => {
                            drop(other);
                            budget.place(self.head.len()).await
                        }
                    };
                    return Rested::Whole(place);
                }
                Seen::Http2 => return Rested::Http2,
                Seen::Part => {
                    if !room.hold(self.head.capacity(), self.since).await {
                        return Rested::TooLate;
                    }
                }
                Seen::Nothing => {}
            }
            drop(place.take());
            let has_begun = seen == Seen::Part;
            let limit = if has_begun || is_blank {
                options.header_timeout
            } else {
                // A proxy opens a connection for each waiting check, and keeps one that came too
                // late for the next. Closed any earlier than an idle one, it would lose that check.
                options.idle_timeout
            };
            let until = later(self.since, limit);
            match wait(&self.stream, until, has_begun, options, &room, &mut begun).await {
                Waited::Readable => {}
                Waited::TooLong if has_begun => return Rested::TooLate,
                Waited::TooLong => return Rested::Over,
            }
            if has_begun {
                if !room
                    .hold(self.head.capacity() + FIRST_READ, self.since)
                    .await
                {
                    return Rested::TooLate;
                }
            } else {
                place = Some(budget.place(0).await);
            }
            match self.read().await {
                Ok(0) => return Rested::Gone,
                Ok(_) if has_begun || is_blank => {}
                Ok(_) => {
                    self.since = Instant::now();
                    is_blank = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return gone(&error),
            }
        }
    }

    /// Reads what is there, and does not wait for more. The buffer is the thread's, so it costs a
    /// connection nothing.
    async fn read(&mut self) -> io::Result<usize> {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(FIRST_READ));
        }
        let Self { stream, head, .. } = self;
        poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                buffer.clear();
                let read = stream.poll_read_into(cx, buffer);
                head.push(buffer);
                Poll::Ready(match read {
                    Poll::Ready(read) => read,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                })
            })
        })
        .await
    }
}

fn gone(error: &io::Error) -> Rested {
    tracing::debug!(%error, "connection ended early");
    Rested::Gone
}

enum Waited {
    Readable,
    TooLong,
}

/// Waits for bytes until a time, or for as long as a drain allows.
async fn wait(
    stream: &Stream,
    until: Instant,
    has_begun: bool,
    options: &Options,
    room: &Room,
    begun: &mut watch::Receiver<bool>,
) -> Waited {
    loop {
        let drains = *begun.borrow_and_update();
        let deadline = if drains && !has_begun {
            // Closing an idle connection loses a request that the client has just written, so it
            // stays open until none has come for a while.
            later(Instant::now(), options.drain_linger).min(until)
        } else {
            until
        };
        tokio::select! {
            // What has come goes before the end of the time for it.
            biased;
            // An error shows when it is read.
            _ = stream.readable() => return Waited::Readable,
            () = room.shed() => return Waited::TooLong,
            () = sleep_until(deadline) => return Waited::TooLong,
            Ok(()) = begun.changed(), if !drains => {}
        }
    }
}
