//! SIGTERM under load: tollgate answers every check that it has accepted.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rustix::process::Signal;
use tokio::task::JoinSet;

use super::support::{
    client::{Connection, Response, head},
    envoy::{Config, Envoy},
    eventually,
    redis::Redis,
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
};

const RULES: &str = "
version: 1
rules:
  - { name: all, limit: 1000000/day }
";

/// Clients that send checks as fast as they can.
#[derive(Clone, Default)]
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Load {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, answer: &Response) {
        assert_eq!(answer.status, 200, "{answer:?}");
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("requests are answered", async || {
            self.answered.load(Ordering::Relaxed) >= before + 200
        })
        .await;
    }
}

/// Like a proxy with HTTP/1.1: over one connection until a response announces its end, then over
/// another. Every request that was written to a connection must be answered; only connecting may
/// fail.
async fn keep_asking(addr: std::net::SocketAddr, load: Load) {
    while !load.stopped() {
        let mut connection = match Connection::open(addr).await {
            Ok(connection) => connection,
            Err(error) => {
                assert_eq!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused,
                    "nobody listens: the only way not to be accepted"
                );
                tokio::task::yield_now().await;
                continue;
            }
        };
        loop {
            let answer = connection
                .ask(&head("GET", "/v1/envoy/x", &["x-real-ip: 192.0.2.1"]))
                .await;
            let answer = answer
                .unwrap_or_else(|error| panic!("a request that was accepted is lost: {error}"));
            load.count(&answer);
            if answer.header("connection") == Some("close") || load.stopped() {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_that_was_accepted_is_lost_over_kept_connections() {
    let redis = Redis::start();
    let settings = Settings {
        rules: RULES,
        redis: Some(&redis),
        ..Settings::default()
    };
    let mut tollgate = Tollgate::start(settings).await;
    let load = Load::default();
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        clients.spawn(keep_asking(tollgate.addr(), load.clone()));
    }
    for _ in 0..5 {
        load.goes_on().await;
        tollgate.signal(Signal::TERM);
        let status = tollgate.ended().await;
        assert!(status.success(), "{status}:\n{}", tollgate.log());
        assert!(tollgate.log().contains("aborted=0"), "{}", tollgate.log());
        tollgate.start_again().await;
    }
    load.goes_on().await;
    load.stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_loses_no_check_while_replicas_are_replaced() {
    let config = Config::shipped().patient();
    let redis = Redis::start();
    let upstream = Upstream::start().await;
    let settings = || Settings {
        rules: RULES,
        redis: Some(&redis),
        ..Settings::default()
    };
    let mut replicas = [
        Tollgate::start(settings()).await,
        Tollgate::start(settings()).await,
    ];
    let addrs = [&replicas[0].listen.clone(), &replicas[1].listen.clone()];
    let envoy = Envoy::start(config, &addrs, &upstream).await;
    let load = Load::default();
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (addr, load) = (envoy.addr, load.clone());
        clients.spawn(async move {
            let mut connection = Connection::open(addr).await.unwrap();
            while !load.stopped() {
                load.count(&connection.ask(&head("GET", "/x", &[])).await.unwrap());
            }
        });
    }
    for round in 0..4 {
        load.goes_on().await;
        let replica = &mut replicas[round % 2];
        replica.signal(Signal::TERM);
        assert!(replica.ended().await.success());
        load.goes_on().await;
        replica.start_again().await;
    }
    load.goes_on().await;
    load.stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    // While a replica was down, Envoy could not connect to it, and let those requests through.
    // Every check that it did send was answered.
    let refused = envoy
        .stat("cluster.tollgate.upstream_rq_pending_failure_eject")
        .await;
    assert_eq!(
        envoy.check_errors().await,
        refused,
        "checks that failed, and checks that were never sent"
    );
    for lost in [
        "upstream_rq_rx_reset",
        "upstream_cx_destroy_remote_with_active_rq",
        "upstream_rq_timeout",
    ] {
        assert_eq!(
            envoy.stat(&format!("cluster.tollgate.{lost}")).await,
            0,
            "{lost}"
        );
    }
}
