//! What all connections of a server share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;

use super::{
    budget::Budget,
    options::{ConnEvents, Options},
};

/// What all connections of a server share.
pub(super) struct Common<H> {
    pub(super) handler: H,
    pub(super) options: Options,
    pub(super) budget: Budget,
    pub(super) drain: Drain,
    pub(super) events: Arc<dyn ConnEvents>,
}

/// Whether the server is draining.
#[derive(Debug)]
pub(super) struct Drain {
    /// Both are read for each request, so not in the channel, whose lock all connections would
    /// share.
    announced: AtomicBool,
    has_begun: AtomicBool,
    begun: watch::Sender<bool>,
}

impl Drain {
    pub(super) fn new() -> Self {
        Self {
            announced: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            begun: watch::Sender::new(false),
        }
    }

    /// From now on responses say `Connection: close`.
    pub(super) fn announce(&self) {
        self.announced.store(true, Ordering::Release);
    }

    /// From now on connections without a request are closed.
    pub(super) fn begin(&self) {
        self.has_begun.store(true, Ordering::Release);
        self.begun.send_replace(true);
    }

    pub(super) fn announced(&self) -> bool {
        self.announced.load(Ordering::Acquire)
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    pub(super) fn begun(&self) -> watch::Receiver<bool> {
        self.begun.subscribe()
    }
}
