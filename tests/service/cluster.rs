//! Three replicas of tollgate and a Redis Cluster, while its nodes die and its slots move.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
use tokio::task::JoinHandle;

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
    start_with(DEADLINE, rules, args).await
}

async fn start_with(deadline: Duration, rules: &str, args: &[&str]) -> Tollgate {
    let deadline = format!("--deadline={}ms", deadline.as_millis());
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
type Answer = (u16, Duration);

async fn status(replica: &Tollgate, client: u8) -> Answer {
    let asked = Instant::now();
    let status = ask(replica.addr(), &check(client)).await.status;
    (status, asked.elapsed())
}

/// What happened to the checks of all clients.
#[derive(Default)]
struct Tally {
    /// By client.
    admitted: BTreeMap<u8, usize>,
    /// By client.
    denied: BTreeMap<u8, usize>,
    slowest: Duration,
}

impl Tally {
    fn add(&mut self, client: u8, (status, took): Answer) {
        match status {
            200 => *self.admitted.entry(client).or_default() += 1,
            429 => *self.denied.entry(client).or_default() += 1,
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

    /// Checks of a client until all replicas have denied it, one after the other.
    async fn use_up(&mut self, replicas: &[Tollgate], client: u8) {
        let mut denied = 0;
        let mut replicas_in_turn = replicas.iter().cycle();
        while denied < replicas.len() {
            let answer = status(replicas_in_turn.next().unwrap(), client).await;
            denied = if answer.0 == 429 { denied + 1 } else { 0 };
            self.add(client, answer);
        }
    }
}

/// Clients that ask all the time, each the replicas in turn.
struct Traffic {
    stop: Arc<AtomicBool>,
    /// How many checks of each client have been answered.
    answered: Arc<BTreeMap<u8, AtomicUsize>>,
    tasks: Vec<JoinHandle<(u8, Vec<Answer>)>>,
}

impl Traffic {
    /// Starts it, with so many checks of each client at a time, and with a pause after each.
    fn start(
        replicas: &Arc<Vec<Tollgate>>,
        clients: &[u8],
        at_a_time: usize,
        pause: Duration,
    ) -> Self {
        let answered = clients.iter().map(|&client| (client, AtomicUsize::new(0)));
        let mut traffic = Self {
            stop: Arc::default(),
            answered: Arc::new(answered.collect()),
            tasks: Vec::new(),
        };
        for (&client, first) in clients
            .iter()
            .flat_map(|client| (0..at_a_time).map(move |first| (client, first)))
        {
            let (replicas, stop) = (Arc::clone(replicas), Arc::clone(&traffic.stop));
            let answered = Arc::clone(&traffic.answered);
            traffic.tasks.push(tokio::spawn(async move {
                let mut answers = Vec::new();
                let mut replicas = replicas.iter().cycle().skip(first);
                while !stop.load(Ordering::Relaxed) {
                    answers.push(status(replicas.next().unwrap(), client).await);
                    answered[&client].fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pause).await;
                }
                (client, answers)
            }));
        }
        traffic
    }

    /// Waits until so many more checks of each client have been answered.
    async fn goes_on(&self, count: usize) {
        let answered = || {
            let counts = self.answered.values();
            let counts: Vec<usize> = counts.map(|count| count.load(Ordering::Relaxed)).collect();
            counts
        };
        let before = answered();
        within(FAILOVER, "checks are answered", async || {
            let mut both = answered().into_iter().zip(&before);
            both.all(|(now, before)| now >= before + count)
        })
        .await;
    }

    /// Ends it, and adds its answers.
    async fn end(self, tally: &mut Tally) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let (client, answers) = task.await.unwrap();
            for answer in answers {
                tally.add(client, answer);
            }
        }
    }
}

fn key_of(rule: &str, client: u8, kind: &str) -> String {
    format!("tollgate:{{{rule}:client_ip=192.0.2.{client}}}:{kind}")
}

/// The places of the nodes that have the counters of a client.
fn owners(cluster: &Cluster, client: u8) -> [usize; 2] {
    ["data", "more"].map(|rule| cluster.owner(&key_of(rule, client, "")))
}

/// No node has one connection more than two lanes and one for the map, for each of three tollgates;
/// and ours.
fn connections_are_few(cluster: &Cluster) {
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let clients = node.cli(&["CLIENT", "LIST", "TYPE", "normal"]);
        // Nodes that keys come from are clients too.
        let count = clients
            .lines()
            .filter(|line| !line.contains("cmd=restore"))
            .count();
        assert!(count <= 3 * 3 + 1, "{clients}");
    }
}

async fn until(replicas: &[Tollgate], status: &str) {
    for replica in replicas {
        within(FAILOVER, status, async || {
            replica.ask_admin("/readyz").await.json()["status"] == status
        })
        .await;
    }
}

