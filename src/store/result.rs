//! A store's answer to a batch, or why there is none.

use super::unsettled::Unsettled;
use crate::{limit::Outcome, metrics::StoreFailure};

/// A store's answer to a batch.
///
/// A store of several nodes can have lost some of them. Then it has decided about the others, and
/// whoever asked decides about the rest.
#[derive(Debug)]
pub struct Answer {
    /// What was decided. The outcomes of what is lost mean nothing.
    pub result: ChargeResult,
    /// What was not decided.
    pub lost: Vec<Lost>,
    /// If the request is admitted as far as is known, and something is lost: what was charged. It
    /// is given back unless it is kept.
    pub unsettled: Unsettled,
}

/// Charges about which the store has not decided, all of one or several rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Their places in the batch.
    pub places: Vec<usize>,
    /// Why.
    pub error: StoreError,
}

impl From<ChargeResult> for Answer {
    fn from(result: ChargeResult) -> Self {
        Self {
            result,
            lost: Vec::new(),
            unsettled: Unsettled::default(),
        }
    }
}

/// What a store decided about a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeResult {
    /// Whether every enforced limit fits that the store could ask about; if not, nothing was
    /// charged.
    pub admitted: bool,
    /// One answer for each charge. If the request was not admitted, only those that do not fit mean
    /// anything.
    pub outcomes: Vec<Outcome>,
    /// The places of the charges that were made to their rule's overflow counter, because the
    /// client had no counter, and there may be no more.
    pub shared: Vec<usize>,
}

/// Why a store did not decide.
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
    /// The store's answer makes no sense.
    #[error("{0}")]
    Malformed(String),
    /// Too many checks are waiting for the store; nothing was charged.
    #[error("too many checks are waiting for the store")]
    Overloaded,
    /// The store's time lies outside the edges of a calendar window; nothing was charged. The store
    /// knows its time better now: with the edges around [`Store::now_us`](super::Store::now_us) it
    /// will decide.
    #[error(
        "the store's clock shows a time outside of the calendar windows that it was given, and nothing was charged: \
         it was set, or differs from ours"
    )]
    Clock,
}

impl StoreError {
    /// The label for metrics and logs.
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

    /// Turns this error into the reason why there is no connection.
    #[must_use]
    pub fn into_unavailable(self) -> Self {
        match self {
            Self::Unavailable(_) => self,
            other => Self::Unavailable(other.to_string()),
        }
    }
}
