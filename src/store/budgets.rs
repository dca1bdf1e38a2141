//! Budgets of new counters that are kept in this process, by rule. See
//! [`limit::new_keys`](crate::limit::new_keys).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::limit::{State, new_keys::budget};

/// What each rule has spent of its budget, and when that is forgotten.
#[derive(Default)]
pub(super) struct Budgets(Mutex<HashMap<Box<str>, (State, u64)>>);

impl Budgets {
    /// Whether `rule` may have another new counter, beside `spent` that are not noted yet.
    pub(super) fn allow(&self, rule: &str, max_new_keys: u32, spent: u64, now_us: u64) -> bool {
        budget(max_new_keys).is_none_or(|budget| {
            let state = self.lock().get(rule).map(|(state, _)| state.clone());
            budget.step(state, now_us, spent + 1).outcome.allowed
        })
    }

    /// Takes one from the budget of `rule`, if there is one left; returns whether there was.
    pub(super) fn spend(&self, rule: &str, max_new_keys: u32, now_us: u64) -> bool {
        let Some(budget) = budget(max_new_keys) else {
            return true;
        };
        let mut budgets = self.lock();
        let spent = budgets.get(rule).map(|(state, _)| state.clone());
        let step = budget.step(spent, now_us, 1);
        budgets.insert(rule.into(), (step.state, step.expires_us));
        step.outcome.allowed
    }

    /// Forgets those of which nothing is spent any more.
    pub(super) fn sweep(&self, now_us: u64) {
        self.lock()
            .retain(|_, (_, expires_us)| *expires_us > now_us);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, (State, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
