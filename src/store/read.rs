//! Counters read without charging them, for explanations.

use std::{future::Future, pin::Pin};

use super::{
    batch::{Batch, Charge, Counted, ENFORCED},
    result::{ChargeResult, StoreError},
};
use crate::limit::{Outcome, State};

/// What is stored for each charge of a batch, and when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The store's time, in microseconds since the Unix epoch.
    pub now_us: u64,
    /// One state for each charge of the batch.
    pub states: Vec<Option<State>>,
    /// The places of those whose state is that of the rule's overflow counter, because the client
    /// has none and would get none.
    pub shared: Vec<usize>,
}

/// Counters that can be read. Not for checks: it may take its time, and has no deadline.
pub trait Read: Send + Sync {
    /// Reads what is stored for the batch; charges nothing.
    fn read<'a>(&'a self, batch: &'a Batch) -> Reads<'a>;
}

/// Counters that no request has used yet.
#[derive(Debug, Clone, Copy)]
pub struct Untouched {
    /// The time, in microseconds since the Unix epoch.
    pub now_us: u64,
}

impl Read for Untouched {
    fn read<'a>(&'a self, batch: &'a Batch) -> Reads<'a> {
        Box::pin(std::future::ready(Ok(Reading::nothing(batch, self.now_us))))
    }
}

/// The pending result of [`Read::read`].
pub type Reads<'a> = Pin<Box<dyn Future<Output = Result<Reading, StoreError>> + Send + 'a>>;

impl Reading {
    /// A reading of unused counters.
    pub fn nothing(batch: &Batch, now_us: u64) -> Self {
        Self {
            now_us,
            states: vec![None; batch.charges().len()],
            shared: Vec::new(),
        }
    }

    /// Whether the batch's calendar windows are those of the store's time.
    pub fn is_covered_by(&self, batch: &Batch) -> bool {
        let mut limits = batch.charges().iter().filter_map(Charge::limit);
        limits.all(|limit| limit.covers(self.now_us))
    }

    /// What the store would answer to the batch now.
    pub fn verdict(&self, batch: &Batch) -> ChargeResult {
        let mut admitted = true;
        let mut outcomes = Vec::with_capacity(self.states.len());
        for (charge, state) in batch.charges().iter().zip(&self.states) {
            let outcome = match charge.counted {
                Counted::Limit(limit) => {
                    let step = limit.step(state.clone(), self.now_us, charge.cost);
                    step.outcome
                }
                Counted::Ban { ban, span } => {
                    let state = match state {
                        Some(State::Ban(state)) => Some(*state),
                        _ => None,
                    };
                    let fits = outcomes[outcomes.len() - span..]
                        .iter()
                        .all(|outcome: &Outcome| outcome.allowed);
                    ban.step(state, self.now_us, fits).outcome
                }
            };
            admitted &= outcome.allowed || charge.group != ENFORCED;
            outcomes.push(outcome);
        }
        ChargeResult {
            admitted,
            outcomes,
            shared: Vec::new(),
        }
    }
}
