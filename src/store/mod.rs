//! Stores of counters: one trait, one store in memory and one in Redis.
//!
//! # The promise
//!
//! [`Store::charge`] decides about a whole request at once. Either every enforced limit of the
//! [`Batch`] fits and all of them are charged, or nothing is charged at all. Only a
//! [ban](crate::limit::ban) is always written: it counts denials. Concurrent calls, from however
//! many replicas share the store, behave as if they came one after the other. After an error the
//! store's answer is not known, and the charge may have been made. The store's own clock decides
//! about time.
//!
//! A Redis Cluster keeps this promise for each rule. Across rules, what was charged is given back
//! if the request is not admitted after all, and rules whose node is lost are [`Lost`] in an
//! [`Answer`] that holds for the others.

mod ahead;
mod batch;
mod budgets;
pub mod deadline;
mod edit;
pub mod memory;
mod packed;
pub mod read;
pub mod redis;
mod result;
mod unsettled;

use std::{
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::Instant;

use self::read::Read;
pub use self::{
    ahead::{Ahead, ChargedAhead, ChargingAhead, Unused},
    batch::{Batch, CANDIDATES, Charge, Counted, ENFORCED},
    edit::{Announced, Edit, Editing, Page, Place},
    result::{Answer, ChargeResult, Lost, StoreError},
    unsettled::{GivingBack, Unsettled},
};

/// The pending result of [`Store::charge`].
pub enum Charging<'a> {
    /// It is known already: what is in memory is not waited for, and needs no box.
    Known(Ready<Result<Answer, StoreError>>),
    /// It is waited for.
    Awaited(Pin<Box<dyn Future<Output = Result<Answer, StoreError>> + Send + 'a>>),
    /// It is waited for, and comes by the deadline: a second timer would be for nothing.
    Timely(Pin<Box<dyn Future<Output = Result<Answer, StoreError>> + Send + 'a>>),
}

impl<'a> Charging<'a> {
    /// A result that is known.
    pub fn known(result: Result<Answer, StoreError>) -> Self {
        Self::Known(ready(result))
    }

    /// A result to be waited for.
    pub fn awaited(charging: impl Future<Output = Result<Answer, StoreError>> + Send + 'a) -> Self {
        Self::Awaited(Box::pin(charging))
    }

    /// A result to be waited for, which comes by the deadline.
    pub fn timely(charging: impl Future<Output = Result<Answer, StoreError>> + Send + 'a) -> Self {
        Self::Timely(Box::pin(charging))
    }
}

impl Future for Charging<'_> {
    type Output = Result<Answer, StoreError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Known(known) => Pin::new(known).poll(cx),
            Self::Awaited(charging) | Self::Timely(charging) => charging.as_mut().poll(cx),
        }
    }
}

/// A store of counters. The module says what must hold.
pub trait Store: Read {
    /// Decides about the batch and charges it. An error means that nothing was decided.
    ///
    /// Past `deadline` the answer is no longer wanted: a store that has not begun by then must not
    /// charge.
    fn charge<'a>(&'a self, batch: &'a Batch, deadline: Instant) -> Charging<'a>;

    /// The store's clock as well as it is known here, in microseconds since the Unix epoch.
    fn now_us(&self) -> u64;

    /// Whether the store's clock was lately somewhere else than expected, so that what was learnt
    /// from it may not hold.
    fn clock_is_in_doubt(&self, _now: Instant) -> bool {
        false
    }

    /// How many replicas of tollgate share the store, as well as it is known here; at least 1.
    fn replicas(&self) -> u64 {
        1
    }

    /// How to charge ahead, if that makes sense: memory answers sooner than it could be spared.
    fn ahead(&self) -> Option<&dyn Ahead> {
        None
    }

    /// How to change counters by hand.
    fn edit(&self) -> Option<&dyn Edit> {
        None
    }

    /// The store's name: `memory` or `redis`.
    fn name(&self) -> &'static str;
}
