//! Charges ahead, in one server or in a cluster.

use tokio::time::Instant;

use super::{RedisStore, Servers, one};
use crate::store::{Ahead, Batch, ChargingAhead, GivingBack, Unused};

impl Ahead for RedisStore {
    fn charge_ahead<'a>(
        &'a self,
        batch: &'a Batch,
        times: u32,
        deadline: Instant,
    ) -> ChargingAhead<'a> {
        match &self.servers {
            Servers::One(node) => Box::pin(one::charge_ahead(node, batch, times, deadline)),
            Servers::Cluster(cluster) => Box::pin(cluster.charge_ahead(batch, times, deadline)),
        }
    }

    fn replicas(&self) -> Option<u64> {
        self.replicas.known()
    }

    fn give_back(&self, batch: &Batch, unused: &Unused) -> Vec<GivingBack> {
        match &self.servers {
            Servers::One(node) => vec![one::give_back(node, batch, unused)],
            Servers::Cluster(cluster) => cluster.give_back(batch, unused),
        }
    }
}
