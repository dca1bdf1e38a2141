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
//!
//! A log of which more was [granted](super::Limit::grant) has one entry, whose cost is below zero.
//! Requests are taken from that, and are not remembered, until it is used up or one window old.

use super::{
    outcome::{Outcome, Step, left},
    spec::Limit,
};

/// An admitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// When, in microseconds since the epoch.
    pub at_us: u64,
    /// Its cost; below zero, what is left of a grant.
    pub cost: i64,
}

/// The requests admitted within the last window.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// The sum of the costs of all entries.
    pub total: i64,
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
    let (amount, signed_cost) = (limit.amount().cast_signed(), cost.cast_signed());
    let allowed = state.total + signed_cost <= amount;
    let granted_us = if state.total < 0 {
        state.last_us()
    } else {
        now_us
    };
    if allowed && cost > 0 {
        charge(&mut state, now_us, signed_cost);
    }
    // How much must leave: anything at all, so that more is left; or as much as is in the way of
    // this request.
    let excess = if allowed {
        1
    } else {
        state.total + signed_cost - amount
    };
    let wait_us = if !allowed && cost > limit.amount() {
        window
    } else if state.total < 0 || (state.total == 0 && cost > 0) {
        granted_us + window - now_us
    } else {
        leaves(&state.entries, excess).map_or(0, |at| at + window - now_us)
    };
    Step {
        expires_us: expires_us(&state, now_us, window),
        outcome: Outcome {
            allowed,
            remaining: left(limit.amount(), state.total),
            wait_us,
        },
        state,
    }
}

/// Remembers a request, or takes it from what was granted. What that does not pay begins the log.
fn charge(state: &mut State, now_us: u64, cost: i64) {
    let was_granted = state.total < 0;
    state.total += cost;
    if was_granted {
        state.entries.truncate(usize::from(state.total != 0));
        for entry in &mut state.entries {
            entry.cost = state.total;
            if state.total > 0 {
                entry.at_us = now_us;
            }
        }
    } else {
        state.entries.reserve_exact(1);
        state.entries.push(Entry {
            at_us: now_us,
            cost,
        });
    }
}

/// The state with `more` granted, and when it expires. What was used is taken back, the newest
/// first. Beyond that the log holds nothing but what was granted, for one window from now.
pub(super) fn grant(limit: &Limit, state: Option<State>, now_us: u64, more: i64) -> (State, u64) {
    let window = limit.window_us();
    let mut state = current(state.unwrap_or_default(), now_us, window);
    state.total -= more;
    if state.total < 0 {
        state.entries = vec![Entry {
            at_us: now_us,
            cost: state.total,
        }];
    }
    let mut left = more;
    while state.total >= 0
        && left > 0
        && let Some(newest) = state.entries.last_mut()
    {
        let taken = left.min(newest.cost);
        left -= taken;
        newest.cost -= taken;
        if newest.cost == 0 {
            state.entries.pop();
        }
    }
    let expires_us = expires_us(&state, now_us, window);
    (state, expires_us)
}

fn expires_us(state: &State, now_us: u64, window: u64) -> u64 {
    state.entries.last().map_or(now_us, |entry| entry.at_us) + window
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
fn leaves(entries: &[Entry], amount: i64) -> Option<u64> {
    let mut sum = 0;
    let entry = entries.iter().find(|entry| {
        sum += entry.cost;
        sum >= amount
    })?;
    Some(entry.at_us)
}
