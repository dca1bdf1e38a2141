//! Counting in a real Redis Cluster: while slots move, nodes die and replicas are promoted.

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tollgate::{
    limit::{Algorithm, Limit, ban::Ban},
    store::{
        Batch, ENFORCED, Store, StoreError,
        read::Read as _,
        redis::{Options, Reader, RedisStore},
    },
};

use crate::support::{
    cluster::Cluster,
    eventually,
    fault_proxy::{FaultProxy, Mode},
    free_port, within,
};

/// Nodes are taken for dead after two seconds, and elect a successor within as many.
const FAILOVER: Duration = Duration::from_secs(60);

const DEADLINE: Duration = Duration::from_secs(1);

fn start(cluster: &Cluster) -> Arc<RedisStore> {
    let mut options = Options::parse(&cluster.url()).unwrap();
    options.deadline = DEADLINE;
    options.answer_timeout = 4 * DEADLINE;
    Arc::new(RedisStore::start(&options, Box::new(|_| {})).unwrap())
}

async fn started(cluster: &Cluster) -> Arc<RedisStore> {
    let store = start(cluster);
    assert!(store.connected_within(FAILOVER).await);
    store
}

/// The limits of one client: a rule with two limits and a ban.
fn batch(client: &str, amount: u64) -> Batch {
    let limit = |window| Limit::new(Algorithm::FixedWindow, amount, window, None).unwrap();
    let ban = Ban::new(1_000_000, 60_000_000, 60_000_000).unwrap();
    let mut batch = Batch::default();
    for (window, text) in [(3_600_000_000, "3600s"), (86_400_000_000, "86400s")] {
        batch.push(limit(window), 1, ENFORCED, |key| {
            write!(key, "t:{{{client}}}:fixed_window:{text}").unwrap();
        });
    }
    batch.push_ban(ban, 2, ENFORCED, |key| {
        write!(key, "t:{{{client}}}:ban").unwrap();
    });
    batch
}

/// Whether the batch is admitted. If a part of it is lost, all of it fails, and is given back.
async fn charge(store: &RedisStore, batch: &Batch) -> Result<bool, StoreError> {
    let answer = store.charge(batch, Instant::now() + DEADLINE).await?;
    match answer.lost.into_iter().next() {
        Some(lost) if answer.result.admitted => Err(lost.error),
        _ => Ok(answer.result.admitted),
    }
}

/// A batch of limits of this amount, each of a rule in the slots of one of the nodes.
fn on_nodes(cluster: &Cluster, places: &[usize], amount: u64) -> Batch {
    let mut batch = Batch::default();
    for &place in places {
        let limit = Limit::new(Algorithm::FixedWindow, amount, 3_600_000_000, None).unwrap();
        let key = key_of(cluster, place);
        batch.push(limit, 1, ENFORCED, |out| out.push_str(&key));
    }
    batch
}

/// A key in the slots of a node.
fn key_of(cluster: &Cluster, place: usize) -> String {
    let mut keys = (0..1000).map(|rule| format!("t:{{r:{rule}}}:fixed_window:3600s"));
    keys.find(|key| cluster.owner(key) == place).unwrap()
}

/// Clients that ask all the time.
struct Traffic {
    stop: Arc<AtomicBool>,
    admitted: Arc<AtomicU64>,
    denied: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    slowest_us: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Traffic {
    fn start(store: &Arc<RedisStore>, batches: &[Batch]) -> Self {
        let counter = || Arc::new(AtomicU64::new(0));
        let mut traffic = Self {
            stop: Arc::default(),
            admitted: counter(),
            denied: counter(),
            failed: counter(),
            slowest_us: counter(),
            tasks: Vec::new(),
        };
        for batch in batches {
            let (store, batch) = (Arc::clone(store), batch.clone());
            let stop = Arc::clone(&traffic.stop);
            let [admitted, denied, failed, slowest] = [
                &traffic.admitted,
                &traffic.denied,
                &traffic.failed,
                &traffic.slowest_us,
            ]
            .map(Arc::clone);
            traffic.tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    let counter = match charge(&store, &batch).await {
                        Ok(true) => &admitted,
                        Ok(false) => &denied,
                        Err(error) => {
                            // Shown if the test fails.
                            eprintln!("{error}");
                            &failed
                        }
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                    let took = u64::try_from(asked.elapsed().as_micros()).unwrap();
                    slowest.fetch_max(took, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }));
        }
        traffic
    }

