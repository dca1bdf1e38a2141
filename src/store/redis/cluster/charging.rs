//! A batch on its way through a cluster, part by part.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    super::{
        job::Work,
        node::Call,
        redirect::{Redirect, Undecided},
        replies::ScriptReply,
        script::{Check, Mode},
    },
    give_back::GiveBack,
    map::Nodes,
    send::send,
    slots::slot_of,
    split::Part,
};
use crate::{
    counter_key::{overflow, rule_of},
    limit::{Limit, Outcome},
    store::{Batch, ChargeResult, Counted, StoreError, Unsettled, budgets::Budgets},
};

/// A batch on its way through the cluster. What was charged is given back when this is dropped,
/// also because nobody waits for the answer any more; unless it is kept.
pub(super) struct Charging<'a> {
    nodes: &'a Arc<Nodes>,
    budgets: &'a Budgets,
    batch: &'a Batch,
    /// How many parts share the time of the check.
    parts: u32,
    /// When the part that is being charged must have an answer.
    deadline: Instant,
    /// What is known of each charge.
    outcomes: Vec<Option<Outcome>>,
    /// The places of the charges that were made to overflow counters.
    shared: Vec<usize>,
    charged: GiveBack<'a>,
}

/// Which counters of a client are charged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counters {
    /// Its own.
    Own,
    /// Those that it shares, because there may be no more of its own.
    Shared,
}

impl<'a> Charging<'a> {
    pub(super) fn new(
        nodes: &'a Arc<Nodes>,
        budgets: &'a Budgets,
        batch: &'a Batch,
        parts: usize,
    ) -> Self {
        Self {
            nodes,
            budgets,
            batch,
            parts: u32::try_from(parts).unwrap_or(u32::MAX),
            deadline: Instant::now(),
            outcomes: vec![None; batch.charges().len()],
            shared: Vec::new(),
            charged: GiveBack::new(nodes, batch),
        }
    }

    /// Charges a part, by `deadline`. If an earlier part `denied` the request, nothing is charged.
    pub(super) async fn part(
        &mut self,
        part: &Part,
        denied: bool,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        self.deadline = deadline;
        let decided = self.decide(part, denied).await;
        if decided.is_err() {
            drop(self.charged.take(|place| part.places.contains(&place)));
        } else if !part.is_enforced {
            // Each shadow rule is all or nothing for itself.
            let (batch, outcomes) = (self.batch, &self.outcomes);
            let is_denied = |place: usize| {
                let group = batch.charges()[place].group;
                part.places.contains(&place) && denies(batch, outcomes, &part.places, group)
            };
            drop(self.charged.take(is_denied));
        }
        decided
    }

