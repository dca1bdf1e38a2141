//! Callers: what they send, and some who come all the time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::sleep};

use crate::support::client::{Connection, head};

/// A check about a request to a path, from an address, with some of its headers.
pub(crate) fn check(path: &str, ip: &str, lines: &[&str]) -> Vec<u8> {
    let uri = format!("x-forwarded-uri: {path}");
    let ip = format!("x-real-ip: {ip}");
    let mut all = vec!["x-forwarded-method: GET", &*uri, &*ip];
    all.extend(lines);
    head("GET", "/v1/check", &all)
}

/// Callers who come all the time.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Sends the requests of `round`, which is given the place of the address, again and again to
    /// each address, with a pause after each round.
    pub(crate) fn begin(
        addrs: impl IntoIterator<Item = SocketAddr>,
        pause: Duration,
        round: impl Fn(usize) -> Vec<Vec<u8>>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = addrs.into_iter().enumerate().map(|(place, addr)| {
            let (stop, requests) = (Arc::clone(&stop), round(place));
            tokio::spawn(async move {
                let mut connection = Connection::open(addr).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    for request in &requests {
                        connection.ask(request).await.unwrap();
                    }
                    if !pause.is_zero() {
                        sleep(pause).await;
                    }
                }
            })
        });
        Self {
            tasks: tasks.collect(),
            stop,
        }
    }

    /// Ends it, after the rounds that are under way.
    pub(crate) async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}
