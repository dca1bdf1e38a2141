//! What a store says about a batch, or why it says nothing.

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
