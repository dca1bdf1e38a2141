//! Where consumption is kept: one trait, a store in memory and one in Redis.
//!
//! # The promise
//!
//! [`Store::charge`] decides about a whole request at once. Either every enforced limit of the [`Batch`] fits and all of
//! them are charged, or nothing is charged anywhere. Only a [ban](crate::limit::ban) is noted in any case: it counts denials. Concurrent calls, from however many replicas share the store,
//! behave as if they came one after the other. An error means that the store's answer is not known; the charge may have
//! been made. The store's own clock decides about time.

mod batch;
pub mod deadline;
pub mod memory;
pub mod read;
pub mod redis;

use std::pin::Pin;

use tokio::time::Instant;

pub use self::batch::{Batch, Charge, Counted, ENFORCED};
use self::read::Read;
use crate::{limit::Outcome, metrics::StoreFailure};

/// What the store said about a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeResult {
    /// Whether every enforced limit fits; if not, nothing was charged.
    pub admitted: bool,
    /// One answer for each charge. When the request was not admitted, only those that do not fit mean anything.
    pub outcomes: Vec<Outcome>,
}

/// Why a store gave no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No connection; nothing was charged.
    #[error("not connected: {0}")]
    Unavailable(String),
    /// No answer in time.
    #[error("no answer before the deadline")]
    Deadline,
    /// The connection broke while an answer was awaited.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The store answered with an error.
    #[error("{0}")]
    Refused(String),
    /// The store answered something that is not a verdict.
    #[error("{0}")]
    Malformed(String),
    /// Too many checks wait for the store already; nothing was charged.
    #[error("too many checks wait for the store")]
    Overloaded,
    /// The store's time lies outside the edges of a window of the calendar; nothing was charged. The store knows its time better
    /// now: with the edges around [`Store::now_us`] it will decide.
    #[error(
        "the store's clock shows a time outside of the calendar windows that it was given, and nothing was charged: \
         it was set, or differs from ours"
    )]
    Clock,
}

impl StoreError {
    /// The word for metrics and logs.
    pub const fn kind(&self) -> StoreFailure {
        match self {
            Self::Unavailable(_) => StoreFailure::Unavailable,
            Self::Deadline => StoreFailure::Deadline,
            Self::Broken(_) => StoreFailure::Broken,
            Self::Refused(_) => StoreFailure::Refused,
            Self::Malformed(_) => StoreFailure::Malformed,
            Self::Overloaded => StoreFailure::Overloaded,
            Self::Clock => StoreFailure::Clock,
        }
    }

    /// That there is no connection, because of this error.
    #[must_use]
    pub fn into_unavailable(self) -> Self {
        match self {
            Self::Unavailable(_) => self,
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// The answer of [`Store::charge`], some time.
pub type Charging<'a> = Pin<Box<dyn Future<Output = Result<ChargeResult, StoreError>> + Send + 'a>>;

/// Keeps consumption. See the module for what must hold.
pub trait Store: Read {
    /// Decides about the batch and charges it. Past `deadline` nobody waits for the answer: a store that has not begun
    /// by then must not charge.
    fn charge<'a>(&'a self, batch: &'a Batch, deadline: Instant) -> Charging<'a>;

    /// The store's clock as well as it is known here, in microseconds since the epoch.
    fn now_us(&self) -> u64;

    /// "memory" or "redis".
    fn name(&self) -> &'static str;
}
