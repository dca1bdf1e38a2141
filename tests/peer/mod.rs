//! A server to test, and a client that sees the bytes.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a module of test binaries, of which each uses a part"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tollgate::server::{ConnEvents, DrainReport, ListenAddr, Listener, Options, Stream, serve};

/// Longer than anything here takes on a machine that is busy; only a failing test waits for it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Counts what happens to connections.
#[derive(Debug, Default)]
pub struct Counts {
    pub open: AtomicI64,
    pub refused: AtomicU64,
    pub accept_failed: AtomicU64,
    pub panicked: AtomicU64,
}

impl ConnEvents for Counts {
    fn opened(&self) {
        self.open.fetch_add(1, Ordering::SeqCst);
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
    pub async fn start<H, F>(addr: &str, options: Options, handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let listener = Listener::bind(&addr.parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let (shutdown, told) = oneshot::channel();
        let told = async {
            let _ = told.await;
        };
        let task = tokio::spawn(serve(listener, handler, options, counts.clone(), told));
        Self {
            addr,
            counts,
            shutdown,
            task,
        }
    }

    pub async fn connect(&self) -> Client {
        Client::new(Stream::connect(&self.addr).await.unwrap())
    }

    /// Begins the drain; await the result for its end.
    pub fn shut_down(self) -> JoinHandle<DrainReport> {
        self.shutdown.send(()).unwrap();
        self.task
    }
}

/// Waits until `done` holds.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let poll = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, poll).await.is_ok(),
        "never came true: {what}"
    );
}

pub fn text(text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::new(Full::new(text.into()))
}

/// One answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn says_close(&self) -> bool {
        self.head.to_lowercase().contains("\r\nconnection: close")
    }
}

/// A client that writes and reads bytes.
pub struct Client {
    stream: Stream,
    unread: Vec<u8>,
}

impl Client {
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    pub async fn get(&mut self, path: &str) -> Option<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
            .await
            .ok()?;
        self.answer().await
    }

    /// The next answer; `None` if the connection ends before a byte of it.
    pub async fn answer(&mut self) -> Option<Answer> {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await {
                assert!(self.unread.is_empty(), "the connection ended within a head");
                return None;
            }
        };
        let head = String::from_utf8(self.unread.drain(..head_end).collect()).unwrap();
        let length = head
            .to_lowercase()
            .split_once("content-length: ")
            .map_or(0, |(_, rest)| {
                rest.split("\r\n").next().unwrap().parse().unwrap()
            });
        while self.unread.len() < length {
            assert!(self.fill().await, "the connection ended within a body");
        }
        Some(Answer {
            status: head[9..12].parse().unwrap(),
            head,
            body: self.unread.drain(..length).collect(),
        })
    }

    /// Reads more; false at the end of the connection, however it came.
    async fn fill(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.unread);
        let read = tokio::time::timeout(DEADLINE, read).await;
        read.expect("neither an answer nor the end came")
            .is_ok_and(|length| length > 0)
    }

    /// Waits for the server to close; panics if it answers.
    pub async fn closed(&mut self) {
        assert_eq!(self.answer().await, None);
    }
}
