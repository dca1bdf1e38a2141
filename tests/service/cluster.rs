//! Three replicas of tollgate and a Redis Cluster, while its nodes die.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    certs::Authority,
    client::{ask, head},
    cluster::Cluster,
    eventually,
    redis::{Access, Tls},
    tollgate::{Settings, Tollgate},
    within,
};

/// Nodes are taken for dead after two seconds, and elect a successor within as many.
const FAILOVER: Duration = Duration::from_secs(60);

const DEADLINE: Duration = Duration::from_millis(500);

/// What a machine that is busy may add to the deadline.
const SLACK: Duration = Duration::from_secs(2);

/// Two rules for one request, so that charges are given back across nodes.
const RULES: &str = "
version: 1
rules:
  - { name: data, key: client_ip, limit: 60/day, algorithm: fixed_window, on_store_error: deny }
  - { name: more, key: client_ip, limit: 90/day, algorithm: sliding_log, on_store_error: deny }
";

/// The limit of a client over both rules.
const LIMIT: usize = 60;

async fn start(rules: &str, args: &[&str]) -> Tollgate {
    let deadline = format!("--deadline={}ms", DEADLINE.as_millis());
    let settings = Settings {
        rules,
        args: &[args, &[&deadline]].concat(),
        ..Settings::default()
    };
    Tollgate::start(settings).await
}

fn check(client: u8) -> Vec<u8> {
    let address = format!("x-real-ip: 192.0.2.{client}");
    let lines = [
        "x-forwarded-method: GET",
        "x-forwarded-uri: /data",
        &address,
    ];
    head("GET", "/v1/check", &lines)
}

/// The status of one check, and how long it took.
async fn status(replica: &Tollgate, client: u8) -> (u16, Duration) {
    let asked = Instant::now();
    let status = ask(replica.addr(), &check(client)).await.status;
    (status, asked.elapsed())
}

/// What happened to the checks of all clients.
#[derive(Default)]
struct Tally {
    /// By client.
    admitted: BTreeMap<u8, usize>,
    denied: usize,
    slowest: Duration,
}

impl Tally {
    fn add(&mut self, client: u8, (status, took): (u16, Duration)) {
        match status {
            200 => *self.admitted.entry(client).or_default() += 1,
            429 => self.denied += 1,
            other => panic!("{other} for client {client}"),
        }
        self.slowest = self.slowest.max(took);
    }

    /// Checks of these clients, one after the other, over all replicas.
    async fn play(&mut self, replicas: &[Tollgate], clients: &[u8], times: usize) {
        for replica in replicas.iter().cycle().take(times) {
            for &client in clients {
                self.add(client, status(replica, client).await);
            }
        }
    }
}

/// The places of the nodes that have the counters of a client.
fn owners(cluster: &Cluster, client: u8) -> [usize; 2] {
    ["data", "more"]
        .map(|rule| cluster.owner(&format!("tollgate:{{{rule}:client_ip=192.0.2.{client}}}:")))
}

