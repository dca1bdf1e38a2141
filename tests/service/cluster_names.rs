//! A Redis Cluster that is named in the URL, and is somewhere else the next time.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    client::{ask, head},
    cluster::Cluster,
    eventually,
    fault_proxy::FaultProxy,
    redis::Redis,
    tollgate::{Settings, Tollgate},
};

const LIMIT: usize = 5;

const RULES: &str = "
version: 1
rules:
  - { name: all, key: client_ip, limit: 5/day, on_store_error: proxy }
";

/// What all checks of a moment are answered with at most, and a busy machine.
const SLOWEST: Duration = Duration::from_secs(2);

/// A tollgate that knows nothing of its cluster but a name.
struct Scene {
    tollgate: Tollgate,
    hosts: PathBuf,
    /// The port that goes with the name, at every address.
    port: u16,
    /// What listens there, and leads to a node.
    doors: Vec<FaultProxy>,
    _dir: TempDir,
}

impl Scene {
    async fn start(cluster: &Cluster) -> Self {
        let door = FaultProxy::start(node(cluster)).await;
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 redis.test\n").unwrap();
        let url = format!(
            "--redis-url=redis-cluster://redis.test:{}",
            door.addr.port()
        );
        let tollgate = Tollgate::start(Settings {
            rules: RULES,
            hosts: Some(&hosts),
            args: &[&url, "--deadline=500ms"],
            ..Settings::default()
        })
        .await;
        Self {
            tollgate,
            hosts,
            port: door.addr.port(),
            doors: vec![door],
            _dir: dir,
        }
    }

    /// From now on the name has another address, at which this cluster has a node.
    async fn name(&mut self, cluster: &Cluster) {
        let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
        let addr = SocketAddr::from((elsewhere, self.port));
        self.doors
            .push(FaultProxy::start_at(addr, node(cluster)).await);
        // Written in place: it is mounted.
        fs::write(&self.hosts, format!("{elsewhere} redis.test\n")).unwrap();
    }

    /// Clients that nobody has seen get their limit, and are counted in this cluster.
    async fn counts_in(&self, cluster: &Cluster, clients: std::ops::Range<u8>) {
        for client in clients {
            let address = format!("x-real-ip: 192.0.2.{client}");
            let lines = ["x-forwarded-method: GET", "x-forwarded-uri: /", &address];
            let check = head("GET", "/v1/check", &lines);
            let mut statuses = BTreeMap::new();
            for _ in 0..LIMIT + 2 {
                let asked = Instant::now();
                let status = ask(self.tollgate.addr(), &check).await.status;
                assert!(asked.elapsed() < SLOWEST, "{:?}", asked.elapsed());
                *statuses.entry(status).or_insert(0) += 1;
            }
            assert_eq!(statuses, BTreeMap::from([(200, LIMIT), (429, 2)]));
            let key = format!("tollgate:{{all:client_ip=192.0.2.{client}}}:sliding_window:86400s");
            let owner = &cluster.nodes[cluster.owner(&key)];
            assert_eq!(owner.cli(&["EXISTS", &key]), "1");
            // Explanations have connections of their own, and find out when they use them.
            eventually("its counter can be read", async || {
                let told = self.explained(client).await;
                if told["status"] != 429 {
                    // Shown if the test fails.
                    eprintln!("{}", told["counters"]);
                }
                told["status"] == 429
            })
            .await;
        }
    }

    async fn explained(&self, client: u8) -> Value {
        let question = json!({ "path": "/", "ip": format!("192.0.2.{client}") }).to_string();
        let length = format!("content-length: {}", question.len());
        let mut request = head("POST", "/explain", &[&length]);
        request.extend(question.as_bytes());
        ask(self.tollgate.admin, &request).await.json()
    }
}

fn node(cluster: &Cluster) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, cluster.nodes[0].port()).into()
}

/// The name is all that still leads to the cluster when every node that is known has gone.
async fn is_found_again(gone: impl Fn(&mut [Redis])) {
    let mut old = Cluster::start(3, 0).await;
    let mut scene = Scene::start(&old).await;
    scene.counts_in(&old, 1..10).await;
    gone(&mut old.nodes);
    scene.tollgate.until_status("degraded").await;
    let new = Cluster::start(3, 0).await;
    scene.name(&new).await;
    let named = Instant::now();
    scene.tollgate.until_status("ok").await;
    eprintln!("found {:?} after it was named", named.elapsed());
    scene.counts_in(&new, 20..30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_nodes_have_all_died_is_looked_up_by_its_name() {
    is_found_again(|nodes| nodes.iter_mut().for_each(Redis::kill)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_nodes_have_all_fallen_silent_is_looked_up_by_its_name() {
    is_found_again(|nodes| nodes.iter().for_each(Redis::pause)).await;
}

/// The connection to it is well, and the name leads to another node now.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_left_of_a_lost_cluster_does_not_hold_its_name() {
    is_found_again(|nodes| nodes[1..].iter_mut().for_each(Redis::kill)).await;
}
