//! Charges ahead, in one server or in a cluster.

use tokio::time::Instant;

use super::{Servers, one};
use crate::store::{Ahead, Batch, ChargingAhead, GivingBack, Unused};

impl Ahead for Servers {
    fn charge_ahead<'a>(
        &'a self,
        batch: &'a Batch,
        times: u32,
        deadline: Instant,
    ) -> ChargingAhead<'a> {
        match self {
            Self::One(node) => Box::pin(one::charge_ahead(node, batch, times, deadline)),
            Self::Cluster(cluster) => Box::pin(cluster.charge_ahead(batch, times, deadline)),
        }
    }

    fn give_back(&self, batch: &Batch, unused: &Unused) -> Vec<GivingBack> {
        match self {
            Self::One(node) => vec![one::give_back(node, batch, unused)],
            Self::Cluster(cluster) => cluster.give_back(batch, unused),
        }
    }
}
