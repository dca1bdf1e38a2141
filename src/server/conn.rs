//! One connection: HTTP/1.1, its handler, and its part in a drain.
//!
//! hyper's buffers and state are most of what a connection costs, so hyper has it only for as long
//! as there is something to do. Otherwise it *rests*: there is the socket, what has arrived of a
//! head, and a timer. A proxy keeps many more connections than it has checks under way.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::body::WholeBody;
use super::budget::{Budget, FIRST_READ, Place, Room};
use super::head::{Head, MAX_FIELDS, MAX_HEAD, Seen};
use super::http2;
use super::options::{ConnEvents, Options};
use super::stream::Stream;
use super::timed_io::{Pause, Pauses, Progress, TimedIo, later};

/// How long a closing connection is still read, for the client to close its side.
const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// The most bytes read while closing.
const CLOSE_LINGER_BYTES: usize = 1 << 20;

/// The answer to a head that does not arrive in time. It is a denial: a connection that closes
/// without an answer is an error, which a proxy that fails open lets through.
const TOO_LATE: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Whether the server is draining; shared by all its connections.
#[derive(Debug)]
pub(super) struct Drain {
    /// Read for each response, so not the channel, whose lock all connections would share.
    announced: AtomicBool,
    begun: watch::Sender<bool>,
}

impl Drain {
    pub(super) fn new() -> Self {
        Self {
            announced: AtomicBool::new(false),
            begun: watch::Sender::new(false),
        }
    }

    /// From now on HTTP/1 responses say `Connection: close`.
    pub(super) fn announce(&self) {
        self.announced.store(true, Ordering::Release);
    }

    /// From now on connections without a request are closed.
    pub(super) fn begin(&self) {
        self.begun.send_replace(true);
    }

    fn announced(&self) -> bool {
        self.announced.load(Ordering::Acquire)
    }

    fn begun(&self) -> watch::Receiver<bool> {
        self.begun.subscribe()
    }
}

/// The protocol settings, the same for every connection.
#[derive(Debug)]
pub(super) struct Builders {
    /// For ordinary heads. hyper parses up to a hundred fields without asking for memory.
    few: http1::Builder,
    /// For heads of many lines.
    many: http1::Builder,
}

impl Builders {
    pub(super) fn new() -> Self {
        let few = builder();
        let mut many = builder();
        many.max_headers(MAX_FIELDS);
        Self { few, many }
    }
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // Heads are read before hyper has them; see `rest`.
        .header_read_timeout(None)
        // A proxy that closes while its check is under way no longer wants the response: the
        // handler is cancelled.
        .half_close(false)
        .max_buf_size(MAX_HEAD);
    builder
}

/// What all connections of a server share.
pub(super) struct Common<H> {
    pub(super) handler: H,
    pub(super) options: Options,
    pub(super) builders: Builders,
    pub(super) budget: Arc<Budget>,
    pub(super) drain: Arc<Drain>,
    pub(super) events: Arc<dyn ConnEvents>,
}

/// Serves one connection to its end.
pub(super) async fn run<H, F>(stream: Stream, common: Arc<Common<H>>)
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    common.events.opened();
    let _end = EndWatch(Arc::clone(&common.events));
    let mut begun = common.drain.begun();
    let mut resting = Resting {
        stream,
        head: Head::default(),
        since: Instant::now(),
    };
    loop {
        let end = rest(&mut resting, &common.options, &common.budget, &mut begun).await;
        let (head, place) = match end {
            Rested::Whole(place) => (std::mem::take(&mut resting.head), place),
            Rested::TooLate => return close(resting.stream, TOO_LATE).await,
            Rested::Over => return close(resting.stream, b"").await,
            Rested::Gone => return,
            Rested::Http2 => {
                common.events.http2_refused();
                return http2::refuse(resting.stream).await;
            }
        };
        // In a box, so that a connection has the room for it only while it is served.
        let served = Box::pin(serve(resting.stream, head, &common, &mut begun)).await;
        drop(place);
        match served {
            Served::Rests(at_rest) => resting = at_rest,
            Served::Done(stream) => return close(stream, b"").await,
        }
    }
}

/// A connection without hyper.
struct Resting {
    stream: Stream,
    /// What has arrived of a head.
    head: Head,
    /// When the head began; without one, when the connection was opened or answered.
    since: Instant,
}

