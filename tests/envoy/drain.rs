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
use tollgate::server::ListenAddr;

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

/// Each of three replicas is ended, and started again when its checks are finished.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_check_and_admits_none_too_many() {
    const LIMIT: usize = 4_000;
    let rules = format!(
        "version: 1\nrules: [{{ name: all, limit: {LIMIT}/day, algorithm: fixed_window }}]\n"
    );
    let redis = Redis::start();
    let upstream = Upstream::start().await;
    let mut replicas = Vec::new();
    for _ in 0..3 {
        let settings = Settings {
            rules: &rules,
            redis: Some(&redis),
            args: &["--deadline=1s"],
            ..Settings::default()
        };
        replicas.push(Tollgate::start(settings).await);
    }
    let addrs: Vec<ListenAddr> = replicas.iter().map(|r| r.listen.clone()).collect();
    let addrs: Vec<&ListenAddr> = addrs.iter().collect();
    let envoy = Envoy::start(Config::shipped().patient(), &addrs, &upstream).await;
    let (load, admitted) = (Load::default(), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (addr, load, admitted) = (envoy.addr, load.clone(), Arc::clone(&admitted));
        clients.spawn(async move {
            let mut connection = Connection::open(addr).await.unwrap();
            while !load.stopped() {
                let answer = connection.ask(&head("GET", "/x", &[])).await.unwrap();
                assert!([200, 429].contains(&answer.status), "{answer:?}");
                assert!(
                    answer.header("ratelimit").is_some(),
                    "not decided: {answer:?}"
                );
                admitted.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                load.answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for _ in 0..2 {
        for replica in &mut replicas {
            load.goes_on().await;
            replica.signal(Signal::TERM);
            assert!(replica.ended().await.success());
            load.goes_on().await;
            replica.start_again().await;
        }
    }
    eventually("more are sent than may be admitted", async || {
        load.answered.load(Ordering::Relaxed) > LIMIT + 200
    })
    .await;
    load.stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert_eq!(admitted.load(Ordering::Relaxed), LIMIT);
    assert_eq!(upstream.count(), LIMIT, "what reached the application");
    let let_through = upstream.count_of(|seen| {
        let header = "x-envoy-auth-failure-mode-allowed";
        seen.headers.contains_key(header)
    });
    assert_eq!(let_through, 0, "let through without a decision");
    assert_eq!(envoy.check_errors().await, 0);
    let asked_again = envoy.stat("cluster.tollgate.upstream_rq_retry").await;
    assert!(asked_again > 0, "no check met a replica that was away");
    for lost in [
        "upstream_rq_rx_reset",
        "upstream_cx_destroy_remote_with_active_rq",
        "upstream_rq_timeout",
    ] {
        let stat = format!("cluster.tollgate.{lost}");
        assert_eq!(envoy.stat(&stat).await, 0, "{lost}");
    }
}