    fn answered(&self) -> u64 {
        self.admitted.load(Ordering::Relaxed) + self.denied.load(Ordering::Relaxed)
    }

    async fn goes_on(&self) {
        let before = self.answered();
        within(FAILOVER, "checks are decided", async || {
            self.answered() >= before + 50
        })
        .await;
    }

    /// How many were admitted, denied and not decided.
    async fn end(self) -> (u64, u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let took = Duration::from_micros(self.slowest_us.load(Ordering::Relaxed));
        // The deadline, and a second for a machine that is busy.
        assert!(took < DEADLINE + Duration::from_secs(1), "{took:?}");
        let value = |counter: Arc<AtomicU64>| counter.load(Ordering::Relaxed);
        (value(self.admitted), value(self.denied), value(self.failed))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_where_the_cluster_looks_for_them() {
    let cluster = Cluster::start(3, 0).await;
    let store = started(&cluster).await;
    for client in 0..60 {
        let batch = batch(&format!("c:{client}"), 1);
        assert!(charge(&store, &batch).await.unwrap());
        assert!(!charge(&store, &batch).await.unwrap());
    }
    // Each with the keys of its clients: two counters and a ban.
    let sizes = cluster.nodes.iter().map(|node| node.cli(&["DBSIZE"]));
    let sizes: Vec<u64> = sizes.map(|size| size.parse().unwrap()).collect();
    assert_eq!(sizes.iter().sum::<u64>(), 180);
    assert!(sizes.iter().all(|size| *size > 0), "{sizes:?}");

    let options = Options::parse(&cluster.url()).unwrap();
    let reader = Reader::new(&options).unwrap();
    for client in ["c:0", "c:1", "c:2", "unknown"] {
        let batch = batch(client, 1);
        let reading = reader.read(&batch).await.unwrap();
        let known: Vec<bool> = reading.states.iter().map(Option::is_some).collect();
        assert_eq!(known, [client != "unknown"; 3], "{client}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_on_several_nodes_are_all_or_nothing_in_the_end() {
    let cluster = Cluster::start(3, 0).await;
    let stores = [started(&cluster).await, started(&cluster).await];
    let limit = |amount| Limit::new(Algorithm::SlidingLog, amount, 3_600_000_000, None).unwrap();
    // The narrowest rule is the first in some orders, and the last in others.
    for (name, amounts) in [
        ("a", [10, 40, 40]),
        ("b", [40, 40, 10]),
        ("c", [40, 10, 40]),
    ] {
        let mut request = Batch::default();
        let key = |rule: usize| format!("t:{{{name}{rule}:}}:sliding_log:3600s");
        for (rule, amount) in amounts.into_iter().enumerate() {
            request.push(limit(amount), 1, ENFORCED, |out| out.push_str(&key(rule)));
        }
        let mut tasks = tokio::task::JoinSet::new();
        for place in 0..60 {
            let (store, request) = (Arc::clone(&stores[place % 2]), request.clone());
            tasks.spawn(async move { charge(&store, &request).await.unwrap() });
        }
        let admitted = tasks.join_all().await.into_iter().filter(|is| *is).count();
        assert!(admitted <= 10, "{name}: {admitted}");
        // One after the other, all of the limit can be used.
        let mut more = 0;
        while charge(&stores[0], &request).await.unwrap() {
            more += 1;
        }
        assert_eq!(admitted + more, 10, "{name}");
        // And no other rule was charged for what the narrowest has denied.
        for rule in 0..3 {
            let mut alone = Batch::default();
            alone.push(limit(100), 1, ENFORCED, |out| out.push_str(&key(rule)));
            let verdict = stores[0].charge(&alone, Instant::now() + DEADLINE).await;
            assert_eq!(
                verdict.unwrap().result.outcomes[0].remaining,
                89,
                "{name} {rule}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_slot_is_moved_under_traffic() {
    const LIMIT: u64 = 400;
    let mut cluster = Cluster::start(3, 0).await;
    let store = started(&cluster).await;
    let hot = batch("hot", LIMIT);
    let key = "t:{hot}:fixed_window:3600s";
    // New keys come up in the slot while it moves, and must be counted too.
    let new: Vec<Batch> = (0..20)
        .map(|place| {
            let mut batch = Batch::default();
            let limit = Limit::new(Algorithm::SlidingWindow, 1_000_000, 3_600_000_000, None);
            batch.push(limit.unwrap(), 1, ENFORCED, |out| {
                write!(out, "t:{{hot}}:sliding_window:{place}s").unwrap();
            });
            batch
        })
        .collect();
    let traffic = Traffic::start(&store, std::slice::from_ref(&hot));
    traffic.goes_on().await;
    let other = Traffic::start(&store, &new);

    // To a node without slots, which the store has never heard of.
    cluster.add(&[]).await;
    cluster.until_it_serves().await;
    let to = cluster.nodes.len() - 1;
    // With traffic in between, so that the hot client's keys are on both sides.
    cluster
        .move_slot(key, to, async || traffic.goes_on().await)
        .await;
    traffic.goes_on().await;
    let (admitted, denied, failed) = traffic.end().await;
    assert_eq!(failed, 0, "{admitted} admitted, {denied} denied");
    assert!(admitted <= LIMIT, "{admitted}");
    let (_, _, failed) = other.end().await;
    assert_eq!(failed, 0);

    // What was admitted is what is counted: nothing was lost on the way, and nothing charged twice.
    let mut rest = 0;
    while charge(&store, &hot).await.unwrap() {
        rest += 1;
    }
    assert_eq!(admitted + rest, LIMIT);
    assert_eq!(cluster.owner(key), to);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over_from_a_primary_that_dies() {
    let mut cluster = Cluster::start(3, 1).await;
    let store = started(&cluster).await;
    let batches: Vec<Batch> = (0..12)
        .map(|client| batch(&format!("c:{client}"), 1_000_000))
        .collect();
    let reader = Reader::new(&Options::parse(&cluster.url()).unwrap()).unwrap();
    let traffic = Traffic::start(&store, &batches);
    traffic.goes_on().await;
    reader.read(&batches[0]).await.unwrap();
    let key = "t:{c:0}:fixed_window:3600s";
    let dead = cluster.owner(key);
    cluster.nodes[dead].until_replicated(1).await;
    cluster.nodes[dead].kill();
    eventually("its counters cannot be read", async || {
        reader.read(&batches[0]).await.is_err()
    })
    .await;
    within(
        FAILOVER,
        "another node decides about its clients",
        async || charge(&store, &batches[0]).await.is_ok(),
    )
    .await;
    assert_ne!(cluster.owner(key), dead);
    eventually("the reader finds it too", async || {
        reader.read(&batches[0]).await.is_ok()
    })
    .await;
    within(FAILOVER, "nothing fails any more", async || {
        let before = traffic.failed.load(Ordering::Relaxed);
        traffic.goes_on().await;
        traffic.failed.load(Ordering::Relaxed) == before
    })
    .await;
    let (_, denied, _) = traffic.end().await;
    assert_eq!(denied, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_loses_its_clients_only() {
    let mut cluster = Cluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]).await;
    let store = started(&cluster).await;
    let batches: Vec<Batch> = (0..60)
        .map(|client| batch(&format!("c:{client}"), 1_000))
        .collect();
    let lost = cluster.owner("t:{c:0}:ban");
    let is_lost: Vec<bool> = (0..60)
        .map(|client| cluster.owner(&format!("t:{{c:{client}}}:ban")) == lost)
        .collect();
    assert!(is_lost.contains(&false));
    for batch in &batches {
        assert!(charge(&store, batch).await.unwrap());
    }
    cluster.nodes[lost].kill();
    eventually("the loss is noticed", async || {
        charge(&store, &batches[0]).await.is_err()
    })
    .await;
    for (batch, is_lost) in batches.iter().zip(&is_lost) {
        let asked = Instant::now();
        assert_eq!(charge(&store, batch).await.is_err(), *is_lost);
        assert!(asked.elapsed() < DEADLINE, "answered at once");
    }
    // A rule whose node is well denies, also when another rule of the request has lost its node.
    let other = (0..60).find(|client| !is_lost[*client]).unwrap();
    let key = |client: usize| format!("t:{{c:{client}}}:fixed_window:3600s");
    let mut both = Batch::default();
    for (client, amount) in [(0, 1_000), (other, 1)] {
        let limit = Limit::new(Algorithm::FixedWindow, amount, 3_600_000_000, None).unwrap();
        both.push(limit, 1, ENFORCED, |out| out.push_str(&key(client)));
    }
    let verdict = store.charge(&both, Instant::now() + DEADLINE).await;
    assert!(!verdict.unwrap().result.admitted);
    let counted = || cluster.nodes[cluster.owner(&key(other))].cli(&["GET", &key(other)]);
    let before = counted();
    let mut wide = Batch::default();
    for client in [0, other] {
        let limit = Limit::new(Algorithm::FixedWindow, 1_000, 3_600_000_000, None).unwrap();
        wide.push(limit, 1, ENFORCED, |out| out.push_str(&key(client)));
    }
    assert!(charge(&store, &wide).await.is_err());
    eventually("nothing is charged", async || counted() == before).await;

    // Each check that fails asks for the map, and that must not be a load on the others.
    let other = &cluster.nodes[(lost + 1) % 3];
    other.cli(&["CONFIG", "RESETSTAT"]);
    let (began, traffic) = (Instant::now(), Traffic::start(&store, &batches));
    within(FAILOVER, "three seconds of traffic", async || {
        began.elapsed() >= Duration::from_secs(3)
    })
    .await;
    let (_, _, failed) = traffic.end().await;
    let calls = other.cli(&["INFO", "commandstats"]);
    let calls = calls
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_cluster|slots:calls="));
    let calls = calls.and_then(|calls| calls.split(',').next()?.parse::<u64>().ok());
    let (calls, most) = (calls.unwrap_or(0), 10 + 10 * began.elapsed().as_secs());
    assert!(failed > 100, "{failed}");
    assert!(calls <= most, "{calls} readings, at most {most}");

    // It comes back empty, and serves.
    cluster.nodes[lost].resume_process();
    within(FAILOVER, "its clients are counted again", async || {
        charge(&store, &batches[0]).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_node_holds_up_its_clients_only_and_briefly() {
    let cluster = Cluster::start_with(3, 0, &["--cluster-node-timeout", "60000"]).await;
    let store = started(&cluster).await;
    let (one, other) = {
        let hanging = cluster.owner("t:{c:0}:ban");
        let other = (1..100)
            .find(|client| cluster.owner(&format!("t:{{c:{client}}}:ban")) != hanging)
            .unwrap();
        (
            batch("c:0", 1_000_000),
            batch(&format!("c:{other}"), 1_000_000),
        )
    };
    assert!(charge(&store, &one).await.unwrap());
    let hanging = &cluster.nodes[cluster.owner("t:{c:0}:ban")];
    hanging.pause();
    let traffic = Traffic::start(&store, std::slice::from_ref(&other));
    eventually("its breaker opens", async || {
        matches!(charge(&store, &one).await, Err(StoreError::Unavailable(_)))
    })
    .await;
    let asked = Instant::now();
    assert!(charge(&store, &one).await.is_err());
    assert!(asked.elapsed() < DEADLINE / 2, "answered at once");
    traffic.goes_on().await;
    let (_, _, failed) = traffic.end().await;
    assert_eq!(
        failed, 0,
        "the other nodes' replies neither open nor close it"
    );
    hanging.unpause();
    eventually("it closes by itself", async || {
        charge(&store, &one).await.is_ok()
    })
    .await;
}

/// Its breaker opens although no call to it waits for the whole deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_node_that_is_asked_second_is_noticed() {
    let cluster = Cluster::start_with(3, 0, &["--cluster-node-timeout", "60000"]).await;
    let store = started(&cluster).await;
    // In the first third of the slots, and in the last.
    let batch = on_nodes(&cluster, &[0, 2], 5);
    assert!(charge(&store, &batch).await.unwrap());
    cluster.nodes[2].pause();
    for _ in 0..3 {
        assert!(charge(&store, &batch).await.is_err());
    }
    let asked = Instant::now();
    let error = charge(&store, &batch).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(asked.elapsed() < DEADLINE / 2, "answered at once");
    cluster.nodes[2].unpause();
    // The first rule was given back each time.
    eventually("one more fits, and the rest", async || {
        charge(&store, &batch).await.is_ok()
    })
    .await;
    let first = cluster.nodes[0].cli(&["GET", &key_of(&cluster, 0)]);
    assert!(first.starts_with("2 "), "{first}");
}

/// It takes its share of the time, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_node_that_is_asked_first_leaves_the_others_to_decide() {
    let cluster = Cluster::start_with(3, 0, &["--cluster-node-timeout", "60000"]).await;
    let store = started(&cluster).await;
    let batch = on_nodes(&cluster, &[2, 0, 1], 5);
    assert!(charge(&store, &batch).await.unwrap());
    let keys = [0, 1, 2].map(|place| key_of(&cluster, place));
    cluster.nodes[0].pause();
    let counted = |place: usize| {
        let value = cluster.nodes[place].cli(&["GET", &keys[place]]);
        let count = value.split(' ').next().unwrap();
        count.parse::<u64>().unwrap()
    };
    let ask = async || {
        let asked = Instant::now();
        let answer = store.charge(&batch, asked + DEADLINE).await.unwrap();
        assert!(asked.elapsed() < DEADLINE);
        assert!(answer.result.admitted);
        let lost: Vec<_> = answer.lost.iter().map(|lost| &lost.places[..]).collect();
        assert_eq!(lost, [&[1][..]]);
        answer
    };
    // What the others were charged is kept,
    let answer = ask().await;
    assert_eq!(answer.lost[0].error, StoreError::Deadline);
    assert_eq!(answer.result.outcomes[0].remaining, 3);
    answer.unsettled.keep();
    assert_eq!([counted(1), counted(2)], [2, 2]);
    // given back,
    let soon = || Instant::now() + DEADLINE;
    ask().await.unsettled.give_back(soon()).await;
    assert_eq!([counted(1), counted(2)], [2, 2]);
    // or dropped, as when nobody waits any more.
    drop(ask().await);
    eventually("it is given back", async || {
        [counted(1), counted(2)] == [2, 2]
    })
    .await;
    // By now its breaker is open.
    let error = ask().await.lost.remove(0).error;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    // What one of the others denies is denied.
    for _ in 0..3 {
        ask().await.unsettled.keep();
    }
    let denied = store.charge(&batch, soon()).await.unwrap();
    assert!(!denied.result.admitted);
    eventually("nothing is charged", async || {
        [counted(1), counted(2)] == [5, 5]
    })
    .await;
    cluster.nodes[0].unpause();
}

/// A node that was taken out of the cluster, and answers first, does not hide the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_cluster_does_not_mislead() {
    let cluster = Cluster::start(1, 0).await;
    let to = (Ipv4Addr::LOCALHOST, cluster.nodes[0].port());
    let mut proxy = FaultProxy::start(to.into()).await;
    let delay = Mode::Delay(Duration::from_millis(100), Duration::ZERO);
    proxy.set(delay).await;
    let bus = free_port().to_string();
    let args = ["--cluster-enabled", "yes", "--cluster-port", &bus];
    let lone = crate::support::redis::Redis::start_with(&args, None);
    let url = format!("redis-cluster://127.0.0.1:{},{}", lone.port(), proxy.addr);
    let store = RedisStore::start(&Options::parse(&url).unwrap(), Box::new(|_| {})).unwrap();
    eventually("the cluster is found", async || {
        charge(&store, &batch("a", 5)).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_with_a_cluster_is_said() {
    let plain = crate::support::redis::Redis::start();
    let url = plain.url().replace("redis://", "redis-cluster://");
    let store = RedisStore::start(&Options::parse(&url).unwrap(), Box::new(|_| {})).unwrap();
    let says = async |part: &str| {
        eventually(part, async || {
            let error = charge(&store, &batch("a", 1)).await.unwrap_err();
            error.to_string().contains(part)
        })
        .await;
    };
    says("is it a node of a cluster?").await;
}