async fn until(replicas: &[Tollgate], status: &str) {
    for replica in replicas {
        within(FAILOVER, status, async || {
            replica.ask_admin("/readyz").await.json()["status"] == status
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_dies_and_nobody_gets_more_than_the_limit() {
    let mut cluster = Cluster::start(3, 1).await;
    let url = format!("--redis-url={}", cluster.url());
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(start(RULES, &[&url]).await);
    }
    let replicas = Arc::new(replicas);
    let clients: Vec<u8> = (1..=12).collect();
    let mut tally = Tally::default();
    tally.play(&replicas, &clients, 10).await;
    assert!(tally.admitted.values().all(|&count| count == 10));

    // With nobody asking, everything is replicated, so that the count can be exact.
    for node in &cluster.nodes[..3] {
        assert_eq!(node.cli(&["WAIT", "1", "10000"]), "1");
    }
    let [dead, _] = owners(&cluster, 1);
    let name = format!("127.0.0.1:{}", cluster.nodes[dead].port());
    cluster.nodes[dead].kill();
    let killed = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let traffic: Vec<_> = clients
        .iter()
        .map(|&client| {
            let (replicas, stop) = (Arc::clone(&replicas), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut answers = Vec::new();
                let mut replicas = replicas.iter().cycle();
                while !stop.load(Ordering::Relaxed) {
                    let replica = replicas.next().unwrap();
                    answers.push(status(replica, client).await);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                (client, answers)
            })
        })
        .collect();
    for replica in &*replicas {
        eventually("the lost node is named", async || {
            let health = replica.ask_admin("/readyz").await;
            assert_eq!(health.status, 200);
            health.json()["status"] == "degraded" && health.body.contains(&name)
        })
        .await;
    }
    within(FAILOVER, "another node has the slots", async || {
        cluster.nodes[3..]
            .iter()
            .any(|node| node.cli(&["ROLE"]).starts_with("master"))
    })
    .await;
    let promoted = killed.elapsed();
    // A client that nobody has asked for: it is admitted where both of its nodes decide.
    let new = (20..200)
        .find(|client| owners(&cluster, *client).iter().all(|owner| *owner >= 3))
        .unwrap();
    for replica in &*replicas {
        within(FAILOVER, "its clients are counted again", async || {
            let answer = status(replica, new).await;
            tally.add(new, answer);
            answer.0 == 200
        })
        .await;
    }
    eprintln!(
        "promoted after {promoted:?}, all replicas decide after {:?}",
        killed.elapsed()
    );
    stop.store(true, Ordering::Relaxed);
    for task in traffic {
        let (client, answers) = task.await.unwrap();
        for answer in answers {
            tally.add(client, answer);
        }
    }
    until(&replicas, "ok").await;
    eprintln!("all are well after {:?}", killed.elapsed());

    tally.play(&replicas, &clients, LIMIT + 5).await;
    eprintln!("slowest {:?}, {} denied", tally.slowest, tally.denied);
    assert!(tally.slowest < DEADLINE + SLACK, "{:?}", tally.slowest);
    for client in clients {
        // What was given back while the node was lost may have stayed charged, never the reverse.
        let admitted = tally.admitted[&client];
        assert!(admitted <= LIMIT, "client {client}: {admitted}");
        assert!(admitted >= 10, "client {client}: {admitted}");
    }
    // The dead one comes back, as a replica, and nothing changes.
    cluster.nodes[dead].resume_process();
    eventually("it is a replica", async || {
        cluster.nodes[dead].role().as_deref() == Some("slave")
    })
    .await;
    // Not one connection more than two lanes and one for the map, for each tollgate; and ours.
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let clients = node.cli(&["CLIENT", "LIST", "TYPE", "normal"]);
        assert!(clients.lines().count() <= 3 * 3 + 1, "{clients}");
    }
    let mut after = Tally::default();
    after.play(&replicas, &[1, 2, 3], 3).await;
    assert!(after.admitted.is_empty(), "{:?}", after.admitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_a_lost_node_follow_their_rules() {
    let mut cluster = Cluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]).await;
    let mut rules = "version: 1\nrules:\n".to_owned();
    for mode in ["local", "allow", "deny", "proxy"] {
        writeln!(
            rules,
            "  - {{ name: {mode}, match: {{ path: /{mode} }}, key: client_ip, limit: 6/day, \
             algorithm: fixed_window, on_store_error: {mode} }}"
        )
        .unwrap();
    }
    let url = format!("--redis-url={}", cluster.url());
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(start(&rules, &[&url, "--replicas=3"]).await);
    }
    let key = |mode: &str, client: u8| format!("tollgate:{{{mode}:client_ip=192.0.2.{client}}}:");
    let lost = cluster.owner(&key("local", 1));
    // For each mode, a client of the lost node and one of another.
    let clients = ["local", "allow", "deny", "proxy"].map(|mode| {
        let find = |is_lost: bool| {
            let mut clients = 1..=255;
            let has = |client: &u8| (cluster.owner(&key(mode, *client)) == lost) == is_lost;
            clients.find(has).unwrap()
        };
        (mode, find(true), find(false))
    });
    let name = format!("127.0.0.1:{}", cluster.nodes[lost].port());
    cluster.nodes[lost].kill();
    for replica in &replicas {
        eventually("the lost node is named", async || {
            let health = replica.ask_admin("/readyz").await;
            health.json()["status"] == "degraded" && health.body.contains(&name)
        })
        .await;
    }
    let answers = async |mode: &str, client: u8| {
        let uri = format!("x-forwarded-uri: /{mode}");
        let address = format!("x-real-ip: 192.0.2.{client}");
        let lines = ["x-forwarded-method: GET", &uri, &address];
        let check = head("GET", "/v1/check", &lines);
        let mut statuses = BTreeMap::new();
        for replica in replicas.iter().cycle().take(30) {
            let asked = Instant::now();
            let status = ask(replica.addr(), &check).await.status;
            assert!(asked.elapsed() < DEADLINE + SLACK);
            *statuses.entry(status).or_insert(0) += 1;
        }
        statuses
    };
    for (mode, of_lost, of_other) in clients {
        let expected = match mode {
            "local" => BTreeMap::from([(200, 6), (429, 24)]),
            "allow" => BTreeMap::from([(200, 30)]),
            "deny" => BTreeMap::from([(429, 30)]),
            _ => BTreeMap::from([(503, 30)]),
        };
        assert_eq!(answers(mode, of_lost).await, expected, "{mode}");
        // The others are counted, all replicas together.
        let counted = BTreeMap::from([(200, 6), (429, 24)]);
        assert_eq!(answers(mode, of_other).await, counted, "{mode}");
        let stored = cluster.nodes[cluster.owner(&key(mode, of_other))].cli(&["--scan"]);
        assert!(stored.contains(&key(mode, of_other)), "{stored}");
    }
    let back = Instant::now();
    cluster.nodes[lost].resume_process();
    until(&replicas, "ok").await;
    eprintln!("well {:?} after the node is back", back.elapsed());
}

/// A client that may choose its key chooses its node, and must not get rid of other limits by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_lost_leaves_the_others_of_the_request_to_redis() {
    let mut cluster = Cluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]).await;
    let mut rules = "version: 1\nrules:\n".to_owned();
    for mode in ["local", "allow", "deny", "proxy"] {
        writeln!(
            rules,
            "  - {{ name: {mode}, match: {{ path: /{mode} }}, key: client_ip, limit: 6/day, \
             algorithm: fixed_window, on_store_error: {mode} }}\n  \
             - {{ name: total-{mode}, match: {{ path: /{mode} }}, limit: 4/day, \
             algorithm: sliding_log, on_store_error: allow }}\n  \
             - {{ name: tried-{mode}, match: {{ path: /{mode} }}, limit: 1/day, mode: shadow }}"
        )
        .unwrap();
    }
    let url = format!("--redis-url={}", cluster.url());
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(start(&rules, &[&url, "--replicas=3"]).await);
    }
    let owner = |rule: &str| cluster.owner(&format!("tollgate:{{{rule}:"));
    let own_key = |mode: &str, client: u8| format!("{mode}:client_ip=192.0.2.{client}}}:");
    // A node that has none of the rules for all clients, and for each mode a client that it has.
    let shared =
        ["local", "allow", "deny", "proxy"].map(|mode| owner(&format!("total-{mode}:}}:")));
    let lost = (0..3).find(|node| !shared.contains(node));
    let lost = lost.expect("names of rules of which none is on one of the nodes");
    let clients = ["local", "allow", "deny", "proxy"].map(|mode| {
        let mut clients = 1..=255;
        let client = clients.find(|client| owner(&own_key(mode, *client)) == lost);
        (mode, client.unwrap())
    });
    cluster.nodes[lost].kill();
    let name = format!("127.0.0.1:{}", cluster.nodes[lost].port());
    for replica in &replicas {
        eventually("the lost node is named", async || {
            let health = replica.ask_admin("/readyz").await;
            health.json()["status"] == "degraded" && health.body.contains(&name)
        })
        .await;
    }
    for (mode, client) in clients {
        let uri = format!("x-forwarded-uri: /{mode}");
        let address = format!("x-real-ip: 192.0.2.{client}");
        let check = head(
            "GET",
            "/v1/check",
            &["x-forwarded-method: GET", &uri, &address],
        );
        let mut statuses = BTreeMap::new();
        let mut first = None;
        for replica in replicas.iter().cycle().take(30) {
            let answer = ask(replica.addr(), &check).await;
            *statuses.entry(answer.status).or_insert(0) += 1;
            first.get_or_insert(answer);
        }
        let (expected, counted) = match mode {
            // Both limits are reported, the lost one with this replica's share.
            "local" => {
                let limits = first
                    .unwrap()
                    .header("ratelimit")
                    .unwrap_or_default()
                    .to_owned();
                assert!(limits.contains("\"total-local\";r=3"), "{limits}");
                assert!(limits.contains("\"local\";r=1"), "{limits}");
                (BTreeMap::from([(200, 4), (429, 26)]), 4)
            }
            "allow" => (BTreeMap::from([(200, 4), (429, 26)]), 4),
            // What the other rule was charged is given back, each time.
            "deny" => (BTreeMap::from([(429, 30)]), 0),
            // The proxy may admit it, so the other rule has counted it.
            _ => (BTreeMap::from([(503, 4), (429, 26)]), 4),
        };
        assert_eq!(statuses, expected, "{mode}");
        let key = format!("tollgate:{{total-{mode}:}}:sliding_log:86400s");
        let node = &cluster.nodes[cluster.owner(&key)];
        eventually("it has counted what was admitted", async || {
            let stored = node.cli(&["GET", &key]);
            let total = stored.split(' ').next().unwrap_or_default();
            total == counted.to_string() || (counted == 0 && total.is_empty())
        })
        .await;
    }
    let metrics = replicas[0].ask_admin("/metrics").await.body;
    for mode in ["local", "allow", "deny", "proxy"] {
        let of_rule = |rule: &str| {
            let label = format!("rule=\"{rule}\"");
            metrics
                .lines()
                .filter(|line| line.starts_with("tollgate_store_fallbacks_total"))
                .any(|line| line.contains(&label) && !line.ends_with(" 0"))
        };
        assert!(of_rule(mode), "{metrics}");
        assert!(!of_rule(&format!("total-{mode}")), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_a_cluster_are_replaced_without_a_restart() {
    let authority = Authority::new();
    let ours = authority.issue("ours");
    let access = Access {
        password: None,
        tls: Some(Tls::by(&authority)),
    };
    let cluster = Cluster::start_as(&access, 3, 0, &[]).await;
    let url = format!("--redis-url={}", cluster.url());
    let option = |name: &str, file: &std::path::Path| format!("--redis-{name}={}", file.display());
    let files = [
        option("ca", &authority.cert()),
        option("cert", &ours.cert),
        option("key", &ours.key),
    ];
    let args = [&*url, &*files[0], &*files[1], &*files[2]];
    let replicas = [start(RULES, &args).await];
    let mut tally = Tally::default();
    let clients: Vec<u8> = (1..=12).collect();
    tally.play(&replicas, &clients, 5).await;

    let disconnect = || {
        for node in &cluster.nodes {
            node.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        }
    };
    // One that another authority has signed is refused,
    let stranger = Authority::new();
    let theirs = stranger.issue("ours");
    fs::copy(&theirs.cert, &ours.cert).unwrap();
    fs::copy(&theirs.key, &ours.key).unwrap();
    disconnect();
    until(&replicas, "degraded").await;
    assert_eq!(status(&replicas[0], 1).await.0, 429);
    // and a renewed one is taken up.
    authority.issue("ours");
    let renewed = Instant::now();
    until(&replicas, "ok").await;
    eprintln!("connected {:?} after the renewal", renewed.elapsed());
    disconnect();
    within(FAILOVER, "all nodes are reached", async || {
        let mut all = true;
        for client in &clients {
            all &= status(&replicas[0], *client).await.0 == 200;
        }
        all
    })
    .await;
    for node in &cluster.nodes {
        assert_ne!(node.cli(&["DBSIZE"]), "0");
    }
}
