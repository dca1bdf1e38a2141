//! Counters in a Redis Cluster: each call of the script goes to the node that has its slot.
//!
//! All limits of one rule for one client are in one slot, so they are decided by one call, all or
//! nothing. A request that several rules limit needs a call for each: they are charged one after
//! the other, in the same order everywhere, and what was charged is given back when a later one
//! denies. In between, others see those charges: a client may be denied what it would have been
//! granted a moment later, and never gets more than its limit. A rule whose node is lost is not
//! decided; the others are.
//!
//! The same happens within a rule while its slot is being moved to another node, as long as its
//! keys are not all on one side.
//!
//! The `redis` crate has a client for clusters. It takes no part here, as it repeats commands whose
//! connection broke, which would charge twice, and knows neither lanes nor deadlines.

mod charging;
mod give_back;
mod health;
mod map;
mod mapper;
mod read;
mod send;
mod slots;
mod split;

use std::sync::Arc;

use tokio::{task::AbortHandle, time::Instant};

use self::{charging::Charging, map::Nodes, send::send, slots::slot_of, split::parts};
use super::{
    connect::Connector, connectivity::OnChange, node::Call, options::Options, redirect::Undecided,
    replies::ScriptReply, time::RedisTime,
};
use crate::{
    store::{
        Answer, Batch, ChargedAhead, ENFORCED, GivingBack, Lost, StoreError, Unsettled, Unused,
        budgets::Budgets,
    },
    workers::Workers,
};

pub(super) use self::read::ClusterReader;

/// The nodes of a cluster.
pub(super) struct Cluster {
    nodes: Arc<Nodes>,
    following: AbortHandle,
    budgets: Arc<Budgets>,
}

impl Cluster {
    /// Starts to look for the nodes. Must be called within a tokio runtime.
    pub(super) fn start(
        connector: Connector,
        options: &Options,
        time: &Arc<RedisTime>,
        workers: &Workers,
        on_change: OnChange,
    ) -> Self {
        let nodes = Arc::new(Nodes::new(connector, options, time, workers, on_change));
        let following = tokio::spawn(Arc::clone(&nodes).follow()).abort_handle();
        Self {
            nodes,
            following,
            budgets: Arc::default(),
        }
    }

    /// The budgets of new counters.
    pub(super) fn budgets(&self) -> &Arc<Budgets> {
        &self.budgets
    }

    /// Waits until a node is connected, at most until `deadline`.
    pub(super) async fn connected_by(&self, deadline: Instant) -> bool {
        self.nodes.connected_by(deadline).await
    }

    /// Calls a script for one key, wherever its slot is.
    pub(super) async fn call<'a>(
        &self,
        key: &str,
        deadline: Instant,
        call: impl Fn(u16, bool) -> Call<'a>,
    ) -> Result<ScriptReply, Undecided> {
        send(&self.nodes, slot_of(key), deadline, call).await
    }

    /// Decides about a batch and charges it.
    ///
    /// Each part has its share of the time, and of what the ones before it have left: a node that
    /// hangs does not keep the others from deciding.
    pub(super) async fn charge(
        &self,
        batch: &Batch,
        deadline: Instant,
    ) -> Result<Answer, StoreError> {
        let parts = parts(batch);
        let mut charging = Charging::new(&self.nodes, &self.budgets, batch, parts.len());
        let mut admitted = true;
        let mut lost = Vec::new();
        for (place, part) in parts.iter().enumerate() {
            let by = share(deadline, parts.len() - place);
            match charging.part(part, !admitted, by).await {
                Ok(()) => admitted &= !charging.is_denied(&part.places, ENFORCED),
                Err(error) => lost.push(Lost {
                    places: part.places.clone(),
                    error,
                }),
            }
        }
        if lost.len() == parts.len()
            && let Some(first) = lost.drain(..).next()
        {
            return Err(first.error);
        }
        let mut unsettled = Unsettled::default();
        if !admitted {
            charging.unsettled().give_back(deadline).await;
        } else if lost.is_empty() {
            charging.keep();
        } else {
            unsettled = charging.unsettled();
        }
        Ok(Answer {
            result: charging.result(admitted),
            lost,
            unsettled,
        })
    }
}

impl Cluster {
    /// As [`charge`](Self::charge), up to `times` at once: if all keys are in one slot and on one
    /// node, and no counter is new.
    pub(super) async fn charge_ahead(
        &self,
        batch: &Batch,
        times: u32,
        deadline: Instant,
    ) -> Result<ChargedAhead, StoreError> {
        if let [part] = &parts(batch)[..] {
            let charging = Charging::new(&self.nodes, &self.budgets, batch, 1);
            let reply = charging.ahead(part, times, deadline).await;
            match reply {
                Ok(reply) if !reply.asks_for_new => return reply.try_into(),
                Err(Undecided::Failed(error)) => return Err(error),
                // They are on two nodes, or there may be no more of them: one at a time.
                Ok(_) | Err(Undecided::Redirected(_)) => {}
            }
        }
        let answer = self.charge(batch, deadline).await;
        answer.map(ChargedAhead::once)
    }

    /// Gives back what was charged ahead.
    pub(super) fn give_back(&self, batch: &Batch, unused: &Unused) -> Vec<GivingBack> {
        give_back::give_back_all(&self.nodes, batch, unused)
    }
}

/// When the first of so many calls must have an answer, one after the other by `deadline`.
fn share(deadline: Instant, calls: usize) -> Instant {
    match u32::try_from(calls) {
        Ok(calls @ 2..) => {
            let now = Instant::now();
            now + deadline.saturating_duration_since(now) / calls
        }
        _ => deadline,
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.following.abort();
    }
}
