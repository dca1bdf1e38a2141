//! The limits of a server, and what it reports about its connections.

use std::time::Duration;

use crate::wire::{Request, Response};

/// What answers the requests of a server.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request.
    fn respond(&self, request: Request) -> impl Future<Output = Response> + Send;

    /// The longest body that it wants of a request, in bytes. A shorter one is read before it is
    /// asked; if it wants none, bodies are thrown away.
    fn wants(&self, request: &Request) -> usize {
        let _ = request;
        0
    }
}

impl<H, F> Handler for H
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send,
{
    fn respond(&self, request: Request) -> impl Future<Output = Response> + Send {
        self(request)
    }
}

/// Limits of a server.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The most connections at a time, at least 1. More are closed as soon as they are accepted.
    pub max_connections: usize,
    /// The memory for requests that are read and answered, in bytes. More of them wait.
    pub request_memory: usize,
    /// From the first byte of a request head to its end, and for taking what is written.
    pub header_timeout: Duration,
    /// How long a connection may be unused, before its first request or between requests.
    /// Longer than any proxy keeps it (Envoy: 1 h), so that it is the proxy that closes.
    pub idle_timeout: Duration,
    /// How long a drain may take before the rest is cut off.
    pub drain_timeout: Duration,
    /// How long a drain waits on an idle connection for a request that is on its way.
    pub drain_linger: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            request_memory: 24_000_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75 * 60),
            drain_timeout: Duration::from_secs(10),
            drain_linger: Duration::from_millis(250),
        }
    }
}

/// Events of connections, for whoever counts them. Each method must be cheap and must not panic.
pub trait ConnEvents: Send + Sync {
    /// A connection was accepted and is served; [`ConnEvents::closed`] follows.
    fn opened(&self) {}
    /// A connection that was [`ConnEvents::opened`] has ended.
    fn closed(&self) {}
    /// A connection over the cap was closed at once.
    fn refused(&self) {}
    /// The kernel could not give us a connection.
    fn accept_failed(&self) {}
    /// A client began with HTTP/2, and was told that it is not spoken here.
    fn http2_refused(&self) {}
    /// A handler panicked.
    fn handler_panicked(&self) {}
}

/// Ignores all events.
impl ConnEvents for () {}
