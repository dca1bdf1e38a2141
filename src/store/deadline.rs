//! The deadline of a check, and how long the store takes.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    Ahead, Answer, Batch, ChargedAhead, Charging, Edit, Store, StoreError,
    read::{Read, Reads},
};
use crate::metrics::Metrics;

/// A store that answers before the deadline or not at all.
pub struct Guarded {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl Guarded {
    /// Guards `store`, and measures it.
    pub fn new(store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics }
    }

    /// The store's name: `memory` or `redis`.
    pub fn name(&self) -> &'static str {
        self.store.name()
    }

    /// Like [`Store::replicas`].
    pub fn replicas(&self) -> u64 {
        self.store.replicas()
    }

    /// Like [`Store::now_us`].
    pub fn now_us(&self) -> u64 {
        self.store.now_us()
    }

    /// Like [`Store::clock_is_in_doubt`].
    pub fn clock_is_in_doubt(&self, now: Instant) -> bool {
        self.store.clock_is_in_doubt(now)
    }

    /// Like [`Store::edit`].
    pub fn edit(&self) -> Option<&dyn Edit> {
        self.store.edit()
    }

    /// Like [`Store::charge`], but never later than `deadline`.
    pub async fn charge(&self, batch: &Batch, deadline: Instant) -> Result<Answer, StoreError> {
        let result = match self.store.charge(batch, deadline) {
            // Nobody waits for it.
            Charging::Known(result) => result.into_inner(),
            Charging::Timely(charging) => self.measured(charging).await,
            Charging::Awaited(charging) => self.waited(charging, deadline).await,
        };
        self.note(result.as_ref());
        result
    }

    /// Like [`Store::ahead`], whose `charge_ahead` is [that of the guard](Self::charge_ahead).
    pub fn ahead(&self) -> Option<&dyn Ahead> {
        self.store.ahead()
    }

    /// Like [`Ahead::charge_ahead`], but never later than `deadline`. A store without it charges
    /// once.
    pub async fn charge_ahead(
        &self,
        batch: &Batch,
        times: u32,
        deadline: Instant,
    ) -> Result<ChargedAhead, StoreError> {
        let Some(ahead) = self.store.ahead() else {
            return self.charge(batch, deadline).await.map(ChargedAhead::once);
        };
        let charging = ahead.charge_ahead(batch, times, deadline);
        let result = self.waited(charging, deadline).await;
        self.note(result.as_ref().map(|charged| &charged.answer));
        result
    }

    /// Waits for a result until `deadline`, and measures it.
    async fn waited<T>(
        &self,
        charging: impl Future<Output = Result<T, StoreError>>,
        deadline: Instant,
    ) -> Result<T, StoreError> {
        let result = self.measured(timeout_at(deadline, charging)).await;
        result.unwrap_or(Err(StoreError::Deadline))
    }

    /// Measures how long a result takes.
    async fn measured<T>(&self, charging: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let result = charging.await;
        self.metrics.store_took(started.elapsed());
        result
    }

    /// Counts a failure.
    fn note(&self, result: Result<&Answer, &StoreError>) {
        let failure = match result {
            Ok(answer) => answer.lost.first().map(|lost| &lost.error),
            Err(error) => Some(error),
        };
        if let Some(error) = failure {
            self.metrics.store_failed(error.kind());
        }
    }
}

/// Without a deadline: no proxy waits for a reader.
impl Read for Guarded {
    fn read<'a>(&'a self, batch: &'a Batch) -> Reads<'a> {
        self.store.read(batch)
    }
}

/// The time that a check may take: our own deadline, or less if the proxy waits less.
///
/// A client whose proxy forwards all its headers can set the proxy's budget itself, and a deadline
/// that no store can meet would free it from the shared counters. So the budget never goes below
/// [`MIN_BUDGET`].
pub fn budget(own: Duration, proxy_waits: Option<Duration>) -> Duration {
    match proxy_waits {
        Some(waits) => own.min(waits.saturating_sub(PROXY_MARGIN).max(MIN_BUDGET)),
        None => own,
    }
}

/// The time that a response needs to get back to the proxy.
pub const PROXY_MARGIN: Duration = Duration::from_millis(5);
/// The shortest deadline that a header can cause.
pub const MIN_BUDGET: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_both_deadlines_counts() {
        let ms = Duration::from_millis;
        assert_eq!(budget(ms(50), None), ms(50));
        assert_eq!(budget(ms(50), Some(ms(250))), ms(50));
        assert_eq!(budget(ms(50), Some(ms(25))), ms(20));
    }

    #[test]
    fn a_client_cannot_make_the_deadline_impossible() {
        let ms = Duration::from_millis;
        assert_eq!(budget(ms(50), Some(ms(1))), MIN_BUDGET);
        assert_eq!(budget(ms(5), Some(ms(1))), ms(5));
    }
}
