//! What integration tests share. Each test binary uses a part of it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test binary compiles all of it and uses some"
)]

pub mod client;
pub mod envoy;
pub mod nginx;
pub mod process;
pub mod redis;
pub mod script;
pub mod server;
pub mod tollgate;
pub mod upstream;
pub mod world;

use std::{
    net::TcpStream,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// Asks again and again until it is so; fails after 20 seconds.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A port that was free a moment ago, and that nobody is likely to take before it is used: below
/// those that the kernel gives to outgoing connections (tests open thousands), handed out once, and
/// begun elsewhere by each test binary.
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
        // Listening there to see whether one can would be inherited, for a moment, by a program
        // that another test starts just then: and the port be taken for the one that it is meant
        // for.
        if TcpStream::connect(("127.0.0.1", port)).is_err() {
            return port;
        }
    }
}
