//! Counters in a Redis Cluster: each call of the script goes to the node that has its slot.
//!
//! All limits of one rule for one client are in one slot, so they are decided by one call, all or
//! nothing. A request that several rules limit needs a call for each: they are charged one after
//! the other, in the same order everywhere, and what was charged is given back when a later one
//! denies or fails. In between, others see those charges: a client may be denied what it would
//! have been granted a moment later, and never gets more than its limit.
//!
//! The same happens within a rule while its slot is being moved to another node, as long as its
//! keys are not all on one side.
//!
//! The `redis` crate has a client for clusters. It takes no part here, as it repeats commands whose
//! connection broke, which would charge twice, and knows neither lanes nor deadlines.

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

use self::{
    give_back::GiveBack,
    map::Nodes,
    send::send,
    slots::slot_of,
    split::{Part, parts},
};
use super::{
    connect::Connector,
    connectivity::OnChange,
    node::Call,
    options::Options,
    redirect::{Redirect, Undecided},
    script::{self, Mode, ScriptReply},
    time::RedisTime,
};
use crate::{
    counter_key::{overflow, rule_of},
    limit::Outcome,
    store::{Batch, ChargeResult, Counted, ENFORCED, StoreError, budgets::Budgets},
};

pub(super) use self::read::ClusterReader;

/// The nodes of a cluster.
pub(super) struct Cluster {
    nodes: Arc<Nodes>,
    following: AbortHandle,
    budgets: Budgets,
}

impl Cluster {
    /// Starts to look for the nodes. Must be called within a tokio runtime.
    pub(super) fn start(
        connector: Connector,
        options: &Options,
        time: &Arc<RedisTime>,
        on_change: OnChange,
    ) -> Self {
        let nodes = Arc::new(Nodes::new(connector, options, time, on_change));
        let following = tokio::spawn(Arc::clone(&nodes).follow()).abort_handle();
        Self {
            nodes,
            following,
            budgets: Budgets::default(),
        }
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
        call: impl Fn(bool) -> Call<'a>,
    ) -> Result<ScriptReply, Undecided> {
        send(&self.nodes, slot_of(key), deadline, call).await
    }