/// How a rest ended.
enum Rested {
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

/// Waits for a head, and reads it.
async fn rest(
    resting: &mut Resting,
    options: &Options,
    budget: &Budget,
    begun: &mut watch::Receiver<bool>,
) -> Rested {
    let mut room = budget.room();
    // A place for what is read first: usually the whole head.
    let mut place = None;
    // Empty lines have come, which have the time of a head: or they would keep a connection open.
    let mut is_blank = false;
    loop {
        let Resting {
            stream,
            head,
            since,
        } = &mut *resting;
        let seen = head.seen();
        match seen {
            Seen::Whole => {
                room.arrived();
                let is_many = head.is_many();
                let place = match place {
                    Some(place) if head.len() <= FIRST_READ && !is_many => place,
                    other => {
                        drop(other);
                        budget.place(head.len(), is_many).await
                    }
                };
                return Rested::Whole(place);
            }
            Seen::Http2 => return Rested::Http2,
            Seen::Part => {
                if !room.hold(head.capacity(), *since).await {
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
            // A proxy opens a connection for each waiting check, and keeps one that came too late
            // for the next. Closed any earlier than an idle one, it would lose that check.
            options.idle_timeout
        };
        let until = later(*since, limit);
        match wait(stream, until, has_begun, options, &room, begun).await {
            Waited::Readable => {}
            Waited::TooLong if has_begun => return Rested::TooLate,
            Waited::TooLong => return Rested::Over,
        }
        if has_begun {
            if !room.hold(head.capacity() + FIRST_READ, *since).await {
                return Rested::TooLate;
            }
        } else {
            place = Some(budget.place(0, false).await);
        }
        match read(stream, head) {
            Ok(0) => return Rested::Gone,
            Ok(_) if has_begun || is_blank => {}
            Ok(_) => {
                *since = Instant::now();
                is_blank = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, "connection ended early");
                return Rested::Gone;
            }
        }
    }
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

/// Reads what is there. The buffer is on the stack, so it costs nothing while there is nothing.
fn read(stream: &Stream, head: &mut Head) -> io::Result<usize> {
    let mut buf = [0; FIRST_READ];
    let count = stream.try_read(&mut buf)?;
    head.push(&buf[..count]);
    Ok(count)
}

/// Reads what is there, for nothing.
fn discard(stream: &Stream) -> io::Result<usize> {
    stream.try_read(&mut [0; FIRST_READ])
}

/// How hyper gave a connection back.
enum Served {
    /// There is nothing to do for it.
    Rests(Resting),
    /// It is to be closed.
    Done(Stream),
}

/// Serves requests until there are none, beginning with what has been read.
async fn serve<H, F>(
    stream: Stream,
    head: Head,
    common: &Arc<Common<H>>,
    begun: &mut watch::Receiver<bool>,
) -> Served
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let options = &common.options;
    let progress = Arc::new(Progress::default());
    let shared = Arc::new(Shared {
        progress: Arc::clone(&progress),
        drain: Arc::clone(&common.drain),
        events: Arc::clone(&common.events),
    });
    let service = service_fn(|request: Request<Incoming>| {
        shared.progress.head_complete();
        let has_body = !request.body().is_end_stream();
        answer((common.handler)(request), has_body, Arc::clone(&shared))
    });
    let builder = if head.is_many() {
        &common.builders.many
    } else {
        &common.builders.few
    };
    let io = TimedIo::new(stream, head, Arc::clone(&progress), options.header_timeout);
    let mut pauses = Pauses::new(options.header_timeout.min(options.idle_timeout));
    let mut conn = builder.serve_connection(TokioIo::new(io), service);
    let result = loop {
        let drains = *begun.borrow_and_update();
        let serving = std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = Pin::new(&mut conn).poll(cx) {
                return Poll::Ready(Some(result));
            }
            let is_hurried = drains || common.budget.is_tight();
            match pauses.poll(cx, &progress, is_hurried) {
                Pause::Short => Poll::Pending,
                Pause::Long => Poll::Ready(None),
                Pause::End => Poll::Ready(Some(Ok(()))),
            }
        });
        tokio::select! {
            biased;
            result = serving => break result,
            Ok(()) = begun.changed(), if !drains => {}
        }
    };
    let parts = conn.into_parts();
    let (stream, unread) = parts.io.into_inner().into_parts();
    match result {
        None => {
            let mut head = Head::later(&parts.read_buf);
            head.push(&unread);
            return Served::Rests(Resting {
                stream,
                head,
                since: pauses.since(),
            });
        }
        Some(Ok(())) => {}
        // Proxies close connections in all sorts of ways, which matters only to someone who is
        // debugging.
        Some(Err(error)) => tracing::debug!(%error, "connection ended early"),
    }
    Served::Done(stream)
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
            match discard(&stream) {
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

/// What the requests of a connection share.
struct Shared {
    progress: Arc<Progress>,
    drain: Arc<Drain>,
    events: Arc<dyn ConnEvents>,
}

/// Waits for the handler's response, and adds what concerns the connection.
async fn answer(
    handling: impl Future<Output = Response<Full<Bytes>>>,
    has_body: bool,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let panic_watch = PanicWatch(&shared);
    let mut response = handling.await;
    drop(panic_watch);
    // What is left of a body must never be taken for the next request. hyper takes care of that,
    // and has only until the connection rests.
    let is_left = has_body && response.extensions().get::<WholeBody>().is_none();
    if is_left || shared.drain.announced() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    let is_last = response.headers().contains_key(header::CONNECTION);
    shared.progress.answered(is_last);
    Ok(response)
}

/// Counts the connection out however it ends: done, aborted or panicked.
struct EndWatch(Arc<dyn ConnEvents>);

impl Drop for EndWatch {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// Reports a panic in a handler, which then ends the connection's task.
struct PanicWatch<'a>(&'a Shared);

impl Drop for PanicWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "a request handler panicked, its request was not answered; this is a bug, please report it"
            );
            self.0.events.handler_panicked();
        }
    }
}
