//! One connection: HTTP/1.1, its handler, and its part in a drain.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use super::http2;
use super::options::{ConnEvents, Options};
use super::stream::Stream;
use super::timed_io::{Limits, Phase, Progress, TimedIo};

/// The longest request head: Envoy takes 60 kB of headers by default, and targets of 50 kB get
/// through it.
const MAX_HEAD: usize = 64 * 1024;

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

    async fn wait(&self) {
        // An error would mean that the sender is gone, but it lives in self.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }
}

/// The protocol settings, the same for every connection.
pub(super) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // TimedIo does it; see there.
        .header_read_timeout(None)
        // A proxy that closes while its check is under way no longer wants the response: the
        // handler is cancelled.
        .half_close(false)
        .max_buf_size(MAX_HEAD);
    builder
}

/// Serves one connection to its end.
pub(super) async fn run<H, F>(
    stream: Stream,
    handler: Arc<H>,
    options: Options,
    builder: http1::Builder,
    drain: Arc<Drain>,
    events: Arc<dyn ConnEvents>,
) where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    events.opened();
    let _end = EndWatch(events.clone());
    let progress = Arc::new(Progress::default());
    let limits = Limits {
        header: options.header_timeout,
        idle: options.idle_timeout,
    };
    let io = TokioIo::new(TimedIo::new(stream, progress.clone(), limits));

    let shared = Arc::new(Shared {
        progress: progress.clone(),
        drain: drain.clone(),
        events: events.clone(),
    });
    let service = service_fn(move |request: Request<Incoming>| {
        shared.progress.head_complete();
        answer(handler(request), shared.clone())
    });

    let mut conn = builder.serve_connection(io, service);
    let result = tokio::select! {
        biased;
        result = &mut conn => result,
        () = progress.http2() => {
            events.http2_refused();
            return http2::refuse(conn.into_parts().io.into_inner()).await;
        }
        () = drain.wait() => retire(&mut conn, &progress, options.drain_linger).await,
    };
    if let Err(error) = result {
        // Proxies close connections in all sorts of ways, which matters only to someone who is
        // debugging.
        tracing::debug!(%error, "connection ended early");
    }
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
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let panic_watch = PanicWatch(&shared);
    let mut response = handling.await;
    drop(panic_watch);
    if shared.drain.announced() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    shared.progress.answered();
    Ok(response)
}

/// Brings a connection to its end without losing a request.
///
/// Closing an idle connection loses a request that the client has just written, so it stays open
/// until none has come for a while. A busy one closes after its response, which said so.
async fn retire<I, S>(
    conn: &mut http1::Connection<I, S>,
    progress: &Progress,
    linger: Duration,
) -> hyper::Result<()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: HttpService<Incoming, ResBody = Full<Bytes>, Error = Infallible> + Unpin,
{
    let mut heads = progress.heads();
    loop {
        tokio::select! {
            // The connection first: it must have read everything before it can be called idle.
            biased;
            result = &mut *conn => return result,
            () = tokio::time::sleep(linger) => {}
        }
        let quiet = progress.heads() == heads;
        heads = progress.heads();
        if quiet && matches!(progress.phase(), Phase::Fresh | Phase::Idle) {
            break;
        }
    }
    Pin::new(&mut *conn).graceful_shutdown();
    conn.await
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
