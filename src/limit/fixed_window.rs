//! `fixed_window`: N per window.
//!
//! A window begins with the first request after the previous one ended, so that clients do not all
//! start afresh in the same second. Within a window the count is exact. A client can be admitted N
//! times at the end of one window and N times at the beginning of the next: where that matters, use
//! `sliding_window`.
//!
//! A limit with [edges](super::calendar::Edges) counts in calendar windows instead, which are the
//! same for every client.

use super::{
    outcome::{Outcome, Step, left},
    spec::Limit,
};

/// The number of requests admitted since the window began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Admitted in this window; below zero, so many more than the limit may be.
    pub count: i64,
    /// The beginning of the window, in microseconds since the Unix epoch.
    pub start_us: u64,
}

pub(super) fn step(limit: &Limit, state: Option<State>, now_us: u64, cost: u64) -> Step<State> {
    let (mut state, ends_us) = at(limit, state, now_us);
    let allowed = state.count + cost.cast_signed() <= limit.amount().cast_signed();
    if allowed {
        state.count += cost.cast_signed();
    }
    let wait_us = if !allowed && cost > limit.amount() {
        limit.window_us()
    } else if allowed && cost == 0 && state.count == 0 {
        0
    } else {
        ends_us - now_us
    };
    Step {
        state,
        expires_us: ends_us,
        outcome: Outcome {
            allowed,
            remaining: left(limit.amount(), state.count),
            wait_us,
        },
    }
}

/// The state with `more` granted, and when it expires: with the window that is under way, or else
/// with one that begins now.
pub(super) fn grant(limit: &Limit, state: Option<State>, now_us: u64, more: i64) -> (State, u64) {
    let (mut state, ends_us) = at(limit, state, now_us);
    state.count -= more;
    (state, ends_us)
}

/// The state at `now_us`, and the end of its window.
fn at(limit: &Limit, state: Option<State>, now_us: u64) -> (State, u64) {
    let aligned = limit.edges().and_then(|edges| edges.window_at(now_us));
    match aligned {
        Some(window) => in_calendar(state, window),
        None => since_first(state, now_us, limit.window_us()),
    }
}

/// The state at `now_us` and the end of its window, where a window begins with its first request.
fn since_first(state: Option<State>, now_us: u64, window: u64) -> (State, u64) {
    let state = match state {
        // A start in the future means that the clock went back: the window then begins now, so that
        // it ends in bounded time.
        Some(s) if now_us < s.start_us.saturating_add(window) => State {
            start_us: s.start_us.min(now_us),
            ..s
        },
        _ => State {
            count: 0,
            start_us: now_us,
        },
    };
    (state, state.start_us + window)
}

/// The state in a calendar window. A count from a later window is kept: the clock went back.
fn in_calendar(state: Option<State>, (begin, end): (u64, u64)) -> (State, u64) {
    let count = state.map_or(0, |s| if s.start_us < begin { 0 } else { s.count });
    let state = State {
        count,
        start_us: begin,
    };
    (state, end)
}
