//! Charges that are made ahead of the requests that will use them.

use std::pin::Pin;

use tokio::time::Instant;

use super::{Answer, Batch, GivingBack, StoreError};
use crate::limit::Limit;

/// A store that can be charged ahead, because asking it takes time.
///
/// Batches must have nothing but enforced limits: what others count depends on each request.
pub trait Ahead: Send + Sync {
    /// Decides about up to `times` equal requests, and charges those that fit: at least as many as
    /// the first of them alone would be, and no more than fit one after the other. What cannot be
    /// charged ahead is charged once.
    fn charge_ahead<'a>(
        &'a self,
        batch: &'a Batch,
        times: u32,
        deadline: Instant,
    ) -> ChargingAhead<'a>;

    /// How many replicas of tollgate share the store. Before that is known, nothing can be charged
    /// ahead: it is a share of each limit.
    fn replicas(&self) -> Option<u64>;

    /// Gives back what was charged ahead and is not used. The store then admits no more than if it
    /// had never been charged.
    fn give_back(&self, batch: &Batch, unused: &Unused) -> Vec<GivingBack>;
}

/// The pending result of [`Ahead::charge_ahead`].
pub type ChargingAhead<'a> =
    Pin<Box<dyn Future<Output = Result<ChargedAhead, StoreError>> + Send + 'a>>;

/// What was charged ahead.
#[derive(Debug)]
pub struct ChargedAhead {
    /// The answer to the last request that is admitted; if none is, to the first.
    pub answer: Answer,
    /// How many are admitted.
    pub granted: u32,
    /// When, in microseconds on the store's clock.
    pub charged_us: u64,
}

impl ChargedAhead {
    /// A batch that was charged at most once.
    pub(super) fn once(answer: Answer) -> Self {
        Self {
            granted: u32::from(answer.result.admitted),
            charged_us: 0,
            answer,
        }
    }
}

/// Charges that were made ahead, and are not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// How many equal ones.
    pub copies: u32,
    /// When they were made: [`ChargedAhead::charged_us`].
    pub charged_us: u64,
    /// What was left of each limit after all of them; empty if that is not known.
    pub remaining: Vec<u64>,
}

impl Unused {
    /// The charges to one of the limits.
    pub(super) fn at(&self, place: usize) -> Self {
        Self {
            remaining: self.remaining.get(place).copied().into_iter().collect(),
            ..*self
        }
    }

    /// How much of the limit at `place` was used at least before these charges, each of `cost`.
    pub fn used_before(&self, place: usize, limit: &Limit, cost: u64) -> u64 {
        let remaining = self.remaining.get(place).copied().unwrap_or(u64::MAX);
        let own = u64::from(self.copies).saturating_mul(cost);
        limit.burst().saturating_sub(remaining).saturating_sub(own)
    }
}
