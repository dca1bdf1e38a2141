//! How much three replicas that count locally admit while Redis is away, against the bound in
//! docs/reliability.md.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
};

use tollgate::limit::Algorithm;

use crate::support::{
    client::{ask, head},
    eventually,
    fault_proxy::{FaultProxy, Mode},
    redis::Redis,
    tollgate::{Settings, Tollgate},
};

const REPLICAS: usize = 3;
const LIMIT: usize = 50;
/// Admitted by Redis before the outage.
const BEFORE: usize = 20;

/// How many of so many checks are admitted, sent to all replicas in turn.
async fn admitted(replicas: &[Tollgate], path: &str, count: usize) -> usize {
    let uri = format!("x-forwarded-uri: {path}");
    let lines = ["x-forwarded-method: GET", &uri, "x-real-ip: 192.0.2.1"];
    let check = head("GET", "/v1/check", &lines);
    let mut admitted = 0;
    for replica in replicas.iter().cycle().take(count) {
        let status = ask(replica.addr(), &check).await.status;
        assert!([200, 429].contains(&status), "{status}");
        admitted += usize::from(status == 200);
    }
    admitted
}

async fn until(replicas: &[Tollgate], status: &str) {
    for replica in replicas {
        replica.until_status(status).await;
    }
}

/// Waits until each replica knows how many there are.
async fn know_each_other(replicas: &[Tollgate]) {
    for replica in replicas {
        eventually("they count each other", async || {
            replica.metric("tollgate_replicas ").await == replicas.len() as u64
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_counted_as_they_come_and_go() {
    let redis = Redis::start();
    let start = async |args: &[&str]| {
        let settings = Settings {
            rules: "version: 1\nrules: [{ name: all, limit: 12/day }]\n",
            redis: Some(&redis),
            args,
            ..Settings::default()
        };
        Tollgate::start(settings).await
    };
    let mut replicas = vec![start(&[]).await, start(&[]).await];
    // Another installation in the same Redis is none of them.
    let other = start(&["--key-prefix=other:"]).await;
    know_each_other(&replicas).await;
    replicas.push(start(&["--replicas=6"]).await);
    know_each_other(&replicas).await;
    assert_eq!(other.metric("tollgate_replicas ").await, 1);
    drop(replicas.remove(0));
    know_each_other(&replicas).await;

    // A script flush, and later the loss of Redis: the last known number counts.
    redis.cli(&["SCRIPT", "FLUSH"]);
    replicas.push(start(&[]).await);
    know_each_other(&replicas).await;
    drop(redis);
    until(&replicas, "degraded").await;
    let shares = [(0, 4), (1, 2), (2, 4)];
    for (place, share) in shares {
        let replica = &replicas[place..=place];
        assert_eq!(admitted(replica, "/", 12).await, share, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn local_counting_admits_exactly_the_published_bound() {
    let mut redis = Redis::start();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, redis.port()));
    let mut proxy = FaultProxy::start(to).await;
    let mut rules = "version: 1\nrules:\n".to_owned();
    for algorithm in Algorithm::ALL {
        writeln!(
            rules,
            "  - {{ name: {algorithm}, match: {{ path: /{algorithm} }}, limit: {LIMIT}/day, \
             algorithm: {algorithm}, on_store_error: local }}"
        )
        .unwrap();
    }
    let url = format!("--redis-url=redis://{}", proxy.addr);
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        let settings = Settings {
            rules: &rules,
            args: &[&url, "--deadline=1s"],
            ..Settings::default()
        };
        replicas.push(Tollgate::start(settings).await);
    }
    know_each_other(&replicas).await;
    let here = REPLICAS * LIMIT.div_ceil(REPLICAS);
    let paths = Algorithm::ALL.map(|algorithm| format!("/{algorithm}"));

    for path in &paths {
        assert_eq!(admitted(&replicas, path, BEFORE).await, BEFORE, "{path}");
    }
    proxy.set(Mode::Refuse).await;
    until(&replicas, "degraded").await;
    for path in &paths {
        assert_eq!(
            admitted(&replicas, path, 4 * LIMIT).await,
            here,
            "{path}: away"
        );
    }
    proxy.set(Mode::Pass).await;
    until(&replicas, "ok").await;
    for path in &paths {
        let more = admitted(&replicas, path, 4 * LIMIT).await;
        assert_eq!(
            BEFORE + more,
            LIMIT,
            "{path}: Redis still knows what it counted"
        );
    }

    // In the same window, Redis is lost with all that it had counted. What was counted here is not.
    redis.kill();
    until(&replicas, "degraded").await;
    for path in &paths {
        assert_eq!(
            admitted(&replicas, path, 4 * LIMIT).await,
            0,
            "{path}: used up here"
        );
    }
    redis.resume_process();
    eventually("Redis is reached again", async || {
        redis
            .cli(&["CLIENT", "LIST", "TYPE", "normal"])
            .lines()
            .count()
            > 2 * REPLICAS
    })
    .await;
    until(&replicas, "ok").await;
    for path in &paths {
        let anew = admitted(&replicas, path, 4 * LIMIT).await;
        assert_eq!(anew, LIMIT, "{path}: Redis begins at zero");
    }
}
