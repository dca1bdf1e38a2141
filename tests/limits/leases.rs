//! Leases over a real Redis: how often it is asked, and what comes back.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tollgate::{
    engine::Options,
    limit::Algorithm,
    store::{
        Store as _,
        redis::{Options as RedisOptions, RedisStore},
    },
};

use crate::support::{
    cluster::Cluster,
    eventually,
    redis::Redis,
    world::{GET, World},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A replica of several, with a store of its own.
async fn replica(url: &str, yaml: &str, replicas: u64) -> World {
    let store = RedisStore::start(&RedisOptions::parse(url).unwrap(), Box::new(|_| {})).unwrap();
    let store = Arc::new(store);
    assert!(store.connected_within(PATIENCE).await);
    tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.beat().await }
    });
    let known = async || store.ahead().unwrap().replicas().is_some();
    eventually("the replicas are counted", known).await;
    let options = Options {
        // A check that is late would be admitted without Redis.
        deadline: PATIENCE,
        replicas,
        ..Options::default()
    };
    World::build_as(yaml, options, |_| store)
}

fn rules(limit: &str, algorithm: Algorithm, lease: &str) -> String {
    format!(
        "version: 1\nrules: [{{ name: hot, limit: {limit}, algorithm: {algorithm}, lease: {lease} }}]\n"
    )
}

/// The first number of the only counter: what is counted.
fn counted(redis: &Redis, algorithm: Algorithm, window: &str) -> u64 {
    let text = redis.cli(&["GET", &format!("tollgate:{{hot:}}:{algorithm}:{window}")]);
    text.split(' ').next().unwrap().trim().parse().unwrap()
}

fn calls(redis: &Redis) -> u64 {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = stats.split("cmdstat_evalsha:calls=").nth(1).unwrap();
    calls.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_hot_caller_asks_seldom_and_what_it_does_not_use_comes_back() {
    let redis = Redis::start();
    for algorithm in Algorithm::ALL {
        redis.cli(&["FLUSHALL"]);
        redis.cli(&["CONFIG", "RESETSTAT"]);
        let rules = rules("1000/h", algorithm, "{ share: 20%, ttl: 1s }");
        let world = replica(&redis.url(), &rules, 1).await;
        assert_eq!(world.admitted(500, GET).await, 500);
        let asked = calls(&redis);
        assert!(asked <= 25, "{algorithm}: {asked} calls");
        let decision = world.ask(GET).await;
        let left = decision.quotas[0].remaining;
        assert!((499..=500).contains(&left), "{algorithm}: {left} left");
        eventually("the unused ones are back", async || {
            world.engine.sweep_leases(Instant::now());
            // Nearly one token flows back in the meantime, so a bucket may keep one.
            let most = if algorithm == Algorithm::TokenBucket {
                502
            } else {
                501
            };
            (501..=most).contains(&counted(&redis, algorithm, "3600s"))
        })
        .await;
        let returned = world.metric("tollgate_lease_grants_returned_total");
        let granted = world.metric("tollgate_lease_grants_total");
        let used = world.metric("tollgate_lease_admissions_total");
        assert_eq!(granted, used + returned, "{algorithm}");
        // Nothing but the limit denies. A bucket gains a token every few seconds.
        let admitted = world.admitted(600, GET).await;
        let most = if algorithm == Algorithm::TokenBucket {
            503
        } else {
            499
        };
        assert!((499..=most).contains(&admitted), "{algorithm}: {admitted}");
    }
}

#[tokio::test]
async fn replicas_share_fixed_windows_exactly_also_where_they_end() {
    const LIMIT: u64 = 60;
    let redis = Redis::start();
    let window = Duration::from_millis(200);
    let rules = rules(
        "60/200ms",
        Algorithm::FixedWindow,
        "{ share: 50%, ttl: 150ms }",
    );
    let worlds = [
        replica(&redis.url(), &rules, 2).await,
        replica(&redis.url(), &rules, 2).await,
    ];
    let began = Instant::now();
    let use_one = async |world: &World| {
        let mut admitted = 0;
        while began.elapsed() < window * 12 {
            admitted += u64::from(world.admits(GET).await);
            world.engine.sweep_leases(Instant::now());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        admitted
    };
    let (one, other) = tokio::join!(use_one(&worlds[0]), use_one(&worlds[1]));
    let windows = began.elapsed().as_millis() / window.as_millis() + 1;
    let most = LIMIT * u64::try_from(windows).unwrap();
    let admitted = one + other;
    assert!(admitted <= most, "{admitted} in {windows} windows");
    assert!(admitted > most / 3, "{admitted} in {windows} windows");
    let spared: u64 = worlds
        .iter()
        .map(|world| world.metric("tollgate_lease_admissions_total"))
        .sum();
    assert!(spared > admitted / 4, "{spared} of {admitted}");
}

#[tokio::test]
async fn in_a_cluster_a_batch_of_one_slot_is_charged_ahead() {
    let cluster = Cluster::start(1, 0).await;
    let rules = rules(
        "1000/h",
        Algorithm::SlidingWindow,
        "{ share: 20%, ttl: 1s }",
    );
    let world = replica(&cluster.url(), &rules, 1).await;
    assert_eq!(world.admitted(300, GET).await, 300);
    let spared = world.metric("tollgate_lease_admissions_total");
    assert!(spared > 250, "{spared}");
    eventually("the unused ones are back", async || {
        world.engine.sweep_leases(Instant::now());
        let decision = world.ask(GET).await;
        let used = world.decisions("hot", "allowed");
        decision.quotas[0].remaining + used == 1_000
    })
    .await;
    // Two rules are in two slots: each request is charged by itself.
    let second = "  - { name: second, limit: 900/h, lease: { share: 20%, ttl: 1s } }\n";
    let both = format!(
        "version: 1\nrules:\n  - {{ name: first, limit: 800/h, lease: {{ share: 20%, ttl: 1s }} }}\n{second}"
    );
    let world = replica(&cluster.url(), &both, 1).await;
    assert_eq!(world.admitted(100, GET).await, 100);
    assert_eq!(world.metric("tollgate_lease_admissions_total"), 0);
    assert_eq!(world.ask(GET).await.quotas[0].remaining, 800 - 101);
}
