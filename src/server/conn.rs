//! One connection: HTTP/1.1 or HTTP/2 with prior knowledge, its handler, and its part in a drain.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::watch;

use super::options::{ConnEvents, Options};
use super::stream::Stream;
use super::timed_io::{Limits, Phase, Progress, TimedIo};

/// The longest request head: Envoy takes 60 kB of headers by default, and targets of 50 kB get
/// through it.
const MAX_HEAD: usize = 64 * 1024;

/// Requests in flight on one HTTP/2 connection. Envoy opens one connection per worker and by
/// default allows itself 1024 requests to a cluster.
const MAX_STREAMS: u32 = 1024;

/// How often a silent HTTP/2 peer is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long it has to answer the ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) type Builder = auto::Builder<TokioExecutor>;

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
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        // TimedIo does it; see there.
        .header_read_timeout(None)
        // A proxy that closes while its check is under way no longer wants the response: the
        // handler is cancelled.
        .half_close(false)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
    builder
}

/// Serves one connection to its end.
pub(super) async fn run<H, F>(
    stream: Stream,
    handler: H,
    options: Options,
    builder: Arc<Builder>,
    drain: Arc<Drain>,
    events: Arc<dyn ConnEvents>,
) where
    H: Fn(Request<Incoming>) -> F + Send + 'static,
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
        events,
    });
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        let http1 = request.version() < Version::HTTP_2;
        if http1 {
            shared.progress.head_complete();
        }
        // On the check port the body, if one was announced, is never read; hyper drops what has
        // arrived of it.
        answer(handler(request), http1, shared)
    });

    let mut conn = pin!(builder.serve_connection(io, service));
    let early = tokio::select! {
        biased;
        result = conn.as_mut() => Some(result),
        () = drain.wait() => None,
    };
    let result = match early {
        Some(result) => result,
        None => retire(conn, &progress, options.drain_linger).await,
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
    http1: bool,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let panic_watch = PanicWatch(&shared);
    let mut response = handling.await;
    drop(panic_watch);
    if http1 {
        if shared.drain.announced() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        shared.progress.answered();
    }
    Ok(response)
}

/// Brings a connection to its end without losing a request.
///
/// HTTP/2 announces up to which request it answers. Closing an idle HTTP/1 connection loses a
/// request that the client has just written, so it stays open until none has come for a while. A
/// busy one closes after its response, which said so.
async fn retire<C: Retire>(
    mut conn: Pin<&mut C>,
    progress: &Progress,
    linger: Duration,
) -> C::Output {
    let mut heads = progress.heads();
    loop {
        if progress.phase() == Phase::Multiplexed {
            break;
        }
        tokio::select! {
            // The connection first: it must have read everything before it can be called idle.
            biased;
            result = conn.as_mut() => return result,
            () = tokio::time::sleep(linger) => {}
        }
        let quiet = progress.heads() == heads;
        heads = progress.heads();
        if quiet && matches!(progress.phase(), Phase::Fresh | Phase::Idle) {
            break;
        }
    }
    conn.as_mut().close();
    conn.await
}

/// hyper-util's connection. Its full type cannot be written down, because it contains the service's
/// closure.
trait Retire: Future {
    /// Accepts no further requests.
    fn close(self: Pin<&mut Self>);
}

impl<I, S, F> Retire for auto::Connection<'_, I, S, TokioExecutor>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible, Future = F>,
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
    fn close(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Counts the connection out however it ends: done, aborted or panicked.
struct EndWatch(Arc<dyn ConnEvents>);

impl Drop for EndWatch {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// Reports a panic in a handler. On HTTP/1 the panic then ends the connection's task, on HTTP/2 the
/// stream's.
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