/// Waits until all replicas are degraded, and say that it is because of this node.
async fn until_named(replicas: &[Tollgate], name: &str) {
    for replica in replicas {
        eventually("the lost node is named", async || {
            let health = replica.ask_admin("/readyz").await;
            assert_eq!(health.status, 200);
            health.json()["status"] == "degraded" && health.body.contains(name)
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
        node.until_replicated(1).await;
    }
    let [dead, _] = owners(&cluster, 1);
    let name = format!("127.0.0.1:{}", cluster.nodes[dead].port());
    cluster.nodes[dead].kill();
    let killed = Instant::now();
    let traffic = Traffic::start(&replicas, &clients, 1, Duration::from_millis(5));
    until_named(&replicas, &name).await;
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
    traffic.end(&mut tally).await;
    until(&replicas, "ok").await;
    eprintln!("all are well after {:?}", killed.elapsed());

    tally.play(&replicas, &clients, LIMIT + 5).await;
    eprintln!("slowest {:?}, {:?} denied", tally.slowest, tally.denied);
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
    connections_are_few(&cluster);
    let mut after = Tally::default();
    after.play(&replicas, &[1, 2, 3], 3).await;
    assert!(after.admitted.is_empty(), "{:?}", after.admitted);
}

/// As [`RULES`], with several keys in a slot, and more than is used up while one moves.
const MOVED: &str = "
version: 1
rules:
  - name: data
    key: client_ip
    limits: [1500/h, 900/day]
    algorithm: fixed_window
    ban: { after: 1000000, within: 1h, for: 1h }
    on_store_error: deny
  - { name: more, key: client_ip, limit: 1000/day, algorithm: sliding_log, on_store_error: deny }
";

/// The limit of a client over both of those rules.
const MOVED_LIMIT: usize = 900;

/// Long enough that a busy machine makes no check late: here none may be.
const PATIENT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn hot_slots_are_moved_and_everybody_gets_exactly_the_limit() {
    let mut cluster = Cluster::start(3, 0).await;
    let url = format!("--redis-url={}", cluster.url());
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(start_with(PATIENT, MOVED, &[&url]).await);
    }
    let replicas = Arc::new(replicas);
    let mut tally = Tally::default();
    // Two clients with their rules on two nodes, whose slots of `data` are moved. One is admitted
    // meanwhile. The other has used up its limit, and `more` is asked first: each check charges it
    // on one node, is denied in the slot that moves, and gives back.
    let slot = |rule: &str, client: u8| -> u16 {
        let key = key_of(rule, client, "");
        cluster.nodes[0]
            .cli(&["CLUSTER", "KEYSLOT", &key])
            .parse()
            .unwrap()
    };
    let find = |is_last: bool| {
        let mut clients = 1..=255;
        let fits = |client: &u8| {
            let [data, more] = owners(&cluster, *client);
            data != more && (slot("data", *client) > slot("more", *client)) == is_last
        };
        clients.find(fits).unwrap()
    };
    let (admitted, denied) = (find(false), find(true));
    let others = (1..=255).filter(|client| ![admitted, denied].contains(client));
    let clients: Vec<u8> = [admitted, denied]
        .into_iter()
        .chain(others.take(3))
        .collect();
    tally.play(&replicas, &clients, 10).await;
    tally.use_up(&replicas, denied).await;
    assert_eq!(tally.admitted[&denied], MOVED_LIMIT);

    cluster.add(&[]).await;
    cluster.until_it_serves().await;
    let to = cluster.nodes.len() - 1;
    let traffic = Traffic::start(&replicas, &clients, 3, Duration::from_millis(20));
    traffic.goes_on(30).await;
    for client in [admitted, denied] {
        let key = key_of("data", client, "ban");
        let began = Instant::now();
        let mut steps = 0;
        let step = async || {
            traffic.goes_on(30).await;
            steps += 1;
        };
        cluster.move_slot(&key, to, step).await;
        assert!(steps >= 2, "{steps} keys");
        assert_eq!(cluster.owner(&key), to);
        eprintln!("{steps} keys moved in {:?}", began.elapsed());
    }
    traffic.goes_on(30).await;
    traffic.end(&mut tally).await;
    eprintln!("{:?} admitted, {:?} denied", tally.admitted, tally.denied);
    // The one that had used up its limit got nothing in between.
    assert_eq!(tally.admitted[&denied], MOVED_LIMIT);
    connections_are_few(&cluster);

    for &client in &clients {
        tally.use_up(&replicas, client).await;
        assert_eq!(tally.admitted[&client], MOVED_LIMIT, "client {client}");
        // Nothing that was admitted was charged twice or not at all, by either rule, and each
        // denial was counted once.
        let denied = tally.denied[&client];
        for (key, expected) in [
            ("data", "fixed_window:86400s", MOVED_LIMIT),
            ("data", "fixed_window:3600s", MOVED_LIMIT),
            ("data", "ban", denied),
            ("more", "sliding_log:86400s", MOVED_LIMIT),
        ]
        .map(|(rule, kind, count)| (key_of(rule, client, kind), count))
        {
            let stored = cluster.nodes[cluster.owner(&key)].cli(&["GET", &key]);
            let counted = stored.split(' ').next();
            assert_eq!(counted, Some(&*expected.to_string()), "{key}");
        }
    }
    eprintln!("slowest {:?}", tally.slowest);
    assert!(tally.slowest < PATIENT + SLACK, "{:?}", tally.slowest);
    for replica in &*replicas {
        let metrics = replica.ask_admin("/metrics").await.body;
        let fallback = metrics.lines().find(|line| {
            line.starts_with("tollgate_store_fallbacks_total") && !line.ends_with(" 0")
        });
        assert_eq!(fallback, None, "{}", replica.log());
        assert_eq!(replica.ask_admin("/readyz").await.json()["status"], "ok");
    }
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
    until_named(&replicas, &name).await;
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
    until_named(&replicas, &name).await;
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
