//! The HTTP server under both ports: accepts, limits, times out and drains connections.
//!
//! It knows nothing of rules.
//!
//! - HTTP/1.1 over TCP or a Unix socket. HTTP/2 is refused, see `http2.rs`.
//! - A connection that does not finish a head in time gets a 408 and is closed. An idle one is kept
//!   for long, also before its first request: a proxy that picks a connection which is just being
//!   closed has a failed check.
//! - A request body that a handler does not want is [thrown away](UnwantedBody).
//! - Over the cap, connections are closed at once: the proxy learns it now and not by its timeout.
//! - A drain loses no request that was written to an accepted connection.

mod addr;
mod backoff;
mod body;
mod budget;
mod conn;
mod head;
mod http2;
mod listen;
mod options;
mod stream;
mod timed_io;
mod unix;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use backoff::Backoff;
use budget::Budget;
use conn::{Common, Drain};

use crate::throttle::Throttle;

pub use addr::{BindError, ListenAddr, ParseListenAddrError};
pub use body::{UnwantedBody, WholeBody};
pub use listen::Listener;
pub use options::{ConnEvents, Options};
pub use stream::Stream;

/// How often the same problem is logged at most.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections that came to their own end after the shutdown began.
    pub finished: usize,
    /// Connections cut off by [`Options::drain_timeout`].
    pub aborted: usize,
    /// From the shutdown to the end of the last connection.
    pub took: Duration,
}

/// Serves connections until `shutdown` completes, then drains.
///
/// On shutdown: connections that the kernel has accepted are taken, then the listener is closed;
/// responses say `Connection: close`; idle connections are closed after [`Options::drain_linger`];
/// what is left after [`Options::drain_timeout`] is cut off.
///
/// Dropping the future cuts off all its connections.
pub async fn serve<H, F>(
    listener: Listener,
    handler: H,
    options: Options,
    events: Arc<dyn ConnEvents>,
    shutdown: impl Future<Output = ()>,
) -> DrainReport
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut server = Server {
        common: Arc::new(Common {
            handler,
            options,
            builders: conn::Builders::new(),
            budget: Arc::new(Budget::new(options.request_memory)),
            drain: Arc::new(Drain::new()),
            events,
        }),
        tasks: JoinSet::new(),
        refusals: Throttle::new(LOG_PAUSE),
    };
    server.accept_until(&listener, shutdown).await;
    server.drain(listener).await
}

struct Server<H> {
    common: Arc<Common<H>>,
    tasks: JoinSet<()>,
    refusals: Throttle,
}

impl<H, F> Server<H>
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    async fn accept_until(&mut self, listener: &Listener, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut backoff = Backoff::default();
        let mut failures = Throttle::new(LOG_PAUSE);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => return,
                // Before accepting, so that the cap counts only live connections.
                Some(ended) = self.tasks.join_next() => {
                    reap(ended);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => {
                    backoff.reset();
                    self.admit(stream);
                }
                Err(error) => {
                    self.common.events.accept_failed();
                    if listen::is_connection_error(&error) {
                        continue;
                    }
                    let pause = backoff.next();
                    if let Some(unlogged) = failures.permit(Instant::now()) {
                        tracing::error!(%error, ?pause, unlogged, "cannot accept connections, trying again; for `too many open files`, raise that limit (ulimit -n)");
                    }
                    tokio::select! {
                        () = &mut shutdown => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    fn admit(&mut self, stream: Stream) {
        if self.tasks.len() >= self.common.options.max_connections {
            self.common.events.refused();
            if let Some(unlogged) = self.refusals.permit(Instant::now()) {
                let cap = self.common.options.max_connections;
                tracing::warn!(
                    cap,
                    unlogged,
                    "too many connections; new ones are closed at once; raise --max-connections if the proxies need more"
                );
            }
            return;
        }
        self.tasks
            .spawn(conn::run(stream, Arc::clone(&self.common)));
    }

    async fn drain(mut self, listener: Listener) -> DrainReport {
        let start = Instant::now();
        self.common.drain.announce();
        for stream in listener.close() {
            self.admit(stream);
        }
        self.common.drain.begin();

        let mut finished = 0;
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                reap(ended);
                finished += 1;
            }
        };
        // What is left counts, not the elapsed error: the last connection can end in the same
        // moment.
        let _ = tokio::time::timeout(self.common.options.drain_timeout, all).await;
        let mut aborted = 0;
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Err(error) if error.is_cancelled() => aborted += 1,
                ended => {
                    reap(ended);
                    finished += 1;
                }
            }
        }
        DrainReport {
            finished,
            aborted,
            took: start.elapsed(),
        }
    }
}

fn reap(ended: Result<(), JoinError>) {
    // A handler's panic has been reported already; this catches one in our own code.
    if let Err(error) = ended {
        tracing::error!(%error, "the task of a connection ended abnormally");
    }
}
