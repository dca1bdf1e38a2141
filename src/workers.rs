//! The threads that serve checks, each with a runtime of its own.
//!
//! A connection belongs to one thread, and so do some of the connections to Redis: a check is read,
//! decided and answered without another thread that would have to be woken. Waking one costs more
//! than a decision (docs/benchmarks.md has figures).

use std::{
    cell::Cell,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

thread_local! {
    /// The place of this thread among the workers.
    static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// How long a worker waits at its end for blocking calls.
const PATIENCE_AT_END: Duration = Duration::from_secs(1);

/// The runtimes on which checks are served: at least one.
#[derive(Debug, Clone)]
pub struct Workers(Arc<[Handle]>);

impl Workers {
    /// The runtime of the caller, as if it were a worker. Must be called within one.
    pub fn here() -> Self {
        Self([Handle::current()].into())
    }

    /// The runtimes, by their places.
    pub fn runtimes(&self) -> &[Handle] {
        &self.0
    }

    /// The place of the worker whose thread calls; 0 for other threads.
    pub fn place(&self) -> usize {
        let place = PLACE.get().unwrap_or(0);
        if place < self.0.len() { place } else { 0 }
    }
}

/// The threads of [`Workers`]. Dropping it ends them, and cuts off what runs there.
#[derive(Debug)]
pub struct WorkerThreads {
    workers: Workers,
    threads: Vec<(JoinHandle<()>, oneshot::Sender<()>)>,
}

impl WorkerThreads {
    /// Starts `count` threads, at least one.
    pub fn start(count: usize) -> io::Result<Self> {
        let runtimes =
            (0..count.max(1)).map(|_| Builder::new_current_thread().enable_all().build());
        let runtimes = runtimes.collect::<io::Result<Vec<Runtime>>>()?;
        let workers = Workers(
            runtimes
                .iter()
                .map(|runtime| runtime.handle().clone())
                .collect(),
        );
        let mut threads = Vec::with_capacity(runtimes.len());
        for (place, runtime) in runtimes.into_iter().enumerate() {
            let (stop, stopped) = oneshot::channel::<()>();
            let thread = thread::Builder::new().name(format!("checks-{place}"));
            let thread = thread.spawn(move || {
                PLACE.set(Some(place));
                // An error means that the sender is gone: that is a stop too.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_timeout(PATIENCE_AT_END);
            })?;
            threads.push((thread, stop));
        }
        Ok(Self { workers, threads })
    }

    /// The runtimes of the threads.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        let (threads, stops): (Vec<_>, Vec<_>) = self.threads.drain(..).unzip();
        drop(stops);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread that served checks had panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_knows_its_place_and_others_have_the_first() {
        let threads = WorkerThreads::start(3).unwrap();
        let workers = threads.workers().clone();
        assert_eq!(workers.runtimes().len(), 3);
        assert_eq!(workers.place(), 0);
        for (place, runtime) in workers.runtimes().iter().enumerate() {
            let workers = workers.clone();
            let seen = runtime.spawn(async move { workers.place() });
            assert_eq!(seen.await.unwrap(), place);
        }
        let alone = Workers::here();
        let seen = workers.runtimes()[2].spawn(async move { alone.place() });
        assert_eq!(seen.await.unwrap(), 0);
    }

    #[test]
    fn their_end_cuts_off_what_runs_there() {
        let threads = WorkerThreads::start(2).unwrap();
        let running = threads.workers().runtimes()[1].spawn(std::future::pending::<()>());
        drop(threads);
        let runtime = Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(running).unwrap_err().is_cancelled());
    }
}
