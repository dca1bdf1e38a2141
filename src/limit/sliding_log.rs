//! `sliding_log`: N in any window, exactly. Every admitted request is remembered for one window.
//!
//! The plain "sliding window log" (Google Cloud, "Rate-limiting strategies and techniques"; Figma,
//! "An alternative approach to rate limiting"). It has none of the worst cases of the counting
//! algorithms, at a price: the stored state grows with N, by about 20 bytes per request in Redis
//! and 16 in memory. So N is at most [`MAX_LOG`](super::MAX_LOG). Use it for small limits that must
//! be exact: password attempts, messages sent, money moved.
//!
//! A request counts from its own instant until one window later, exclusively: no half-open span of
//! one window holds more than N.

use super::{
    outcome::{Outcome, Step},
    spec::Limit,
};

/// An admitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// When, in microseconds since the epoch.
    pub at_us: u64,
    /// Its cost.
    pub cost: u64,
}

/// The requests admitted within the last window.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// The sum of the costs of all entries.
    pub total: u64,
    /// From the oldest to the newest.
    pub entries: Vec<Entry>,
}

impl State {
    /// The time of the newest entry; 0 if there is none.
    pub fn last_us(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.at_us)
    }
}

pub(super) fn step(limit: &Limit, state: Option<State>, now_us: u64, cost: u64) -> Step<State> {
    let window = limit.window_us();
    let mut state = current(state.unwrap_or_default(), now_us, window);
    let allowed = state.total + cost <= limit.amount();
    if allowed && cost > 0 {
        state.total += cost;
        state.entries.reserve_exact(1);
        state.entries.push(Entry {
            at_us: now_us,
            cost,
        });
    }
    // How much must leave: anything at all, so that more is left; or as much as is in the way of
    // this request.
    let excess = if allowed {
        1
    } else {
        state.total + cost - limit.amount()
    };
    let wait_us = if cost > limit.amount() {
        window
    } else {
        leaves(&state.entries, excess).map_or(0, |at| at + window - now_us)
    };
    Step {
        expires_us: state.last_us() + window,
        outcome: Outcome {
            allowed,
            remaining: limit.amount().saturating_sub(state.total),
            wait_us,
        },
        state,
    }
}

/// The state at `now_us`: entries that are one window old have left, and if the clock went back, no
/// entry lies in the future.
fn current(mut state: State, now_us: u64, window: u64) -> State {
    if state.last_us() > now_us {
        for entry in &mut state.entries {
            entry.at_us = entry.at_us.min(now_us);
        }
    }
    let left = state
        .entries
        .partition_point(|entry| entry.at_us + window <= now_us);
    for entry in state.entries.drain(..left) {
        state.total -= entry.cost;
    }
    state
}

/// The time of the entry with which, counted from the oldest, at least `amount` has left; `None` if
/// the log holds less.
fn leaves(entries: &[Entry], amount: u64) -> Option<u64> {
    let mut sum = 0;
    let entry = entries.iter().find(|entry| {
        sum += entry.cost;
        sum >= amount
    })?;
    Some(entry.at_us)
}
