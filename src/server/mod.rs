//! The HTTP server under both ports: accepts, limits, times out and drains connections.
//!
//! It knows nothing of rules.
//!
//! - HTTP/1.1 over TCP or a Unix socket. HTTP/2 is refused, see `http2.rs`.
//! - A connection that does not finish a head in time gets a 408 and is closed. An idle one is kept
//!   for long, also before its first request: a proxy that picks a connection which is just being
//!   closed has a failed check.
//! - A request body that a handler does not want is thrown away, see `unread.rs`.
//! - Over the cap, connections are closed at once: the proxy learns it now and not by its timeout.
//! - A drain loses no request that was written to an accepted connection.

mod addr;
mod backoff;
mod between;
mod budget;
mod common;
mod conn;
mod exchange;
mod head;
mod http2;
mod listen;
mod options;
mod rest;
mod stream;
mod timer;
mod unix;
mod unread;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use backoff::Backoff;
use budget::Budget;
use common::{Common, Drain};

use crate::throttle::Throttle;
use crate::workers::Workers;

pub use addr::{BindError, ListenAddr, ParseListenAddrError};
pub use listen::{Listener, Waiting};
pub use options::{ConnEvents, Handler, Options};
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

/// As [`serve_on`], on the runtime of the caller.
pub async fn serve<H: Handler>(
    listener: Listener,
    handler: H,
    options: Options,
    events: Arc<dyn ConnEvents>,
    shutdown: impl Future<Output = ()>,
) -> DrainReport {
    let here = Workers::here();
    serve_on(&here, listener, handler, options, events, shutdown).await
}

/// Serves connections until `shutdown` completes, then drains. Each is served on one of the
/// `workers`, the one that has the fewest.
///
/// On shutdown: connections that the kernel has accepted are taken, then the listener is closed;
/// responses say `Connection: close`; idle connections are closed after [`Options::drain_linger`];
/// what is left after [`Options::drain_timeout`] is cut off.
///
/// Dropping the future cuts off all its connections.
pub async fn serve_on<H: Handler>(
    workers: &Workers,
    listener: Listener,
    handler: H,
    options: Options,
    events: Arc<dyn ConnEvents>,
    shutdown: impl Future<Output = ()>,
) -> DrainReport {
    let mut server = Server {
        common: Arc::new(Common {
            handler,
            options,
            budget: Budget::new(options.request_memory),
            drain: Drain::new(),
            events,
        }),
        tasks: JoinSet::new(),
        workers: workers.runtimes().iter().map(Worker::new).collect(),
        refusals: Throttle::new(LOG_PAUSE),
    };
    server.accept_until(&listener, shutdown).await;
    server.drain(listener).await
}

struct Server<H> {
    common: Arc<Common<H>>,
    tasks: JoinSet<()>,
    workers: Vec<Worker>,
    refusals: Throttle,
}

/// A runtime that serves connections, and how many it has.
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Worker {
    fn new(runtime: &Handle) -> Self {
        Self {
            runtime: runtime.clone(),
            connections: Arc::default(),
        }
    }
}

/// Counts a connection of a worker, for as long as it is there.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<H: Handler> Server<H> {
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
                accepted = accept(listener, &self.workers) => accepted,
            };
            match accepted {
                Ok((stream, worker)) => {
                    backoff.reset();
                    self.admit(stream, worker);
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

    fn admit(&mut self, stream: Stream, worker: usize) {
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
        let Worker {
            runtime,
            connections,
        } = &self.workers[worker];
        let counted = Counted::new(connections);
        let serving = conn::run(stream, Arc::clone(&self.common));
        let task = async move {
            serving.await;
            drop(counted);
        };
        self.tasks.spawn_on(task, runtime);
    }

    async fn drain(mut self, listener: Listener) -> DrainReport {
        let start = Instant::now();
        self.common.drain.announce();
        let mut waiting = listener.close();
        while let Some((stream, worker)) = take(&mut waiting, &self.workers) {
            self.admit(stream, worker);
        }
        drop(waiting);
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

/// The next connection, and the place of its worker.
///
/// One acceptor deals them out. With a socket of its own for each worker, the kernel would do so by
/// a hash, and of the connections of one proxy too many could meet on one worker.
async fn accept(listener: &Listener, workers: &[Worker]) -> std::io::Result<(Stream, usize)> {
    std::future::poll_fn(|cx| {
        let (place, worker) = next_worker(workers);
        // What happens to a connection is reported to the runtime in whose context it is accepted.
        let _context = worker.runtime.enter();
        let accepted = listener.poll_accept(cx);
        accepted.map(|stream| Ok((stream?, place)))
    })
    .await
}

/// The next connection that waited for a listener, and the place of its worker.
fn take(waiting: &mut Waiting, workers: &[Worker]) -> Option<(Stream, usize)> {
    let (place, worker) = next_worker(workers);
    let _context = worker.runtime.enter();
    Some((waiting.next()?, place))
}

/// As many connections as a worker is given before the next one has any. Checks that come one at a
/// time over a few connections are answered sooner by one thread: to wake several by turns costs
/// more than they could do at once.
const FEW: usize = 4;

/// The worker for the next connection: the one that has the fewest, or the first that has only a
/// few.
fn next_worker(workers: &[Worker]) -> (usize, &Worker) {
    let load = |worker: &Worker| worker.connections.load(Ordering::Relaxed).max(FEW - 1);
    let by_place = workers.iter().enumerate();
    // Of equal ones, the first.
    let next = by_place.min_by_key(|(_, worker)| load(worker));
    next.expect("there is always a worker")
}

fn reap(ended: Result<(), JoinError>) {
    // A handler's panic has been reported already; this catches one in our own code.
    if let Err(error) = ended {
        tracing::error!(%error, "the task of a connection ended abnormally");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::WorkerThreads;

    #[test]
    fn a_few_connections_share_a_worker_and_many_are_spread_evenly() {
        let threads = WorkerThreads::start(3).unwrap();
        let runtimes = threads.workers().runtimes().iter();
        let workers: Vec<Worker> = runtimes.map(Worker::new).collect();
        let mut open = Vec::new();
        let mut add = |count: usize| {
            for _ in 0..count {
                let (place, worker) = next_worker(&workers);
                open.push((place, Counted::new(&worker.connections)));
            }
            let of = |place: usize| open.iter().filter(|(own, _)| *own == place).count();
            [of(0), of(1), of(2)]
        };
        assert_eq!(add(2), [2, 0, 0]);
        assert_eq!(add(4), [4, 2, 0]);
        assert_eq!(add(6), [4, 4, 4]);
        assert_eq!(add(60), [24, 24, 24]);
        // Those that end make room.
        open.retain(|(place, _)| *place != 1);
        let (place, _) = next_worker(&workers);
        assert_eq!(place, 1);
    }
}