    /// Decides about a batch and charges it.
    pub(super) async fn charge(
        &self,
        batch: &Batch,
        deadline: Instant,
    ) -> Result<ChargeResult, StoreError> {
        let mut charging = Charging {
            nodes: &self.nodes,
            batch,
            since: Instant::now(),
            deadline,
            outcomes: vec![None; batch.charges().len()],
            budgets: &self.budgets,
            shared: Vec::new(),
        };
        let mut admitted = true;
        // Why a part that could deny has no answer. Another one may deny all the same.
        let mut failure = None;
        // Given back when this is dropped, also because nobody waits for the answer any more.
        let mut charged = GiveBack::new(&self.nodes, batch);
        for part in parts(batch) {
            let charges_nothing = !admitted || failure.is_some();
            match charging.part(&part, charges_nothing, &mut charged).await {
                Ok(()) => admitted &= !charging.is_denied(&part.places, ENFORCED),
                // Shadow rules have no say.
                Err(error) if part.is_enforced => failure = failure.or(Some(error)),
                Err(_) => {}
            }
        }
        match failure {
            Some(error) if admitted => return Err(error),
            None if admitted => charged.keep(),
            _ => charged.give_back(deadline).await,
        }
        let outcomes = charging.outcomes.into_iter().zip(batch.charges());
        let unknown = |charge: &crate::store::Charge| Outcome {
            allowed: true,
            remaining: charge.limit().map_or(0, crate::limit::Limit::burst),
            wait_us: 0,
        };
        Ok(ChargeResult {
            admitted,
            outcomes: outcomes
                .map(|(outcome, charge)| outcome.unwrap_or_else(|| unknown(charge)))
                .collect(),
            shared: charging.shared,
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// A batch on its way through the cluster.
struct Charging<'a> {
    nodes: &'a Arc<Nodes>,
    batch: &'a Batch,
    since: Instant,
    deadline: Instant,
    /// What is known of each charge.
    outcomes: Vec<Option<Outcome>>,
    budgets: &'a Budgets,
    /// The places of the charges that were made to overflow counters.
    shared: Vec<usize>,
}

impl<'a> Charging<'a> {
    /// Charges a part. `denied`: an earlier part denies the request, or has no answer, so nothing
    /// is charged.
    async fn part(
        &mut self,
        part: &Part,
        denied: bool,
        charged: &mut GiveBack<'a>,
    ) -> Result<(), StoreError> {
        let mode = if denied {
            Mode::Peek
        } else {
            Mode::ChargePart { new: false }
        };
        let mut reply = self.call(part.slot, &part.places, mode).await;
        if let Ok(ScriptReply {
            asks_for_new: true,
            now_us,
            ..
        }) = reply
        {
            if !self.may_be_new(part, now_us) {
                return self.overflow(part, charged).await;
            }
            let mode = Mode::ChargePart { new: true };
            reply = self.call(part.slot, &part.places, mode).await;
        }
        match reply {
            Ok(reply) => {
                let now_us = reply.now_us;
                self.note(&part.places, reply)?;
                if !denied && part.is_enforced && !self.is_denied(&part.places, ENFORCED) {
                    charged.add(part.slot, &part.places, now_us);
                }
                Ok(())
            }
            Err(Undecided::Redirected(_)) if part.places.len() > 1 => {
                self.one_by_one(part, denied, charged).await
            }
            Err(Undecided::Redirected(redirect)) => Err(in_circles(&redirect)),
            Err(Undecided::Failed(error)) => Err(error),
        }
    }

    /// Whether a client that has no counter of a part's rule may get some: each tollgate keeps the
    /// budget of a cluster for itself, and counts clients.
    fn may_be_new(&self, part: &Part, now_us: u64) -> bool {
        let mut charges = part
            .places
            .iter()
            .map(|&place| &self.batch.charges()[place]);
        let budgeted = charges.find(|charge| charge.max_new_keys > 0);
        budgeted.is_none_or(|charge| {
            let rule = rule_of(self.batch.key(charge));
            self.budgets.spend(rule, charge.max_new_keys, now_us)
        })
    }

    /// Charges the overflow counters of a part's rule, each where its slot is. They keep what was
    /// charged if a later limit denies. Nobody is banned for what others do.
    async fn overflow(
        &mut self,
        part: &Part,
        charged: &mut GiveBack<'a>,
    ) -> Result<(), StoreError> {
        for &place in &part.places {
            let charge = &self.batch.charges()[place];
            let Counted::Limit(limit) = charge.counted else {
                continue;
            };
            let mode = if self.is_denied(&part.places, charge.group) {
                Mode::Peek
            } else {
                Mode::ChargePart { new: true }
            };
            let reply = if charge.max_new_keys == 0 {
                self.call(part.slot, &[place], mode).await
            } else {
                let key = overflow(self.batch.key(charge));
                let mut shared = Batch::default();
                shared.push(limit, charge.cost, charge.group, |out| out.push_str(&key));
                self.shared.push(place);
                send(self.nodes, slot_of(&key), self.deadline, |asking| Call {
                    cmd: script::call(&shared, shared.charges().iter(), mode),
                    charges: 1,
                    key: &key,
                    asking,
                    since: self.since,
                })
                .await
            };
            let reply = reply.map_err(|undecided| match undecided {
                Undecided::Failed(error) => error,
                Undecided::Redirected(redirect) => in_circles(&redirect),
            })?;
            let now_us = reply.now_us;
            self.note(&[place], reply)?;
            let is_own = charge.max_new_keys == 0 && mode != Mode::Peek;
            if is_own && part.is_enforced && !self.is_denied(&[place], charge.group) {
                charged.add(part.slot, &[place], now_us);
            }
        }
        Ok(())
    }

    /// Charges a part key by key, because they are on two nodes while their slot is being moved.
    async fn one_by_one(
        &mut self,
        part: &Part,
        denied: bool,
        charged: &mut GiveBack<'a>,
    ) -> Result<(), StoreError> {
        let batch = self.batch;
        let mut shadows = GiveBack::new(self.nodes, batch);
        for &place in &part.places {
            let charge = &batch.charges()[place];
            let mode = match charge.counted {
                Counted::Ban { span, .. } => Mode::Ban {
                    denied: self.outcomes[place - span..place]
                        .iter()
                        .flatten()
                        .any(|outcome| !outcome.allowed),
                },
                Counted::Limit(_) if denied || self.is_denied(&part.places, charge.group) => {
                    Mode::Peek
                }
                Counted::Limit(_) => Mode::ChargePart { new: true },
            };
            let reply = match self.call(part.slot, &[place], mode).await {
                Ok(reply) => reply,
                Err(Undecided::Failed(error)) => return Err(error),
                Err(Undecided::Redirected(redirect)) => {
                    return Err(in_circles(&redirect));
                }
            };
            let now_us = reply.now_us;
            self.note(&[place], reply)?;
            if mode == (Mode::ChargePart { new: true }) && !self.is_denied(&[place], charge.group) {
                let owed = if part.is_enforced {
                    &mut *charged
                } else {
                    &mut shadows
                };
                owed.add(part.slot, &[place], now_us);
            }
        }
        // Each shadow rule is all or nothing for itself.
        shadows.keep_unless(|place| self.is_denied(&part.places, batch.charges()[place].group));
        Ok(())
    }

    /// Calls the script for some charges, wherever their slot is.
    async fn call(
        &self,
        slot: u16,
        places: &[usize],
        mode: Mode,
    ) -> Result<ScriptReply, Undecided> {
        let charges = places.iter().map(|&place| &self.batch.charges()[place]);
        let key = charges
            .clone()
            .next()
            .map_or("", |charge| self.batch.key(charge));
        send(self.nodes, slot, self.deadline, |asking| Call {
            cmd: script::call(self.batch, charges.clone(), mode),
            charges: places.len(),
            key,
            asking,
            since: self.since,
        })
        .await
    }

    fn note(&mut self, places: &[usize], reply: ScriptReply) -> Result<(), StoreError> {
        let outcomes = reply.verdict?.outcomes;
        for (&place, outcome) in places.iter().zip(outcomes) {
            self.outcomes[place] = Some(outcome);
        }
        Ok(())
    }

    /// Whether one of these charges denies for its group.
    fn is_denied(&self, places: &[usize], group: u32) -> bool {
        places.iter().any(|&place| {
            self.batch.charges()[place].group == group
                && self.outcomes[place].is_some_and(|outcome| !outcome.allowed)
        })
    }
}

fn in_circles(redirect: &Redirect) -> StoreError {
    StoreError::Refused(format!("the cluster redirects in circles: {redirect:?}"))
}