    async fn decide(&mut self, part: &Part, denied: bool) -> Result<(), StoreError> {
        let mode = if denied {
            Mode::Peek
        } else {
            Mode::ChargePart { new: false }
        };
        let mut reply = self.call(part, mode, 1).await;
        if let Ok(ScriptReply {
            asks_for_new: true,
            now_us,
            ..
        }) = reply
        {
            if !self.may_be_new(part, now_us) {
                return self.one_by_one(part, denied, Counters::Shared).await;
            }
            reply = self.call(part, Mode::ChargePart { new: true }, 1).await;
        }
        match reply {
            Ok(reply) => {
                let now_us = reply.now_us;
                self.note(&part.places, reply)?;
                // Nothing follows a single part that could make it be given back.
                if !denied && self.parts > 1 {
                    for &place in &part.places {
                        if !self.is_denied(&part.places, self.batch.charges()[place].group) {
                            self.charged.add(place, None, now_us);
                        }
                    }
                }
                Ok(())
            }
            // They are on two nodes while their slot is being moved.
            Err(Undecided::Redirected(_)) if part.places.len() > 1 => {
                self.one_by_one(part, denied, Counters::Own).await
            }
            Err(undecided) => Err(failure(undecided)),
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

    /// Charges a part key by key, each where its slot is.
    async fn one_by_one(
        &mut self,
        part: &Part,
        denied: bool,
        counters: Counters,
    ) -> Result<(), StoreError> {
        for &place in &part.places {
            let charge = &self.batch.charges()[place];
            let mode = match charge.counted {
                // Nobody is banned for what others do.
                Counted::Ban { .. } if counters == Counters::Shared => continue,
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
            let shared = (counters == Counters::Shared && charge.max_new_keys > 0)
                .then(|| overflow(self.batch.key(charge)));
            let reply = self.call_one(place, shared.as_deref(), mode).await?;
            if shared.is_some() {
                self.shared.push(place);
            }
            let now_us = reply.now_us;
            self.note(&[place], reply)?;
            if mode == (Mode::ChargePart { new: true }) && !self.is_denied(&[place], charge.group) {
                self.charged.add(place, shared, now_us);
            }
        }
        Ok(())
    }

    /// Charges the only part up to `times`, by `deadline`, unless a counter is new.
    pub(super) async fn ahead(
        mut self,
        part: &Part,
        times: u32,
        deadline: Instant,
    ) -> Result<ScriptReply, Undecided> {
        self.deadline = deadline;
        self.call(part, Mode::ChargePart { new: false }, times)
            .await
    }

    /// Calls the script for all charges of a part, so many times.
    async fn call(&self, part: &Part, mode: Mode, times: u32) -> Result<ScriptReply, Undecided> {
        let charges = part
            .places
            .iter()
            .map(|&place| &self.batch.charges()[place]);
        let first = charges.clone().next();
        send(self.nodes, part.slot, self.deadline, |slot, asking| Call {
            work: Work::Check(Check::new(self.batch, charges.clone(), mode), times),
            key: first.map_or("", |charge| self.batch.key(charge)),
            slot,
            asking,
            parts: self.parts,
        })
        .await
    }

    /// Calls the script for one charge, of the overflow counter `shared` if that is given.
    async fn call_one(
        &self,
        place: usize,
        shared: Option<&str>,
        mode: Mode,
    ) -> Result<ScriptReply, StoreError> {
        let charge = &self.batch.charges()[place];
        let key = shared.unwrap_or(self.batch.key(charge));
        let alone = Batch::alone(charge, key);
        let called = send(self.nodes, slot_of(key), self.deadline, |slot, asking| {
            Call {
                work: Work::Check(Check::new(&alone, alone.charges().iter(), mode), 1),
                key,
                slot,
                asking,
                parts: self.parts,
            }
        });
        called.await.map_err(failure)
    }

    fn note(&mut self, places: &[usize], reply: ScriptReply) -> Result<(), StoreError> {
        let outcomes = reply.verdict?.outcomes;
        for (&place, outcome) in places.iter().zip(outcomes) {
            self.outcomes[place] = Some(outcome);
        }
        Ok(())
    }

    /// Whether one of these charges denies for its group.
    pub(super) fn is_denied(&self, places: &[usize], group: u32) -> bool {
        denies(self.batch, &self.outcomes, places, group)
    }

    /// Keeps what was charged.
    pub(super) fn keep(&mut self) {
        self.charged.keep();
    }

    /// Hands over what was charged.
    pub(super) fn unsettled(&mut self) -> Unsettled {
        self.charged.take(|_| true)
    }

    /// What is known of all charges.
    pub(super) fn result(&mut self, admitted: bool) -> ChargeResult {
        let outcomes = self.outcomes.iter().zip(self.batch.charges());
        let outcomes = outcomes.map(|(outcome, charge)| {
            outcome.unwrap_or(Outcome {
                allowed: true,
                remaining: charge.limit().map_or(0, Limit::burst),
                wait_us: 0,
            })
        });
        ChargeResult {
            admitted,
            outcomes: outcomes.collect(),
            shared: std::mem::take(&mut self.shared),
        }
    }
}

/// Whether one of these charges denies for its group.
fn denies(batch: &Batch, outcomes: &[Option<Outcome>], places: &[usize], group: u32) -> bool {
    places.iter().any(|&place| {
        batch.charges()[place].group == group
            && outcomes[place].is_some_and(|outcome| !outcome.allowed)
    })
}

fn failure(undecided: Undecided) -> StoreError {
    match undecided {
        Undecided::Failed(error) => error,
        Undecided::Redirected(redirect) => in_circles(&redirect),
    }
}

fn in_circles(redirect: &Redirect) -> StoreError {
    StoreError::Refused(format!("the cluster redirects in circles: {redirect:?}"))
}
