//! Shared by the integration tests. Each test binary uses a part of it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test binary compiles all of it and uses some"
)]

pub mod browser;
pub mod caddy;
pub mod certs;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod envoy;
pub mod fault_proxy;
pub mod forwarder;
pub mod haproxy;
pub mod manifests;
pub mod nginx;
pub mod process;
pub mod program;
pub mod redis;
pub mod script;
pub mod sentinel;
pub mod server;
pub mod tollgate;
pub mod upstream;
pub mod world;

use std::{
    net::TcpStream,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// Polls until the condition holds; fails after 20 seconds.
pub async fn eventually(what: &str, is_so: impl AsyncFnMut() -> bool) {
    within(Duration::from_secs(20), what, is_so).await;
}

/// Polls until the condition holds; fails after `patience`.
pub async fn within(patience: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A port that was free a moment ago and is unlikely to be taken before it is used: below the ports
/// of outgoing connections (tests open thousands), handed out once, with another start in each test
/// binary.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // The cast keeps the lower bits, which are the ones that differ.
    #[expect(clippy::cast_possible_truncation)]
    let start = (std::process::id() as u16).wrapping_mul(211);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        // Trying to listen there could be inherited, for a moment, by a program that another test
        // starts just then, and the port would look taken.
        if TcpStream::connect(("127.0.0.1", port)).is_err() {
            return port;
        }
    }
}
