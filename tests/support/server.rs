//! A server of the library with a handler that a test chooses.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use http::StatusCode;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tollgate::{
    server::{ConnEvents, DrainReport, Handler, ListenAddr, Listener, Options, serve},
    wire::Response,
};

use super::{client::Connection, eventually};

/// Counts what happens to connections.
#[derive(Debug, Default)]
pub struct Counts {
    pub open: AtomicI64,
    pub opened: AtomicU64,
    pub http2_refused: AtomicU64,
    pub refused: AtomicU64,
    pub accept_failed: AtomicU64,
    pub panicked: AtomicU64,
}

impl ConnEvents for Counts {
    fn opened(&self) {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.opened.fetch_add(1, Ordering::SeqCst);
    }
    fn closed(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
    fn accept_failed(&self) {
        self.accept_failed.fetch_add(1, Ordering::SeqCst);
    }
    fn http2_refused(&self) {
        self.http2_refused.fetch_add(1, Ordering::SeqCst);
    }
    fn handler_panicked(&self) {
        self.panicked.fetch_add(1, Ordering::SeqCst);
    }
}

/// A running server.
pub struct Server {
    pub addr: ListenAddr,
    pub counts: Arc<Counts>,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<DrainReport>,
}

impl Server {
    pub async fn start(addr: &str, options: Options, handler: impl Handler) -> Self {
        let listener = Listener::bind(&addr.parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let (shutdown, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, handler, options, counts.clone(), stopped));
        Self {
            addr,
            counts,
            shutdown,
            task,
        }
    }

    pub async fn connect(&self) -> Connection {
        Connection::to(&self.addr).await.unwrap()
    }

    /// Begins the drain; await the result for its end.
    pub fn shut_down(self) -> JoinHandle<DrainReport> {
        self.shutdown.send(()).unwrap();
        self.task
    }
}

/// Waits until `done` holds.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    eventually(what, async || done()).await;
}

pub fn text(text: &str) -> Response {
    Response::new(StatusCode::OK).with_body(text)
}
