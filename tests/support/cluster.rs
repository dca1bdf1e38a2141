//! A real Redis Cluster.

use std::time::Duration;

use super::{
    free_port,
    redis::{Access, Redis},
    within,
};

/// Nodes find each other within seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a node may be silent before the others take it for dead, in milliseconds. Long enough
/// that a busy machine makes no failover that no test asked for.
const NODE_TIMEOUT: &str = "2000";

/// Primaries, each with the same number of replicas.
pub struct Cluster {
    /// The primaries of the beginning, then their replicas.
    pub nodes: Vec<Redis>,
    access: Access,
}

impl Cluster {
    /// Starts it, and waits until every node knows that it serves.
    pub async fn start(primaries: u16, replicas: u16) -> Self {
        Self::start_with(primaries, replicas, &[]).await
    }

    /// As [`start`](Self::start), with further arguments for each server.
    pub async fn start_with(primaries: u16, replicas: u16, args: &[&str]) -> Self {
        Self::start_as(&Access::default(), primaries, replicas, args).await
    }

    /// As [`start_with`](Self::start_with), with nodes that are spoken to in this way.
    pub async fn start_as(access: &Access, primaries: u16, replicas: u16, args: &[&str]) -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            access: access.clone(),
        };
        for _ in 0..primaries * (1 + replicas) {
            cluster.add(args).await;
        }
        let count = usize::from(primaries);
        for (place, node) in (0..primaries).zip(&cluster.nodes) {
            let edge = |place: u16| u32::from(place) * 16_384 / u32::from(primaries);
            let (first, last) = (edge(place).to_string(), (edge(place + 1) - 1).to_string());
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
        }
        for (place, replica) in cluster.nodes[count..].iter().enumerate() {
            let primary = cluster.nodes[place % count].cli(&["CLUSTER", "MYID"]);
            within(PATIENCE, "a replica follows", async || {
                replica.cli(&["CLUSTER", "REPLICATE", &primary]) == "OK"
            })
            .await;
        }
        cluster.until_it_serves().await;
        if replicas > 0 {
            let all = count * usize::from(replicas);
            within(PATIENCE, "replicas are in step", async || {
                let up = |node: &&Redis| {
                    node.cli(&["INFO", "replication"])
                        .contains("link_status:up")
                };
                cluster.nodes[count..].iter().filter(up).count() == all
            })
            .await;
        }
        cluster
    }

    /// Adds a primary without slots, which all nodes know.
    pub async fn add(&mut self, args: &[&str]) {
        // The usual port of the cluster's bus, 10,000 above the other, may be taken.
        let bus = free_port().to_string();
        let mut all = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
        all.extend(["--cluster-node-timeout", NODE_TIMEOUT]);
        if self.access.tls.is_some() {
            all.extend(["--tls-cluster", "yes", "--tls-replication", "yes"]);
        }
        if let Some(password) = &self.access.password {
            all.extend(["--requirepass", password, "--masterauth", password]);
        }
        all.extend(args);
        let node = Redis::start_as(&self.access, &all);
        if let Some(first) = self.nodes.first() {
            first.cli(&[
                "CLUSTER",
                "MEET",
                "127.0.0.1",
                &node.port().to_string(),
                &bus,
            ]);
        }
        self.nodes.push(node);
        let count = self.nodes.len();
        within(PATIENCE, "nodes know each other", async || {
            self.nodes
                .iter()
                .all(|node| node.cli(&["CLUSTER", "NODES"]).lines().count() == count)
        })
        .await;
        // A node that imports a slot before it knows whose it is will never learn that.
        within(PATIENCE, "nodes know who has the slots", async || {
            let assigned = self.nodes.iter().map(|node| {
                let info = node.cli(&["CLUSTER", "INFO"]);
                let mut lines = info.lines();
                let line = lines.find(|line| line.starts_with("cluster_slots_assigned:"));
                line.unwrap_or_default().trim().to_owned()
            });
            let assigned: Vec<String> = assigned.collect();
            assigned.iter().all(|slots| *slots == assigned[0])
        })
        .await;
    }

    /// Waits until every node that runs says that the cluster serves.
    pub async fn until_it_serves(&self) {
        within(PATIENCE, "the cluster serves", async || {
            self.nodes.iter().all(|node| {
                let info = node.try_cli(&["CLUSTER", "INFO"]);
                info.is_none_or(|info| info.contains("cluster_state:ok"))
            })
        })
        .await;
    }

    /// Moves the slot of a key to another primary, as a resharding does: one key after the other,
    /// and `between` when each is there. So a client's keys are on both sides for a while.
    pub async fn move_slot(&self, key: &str, to: usize, mut between: impl AsyncFnMut()) {
        let (source, target) = (&self.nodes[self.owner(key)], &self.nodes[to]);
        let slot = source.cli(&["CLUSTER", "KEYSLOT", key]);
        let id = |node: &Redis| node.cli(&["CLUSTER", "MYID"]);
        let (source_id, target_id) = (id(source), id(target));
        let set = |node: &Redis, what: &[&str]| {
            let set = [&["CLUSTER", "SETSLOT", &slot], what].concat();
            assert_eq!(node.cli(&set), "OK", "{what:?}");
        };
        set(target, &["IMPORTING", &source_id]);
        set(source, &["MIGRATING", &target_id]);
        let port = target.port().to_string();
        loop {
            let keys = source.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]);
            let Some(key) = keys.lines().next().filter(|key| !key.is_empty()) else {
                break;
            };
            // A key that has just expired is gone, and that is well too.
            let moved = source.cli(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
            assert!(matches!(&*moved, "OK" | "NOKEY"), "{key}: {moved}");
            between().await;
        }
        // The new owner first: the other one would redirect to a node that does not know it yet.
        for node in [target, source] {
            set(node, &["NODE", &target_id]);
        }
    }

    /// `HOST:PORT` of the first nodes.
    pub fn hosts(&self) -> String {
        let first = self.nodes.iter().take(3);
        let hosts: Vec<String> = first.map(|n| format!("127.0.0.1:{}", n.port())).collect();
        hosts.join(",")
    }

    /// The URL, with the first nodes.
    pub fn url(&self) -> String {
        let tls = if self.access.tls.is_some() { "s" } else { "" };
        format!("redis{tls}-cluster://{}", self.hosts())
    }

    /// The primary that has a key's slot, by its place among the nodes, as those know it that run.
    pub fn owner(&self, key: &str) -> usize {
        let node = self.nodes.iter().find(|node| node.is_running()).unwrap();
        let slot: u16 = node.cli(&["CLUSTER", "KEYSLOT", key]).parse().unwrap();
        let has_it = |node: &Redis| {
            let myself = node.cli(&["CLUSTER", "NODES"]);
            let myself = myself.lines().find(|line| line.contains("myself")).unwrap();
            let mut words = myself.split(' ');
            words.nth(2).unwrap().contains("master")
                && words.skip(5).any(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    let edge = |text: &str| text.parse::<u16>();
                    matches!((edge(first), edge(last)), (Ok(a), Ok(b)) if (a..=b).contains(&slot))
                })
        };
        let mut running = self.nodes.iter().enumerate();
        let owner = running.find(|(_, node)| node.is_running() && has_it(node));
        owner.expect("a node has the slot").0
    }
}
