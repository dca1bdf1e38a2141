//! Where consumption is kept: one trait, a store in memory and one in Redis.
//!
//! # The promise
//!
//! [`Store::charge`] decides about a whole request at once. Either every enforced limit of the [`Batch`] fits and all of
//! them are charged, or nothing is charged anywhere. Only a [`Ban`] is noted in any case: it counts denials. Concurrent calls, from however many replicas share the store,
//! behave as if they came one after the other. An error means that the store's answer is not known; the charge may have
//! been made. The store's own clock decides about time.

pub mod guard;
pub mod memory;
pub mod reading;
pub mod redis;

use std::{future::Future, ops::Range, pin::Pin};

use tokio::time::Instant;

use self::reading::Read;
use crate::{
    limit::{Limit, Outcome, ban::Ban},
    metrics::StoreFailure,
};

/// The group of charges that can deny a request. Every other group is one rule in shadow mode.
pub const ENFORCED: u32 = 0;

/// What a charge counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Admitted requests, against a limit.
    Limit(Limit),
    /// Denied requests, for a ban.
    Ban {
        /// The ban.
        ban: Ban,
        /// How many of the charges right before this one are its rule's limits: it counts when one of them does not fit.
        span: usize,
    },
}

/// How the key of a ban ends; other keys do not.
pub const BAN_SUFFIX: &str = ":ban";
/// How the key of a ban ends that denies nobody, because its rule is in shadow mode.
pub const SHADOW_BAN_SUFFIX: &str = ":shadow_ban";

/// One limit to be charged for one caller, or one ban to be heeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    key: Range<usize>,
    /// The limit, or the ban.
    pub counted: Counted,
    /// How much, at least 1. Nothing to a ban.
    pub cost: u64,
    /// [`ENFORCED`], or a number of its own for each shadow rule.
    pub group: u32,
}

/// Everything that one request has to satisfy. The keys share one buffer.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    keys: String,
    charges: Vec<Charge>,
}

impl Charge {
    /// The limit, if it is one.
    pub const fn limit(&self) -> Option<&Limit> {
        match &self.counted {
            Counted::Limit(limit) => Some(limit),
            Counted::Ban { .. } => None,
        }
    }
}

impl Batch {
    /// Adds a charge; `write_key` appends its key, which must differ from all others of the batch.
    pub fn push(
        &mut self,
        limit: Limit,
        cost: u64,
        group: u32,
        write_key: impl FnOnce(&mut String),
    ) {
        self.add(Counted::Limit(limit), cost, group, write_key);
    }

    /// Adds a ban, right after the charges of its rule: it covers the `span` charges before it. `write_key` appends its
    /// key, which ends with [`BAN_SUFFIX`] or [`SHADOW_BAN_SUFFIX`].
    pub fn push_ban(
        &mut self,
        ban: Ban,
        span: usize,
        group: u32,
        write_key: impl FnOnce(&mut String),
    ) {
        let span = span.min(self.charges.len());
        self.add(Counted::Ban { ban, span }, 1, group, write_key);
    }

    fn add(
        &mut self,
        counted: Counted,
        cost: u64,
        group: u32,
        write_key: impl FnOnce(&mut String),
    ) {
        let start = self.keys.len();
        write_key(&mut self.keys);
        self.charges.push(Charge {
            key: start..self.keys.len(),
            counted,
            cost,
            group,
        });
    }

    /// The charges, in the order in which they were added.
    pub fn charges(&self) -> &[Charge] {
        &self.charges
    }

    /// The key of one of this batch's charges.
    pub fn key(&self, charge: &Charge) -> &str {
        &self.keys[charge.key.clone()]
    }

    /// Whether there is nothing to charge.
    pub fn is_empty(&self) -> bool {
        self.charges.is_empty()
    }
}

/// What the store said about a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
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
pub type Charging<'a> = Pin<Box<dyn Future<Output = Result<Verdict, StoreError>> + Send + 'a>>;

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
