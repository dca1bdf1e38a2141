//! Counters in Redis, sent over a few long-lived lanes: checks that wait there share a call of the
//! script. In a cluster, a check is in a call for each of its slots.

mod address;
mod ahead;
mod breaker;
mod changes;
mod cluster;
mod connect;
mod connectivity;
mod edit;
mod job;
mod lane;
mod node;
mod one;
mod options;
mod read;
mod redirect;
mod replicas;
pub mod replies;
pub mod script;
pub mod shares;
mod time;

use std::{sync::Arc, time::Duration};

use redis::Cmd;
use tokio::time::{Instant, sleep};

use self::{
    changes::Changes,
    cluster::Cluster,
    connect::Connector,
    job::Work,
    node::{Call, Node},
    options::Server,
    replicas::{BEAT, Replicas},
    replies::ScriptReply,
    time::RedisTime,
};
pub use self::{
    connectivity::OnChange,
    options::{BATCH, Options, SentinelLogin, TlsFiles},
    read::Reader,
};
use super::{
    Ahead, Batch, Charging, Edit, Store, StoreError,
    read::{Read, Reads},
};
use crate::{jitter::half_to_whole, problem::Problem, workers::Workers};

/// The store in Redis.
pub struct RedisStore {
    servers: Servers,
    reader: Reader,
    time: Arc<RedisTime>,
    replicas: Replicas,
    changes: Changes,
}

/// Who decides.
enum Servers {
    /// One server at a time, behind Sentinels or not.
    One(Arc<Node>),
    /// The nodes of a Redis Cluster.
    Cluster(Cluster),
}

impl RedisStore {
    /// As [`start_on`](Self::start_on), with lanes on the runtime of the caller.
    pub fn start(options: &Options, on_change: OnChange) -> Result<Self, Problem> {
        Self::start_on(options, &Workers::here(), on_change)
    }

    /// Starts the lanes, for each worker; they connect by themselves, now and after every loss.
    /// Must be called within a tokio runtime.
    pub fn start_on(
        options: &Options,
        workers: &Workers,
        on_change: OnChange,
    ) -> Result<Self, Problem> {
        let connector = Connector::new(options)?;
        let reader = Reader::new(options)?;
        let time = Arc::new(RedisTime::new());
        let servers = match &options.server {
            Server::One(_) | Server::Sentinel { .. } => Servers::One(Arc::new(Node::start(
                &connector, options, None, &time, workers, on_change,
            ))),
            Server::Cluster { .. } => Servers::Cluster(Cluster::start(
                connector, options, &time, workers, on_change,
            )),
        };
        let reader = match &servers {
            Servers::One(_) => reader,
            Servers::Cluster(cluster) => reader.with_budgets(cluster.budgets()),
        };
        Ok(Self {
            servers,
            reader,
            time,
            replicas: Replicas::new(&options.key_prefix),
            changes: Changes::new(&options.key_prefix),
        })
    }

    /// Says every now and then that this replica is alive, and counts those that are, for ever.
    pub async fn beat(&self) {
        loop {
            let deadline = Instant::now() + BEAT;
            let heartbeat = self.replicas.heartbeat();
            let reply = self.script(self.replicas.key(), &heartbeat, deadline).await;
            if let Ok(reply) = reply {
                self.replicas.note(reply);
            }
            sleep(half_to_whole(BEAT)).await;
        }
    }

    /// Calls a script that has one key, and answers as the script of charges does about one limit.
    async fn script(
        &self,
        key: &str,
        cmd: &Cmd,
        deadline: Instant,
    ) -> Result<ScriptReply, StoreError> {
        let call = |slot, asking| Call {
            work: Work::Script(cmd.clone(), 1),
            key,
            slot,
            asking,
            parts: 1,
        };
        let reply = match &self.servers {
            Servers::One(node) => node.call(call(0, false), deadline).await,
            Servers::Cluster(cluster) => cluster.call(key, deadline, call).await,
        };
        reply.map_err(one::failure)
    }

    /// Waits for the first connection, at most `patience`; returns whether there is one.
    pub async fn connected_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        match &self.servers {
            Servers::One(node) => node.connected_by(deadline).await,
            Servers::Cluster(cluster) => cluster.connected_by(deadline).await,
        }
    }
}

impl Store for RedisStore {
    fn charge<'a>(&'a self, batch: &'a Batch, deadline: Instant) -> Charging<'a> {
        match &self.servers {
            Servers::One(node) => Charging::timely(one::charge(node, batch, deadline)),
            Servers::Cluster(cluster) => Charging::awaited(cluster.charge(batch, deadline)),
        }
    }

    fn now_us(&self) -> u64 {
        self.time.now_us()
    }

    fn edit(&self) -> Option<&dyn Edit> {
        Some(self)
    }

    fn clock_is_in_doubt(&self, now: Instant) -> bool {
        self.time.is_in_doubt(now)
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    fn replicas(&self) -> u64 {
        self.replicas.alive()
    }

    fn ahead(&self) -> Option<&dyn Ahead> {
        Some(self)
    }
}

impl Read for RedisStore {
    fn read<'a>(&'a self, batch: &'a Batch) -> Reads<'a> {
        self.reader.read(batch)
    }
}
