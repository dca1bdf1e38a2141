//! N per window.
//!
//! A window begins with the first request after the previous one ended, so that callers do not all start afresh at the
//! same second. Within a window the count is exact. A caller can be admitted N at the end of one window and N at the
//! beginning of the next: where that matters, use `sliding_window`.

use super::{Limit, Outcome, State as AnyState, Step};

/// How much was admitted since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Admitted in this window.
    pub count: u64,
    /// Beginning of the window, microseconds since the epoch.
    pub start_us: u64,
}

pub(super) fn step(limit: &Limit, state: Option<State>, now_us: u64, cost: u64) -> Step {
    let window = limit.window_us;
    let mut state = match state {
        // A start in the future means that the clock went back: the window then begins now, so that it ends in bounded time.
        Some(s) if now_us < s.start_us.saturating_add(window) => State {
            start_us: s.start_us.min(now_us),
            ..s
        },
        _ => State {
            count: 0,
            start_us: now_us,
        },
    };
    let ends_us = state.start_us + window;
    let allowed = state.count + cost <= limit.amount;
    if allowed {
        state.count += cost;
    }
    let wait_us = if cost > limit.amount {
        window
    } else if allowed && state.count == 0 {
        0
    } else {
        ends_us - now_us
    };
    Step {
        state: AnyState::FixedWindow(state),
        expires_us: ends_us,
        outcome: Outcome {
            allowed,
            remaining: limit.amount.saturating_sub(state.count),
            wait_us,
        },
    }
}
